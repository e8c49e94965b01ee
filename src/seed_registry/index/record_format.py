"""How the records of an index are framed and decoded, as its first bytes and the settings say."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from seed_registry.index.byte_stream import OpenIndex
from seed_registry.index.choice import choose, is_graph, layout_of, require_domain
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects import ARRAYS, Dialect, looks_like_record
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_piece import PieceFramer
from seed_registry.index.ndjson import LineFramer
from seed_registry.index.node_graph import NodeGraph
from seed_registry.index.piece_decoder import PieceDecoder
from seed_registry.index.shards import decode_dress
from seed_registry.index.sniff import sniff
from seed_registry.settings import Settings

# A process reads many shards of one index: to sniff a MiB of a document takes as long as to load a thousand records.
_sniff = lru_cache(maxsize=2)(sniff)
# Of these the portal and its software are recognised, where neither header nor `--domain` says.
_BEGINNING_BYTES: Final = 64 << 10


class RecordFormat:
    """The format of one index.

    Attributes:
        shape: of its beginning.
        hosts: those that the first records name as their portal's, where they disagree and nothing else names it.
        pieces: the decoder of its records.
        layout: of a document; it has no arrays where the records are lines.
        is_graph: whether its records are some of the nodes of a graph.
    """

    def __init__(self, opened: OpenIndex, settings: Settings, salt: str = "") -> None:
        """Find out the format.

        Raises:
            IndexNotUnderstood: no dialect fits the index.
            SettingsInvalid: `--domain` cannot be used with it.
        """
        dialect, shape = choose(_sniff(opened.head, opened.name), settings, opened.name)
        require_domain(dialect, settings, opened.name)
        beginning = opened.head[:_BEGINNING_BYTES]
        hosts = dialect.hosts_in(beginning)
        decoder = Decoder(
            dialect,
            domain=settings.domain or "",
            agreed=hosts[0] if len(hosts) == 1 else "",
            provider=settings.provider or _provider(dialect, beginning),
            header_complete=shape.lines,
            salt=salt,
            language=settings.language,
            is_lines=shape.lines,
        )
        self.shape = shape
        is_told = settings.domain or dialect.portal(shape.keys)
        self.hosts = hosts if len(hosts) > 1 and not is_told else []
        self.pieces = PieceDecoder(decoder, looks_like_record, ARRAYS, is_document=not shape.lines, part=settings.keys)
        self.layout = layout_of(dialect, shape, settings)
        self.is_graph = is_graph(dialect, self.layout)
        if self.is_graph and dialect.graph is not None:
            self.pieces.graph = NodeGraph(dialect.graph, self.pieces)
        self._max_record_bytes = settings.max_record_bytes

    def framer(self, offset: int, line: int = 1) -> LineFramer | DocumentFramer:
        """A framer that begins at this place, with a line or a document."""
        options = self._options(offset, line)
        if self.shape.lines:
            return LineFramer(**options)
        decode = _undecoded if self.is_graph else self.pieces.decode_elements
        return DocumentFramer(self.layout, is_record=looks_like_record, decode=decode, **options)

    def piece_framer(self, dress: bytes, offset: int, line: int, *, is_first: bool, is_last: bool) -> PieceFramer:
        """A framer of a piece of a document."""
        return PieceFramer(
            self.layout,
            decode_dress(dress),
            is_first=is_first,
            is_last=is_last,
            is_record=looks_like_record,
            decode=self.pieces.decode_elements,
            **self._options(offset, line),
        )

    def _options(self, offset: int, line: int) -> dict[str, Any]:
        return {"max_record_bytes": self._max_record_bytes, "offset": offset, "line": line}


def _provider(dialect: Dialect, beginning: bytes) -> str:
    return next((name for name, sign in dialect.providers.items() if sign.search(beginning)), dialect.provider)


def _undecoded(data: list[bytes]) -> tuple[list[Any], list[int]]:
    """Leave the nodes of a graph for later: few are records, and these wait."""
    return [], list(range(len(data)))

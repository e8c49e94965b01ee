"""Cut the records out of a piece of a JSON document, and prove that the piece is one.

A piece ends between two elements of an array, where the next one begins. The document before that array is needed only
as its *dress*: the envelope up to the array, without the elements of earlier arrays. Fed that, a framer is in the state
in which it would be after the bytes before the piece.

Of pages, documents one a line, a piece begins and ends between two of them, and has no dress but an empty one.

Where a piece may end is guessed. It is proven by the framer of the piece before: if that ends between two elements of
the same array, with the same envelope, the guess was right, provided that its own beginning was. So if all pieces of a
document but the last one are sound, they have the records of the whole document, by induction from the first piece.
"""

from __future__ import annotations

from typing import Any

from seed_registry.index.json_document import BRACE, DocumentFramer
from seed_registry.index.json_envelope import Broken, Layout
from seed_registry.index.shards import Dress, Soundness
from seed_registry.records import Piece


class PieceFramer(DocumentFramer):
    """Cuts the records out of a piece of a document.

    Attributes:
        soundness: of its end, once it is finished; None before that.
    """

    def __init__(
        self, layout: Layout, dress: Dress, *, offset: int, line: int, is_first: bool, is_last: bool, **options: Any
    ) -> None:
        """Prepare for the first byte of the piece.

        Args:
            layout: of the document.
            dress: of its pieces.
            offset: of that byte.
            line: of that byte.
            is_first: whether the piece begins with the document.
            is_last: whether it ends with it.
            options: as of any document.
        """
        skeleton = dress.skeleton
        if not is_first:
            offset, line = offset - len(skeleton), line - skeleton.count(b"\n")
        super().__init__(layout, offset=offset, line=line, **options)
        self.soundness: Soundness | None = None
        self._dress = dress
        self._is_last = is_last
        if not is_first and not skeleton:
            # as behind a page that had records
            self.pages, self._first_byte, self.has_found = 1, BRACE, True
        elif not is_first:
            self.feed(skeleton)
            array = self._levels[-1].array
            assert array is not None, "a dress ends with the bracket of its array"
            array.after_element, array.seam = True, dress.seam

    def finish(self) -> list[Piece]:
        """Return the last records; if nothing is pending then, `soundness` or `problem` is final."""
        if self._is_last:
            records = super().finish()
            self.soundness = None if self.pending else "sound"
            return records
        records = self._advance(final=True)
        if not self.pending:
            self.soundness = self._between_pages() if not self._dress.skeleton else self._end()
            self.has_found = True  # a page that goes on behind the piece may have its records there
        return records

    @property
    def has_left(self) -> bool:
        """Whether the array has ended, or the document is broken."""
        if self.problem is not None or self.pages > 1 or not self._levels:
            return True
        return len(_tokens(self._levels[0].envelope.skeleton)) > len(_tokens(self._dress.skeleton))

    def _between_pages(self) -> Soundness:
        """How a piece of pages ends: between two of them?"""
        if self._levels or self._start < len(self._buffer):
            return "open"
        try:
            self._require_records()  # of the first page of the index this is known only when another one follows
        except Broken as broken:
            self.problem = self.problem or broken.problem
        return "sound"

    def _end(self) -> Soundness:
        """How the piece ends: in the state in which the next one begins?"""
        if self.has_left:
            return "left"
        level = self._levels[0]
        array = level.array
        is_same = _tokens(level.envelope.skeleton) == _tokens(self._dress.skeleton)
        is_between = is_same and array is not None and array.scan is None and array.after_element
        return "sound" if is_between and self._start == len(self._buffer) else "open"


def _tokens(skeleton: bytes | bytearray) -> bytes:
    """A skeleton without white space: how much is kept of that depends on the chunks."""
    return bytes(skeleton).translate(None, b" \t\r\n")

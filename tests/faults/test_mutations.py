"""Good indexes, damaged a byte at a time: every record read is right, and the damage is reported."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from probes import Outcome, expected_of, faults, load, read

from seed_registry import DatabaseUrl
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable, SeedRegistryError
from seed_registry.index.decoder import Decoder
from seed_registry.index.dialects.directory import DIRECTORY
from seed_registry.index.json_document import DocumentFramer
from seed_registry.index.json_envelope import Layout
from seed_registry.index.ndjson import LineFramer
from seed_registry.records import Asset, RawRecord, raw_records

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

Count = Callable[[str, int], None]
LENGTH = 2_048
TEXTS = ["plain", "é and 😀", 'a \\ and a "', "\u2028\x7f", "{[,]}", "\\u0000", "tab\tnewline\n", "Ω" * 9]


def records(count: int = 10) -> list[bytes]:
    return [
        json.dumps(
            {"id": f"k-{number}", "domain": "d.org", "name": TEXTS[number % len(TEXTS)], "z": [number * 1.5, None, {}]},
            ensure_ascii=number % 2 == 0,
        ).encode()
        for number in range(count)
    ]


def document(parts: Iterable[bytes]) -> bytes:
    return b'{"source": "socrata", "datasets": [\n %b], "more": [1, "x"]}\n' % b",\n ".join(parts)


def lines(parts: Iterable[bytes]) -> bytes:
    return b"".join(part + b"\n" for part in parts)


def of_length(form: Callable[[Iterable[bytes]], bytes]) -> bytes:
    """An index of exactly 2,048 bytes: its last record is padded."""
    parts = records(18)
    padding = LENGTH - len(form(parts))
    assert padding > 0
    parts[-1] = parts[-1].replace(b'"z"', b'"p":"%b","z"' % (b"p" * (padding - len(b'"p":"",'))))
    data = form(parts)
    assert len(data) == LENGTH
    return data


FORMS = {"document": document, "lines": lines}


def is_prefix(outcome: Outcome, truth: list[Asset]) -> bool:
    """Whether the assets are the first of those that a whole index has."""
    return outcome.assets == truth[: len(outcome.assets)]


# Truncated


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize("form", ["document", "lines", "gzip", "gzip, stored"])
async def test_an_index_cut_off_at_any_byte_is_read_to_the_cut_and_said_to_be_cut(
    tmp_path: Path, record_property: Count, form: str, half: str
) -> None:
    data = of_length(FORMS.get(form, lines))
    packed = data if form in FORMS else gzip.compress(data, 0 if "stored" in form else 9)
    truth = (await read(tmp_path / "whole", data, packed, dialect="directory")).assets
    assert len(truth) == 18
    ends = [record.offset + len(record.raw) for record in truth]
    middle = len(packed) // 2
    cuts = range(middle) if half == "first" else range(middle, len(packed))
    record_property("cases", len(cuts))
    for cut in cuts:
        path = tmp_path / "cut"
        if form not in FORMS:
            outcome = await read(path, data, packed[:cut], dialect="directory")
            assert isinstance(outcome.error, IndexUnreadable if cut > 3 else SeedRegistryError), cut
            assert is_prefix(outcome, truth)
            continue
        outcome = await read(path, data[:cut], dialect="directory")
        whole = sum(end <= cut for end in ends)
        if form == "document":
            is_whole = cut == LENGTH - 1  # but for its last newline
            assert (outcome.error is None) == is_whole, cut
            assert isinstance(outcome.error, IndexBroken | IndexNotUnderstood | None)
            assert outcome.records == truth[: len(outcome.records)], cut
            # The last record may be returned only with the byte behind it.
            assert len(outcome.records) in ({whole, whole - 1} if cut in ends else {whole}), cut
        elif outcome.error is None:
            assert len(outcome.assets) == whole, cut
            assert is_prefix(outcome, truth)
            assert len(outcome.rejects) == (data[cut - 1 : cut] != b"\n" and cut not in ends), cut
        else:
            assert cut <= ends[0] + 1, "one line alone is a document of one object"


@pytest.mark.parametrize("form", ["document", "lines", "gzip"])
async def test_what_came_before_a_cut_is_committed_and_counted(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Count, form: str
) -> None:
    data = of_length(FORMS.get(form, lines))
    packed = gzip.compress(data) if form == "gzip" else data
    cuts = range(0, len(packed), 32)
    record_property("cases", len(cuts))
    paths, truths, keys = [], [], set()
    for cut in cuts:
        paths.append(tmp_path / f"cut-{cut:04}")
        part = packed[:cut].replace(b'"k-', b'"k-%d-' % cut) if form != "gzip" else packed[:cut]
        truths.append(await read(paths[-1], part if form != "gzip" else data, part, dialect="directory"))
        keys |= {asset.key for asset in truths[-1].assets}
    loaded = await load(database_url, paths, tmp_path, dialect="directory", keep_going=True)
    assert loaded.rows.keys() == keys
    for told, truth in zip(loaded.report.per_index, truths, strict=True):
        assert told.error == (str(truth.error) if truth.error else None)
        assert told.assets.read == len(truth.records)
        assert told.assets.rejected == len(truth.rejects)


# Single bits


def flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


@pytest.mark.parametrize("seed", range(4))
async def test_one_flipped_bit_is_a_fault_or_another_value_never_a_crash(
    tmp_path: Path, record_property: Count, seed: int
) -> None:
    chance = random.Random(seed)
    record_property("cases", 250)
    for number in range(250):
        form = ["document", "lines", "gzip"][number % 3]
        data = of_length(FORMS.get(form, document))
        if form == "gzip":
            packed = flipped(gzip.compress(data), chance)
            outcome = await read(tmp_path / "flipped", unpacked(packed), packed, dialect="directory")
            assert outcome.error is not None or (outcome.data == data and len(outcome.assets) == 18)
            continue
        data = flipped(data, chance)
        outcome = await read(tmp_path / "flipped", data, dialect="directory")
        if form == "lines" and outcome.error is None and outcome.lines:
            expected = expected_of(data, "")
            assert {asset.key for asset in outcome.assets} == expected.rows.keys()
            assert {(reject.line, reject.offset) for reject in outcome.rejects} == expected.refused.keys()
            assert all(reject.reason in expected.refused[reject.line, reject.offset] for reject in outcome.rejects)
        elif form == "lines":
            assert outcome.error is not None
            assert faults(data.partition(b"\n")[0]), "only the first line decides what the index is"
        elif outcome.error is None:
            assert len(outcome.records) == 18 or not faults(data) <= {"bad_unicode", "database_refused"}


def unpacked(packed: bytes) -> bytes:
    """As much as can be had of damaged gzip."""
    unpacker, data = zlib.decompressobj(wbits=31), b""
    with contextlib.suppress(zlib.error):
        for place in range(len(packed)):
            data += unpacker.decompress(packed[place : place + 1])
    return data


async def test_a_thousand_lines_with_one_flipped_bit_each_are_stored_exactly_or_refused(
    database_url: DatabaseUrl, tmp_path: Path, record_property: Count
) -> None:
    chance = random.Random(7)
    record_property("cases", 1_000)
    parts = [b'{"id":"first","domain":"d.org"}']
    for number, record in enumerate(records(1_000)):
        numbered = record.replace(b'"id": "k', b'"id": "%d-k' % number)
        parts.append(flipped(numbered, chance))
    path = tmp_path / "flipped.ndjson"
    path.write_bytes(b"\n".join(parts))
    loaded = await load(database_url, [path], tmp_path, dialect="directory")
    expected = expected_of(path.read_bytes(), "")
    assert 200 < len(expected.refused) < 800
    loaded.check(expected)


# Boundaries of chunks


def framed(data: bytes, framer: DocumentFramer | LineFramer, cuts: list[int]) -> list[RawRecord]:
    found: list[RawRecord] = []
    for start, end in pairwise([0, *cuts, len(data)]):
        found += raw_records(framer.feed(data[start:end]))
    found += raw_records(framer.finish())
    assert isinstance(framer, LineFramer) or framer.problem is None
    return found


@pytest.mark.parametrize("form", FORMS)
async def test_where_chunks_are_cut_changes_nothing(record_property: Count, form: str) -> None:
    data = FORMS[form](records(40))
    chance = random.Random(form)
    record_property("cases", 100)
    decode = Decoder(DIRECTORY).decode

    def framer() -> DocumentFramer | LineFramer:
        if form == "lines":
            return LineFramer(max_record_bytes=1 << 20)
        return DocumentFramer(Layout({("datasets",): "asset"}), max_record_bytes=1 << 20)

    truth = framed(data, framer(), [])
    assert [raw.data for raw in truth] == records(40)
    inside = [place for place, byte in enumerate(data) if byte > 0x7F or byte == ord("\\")]
    every = [*range(1, len(data))]
    splits = [every, every[::2], every[::3], inside, [place + 1 for place in inside]]
    splits += [sorted(chance.sample(every, chance.randrange(1, 60))) for _ in range(70)]
    splits += [[place] for place in chance.sample(inside, 25)]
    assert len(splits) == 100
    for cuts in splits:
        found = framed(data, framer(), cuts)
        assert found == truth
        assert all(isinstance(decode(raw), Asset) for raw in found)

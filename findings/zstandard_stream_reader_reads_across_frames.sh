#!/usr/bin/env bash
# zstandard 0.25.0 (Python): ZstdDecompressor.stream_reader(source, read_across_frames=False), the default, goes on with
# the next frame all the same; decompressobj() ends at the first frame, and a skippable one (pzstd writes it first) counts.
#
# Expected: read_across_frames=False ends at the first frame; a skippable frame has no content and is skipped.
# Seen: read() gives the content of the first frame, then that of the second; decompress() of a skippable frame and a frame
# gives b"", with eof set and the frame in unused_data.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
"$here/venv/bin/python" - <<'PYTHON'
import sys
import io
import struct
import zstandard


def same(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        sys.exit(f"changed: {expected} before")


one, two = zstandard.compress(b"one"), zstandard.compress(b"two")
skippable = struct.pack("<II", 0x184D2A50, 4) + b"pzst"
reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(one + two), read_across_frames=False)
same("stream_reader, read_across_frames=False", [reader.read(100), reader.read(100)], [b"one", b"two"])
decompressor = zstandard.ZstdDecompressor().decompressobj()
same("decompressobj, skippable frame first", decompressor.decompress(skippable + one), b"")
same("is at its end", decompressor.eof, True)
same("bytes unused", len(decompressor.unused_data), len(one))
PYTHON

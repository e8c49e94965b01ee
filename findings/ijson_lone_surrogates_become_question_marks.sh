#!/usr/bin/env bash
# ijson 3.6.0, C backend (yajl2_c): half a surrogate pair in an escape becomes `?`, without an error.
#
# Expected: an error, or the lone surrogate itself, as json.loads and ijson's own Python backend give it.
# Seen: "a\\ud800b" is read as "a?b": what was not text before is then valid text, and can no longer be told from a
# question mark of the data.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check ijson==3.6.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
"$here/venv/bin/python" - <<'PYTHON'
import sys
import io
import json
import ijson
import ijson.backends.yajl2_c as in_c


def same(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        sys.exit(f"changed: {expected} before")


data = b'["a\\ud800b"]'
same("json.loads", ascii(json.loads(data)), ascii(["a\ud800b"]))
same("ijson in C", list(in_c.items(io.BytesIO(data), "item")), ["a?b"])
PYTHON

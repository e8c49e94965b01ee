#!/usr/bin/env bash
# msgspec 0.22.0: a typed decoder checks what it reads only. What it skips may be no JSON that others accept, and what it
# reads as Any may fail a record that a json.loads takes.
#
# Expected: a decoder that accepts a document says that it is valid JSON in UTF-8; 1e400 is a number, valid by RFC 8259.
# Seen: in a field that the struct does not have, invalid UTF-8 and 1e400 pass; in a field of type Any 1e400 fails the whole
# record ("Number out of range"), where json.loads gives inf.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
"$here/venv/bin/python" - <<'PYTHON'
import sys
import json
import msgspec


def same(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        sys.exit(f"changed: {expected} before")


class Record(msgspec.Struct):
    id: str


class Open(msgspec.Struct):
    id: str
    value: object = None


def outcome(type_, data):
    try:
        return msgspec.json.decode(data, type=type_).id
    except msgspec.DecodeError as exc:
        return f"{type(exc).__name__}: {exc}"


same("invalid UTF-8 in an unread field", outcome(Record, b'{"id": "a", "value": "\xff\xfe"}'), "a")
same("1e400 in an unread field", outcome(Record, b'{"id": "a", "value": 1e400}'), "a")
same("json.loads of 1e400", json.loads("1e400"), float("inf"))
same("1e400 in a field of any type", outcome(Open, b'{"id": "a", "value": 1e400}').partition(":")[0], "ValidationError")
PYTHON

"""Results: the report of a load on stdout, as JSON or drawn, and what it means for an exit code."""

from __future__ import annotations

import json
import sys
from typing import Final

import msgspec

from seed_registry.report import Report, Tally

# What `--detailed-exitcode` answers besides 0, as terraform and others do.
CHANGES_EXIT_CODE: Final = 2


def detailed_exit_code(report: Report) -> int:
    """0 if a load would write nothing, 2 if it would."""
    return CHANGES_EXIT_CODE if report.plan is not None and report.plan.has_changes else 0


def print_result(report: Report, tally: Tally, *, as_json: bool, is_whole: bool = True) -> None:
    """The report on stdout, that of a dry run as its plan; JSON is in ASCII, for keys may do things to a terminal."""
    if as_json:
        sys.stdout.buffer.write(json.dumps(msgspec.to_builtins(report), separators=(",", ":")).encode() + b"\n")
        sys.stdout.buffer.flush()
    elif report.plan is not None:
        from seed_registry.cli.render.plan import print_plan  # noqa: PLC0415  # rich: JSON is not drawn

        print_plan(report, report.plan, tally)
    else:
        from seed_registry.cli.render.console import print_report  # noqa: PLC0415  # see above

        print_report(report, tally, is_whole=is_whole)

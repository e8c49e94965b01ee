"""Starts programs together, waits for all of them, and writes down what they used.

    python -I -S launching.py RESULT.json '[["program", "argument"], …]'

A process of its own because a program's ru_maxrss begins with the memory of the one that started it
(setmax_mm_hiwater_rss() in Linux' fs/exec.c): nothing that is small can be measured from a large process. So this one
imports next to nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    """Run the programs; their own exit code where one fails."""
    started = time.perf_counter()
    pids = [os.posix_spawnp(command[0], command, os.environ) for command in json.loads(sys.argv[2])]
    ends = [os.wait4(pid, 0) for pid in pids]
    seconds = time.perf_counter() - started
    usages = [usage for _, _, usage in ends]
    unit = 1 if sys.platform == "darwin" else 1024
    result = {
        "seconds": seconds,
        "client_cpu": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak_bytes": sum(usage.ru_maxrss for usage in usages) * unit,
    }
    with open(sys.argv[1], "w", encoding="ascii") as file:  # noqa: PTH123  # pathlib is an import too many
        json.dump(result, file)
    return next((code for _, status, _ in ends if (code := os.waitstatus_to_exitcode(status))), 0)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env bash
# Dask distributed 2026.8.0: a task submitted with retries=0 is run again, without a word, when its worker's process is
# killed, up to three times more (distributed.scheduler.allowed-failures, a setting of the scheduler that no client sees).
#
# Expected: with retries=0 a task that was begun and lost fails, so that whoever submitted it decides, for it may have
# written somewhere before.
# Seen: retries counts exceptions only. The result is that of the second run; the client is told of the first one by
# nothing but a log line of the scheduler.
set -euo pipefail
here=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0 2> "$here/pip.log" || { cat "$here/pip.log" >&2; exit 2; }
cat > "$here/twice.py" <<'PYTHON'
import os, signal, sys, time
from pathlib import Path

from distributed import Client, LocalCluster


def work(log):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(3)
    return os.getpid()


def main(log):
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        future = client.submit(work, str(log), retries=0, pure=False)
        while not log.exists() or not log.read_text().endswith("\n"):
            time.sleep(0.1)
        first = int(log.read_text())
        os.kill(first, signal.SIGKILL)
        last = future.result(timeout=60)
    runs = log.read_text().split()
    print(f"status: {future.status if last == first else 'finished by another process'}; runs: {len(runs)}")
    if last == first or len(runs) != 2:
        sys.exit("changed: the task was run twice before")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$here/venv/bin/python" -W ignore "$here/twice.py" "$here/runs.log"

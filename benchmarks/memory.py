"""Peak memory of whole loads: a 2 GB NDJSON index and a 1 GB document into the embedded server.

    python benchmarks/memory.py [--scale 1.0] [--concurrency 4]

Prints the loader's own peak resident set (the server has its own), and fails above 250 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT_MB = 250
BYTES_PER_RECORD = 4_400
CASES = (("ndjson", "discovery", 2_000_000_000), ("json", "seed", 1_000_000_000))


def run(*arguments: str, environment: dict[str, str]) -> tuple[float, bytes]:
    """Run the command; its peak resident set in MB, and its output."""
    command = [sys.executable, "-m", "seed_registry", *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, (arguments, process.returncode)
        output.seek(0)
        return usage.ru_maxrss / 1024, output.read()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is 2 GB of lines and 1 GB of document")
    parser.add_argument("--concurrency", type=int, default=4)
    options = parser.parse_args()
    worst = 0.0
    # In /tmp, not below a home directory: as root the server's own user has to reach it.
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        Path(directory).chmod(0o711)
        environment = os.environ | {"SEED_REGISTRY_HOME": f"{directory}/home"}
        environment.pop("DATABASE_URL", None)
        run("db", "start", environment=environment)
        try:
            for form, dialect, size in CASES:
                index = f"{directory}/index.{form}"
                records = str(int(size * options.scale / BYTES_PER_RECORD))
                run(
                    "sample",
                    "--records",
                    records,
                    "--dialect",
                    dialect,
                    "--format",
                    form,
                    "--out",
                    index,
                    environment=environment,
                )
                peak, output = run(
                    "load", index, "--json", "--concurrency", str(options.concurrency), environment=environment
                )
                report = json.loads(output)
                assert report["assets"]["inserted"] + report["assets"]["updated"] > 0
                print(
                    f"{form:7} {report['bytes_read'] / 1e6:7,.0f} MB {report['assets']['read']:9,} records "
                    f"{report['records_per_second']:8,.0f} records/s, peak {peak:5.0f} MB"
                )
                worst = max(worst, peak)
                Path(index).unlink()
        finally:
            run("db", "stop", environment=environment)
    if worst > LIMIT_MB:
        sys.exit(f"peak {worst:.0f} MB, more than {LIMIT_MB} MB")


if __name__ == "__main__":
    main()

"""Metrics and traces of a load, as Prometheus and an OpenTelemetry collector read them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Cli
from seed_registry.settings import DatabaseUrl
from seed_registry.synthetic.index import Workload, generate


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = tmp_path / "index.json"
    path.write_bytes(b"".join(generate(Workload(records=400, invalid=1, duplicates=1))))
    return str(path)


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """The values of a metrics file by name and labels, as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(path.read_text())
    return {
        (
            one.name,
            *(one.labels[label] for label in ("table", "outcome", "reason", "stage") if label in one.labels),
        ): one.value
        for family in families
        for one in family.samples
    }


def test_the_metrics_file_says_what_the_report_says(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    path = tmp_path / "load.prom"
    assert cli("load", index, "--metrics-file", path, url=database_url).returncode == 0
    found = samples(path)
    records = {key[2]: value for key, value in found.items() if key[:2] == ("seed_registry_records_total", "assets")}
    assert records.pop("read") == 400 == sum(records.values())
    assert records["rejected"] == 4 == sum(v for key, v in found.items() if key[0] == "seed_registry_rejects_total")
    assert found["seed_registry_run_running",] == 0
    assert found["seed_registry_run_exit_code",] == 0
    assert found["seed_registry_run_end_time_seconds",] >= found["seed_registry_run_start_time_seconds",]
    assert found["seed_registry_read_bytes_total",] == Path(index).stat().st_size
    assert list(tmp_path.glob("load.prom?*")) == []  # nothing half-written is left beside it


def test_the_metrics_file_of_a_failed_load_says_so(cli: Cli, database_url: DatabaseUrl, tmp_path: Path) -> None:
    path = tmp_path / "load.prom"
    assert cli("load", tmp_path / "none.json", "--metrics-file", path, url=database_url).returncode == 1
    assert samples(path)["seed_registry_run_exit_code",] == 1


@pytest.mark.slow
def test_a_dry_run_leaves_the_metrics_of_the_last_load_alone_and_a_plan_has_none(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    path = tmp_path / "load.prom"
    variable = {"SEED_REGISTRY_METRICS_FILE": str(path)}
    assert cli("load", index, "--dry-run", "--metrics-file", path, url=database_url).returncode == 0
    assert cli("load", index, "--dry-run", url=database_url, env=variable).returncode == 0
    planned = cli("plan", index, url=database_url, env=variable)
    assert planned.returncode == 0
    assert b"is no setting of any command" not in planned.stderr
    refused = cli("plan", index, "--metrics-file", path, url=database_url)
    assert refused.returncode == 2
    assert b"--metrics-file" in refused.stderr
    assert list(tmp_path.glob("load.prom*")) == []
    assert cli("load", index, url=database_url, env=variable).returncode == 0
    assert samples(path)["seed_registry_run_exit_code",] == 0


def test_a_metrics_file_that_cannot_be_written_is_told_before_anything_is_loaded(
    cli: Cli, database_url: DatabaseUrl, index: str, tmp_path: Path
) -> None:
    done = cli("load", index, "--metrics-file", tmp_path / "no" / "load.prom", url=database_url)
    assert done.returncode == 1
    assert b"--metrics-file" in done.stderr
    assert b"No such file or directory" in done.stderr
    assert b"run_started" not in done.stderr


@pytest.fixture
def collector() -> Iterator[tuple[str, dict[str, list[bytes]]]]:
    """An OTLP collector: its URL, and what it was sent, by path."""
    received: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a message."""
            received.setdefault(self.path, []).append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


def test_a_collector_gets_a_span_of_the_run_one_of_each_index_and_the_counts(
    cli: Cli, database_url: DatabaseUrl, index: str, collector: tuple[str, dict[str, list[bytes]]]
) -> None:
    trace = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    metrics = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    endpoint, received = collector
    done = cli("load", index, url=database_url, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    assert done.returncode == 0, done.stderr
    spans = {
        span.name: span
        for body in received["/v1/traces"]
        for resource in trace.ExportTraceServiceRequest.FromString(unpacked(body)).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert spans["index"].parent_span_id == spans["load"].span_id
    attributes = {one.key: one.value for one in spans["load"].attributes}
    assert attributes["seed_registry.assets.read"].int_value == 400
    assert attributes["seed_registry.exit_code"].int_value == 0
    names = {
        metric.name
        for body in received["/v1/metrics"]
        for resource in metrics.ExportMetricsServiceRequest.FromString(unpacked(body)).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"seed_registry.records", "seed_registry.read", "seed_registry.batch.duration"} <= names


@pytest.mark.slow
def test_a_collector_that_is_down_delays_nothing_and_says_nothing(
    cli: Cli, database_url: DatabaseUrl, index: str
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    done = cli("load", index, "-q", url=database_url, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 0
    assert not re.search(rb"[Ee]rror|Traceback|opentelemetry", done.stderr)


def unpacked(body: bytes) -> bytes:
    """A message as it was before the exporter compressed it, if it did."""
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body

"""Export a load as OpenTelemetry spans and metrics, where the environment asks for it.

The variables are those of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/; the extra
`seed-registry[otel]` brings the SDK and its OTLP exporter over HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from seed_registry import __version__
from seed_registry.escape import printable
from seed_registry.events import EVENTS_OF_TRACE
from seed_registry.report import AssetCounts, Tally

# A collector that is down must not keep a load from ending.
_EXPORT_SECONDS: Final = 2
_FLUSH_MILLISECONDS: Final = 3_000


class Tracing:
    """The `Progress` that is a span for the run, one for each index, and the counts as metrics."""

    def __init__(self) -> None:
        # Its warnings about a collector that is down would break the display, every few seconds.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        resource = Resource.create({"service.name": "seed-registry", "service.version": __version__})
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_SECONDS)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=_EXPORT_SECONDS))
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("seed_registry", __version__)
        self._tally = Tally()
        self._run = self._tracer.start_span("load")
        self._index: Span | None = None
        meter = self._metrics.get_meter("seed_registry", __version__)
        meter.create_observable_counter("seed_registry.records", [self._records], "{record}", "Records by outcome.")
        meter.create_observable_counter("seed_registry.read", [self._bytes], "By", "Bytes read.")
        meter.create_observable_counter("seed_registry.shards", [self._shards], "{shard}", "Shards that came this far.")
        self._durations = meter.create_histogram("seed_registry.batch.duration", "s", "A batch, from queue to COMMIT.")

    def began(self, tally: Tally) -> None:
        """The load begins."""
        self._tally = tally

    def tell(self, level: str, event: str, /, **fields: Any) -> None:
        """Turn the event into a span, an event of a span or a measurement."""
        del level
        if event == "run_started":
            self._run.set_attribute("seed_registry.run_id", fields["run_id"])
        elif event == "index_opened":
            self._close_index()
            parent = set_span_in_context(self._run)
            attributes = {
                "seed_registry.index": printable(fields["index"], 500),
                "seed_registry.dialect": fields["dialect"],
            }
            self._index = self._tracer.start_span("index", parent, attributes=attributes)
        elif event == "index_finished":
            self._close_index()
        elif event == "batch_merged":
            self._durations.record(fields["seconds"])
        elif event in EVENTS_OF_TRACE:
            facts = {name: printable(value, 500) for name, value in fields.items() if value is not None}
            (self._index or self._run).add_event(event, facts)

    def ended(self, exit_code: int, error: str | None = None) -> None:
        """The load is over: send the rest, within seconds."""
        del error  # an index may have put words into it
        self._close_index()
        counts = self._tally.assets
        for name in AssetCounts.__struct_fields__:
            self._run.set_attribute(f"seed_registry.assets.{name}", getattr(counts, name))
        self._run.set_attribute("seed_registry.exit_code", exit_code)
        self._run.set_status(Status(StatusCode.ERROR if exit_code else StatusCode.OK))
        self._run.end()
        self._traces.force_flush(_FLUSH_MILLISECONDS)
        self._metrics.shutdown(_FLUSH_MILLISECONDS)

    def _close_index(self) -> None:
        if self._index is not None:
            self._index.end()
            self._index = None

    def _records(self, _: CallbackOptions) -> Iterable[Observation]:
        for table, counts in (("sources", self._tally.sources), ("assets", self._tally.assets)):
            for outcome in AssetCounts.__struct_fields__:
                yield Observation(getattr(counts, outcome), {"table": table, "outcome": outcome})

    def _shards(self, _: CallbackOptions) -> Iterable[Observation]:
        for state, count in self._tally.shards.items():
            yield Observation(count, {"state": state})

    def _bytes(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._tally.bytes_read)

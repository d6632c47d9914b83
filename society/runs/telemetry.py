"""Sends the spans of a run's debates to an OpenTelemetry collector, if one is configured."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from providers import extras
from providers.secrets import Secrets
from society.config.schema import Config
from society.method.spans import set_tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# How long a run waits at its end for spans that a collector has not taken yet.
_ENDING_S = 5.0


def is_telemetry_on(config: Config) -> bool:
    """Whether the experiment or the environment names a collector, and no variable forbids it."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(config.telemetry.endpoint or any(os.environ.get(name) for name in _ENDPOINTS))


@asynccontextmanager
async def trace_debates(
    config: Config, run: str, note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Send spans while the block runs; what goes wrong with them is noted once.

    A program that has set up OpenTelemetry itself, such as `opentelemetry-instrument`, gets the
    spans through its own provider.
    """
    provider = _find_own_provider()
    if provider is not None:
        set_tracer(provider.get_tracer("society"))
        try:
            yield
        finally:
            set_tracer(None)
        return
    if not is_telemetry_on(config) or extras.find_missing(extras.PACKAGES["telemetry"]):
        yield
        return
    provider = _build_provider(config, run)
    loop = asyncio.get_running_loop()
    failures = _FirstFailure(lambda text: loop.call_soon_threadsafe(note, text))
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(failures)
    propagates, logger.propagate = logger.propagate, False
    set_tracer(provider.get_tracer("society"))
    try:
        yield
    finally:
        # First, so that no span begins while the last ones are sent.
        set_tracer(None)
        # A daemon, which a collector that does not answer cannot keep the process with.
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _ENDING_S)
        logger.propagate = propagates
        logger.removeHandler(failures)


def _find_own_provider() -> Any:
    """The provider that the surrounding program has set; None if it has set none."""
    # Without an import: whoever has set one has imported it.
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, TracerProvider) else None


def _build_provider(config: Config, run: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    endpoint = config.telemetry.endpoint
    # Without an endpoint of ours the exporter reads those of the environment itself.
    exporter = OTLPSpanExporter(endpoint and f"{endpoint.rstrip('/')}/v1/traces")
    facts = {"society.run": run}
    if "OTEL_SERVICE_NAME" not in os.environ:
        facts["service.name"] = "society"
    provider = TracerProvider(resource=Resource.create(facts), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class _FirstFailure(logging.Handler):
    """Tells the first warning of the exporter; the others would repeat it every few seconds."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._has_told = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._has_told:
            self._has_told = True
            reason = Secrets().quote(record.getMessage())
            self._tell(f"telemetry: spans are not taken ({reason}). The run goes on")

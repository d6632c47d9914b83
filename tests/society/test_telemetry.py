"""Spans of debates arrive at a collector, as question, round and call, and off they are nothing."""

import asyncio
import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from providers import extras
from society.config.load import ConfigError, load_config
from society.method.experiment import resolve
from society.method.progress import Note
from society.method.spans import open_span
from society.runs import folder as folders
from society.runs import runner

installed = pytest.mark.skipif(
    bool(extras.find_missing(extras.PACKAGES["telemetry"])), reason="extra telemetry: not installed"
)


@contextmanager
def collector():
    """A server of OTLP over HTTP; gives its address and the bodies that it has got."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            bodies.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def start(tmp_path, experiment, *overrides):
    config = load_config(str(experiment), ["iterations=0", *overrides])
    folder = folders.locate_run(tmp_path / "runs", "run")
    events = []
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, events.append))
    return [event.text for event in events if isinstance(event, Note)]


@installed
@pytest.mark.parametrize("way", ["config", "environment"])
def test_a_question_has_rounds_and_a_round_has_calls(tmp_path, experiment, monkeypatch, way):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with collector() as (url, bodies):
        overrides = [f'telemetry.endpoint="{url}"'] if way == "config" else []
        if way == "environment":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        start(tmp_path, experiment, 'evaluation.decodings=["sampled"]', *overrides)
    assert {path for path, _ in bodies} == {"/v1/traces"}
    spans = [
        span
        for _, body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_id = {span.span_id: span for span in spans}
    questions = [span for span in spans if span.name == "question"]
    rounds = [span for span in spans if span.name == "round"]
    calls = [span for span in spans if span.name.startswith("chat ")]
    # 3 questions, 2 rounds; 3 answers in the first, 3 answers and 3 summaries in the second.
    assert (len(questions), len(rounds), len(calls)) == (3, 6, 27)
    assert {by_id[span.parent_span_id].name for span in rounds} == {"question"}
    assert {by_id[span.parent_span_id].name for span in calls} == {"round"}
    assert not any(span.parent_span_id for span in questions)
    attributes = {pair.key: pair.value for pair in calls[0].attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value > 0
    assert b"boxed" not in b"".join(body for _, body in bodies)


@installed
def test_a_collector_that_is_not_there_is_told_once_and_stops_nothing(tmp_path, experiment):
    notes = start(tmp_path, experiment, 'telemetry.endpoint="http://127.0.0.1:9"')
    assert sum(note.startswith("telemetry: spans are not taken") for note in notes) == 1


def test_without_a_collector_no_span_is_made(tmp_path, experiment, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_span("question", {}) is open_span("round", {})
    with pytest.raises(ConfigError, match=r"telemetry\.endpoint"):
        load_config(str(experiment), ['telemetry.endpoint="127.0.0.1:4318"'])

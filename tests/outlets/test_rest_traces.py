"""Spans of requests, as a collector receives them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from outlets.serving import row, serving

from meguri.outlets.rest import traces

SECRET = "s3cr3t-that-nobody-may-see"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes what an OTLP exporter sends over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.raw = b""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        if self.path == "/v1/traces":
            self.server.raw += body
            for found in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.server.resources.append(found.resource)
                self.server.spans += [span for scope in found.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def told(span: Any) -> dict[str, Any]:
    """A span's attributes."""
    found = {}
    for one in span.attributes:
        value = getattr(one.value, one.value.WhichOneof("value"))
        found[one.key] = [each.string_value for each in value.values] if hasattr(value, "values") else value
    return found


def test_a_request_s_spans_reach_the_collector(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with serving(tmp_path / "alarm") as served:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "ask-1"}
        assert served.ask("POST", "/predict", [row(SECRET), row("b")], **headers)[0] == 200
        assert served.ask("POST", "/predict", row("c", hour=24, carrier=SECRET), **{"x-request-id": "ask-2"})[0] == 422
        assert served.ask("GET", f"/{SECRET}")[0] == 404
        assert served.ask("GET", f"/decisions/{SECRET}")[0] == 404
        assert served.stop() == 0  # which sends what has gathered
        assert SECRET not in served.log()
    assert {one.value.string_value for one in collector.resources[0].attributes if one.key == "service.name"} == {
        "meguri"
    }
    by_request = {told(span)["meguri.request"]: span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER}
    whole = by_request["ask-1"]
    assert (whole.name, whole.trace_id.hex(), whole.parent_span_id.hex()) == ("POST /predict", TRACE, PARENT)
    attributes = told(whole)
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/predict", 200)
    assert (attributes["meguri.rows"], attributes["meguri.release"], attributes["meguri.arm"]) == (
        2,
        ["r-1"],
        ["champion"],
    )
    parts = {span.name: span for span in collector.spans if span.parent_span_id == whole.span_id}
    assert set(parts) == {"meguri.read", "meguri.model", "meguri.ledger"}
    model = told(parts["meguri.model"])
    assert (model["meguri.release"], model["meguri.arm"], model["meguri.rows"]) == ("r-1", "champion", 2)
    refused = by_request["ask-2"]
    assert refused.trace_id != whole.trace_id
    assert told(refused)["http.response.status_code"] == 422
    (read,) = [span for span in collector.spans if span.parent_span_id == refused.span_id]
    assert (read.name, told(read)["error.type"]) == ("meguri.read", "ProblemError")
    assert collector.named("GET")
    assert collector.named("GET /decisions/{id}")
    for secret in (SECRET, served.token):
        assert secret.encode() not in collector.raw


def test_who_wants_spans_and_cannot_have_them_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with serving(tmp_path / "alarm", "--no-token") as served:
        assert served.ask("POST", "/predict", row("a"))[0] == 200
        assert "only http/protobuf is there" in served.log()
        assert served.stop() == 0


def test_without_a_collector_there_are_none() -> None:
    assert traces.begin() is None


def test_a_failure_has_its_type_and_not_its_text() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    made = traces.Traces(provider)
    sent = []

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(KeyError), made.part("model", arm="champion"):
            raise KeyError(SECRET)
        await send({"type": "http.response.start", "status": 500, "headers": [(b"x-request-id", b"ask-1")]})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"method": SECRET, "path": f"/{SECRET}", "headers": [(b"authorization", SECRET.encode())]}
    asyncio.run(made.around(fails, lambda path: "other")(scope, None, send))  # type: ignore[arg-type]
    part, whole = kept.get_finished_spans()
    assert len(sent) == 1
    assert (whole.name, dict(whole.attributes or {})) == (
        "_OTHER",
        {
            "http.request.method": "_OTHER",
            "url.scheme": "http",
            "http.response.status_code": 500,
            "meguri.request": "ask-1",
            "error.type": "500",
        },
    )
    assert dict(part.attributes or {}) == {"meguri.arm": "champion", "error.type": "KeyError"}
    assert (part.status.status_code.name, whole.status.status_code.name) == ("ERROR", "ERROR")
    assert SECRET not in part.to_json() + whole.to_json()
    made.close()

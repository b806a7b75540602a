"""OpenTelemetry spans of requests, where it is installed and told where to send them; otherwise none of this runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meguri.base.errors import MissingExtra
from meguri.base.extras import need
from meguri.outlets.rest.options import Options
from meguri.outlets.rest.service import Service

if TYPE_CHECKING:
    from meguri.outlets.rest.live import Arm
    from meguri.outlets.rest.rows import Rows

# any of these says that spans are wanted, and where (OpenTelemetry's own variables)
WANTED = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
Handler = Callable[..., Awaitable[None]]
log = logging.getLogger("meguri.rest")


class Traces:
    """A span for each request, as a child of the client's where it sends ``traceparent``.

    It has the address, the status, the request's id, how many rows, which releases and arms; children are the reading of
    rows, each arm's model, and the ledger's commit. What rows hold, and tokens, are in none of them.
    """

    def __init__(self, provider: Any) -> None:
        self._api, self._pass = need("opentelemetry.trace"), need("opentelemetry.propagate")
        self._provider, self._tracer = provider, provider.get_tracer("meguri.rest")

    def around(self, handle: Handler, address: Callable[[str], str]) -> Handler:
        """The handler of ASGI requests, with a span around each."""

        async def traced(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            path = address(scope["path"])
            route = {"/decisions": "/decisions/{id}"}.get(path, path)
            sent = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k != b"authorization"}
            told = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
            if path != "other":
                told["http.route"] = route
            name = method if path == "other" else f"{method} {route}"
            with self._tracer.start_as_current_span(
                name,
                context=self._pass.extract(sent),
                kind=self._api.SpanKind.SERVER,
                attributes=told,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:

                async def sending(message: MutableMapping[str, Any]) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        span.set_attribute("meguri.request", dict(message["headers"])[b"x-request-id"].decode())
                        if message["status"] >= 500:
                            span.set_attribute("error.type", str(message["status"]))
                            span.set_status(self._api.StatusCode.ERROR)
                    await send(message)

                await handle(scope, receive, sending)

        return traced

    @contextmanager
    def part(self, name: str, **attributes: Any) -> Iterator[Any]:
        """A part of what is under way; of an error its type is kept, not its text."""
        told = {f"meguri.{key}": value for key, value in attributes.items()}
        with self._tracer.start_as_current_span(
            f"meguri.{name}", attributes=told, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(self._api.StatusCode.ERROR)
                raise

    def whole(self, **attributes: Any) -> None:
        """Attributes of the span that is current."""
        self._api.get_current_span().set_attributes({f"meguri.{key}": value for key, value in attributes.items()})

    def close(self) -> None:
        """Send what has gathered."""
        getattr(self._provider, "shutdown", bool)()


class TracedService(Service):
    """The service with spans around its parts."""

    def __init__(self, options: Options, traces: Traces) -> None:
        super().__init__(options)
        self._traces = traces

    async def predict(self, body: bytes) -> Any:
        """The answers; the request's span learns how many rows, and who answered them."""
        replies = await super().predict(body)
        told = replies if isinstance(replies, list) else [replies]
        found = {name: sorted({getattr(one, name) for one in told}) for name in ("release", "arm")}
        self._traces.whole(rows=len(told), **found)
        return replies

    def _read(self, arm: Arm, body: bytes, now: int) -> Rows:
        with self._traces.part("read", bytes=len(body)) as span:
            rows = super()._read(arm, body, now)
            span.set_attribute("meguri.rows", len(rows))
            return rows

    async def _ask(self, arm: Arm, rows: Rows, now: int) -> Any:
        with self._traces.part("model", release=arm.release.id, arm=arm.name, rows=len(rows)):
            return await super()._ask(arm, rows, now)

    async def _durable(self, answers: Any) -> None:
        with self._traces.part("ledger"):
            await super()._durable(answers)


def begin() -> Traces | None:
    """The traces of this process; None where OpenTelemetry is not there, or nobody has told where spans go.

    A provider that is set already, as by ``opentelemetry-instrument``, is taken as it is.
    """
    wanted = next((name for name in WANTED if os.environ.get(name)), None)
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    if wanted is None and "opentelemetry.trace" not in sys.modules:  # else someone may have set a provider
        return None
    try:
        api = need("opentelemetry.trace")
        provider = api.get_tracer_provider()
        if not isinstance(provider, api.ProxyTracerProvider):
            return Traces(provider)
        if wanted is None:
            return None
        asked = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL"))
        if asked not in (None, "", "http/protobuf"):
            log.warning("%s asks for the protocol %s, and only http/protobuf is there: no span is sent", wanted, asked)
            return None
        sdk, export = need("opentelemetry.sdk.trace"), need("opentelemetry.sdk.trace.export")
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = need("opentelemetry.sdk.resources").Resource.create({} if named else {"service.name": "meguri"})
        exporter = need("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
    except MissingExtra as error:
        if wanted is not None:
            log.warning("%s is set, and no span is sent: %s", wanted, error.fix)
        return None
    made = sdk.TracerProvider(resource=resource)
    made.add_span_processor(export.BatchSpanProcessor(exporter))
    return Traces(made)

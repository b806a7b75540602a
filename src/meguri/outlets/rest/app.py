"""The ASGI application: addresses, tokens, limits, and errors that a client can act on."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from meguri.base.errors import LedgerError
from meguri.base.extras import need
from meguri.outlets.rest import logs, openapi, problems, tokens, traces
from meguri.outlets.rest.options import ENVIRONMENT, Options
from meguri.outlets.rest.problems import ProblemError
from meguri.outlets.rest.service import Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# address: (method, the scope that a token needs)
ADDRESSES = {
    "/predict": ("POST", "predict"),
    "/labels": ("POST", "label"),
    "/events": ("POST", "label"),
    "/queue": ("GET", "label"),
    "/decisions": ("GET", "label"),
    "/metrics": ("GET", "admin"),
    "/openapi.json": ("GET", None),
    "/healthz": ("GET", None),
    "/readyz": ("GET", None),
}
_JSON, _PLAIN = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
PATIENCE = 2**24  # bytes too many that are read, and forgotten: who is still sending cannot hear an answer
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("meguri.rest")


class App:
    """The application on a ``Service``; one for each worker."""

    def __init__(self, options: Options) -> None:
        self._traces = traces.begin()
        self.service = Service(options) if self._traces is None else traces.TracedService(options, self._traces)
        self._handle = self._http if self._traces is None else self._traces.around(self._http, told)
        self._options = options
        self._tokens = None if options.tokens is None else tokens.read(_path(options.tokens))
        self._encode = need("msgspec").json.Encoder().encode
        self._described: tuple[str, bytes] = ("", b"")
        self._reading: dict[asyncio.Task[Any], float] = {}  # since when; 0 once it is too late
        self._born, self._requests = secrets.token_hex(6).encode(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI 3 application."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self.service.start()
        sys.setswitchinterval(0.001)  # seconds for which what is settled may hold up an answer, each time
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again and again stops the answers for 20 ms each time
        gc.set_threshold(50_000, 20, 20)  # a request of many rows makes thousands of objects, and no cycles
        sweeper = asyncio.create_task(self._sweep())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        sweeper.cancel()
        await self.service.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, path = time.perf_counter(), scope["path"]
        headers = {
            name: value
            for name, value in scope["headers"]
            if name in (b"authorization", b"content-length", b"content-type", b"x-request-id")
        }
        request = headers.get(b"x-request-id", b"")
        if not _ID.fullmatch(request):
            self._requests += 1
            request = b"%s-%x" % (self._born, self._requests)
        more: list[tuple[bytes, bytes]] = []
        try:
            kind, body = await self._answer(scope["method"], path, headers, receive)
            status = 200
        except ProblemError as error:
            status, kind, body = error.status, problems.TYPE, error.body(request.decode())
            more = [(name.encode(), value.encode()) for name, value in error.headers.items()]
            _log(error, told(path), request)
        except Exception as error:  # a fault of ours: the client learns its number, the log the rest
            problem = ProblemError(500, f"the service failed ({type(error).__name__}); its log has this request's id")
            status, kind, body = 500, problems.TYPE, problem.body(request.decode())
            _log(problem, told(path), request, error)
        self.service.metrics.request(told(path), status, time.perf_counter() - began)
        length = str(len(body)).encode()
        start = [(b"content-type", kind), (b"content-length", length), (b"x-request-id", request), *more]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[bytes, bytes]:
        """The type and body of a good answer. Raises ProblemError."""
        id = path.removeprefix("/decisions/") if path.startswith("/decisions/") else ""
        path = "/decisions" if id else path
        if path not in ADDRESSES or (path == "/decisions" and not id):
            raise ProblemError(404, f"there is nothing at {path[:80]}: {', '.join(ADDRESSES)}")
        allowed, scope = ADDRESSES[path]
        if method != allowed:
            raise ProblemError(405, f"{path} takes {allowed}", headers={"allow": allowed})
        by = self._allowed(headers, scope)
        if allowed == "POST":
            body = await self._body(headers, receive)
            if path == "/predict":
                return _JSON, self._encode(await self.service.predict(body))
            done = self.service.labels(body, by=by) if path == "/labels" else self.service.events(body)
            return _JSON, self._encode(await done)
        if path in ("/queue", "/decisions"):
            return _JSON, self._encode(await (self.service.decision(id) if id else self.service.queue()))
        if path == "/metrics":
            return _PLAIN, self.service.metrics.text()
        if path == "/healthz":
            return _JSON, b'{"status":"alive"}'
        if path == "/readyz":
            live = self.service.live
            ready = {"status": "ready", "release": live.champion.release.id, "refused": self.service.follower.refused}
            return _JSON, self._encode(ready)
        return _JSON, self._openapi()

    def _allowed(self, headers: dict[bytes, bytes], scope: str | None) -> str:
        """The name of who asks. Raises ProblemError (401, 403, 429)."""
        if scope is None or self._tokens is None:
            return "service"
        found = self._tokens.allow(headers.get(b"authorization"), scope)
        if found is None:
            what = "this needs a token: send it as `Authorization: Bearer …`"
            raise ProblemError(401, what, headers={"www-authenticate": "Bearer"})
        if not found:
            raise ProblemError(403, f"this token may not {scope}")
        if self._tokens.buckets and (bucket := self._tokens.buckets.get(found)) and (seconds := bucket.take()):
            self.service.metrics.limited(found)
            what = f"this token may ask {bucket.rate:g} times a second: ask again after {seconds} s"
            raise ProblemError(429, what, headers={"retry-after": str(seconds)})
        return found

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The body of a request, no larger and no slower than allowed. Raises ProblemError (408, 413, 415)."""
        kind = headers.get(b"content-type", _JSON)
        if kind != _JSON and kind.partition(b";")[0].strip().lower() != _JSON:
            raise ProblemError(415, "the body is JSON: send it as content-type: application/json")
        most = self._options.body
        large = ProblemError(413, f"the body is larger than the {most} bytes that are allowed: send fewer rows")
        told = headers.get(b"content-length", b"")
        if told and (not told.isdigit() or int(told) > most + PATIENCE):
            raise large
        whole = int(told) if told else -1  # once it is there, the server is not asked once more only to say so
        parts, size = [], 0
        task = asyncio.current_task()
        assert task is not None
        self._reading[task] = time.monotonic()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ProblemError(400, "the client went away")
                part = message.get("body", b"")
                size += len(part)
                if size <= most:
                    parts.append(part)
                done = size == whole or not message.get("more_body", False)
                if size > most + PATIENCE or (done and size > most):
                    raise large
                if done:
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        except asyncio.CancelledError:
            if self._reading[task] > 0:  # the server itself gave the request up
                raise
            task.uncancel()
            raise ProblemError(408, f"the body did not come within {self._options.seconds:g} seconds") from None
        finally:
            del self._reading[task]

    async def _sweep(self) -> None:
        """End what reads a body for too long: one look now and then costs less than a timer for each request.

        And the worker, when the process that started it was killed: it would hold the port, and nobody would stop it.
        """
        parent = multiprocessing.parent_process()
        while True:
            await asyncio.sleep(min(0.5, self._options.seconds / 2))
            if parent is not None and not parent.is_alive():
                log.error("the service's first process has ended: this worker ends as well")
                signal.raise_signal(signal.SIGTERM)
                return
            late = time.monotonic() - self._options.seconds
            for task, began in self._reading.items():
                if 0 < began < late:
                    self._reading[task] = 0.0
                    task.cancel()

    def _openapi(self) -> bytes:
        live = self.service.live
        if self._described[0] != live.champion.release.id:
            told = openapi.describe(live.champion.release, self.service.filled, tokens=self._tokens is not None)
            self._described = live.champion.release.id, json.dumps(told).encode()
        return self._described[1]


def _path(name: str) -> Any:
    from pathlib import Path

    return Path(name)


def told(path: str) -> str:
    """The address of a path as logs, metrics and traces name it: what else a client may ask for is one."""
    return "/decisions" if path.startswith("/decisions/") else path if path in ADDRESSES else "other"


def _log(problem: ProblemError, path: str, request: bytes, error: Exception | None = None) -> None:
    """A line for a request that was refused or failed: what a client has sent is never in it."""
    level = logging.INFO if problem.status < 500 else logging.WARNING if problem.status == 503 else logging.ERROR
    cause = problem.__cause__
    columns = sorted({fault.column for fault in problem.faults if fault.column})
    fields = {"request": request.decode(), "path": path, "status": problem.status}
    what = problem.detail if problem.status >= 500 else HTTPStatus(problem.status).phrase
    if isinstance(cause, OSError):  # a ledger's
        what = f"{what} ({cause.what if isinstance(cause, LedgerError) else 'it does not answer'})"
    log.log(level, "%s", what, exc_info=error, extra=fields | ({"columns": columns} if columns else {}))


def make() -> App:
    """The application of a worker, by the options in its environment."""
    logs.begin()
    logging.captureWarnings(True)
    return App(Options(**json.loads(os.environ[ENVIRONMENT])))

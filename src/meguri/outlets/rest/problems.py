"""Errors as problem documents (RFC 9457): what went wrong, where in the request, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from meguri.outlets.rest.faults import Fault

SHOWN = 100  # faults that one answer tells
TYPE = b"application/problem+json"


class ProblemError(Exception):
    """An answer that is no success: its status, a sentence for a person, the faults, and headers such as Retry-After."""

    def __init__(
        self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults, self.headers = status, detail, faults, dict(headers or {})

    def body(self, request: str) -> bytes:
        """The document; ``request`` is the request's id, by which it is found in the log."""
        told = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request": request,
        }
        if self.faults:
            told["errors"] = [{"detail": fault.what, "pointer": f"#{fault.pointer}"} for fault in self.faults[:SHOWN]]
            if len(self.faults) > SHOWN:
                told["detail"] = f"{self.detail} (the first {SHOWN} of {len(self.faults)} are told)"
        return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")

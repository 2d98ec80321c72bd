"""The outermost layer of every request: an id, a log line, a measurement.

Here too a request is refused that carries a credential in its URL: before anything reads it, and whatever it
asks for. The log line names the route and never the URL.
"""

from __future__ import annotations

import re
import time
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors, metrics
from vault.access.tokens import holds_token

HEADER: Final = "X-Request-Id"
_ACCEPTABLE: Final = re.compile(r"[A-Za-z0-9-]{8,64}")

_log = structlog.get_logger("strongroom.request")


class RequestScope:
    """ASGI middleware, written bare: it stands in the path of every small upload."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; answers carry `X-Request-Id`, the caller's own where it is harmless."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if _has_credential_in_url(scope):
                metrics.REFUSED_CREDENTIALS.labels("in-url").inc()
                refusal = errors.answer(Request(scope), errors.CredentialInUrl())
                await refusal(scope, receive, send_with_id)
                return
            await self._app(scope, receive, send_with_id)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")
            _account(scope, status, time.perf_counter() - began, request_id)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTABLE.fullmatch(value.decode("latin-1")):
            accepted: str = value.decode("latin-1")
            return accepted
    return str(uuid4())


def _has_credential_in_url(scope: Scope) -> bool:
    query = scope["query_string"].decode("latin-1")
    return holds_token(scope["path"]) or (bool(query) and holds_token(unquote(query)))


def _account(scope: Scope, status: int, seconds: float, request_id: str) -> None:
    # The route's pattern, not the path: paths carry ids and would make a series each.
    route = getattr(scope.get("route"), "path", "none")
    metrics.REQUESTS.labels(scope["method"], route, status).inc()
    metrics.SECONDS.labels(scope["method"], route).observe(seconds)
    _log.info(
        "request",
        request_id=request_id,
        method=scope["method"],
        route=route,
        status=status,
        milliseconds=round(seconds * 1000, 1),
        client=(scope.get("client") or ("", 0))[0],
    )

"""One kept-alive HTTP connection; `http.client`, because it costs least beside what is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Final, Self
from urllib.parse import urlsplit

from bench.plan import MIB

TIMEOUT_SECONDS: Final = 600


class UnexpectedAnswer(Exception):
    """The measured service did not do what it was asked for, so there is nothing to measure."""


class Client:
    """Calls one service. For one thread."""

    def __init__(self, url: str, key: str = "") -> None:
        place = urlsplit(url)
        self._connection = HTTPConnection(
            place.hostname or "", place.port, timeout=TIMEOUT_SECONDS, blocksize=MIB
        )
        self._headers = {"Authorization": f"Bearer {key}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def upload(
        self,
        body: bytes | Iterable[bytes],
        size_bytes: int | None = None,
        *,
        class_name: str = "general",
    ) -> dict[str, Any]:
        """File a document; what the service says of it.

        Args:
            size_bytes: of an iterable `body`; None: not known, sent in chunks (RFC 9112 §7.1).

        Raises:
            UnexpectedAnswer: it was not taken.
        """
        headers = {"Content-Disposition": 'attachment; filename="bench"'}
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        return _json(self._ask("POST", f"/v1/documents?class={class_name}", body, headers))

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send JSON and receive some. Raises: UnexpectedAnswer."""
        headers = {"Content-Type": "application/json"}
        return _json(self._ask("POST", path, json.dumps(content).encode(), headers))

    def get(self, path: str) -> dict[str, Any]:
        """Receive JSON. Raises: UnexpectedAnswer."""
        return _json(self._ask("GET", path))

    def download(self, path: str) -> int:
        """How many bytes came. Raises: UnexpectedAnswer."""
        response = self._ask("GET", path)
        buffer = memoryview(bytearray(MIB))
        total = 0
        while count := response.readinto(buffer):
            total += count
        return total

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> HTTPResponse:
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        if response.status not in (200, 201, 202):
            raise UnexpectedAnswer(f"{method} {path}: {response.status} {response.read()!r}")
        return response


def _json(response: HTTPResponse) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(response.read())
    return answer

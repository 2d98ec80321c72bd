"""HTTP with a provider, bounded: one deadline for all requests of a step, a largest answer, no redirects.

httpx counts its timeouts anew for each read, so an answer that comes byte by byte never times out, and it
reads bodies of any size into memory. Hence an own transport, on the connection pool that httpx itself
uses. Looking up a name has no time limit but the system's.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpcore
import httpx
from typing_extensions import override

from api.oidc.errors import Fault, ProviderUnavailable


@dataclass(frozen=True)
class Limits:
    """How much of a provider's is waited for and read.

    Attributes:
        answer_bytes: of one answer's body.
        connect_seconds: for one connection.
        total_seconds: for all requests of one step of a sign-in.
    """

    answer_bytes: int = 256 * 1024
    connect_seconds: float = 3.0
    total_seconds: float = 10.0


def bounded_client(context: ssl.SSLContext, limits: Limits) -> httpx.Client:
    """A client for one step of one sign-in; its time runs from now. Proxy variables are not believed."""
    return httpx.Client(
        transport=_Transport(context, limits),
        headers={"Accept-Encoding": "identity"},
        trust_env=False,
    )


class _Transport(httpx.BaseTransport):
    """Raises: ProviderUnavailable."""

    def __init__(self, context: ssl.SSLContext, limits: Limits) -> None:
        self._limits = limits
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, network_backend=_Backend(_Deadline(limits))
        )

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._answer(request)
        except httpcore.TimeoutException as exc:
            raise ProviderUnavailable(Fault.TOO_SLOW) from exc
        except httpcore.ProtocolError:
            raise ProviderUnavailable(Fault.UNREACHABLE) from None  # it cites what was received
        except httpcore.NetworkError as exc:
            raise ProviderUnavailable(Fault.UNREACHABLE) from exc
        except (OSError, ValueError, OverflowError) as exc:  # of names and ports that cannot be
            raise ProviderUnavailable(Fault.UNREACHABLE) from exc

    def _answer(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with self._pool.stream(
            request.method, url, headers=request.headers.raw, content=request.read()
        ) as answer:
            _refuse_redirect(answer)
            body = _read(answer, self._limits.answer_bytes)
        return httpx.Response(answer.status, headers=answer.headers, content=body)

    @override
    def close(self) -> None:
        self._pool.close()


def _refuse_redirect(answer: httpcore.Response) -> None:
    # Also for bodies: a redirect may carry one, and Authlib takes a token out of any answer below 500.
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        raise ProviderUnavailable(Fault.REDIRECTS)


def _read(answer: httpcore.Response, most_bytes: int) -> bytes:
    # Of a compressed body the bound would say nothing.
    if any(name.lower() == b"content-encoding" for name, _ in answer.headers):
        raise ProviderUnavailable(Fault.MALFORMED)
    body = bytearray()
    for piece in answer.iter_stream():
        body += piece
        if len(body) > most_bytes:
            raise ProviderUnavailable(Fault.TOO_LARGE)
    return bytes(body)


class _Deadline:
    def __init__(self, limits: Limits) -> None:
        self._connect_seconds = limits.connect_seconds
        self._at = time.monotonic() + limits.total_seconds

    def seconds(self) -> float:
        """What is left. Raises: httpcore.ReadTimeout."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the step's time is up")
        return left

    def seconds_to_connect(self) -> float:
        """The same, for a connection."""
        return min(self._connect_seconds, self.seconds())


class _Backend(httpcore.NetworkBackend):
    """The system's sockets, with each wait cut to what is left."""

    def __init__(self, deadline: _Deadline) -> None:
        self._sockets = httpcore.SyncBackend()
        self._deadline = deadline

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._sockets.connect_tcp(
            host, port, self._deadline.seconds_to_connect(), local_address, socket_options
        )
        return _Stream(stream, self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.seconds())

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.seconds())

    @override
    def close(self) -> None:
        self._stream.close()

    @override
    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.seconds_to_connect()
        return _Stream(
            self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline
        )

    @override
    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

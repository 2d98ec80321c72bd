"""The HTTP connections under the S3 adapter: how long each step may take, and what is never repeated.

A dead site is noticed within the time-outs. Nothing repeats a write, nothing follows a redirect (it would
hand ciphertext to a host that nobody configured), and proxy variables of the environment are not read.

| step | bounded by |
|---|---|
| to connect, TLS included | `connect_seconds` |
| to send the request with its body, as a whole | `head_seconds` |
| for the answer's head, between two packets of it | `head_seconds` |
| for the answer's body, between two packets of it | `body_seconds` |

A server that hangs is thus noticed after `connect_seconds` + `head_seconds` at most (once more when a pooled
connection was broken, which shows at once). One that trickles bytes is not hung, and is not bounded here.
"""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import Any, Self

import urllib3
from typing_extensions import override
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ReadTimeoutError


class _OnceMore(urllib3.Retry):
    """A read is repeated when its pooled connection turns out to be broken, but a time-out is final."""

    @override
    def increment(self, *args: Any, **kwargs: Any) -> Self:
        if isinstance(error := kwargs.get("error"), ReadTimeoutError):
            raise error
        return super().increment(*args, **kwargs)


class _Connection(HTTPConnection):
    """Waits for the head under the pool's read time-out, for the body under `body_seconds`."""

    body_seconds: float | None = None

    @override
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # urllib3's own
        socket = self.sock  # an answer that ends the connection takes it away
        response = super().getresponse()
        if socket.fileno() >= 0:  # not read to its end and closed yet
            socket.settimeout(self.body_seconds)
        return response


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    """Sends under the read time-out, and tells its connections the body's.

    urllib3 sends under the connect time-out, and `socket.sendall` spends one time-out on all bytes: 2 s
    for a part of 8 MiB would refuse every line below 4 MiB/s.
    """

    ConnectionCls = _Connection

    def __init__(self, *args: Any, body_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body_seconds = body_seconds

    @override
    def _validate_conn(self, conn: Any) -> None:
        super()._validate_conn(conn)
        conn.body_seconds = self._body_seconds
        if conn.is_closed:
            conn.connect()
        conn.timeout = self.timeout.read_timeout


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _TlsConnection


def connection_pool(
    *,
    connections: int,
    connect_seconds: float,
    head_seconds: float,
    body_seconds: float,
    tls: bool,
    ca_file: Path | None,
) -> urllib3.PoolManager:
    """Connections to one store.

    Args:
        connections: how many are kept; more are opened when needed.
        connect_seconds, head_seconds, body_seconds: see above.
        ca_file: PEM of the authority that signed the certificate; None: the system's.
    """
    pool = urllib3.PoolManager(
        maxsize=connections,
        timeout=urllib3.Timeout(connect=connect_seconds, read=head_seconds),
        retries=_OnceMore(
            total=1,
            connect=0,
            read=1,
            status=0,
            other=0,
            redirect=False,
            allowed_methods={"GET", "HEAD"},
        ),
        ssl_context=ssl.create_default_context(cafile=ca_file) if tls else None,
    )
    classes: dict[str, Any] = {
        "http": partial(_Pool, body_seconds=body_seconds),
        "https": partial(_TlsPool, body_seconds=body_seconds),
    }
    pool.pool_classes_by_scheme = classes
    return pool

"""The HTTP connections under the S3 adapter: how long each step may take, and what is never repeated.

A dead site is noticed within the time-outs. Nothing repeats a write, nothing follows a redirect (it would
hand ciphertext to a host that nobody configured), and proxy variables of the environment are not read.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Self

import urllib3
from typing_extensions import override
from urllib3.exceptions import ReadTimeoutError


class _OnceMore(urllib3.Retry):
    """A read is repeated when its pooled connection turns out to be broken, but a time-out is final."""

    @override
    def increment(self, *args: Any, **kwargs: Any) -> Self:
        if isinstance(error := kwargs.get("error"), ReadTimeoutError):
            raise error
        return super().increment(*args, **kwargs)


class _Pool(urllib3.HTTPConnectionPool):
    """Sends under the read time-out.

    urllib3 sends under the connect time-out, and `socket.sendall` spends one time-out on all bytes: 2 s
    for a part of 8 MiB would refuse every line below 4 MiB/s.
    """

    @override
    def _validate_conn(self, conn: Any) -> None:
        super()._validate_conn(conn)
        if conn.is_closed:
            conn.connect()
        conn.timeout = self.timeout.read_timeout


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    """The same over TLS."""


def connection_pool(
    *,
    connections: int,
    connect_seconds: float,
    read_seconds: float,
    tls: bool,
    ca_file: Path | None,
) -> urllib3.PoolManager:
    """Connections to one store.

    Args:
        connections: how many are kept; more are opened when needed.
        connect_seconds: to connect, TLS handshake included.
        read_seconds: between two reads; also to send one body.
        ca_file: PEM of the authority that signed the certificate; None: the system's.
    """
    pool = urllib3.PoolManager(
        maxsize=connections,
        timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
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
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pool

"""A server that gives one prepared answer: what no real store can be brought to say on request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 65536


@dataclass(frozen=True)
class Request:
    """What was asked; the body is read away.

    Attributes:
        headers: by name in lower case.
    """

    method: str
    target: str
    body_size_bytes: int
    headers: Mapping[str, str]


def answer(status: int, body: str = "", **headers: str) -> bytes:
    """An answer as it goes over the wire; ``_`` in names of headers stands for ``-``."""
    given = {
        "Connection": "close",
        "Content-Type": "application/xml",
        "Content-Length": str(len(body)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Canned", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", body]).encode()


def error(status: int, code: str) -> bytes:
    """An S3 error."""
    return answer(status, f"<Error><Code>{code}</Code><Message>canned</Message></Error>")


@dataclass
class CannedServer:
    """One connection per request; an empty answer cuts it, one in pieces is sent as they come.

    Attributes:
        bytes_per_second: how fast bodies are taken in.
    """

    respond: Callable[[Request], bytes | Iterator[bytes]]
    bytes_per_second: float = float("inf")
    requests: list[Request] = field(default_factory=list)
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        # Inherited by connections: what a slow receiver has not taken in must not hide in the kernel.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK_BYTES)
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as incoming:
            method, target, _ = incoming.readline().decode().split(" ", 2)
            headers = {}
            while (line := incoming.readline().strip()) != b"":
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            left = size_bytes = int(headers.get("content-length", 0))
            while left:
                got = len(incoming.read1(min(left, CHUNK_BYTES)))
                left -= got
                time.sleep(got / self.bytes_per_second)
            request = Request(method, target, size_bytes, headers)
            self.requests.append(request)
            answered = self.respond(request)
            for piece in (answered,) if isinstance(answered, bytes) else answered:
                connection.sendall(piece)


@contextmanager
def canned(
    respond: Callable[[Request], bytes | Iterator[bytes]] | bytes,
    bytes_per_second: float = float("inf"),
) -> Iterator[CannedServer]:
    """A server for the time of the block."""
    server = CannedServer(
        respond if callable(respond) else lambda _: respond, bytes_per_second=bytes_per_second
    )
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        # close alone would not wake the thread in accept.
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()

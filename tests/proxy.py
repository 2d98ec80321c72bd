"""A small TCP proxy that misbehaves on request: refuses, hangs, cuts, slows down, corrupts a byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK_BYTES = 65536


@dataclass
class Misbehaviour:
    """What happens to answers, counted from the start of each connection; may change at any time.

    Attributes:
        refuse: close new connections at once.
        cut_after: bytes after which the connection is cut; once, if `cuts` is 1.
        cuts: how many connections are cut.
        corrupt_at: offset of a byte whose lowest bit is flipped.
        hang: pass nothing on.
        pause_seconds: before each chunk.
    """

    refuse: bool = False
    cut_after: int | None = None
    cuts: int = 10**9
    corrupt_at: int | None = None
    hang: bool = False
    pause_seconds: float = 0.0


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, target_port: int) -> None:
        self.misbehaviour = Misbehaviour()
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.misbehaviour.refuse:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for work in (self._forward, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError), client, server:
            while data := server.recv(CHUNK_BYTES):
                while self.misbehaviour.hang:
                    time.sleep(0.05)
                time.sleep(self.misbehaviour.pause_seconds)
                data, goes_on = self._spoilt(data, passed)
                client.sendall(data)
                passed += len(data)
                if not goes_on:
                    # Closing alone tells nobody while the other thread still waits on these sockets.
                    client.shutdown(socket.SHUT_RDWR)
                    server.shutdown(socket.SHUT_RDWR)
                    return

    def _spoilt(self, data: bytes, passed: int) -> tuple[bytes, bool]:
        wrong = self.misbehaviour
        if wrong.corrupt_at is not None and passed <= wrong.corrupt_at < passed + len(data):
            at = wrong.corrupt_at - passed
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if wrong.cut_after is not None and wrong.cuts and passed + len(data) > wrong.cut_after:
            wrong.cuts -= 1
            return data[: wrong.cut_after - passed], False
        return data, True


@contextmanager
def proxied(target_port: int) -> Iterator[Proxy]:
    """A proxy for the time of the block."""
    proxy = Proxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()

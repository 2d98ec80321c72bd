"""A small TCP proxy that misbehaves on request: refuses, hangs, cuts, slows down, corrupts, fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK_BYTES = 65536

FAILURE = b"HTTP/1.1 500 Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")


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
        fails: whether a request, given its first bytes, is answered with 500 instead of being passed on.
        loses: whether a request is carried out, and its answer lost with the connection.
    """

    refuse: bool = False
    cut_after: int | None = None
    cuts: int = 10**9
    corrupt_at: int | None = None
    hang: bool = False
    pause_seconds: float = 0.0
    fails: Callable[[bytes], bool] = lambda _: False
    loses: Callable[[bytes], bool] = lambda _: False


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
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the server is down; we are not
                    client.close()
                    continue
                _Connection(self.misbehaviour_now, client, server).start()

    def misbehaviour_now(self) -> Misbehaviour:
        """What holds at this moment."""
        return self.misbehaviour


class _Connection:
    """A pair of sockets. One thread forwards requests, one passes answers back."""

    def __init__(
        self, wrong: Callable[[], Misbehaviour], client: socket.socket, server: socket.socket
    ) -> None:
        self._wrong = wrong
        self._client = client
        self._server = server
        self._loses_answer = False

    def start(self) -> None:
        for work in (self._forward, self._answer):
            threading.Thread(target=work, daemon=True).start()

    def _forward(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(CHUNK_BYTES):
                if data.startswith(_METHODS):
                    if self._wrong().fails(data):
                        self._fail()
                        return
                    self._loses_answer = self._wrong().loses(data)
                self._server.sendall(data)
            self._server.shutdown(socket.SHUT_WR)

    def _fail(self) -> None:
        """Answer at once, and read away what still comes: an answer before the end is a valid one."""
        self._client.sendall(FAILURE)
        self._client.settimeout(0.2)
        with suppress(OSError):
            while self._client.recv(CHUNK_BYTES):
                pass
        self._end()

    def _answer(self) -> None:
        with self._client, self._server:
            with suppress(OSError):
                self._pass_back()
            self._end()

    def _pass_back(self) -> None:
        passed = 0
        while data := self._server.recv(CHUNK_BYTES):
            while self._wrong().hang:
                time.sleep(0.05)
            time.sleep(self._wrong().pause_seconds)
            data, goes_on = self._spoilt(data, passed)
            if self._loses_answer:
                return
            self._client.sendall(data)
            passed += len(data)
            if not goes_on:
                return

    def _end(self) -> None:
        """Closing alone tells nobody while the other thread still waits on these sockets."""
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _spoilt(self, data: bytes, passed: int) -> tuple[bytes, bool]:
        wrong = self._wrong()
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

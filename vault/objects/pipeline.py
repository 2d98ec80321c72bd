"""Sending an object while it is still being made: fill one part, send the one before.

The receiver (hashing, writing) and we (receiving, sealing, hashing) work at the same time, which doubles
the rate of sending one after the other. Memory is bounded whatever the size: `BUFFERS` parts.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

from vault.objects.destination import Target
from vault.objects.store import PART_SIZE_BYTES, PartUpload

BUFFERS: Final = 3
"""One being filled, two on their way. A fourth measured no faster."""

SEGMENT_BYTES: Final = 2**20
"""Room that a filler may ask for; parts are whole multiples of it."""


@dataclass(frozen=True)
class Sent:
    """What was stored: exact size and digest of the bytes handed in."""

    size_bytes: int
    sha256: bytes


class ObjectWriter:
    """Stores one object under `key` from bytes filled into its buffers, in order.

    Use: `space`, fill, `filled`, …, then `finish`; on any error `abort`. For one thread at a time. An
    object of at most one part is one PUT, sent by `finish`.
    """

    def __init__(self, target: Target, key: str, executor: Executor) -> None:
        self._target = target
        self._key = key
        self._executor = executor
        self._digest = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._part = _new_buffer()
        self._fill = 0
        self._size = 0
        self._upload: PartUpload | None = None
        self._number = 0
        self._on_their_way: deque[tuple[memoryview, Future[None], Future[None]]] = deque()

    def space(self) -> memoryview:
        """`SEGMENT_BYTES` of room for the bytes that come next.

        Raises:
            StoreError: an earlier part could not be sent.
        """
        if self._fill + SEGMENT_BYTES > PART_SIZE_BYTES:
            self._send_part()
        return self._part[self._fill : self._fill + SEGMENT_BYTES]

    def filled(self, size_bytes: int) -> None:
        """That many bytes of the last `space` are now part of the object."""
        self._fill += size_bytes
        self._size += size_bytes

    def finish(self) -> Sent:
        """Send what is left and make the object visible; durable when it returns.

        Raises:
            StoreError: it is not; call `abort`.
        """
        if self._upload is None:
            last = self._part[: self._fill]
            self._digest.update(last)
            self._target.put(self._key, last, sha256=self._digest.digest())
            _spare.append(self._part)
        else:
            self._send_part()
            self._wait_for_all()
            self._upload.complete()
        return Sent(self._size, self._digest.digest())

    def abort(self) -> None:
        """Stop and drop what was sent, as far as the store can be reached.

        Raises:
            StoreError: it cannot; somebody has to sweep later.
        """
        for _, sending, hashing in self._on_their_way:
            sending.cancel()
            hashing.cancel()
        for _, sending, _ in self._on_their_way:
            if not sending.cancelled():
                sending.exception()
        if self._upload is not None:
            self._upload.abort()

    def _send_part(self) -> None:
        if self._upload is None:
            self._upload = self._target.begin_parts(self._key)
        self._number += 1
        body = self._part[: self._fill]
        self._hashing = self._executor.submit(self._hash, body, self._hashing)
        sending = self._executor.submit(self._upload.put_part, self._number, body)
        self._on_their_way.append((self._part, sending, self._hashing))
        self._part, self._fill = self._free_buffer(), 0

    def _hash(self, body: memoryview, before: Future[None] | None) -> None:
        if before is not None:
            before.result()
        self._digest.update(body)

    def _free_buffer(self) -> memoryview:
        if len(self._on_their_way) < BUFFERS - 1:
            return _new_buffer()
        return self._wait_for_oldest()

    def _wait_for_oldest(self) -> memoryview:
        buffer, sending, hashing = self._on_their_way.popleft()
        sending.result()
        hashing.result()
        return buffer

    def _wait_for_all(self) -> None:
        while self._on_their_way:
            self._wait_for_oldest()


def _new_buffer() -> memoryview:
    # Anonymous memory: a small object touches a few pages of it, and only those are made.
    try:
        return _spare.pop()
    except IndexError:
        return memoryview(mmap.mmap(-1, PART_SIZE_BYTES))


_spare: Final[deque[memoryview]] = deque(maxlen=8)
"""Buffers of small objects that are stored, for the next ones: only their first pages were ever touched."""

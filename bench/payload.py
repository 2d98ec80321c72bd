"""Bodies to send: small files of three kinds, and large ones that take no memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from typing_extensions import override

from bench.plan import MIB

SMALL_BYTES: Final = 16 * 1024

_BLOCK: Final = 8 * MIB
"""The floor's part size, so that handing out a part copies nothing."""


def pdf() -> bytes:
    """16 KiB that start as a PDF does and go on as compressed streams do."""
    head = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n"
    return head + os.urandom(SMALL_BYTES - len(head))


def text() -> bytes:
    """16 KiB of plain lines."""
    lines = b"".join(
        b"%06d The tenant pays the rent on the third working day.\n" % n for n in range(400)
    )
    return lines[:SMALL_BYTES]


def noise() -> bytes:
    """16 KiB of random bytes, which no file type matches."""
    return os.urandom(SMALL_BYTES)


class LargeBody:
    """`size_bytes` random bytes, the same 8 MiB over and over; a multiple of that."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._block = os.urandom(_BLOCK)

    def chunks(self) -> Iterator[bytes]:
        """The bytes by the MiB, as a client sends them."""
        pieces = [self._block[at : at + MIB] for at in range(0, _BLOCK, MIB)]
        for _ in range(self.size_bytes // _BLOCK):
            yield from pieces

    def reader(self) -> BinaryIO:
        """The bytes as a file, for a client that reads parts of 8 MiB."""
        return cast("BinaryIO", _Repeating(self._block))


class _Repeating(io.RawIOBase):
    def __init__(self, block: bytes) -> None:
        self._block = block

    @override
    def read(self, size: int = -1, /) -> bytes:
        return self._block[:size]

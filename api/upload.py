"""Sending a file of this machine: its name, its length where one is known, its bytes."""

from __future__ import annotations

import mimetypes
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from unicodedata import normalize
from urllib.parse import quote

from api.client import FileUnusable

CHUNK_BYTES: Final = 2**20
STANDARD_INPUT: Final = "-"

Progress = Callable[[int, int | None], None]
"""Told of bytes done so far and, where known, of all."""


@dataclass(frozen=True)
class Source:
    """What is sent.

    Attributes:
        size_bytes: None where only the end tells: pipes, and files of /proc, which claim 0.
    """

    name: str
    file: BinaryIO
    size_bytes: int | None

    def headers(self) -> dict[str, str]:
        """Name (RFC 8187), claimed type and length. Raises: FileUnusable."""
        length = {} if self.size_bytes is None else {"Content-Length": str(self.size_bytes)}
        return {
            "Content-Disposition": f"attachment; filename*=UTF-8''{_encoded(self.name)}",
            "Content-Type": _claimed_type(self.name),
            **length,
        }

    def chunks(self, progress: Progress) -> Iterator[bytes]:
        """The bytes, once. Raises: FileUnusable."""
        done = 0
        for chunk in self._read():
            yield chunk
            done += len(chunk)
            progress(done, self.size_bytes)

    def _read(self) -> Iterator[bytes]:
        try:
            if self.size_bytes is None:
                yield from iter(lambda: self.file.read(CHUNK_BYTES), b"")
            else:
                yield from _exactly(self.file, self.size_bytes)
        except OSError as exc:
            raise FileUnusable(f"cannot be read: {exc.strerror}") from exc


@contextmanager
def open_source(file: str, name: str | None) -> Iterator[Source]:
    """A file, or standard input for ``-``. Raises: FileUnusable."""
    if file == STANDARD_INPUT:
        yield Source(name or STANDARD_INPUT, sys.stdin.buffer, None)
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115 (closed below; only opening may fail here)
    except OSError as exc:
        raise FileUnusable(f"cannot be opened: {exc.strerror}") from exc
    with opened:
        yield Source(name or Path(file).name, opened, _size_bytes(opened))


def _size_bytes(file: BinaryIO) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None


def _exactly(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """A file that grew or shrank is given up before its last bytes: a body that ends early is not filed."""
    left = size_bytes
    while left:
        chunk = file.read(min(CHUNK_BYTES, left))
        left -= len(chunk)
        if not chunk or (not left and file.read(1)):
            raise FileUnusable("it changed while it was read; nothing was filed")
        yield chunk


def _encoded(name: str) -> str:
    try:
        return quote(normalize("NFC", name), safe="")
    except UnicodeEncodeError as exc:
        raise FileUnusable("its name is not UTF-8; give it another with --name") from exc


def _claimed_type(name: str) -> str:
    kind, encoding = mimetypes.guess_type(name)
    # x.tar.gz holds gzip, not tar; the service judges by the content anyway.
    return kind if kind and not encoding else "application/octet-stream"

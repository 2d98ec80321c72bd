"""Fetching a document into a file or a pipe, going on where an earlier attempt broke off.

A range is asked for on condition that the version is still the one begun with (If-Range, RFC 9110 §13.1.5).
The service keeps no digest of the plaintext; what authenticates the bytes is that it decrypts each segment
before it sends it, so a document damaged at rest ends in a cut connection and, asked again, in a problem.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self

import httpx
from typing_extensions import override
from werkzeug.http import parse_content_range_header

from api.client import Client, FileUnusable, UnexpectedAnswer, Unreachable

_STRONG_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]+"')

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Downloaded:
    """A document that is now whole; the digest is of its plaintext."""

    path: str
    size_bytes: int
    sha256: str


class Sink(Protocol):
    """Where bytes go, in order.

    Attributes:
        etag: of the version that the bytes so far belong to.
        size_bytes: bytes so far.
    """

    etag: str | None
    size_bytes: int

    def begin(self, etag: str) -> None:
        """Start anew, with another version. Raises: FileUnusable, UnexpectedAnswer."""

    def write(self, chunk: bytes) -> None:
        """Append. Raises: FileUnusable."""


def fetch(client: Client, path: str, sink: Sink, progress: Progress) -> None:
    """Bring `sink` to the whole of a document; a cut connection is taken up again where it was cut.

    Raises:
        Refused, Unreachable, UnexpectedAnswer, FileUnusable.
    """
    client.patiently(_go_on, client, path, sink, progress)


def _go_on(client: Client, path: str, sink: Sink, progress: Progress) -> None:
    with client.opened(path, _rest_of(sink)) as answer:
        total = _agreed_size(answer, sink)
        # No chunk size: what httpx gathers for one is lost with the connection, and asked for forever.
        for chunk in answer.iter_raw():
            sink.write(chunk)
            progress(sink.size_bytes, total)
    if sink.size_bytes != total:
        raise Unreachable("the answer ended early")


def _rest_of(sink: Sink) -> dict[str, str]:
    if not sink.size_bytes or sink.etag is None:
        return {}
    return {"Range": f"bytes={sink.size_bytes}-", "If-Range": sink.etag}


def _agreed_size(answer: httpx.Response, sink: Sink) -> int:
    """Size of the whole, once `sink` stands where the answer begins. Raises: UnexpectedAnswer."""
    etag = answer.headers.get("ETag", "")
    length = answer.headers.get("Content-Length", "")
    if "Content-Encoding" in answer.headers or not _STRONG_ETAG.fullmatch(etag):
        raise UnexpectedAnswer("the answer was changed on its way; a proxy between?")
    if answer.status_code == httpx.codes.PARTIAL_CONTENT:
        part = parse_content_range_header(answer.headers.get("Content-Range"))
        whole = part.length if part and part.start == sink.size_bytes else None
        if whole is None or etag != sink.etag:
            raise UnexpectedAnswer("the answer is not the part that was asked for")
        return whole
    if not length.isdecimal():
        raise UnexpectedAnswer("the answer does not say how long it is")
    sink.begin(etag)
    return int(length)


class Pipe(Sink):
    """A pipe: what went in cannot be taken back."""

    def __init__(self, stream: BinaryIO) -> None:
        self.etag: str | None = None
        self.size_bytes = 0
        self._stream = stream
        self._digest = hashlib.sha256()

    @override
    def begin(self, etag: str) -> None:
        if self.size_bytes:
            raise UnexpectedAnswer("the document changed meanwhile; discard what came and repeat")
        self.etag = etag

    @override
    def write(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def finish(self) -> Downloaded:
        """What went through."""
        self._stream.flush()
        return Downloaded("-", self.size_bytes, self._digest.hexdigest())


class PartialFile(Sink):
    """`TARGET.part` beside a target, with its ETag in `TARGET.part.etag`. A context manager.

    An ETag is only ever written beside an empty part, so it cannot stand beside another version's bytes.
    One that stayed empty is removed. Bytes that a power cut may have lost are not told from others:
    after one, delete the part.
    """

    def __init__(self, target: Path, *, force: bool) -> None:
        """Touch nothing yet. Raises: FileUnusable if the name is taken."""
        if target.exists() and not target.is_file():
            raise FileUnusable(f"{target} is not a file; `-o -` writes to a pipe")
        if target.exists() and not force:
            raise FileUnusable(f"{target} exists; give another -o, or --force")
        self.etag: str | None = None
        self.size_bytes = 0
        self._target = target
        self._force = force
        self._part = target.with_name(target.name + ".part")
        self._mark = target.with_name(target.name + ".part.etag")

    def __enter__(self) -> Self:
        with self._explained():
            # O_NOFOLLOW: in a shared folder somebody may have laid a link under this name.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._part, flags, 0o666), "r+b")
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._explained(), self._file:
            if not self.size_bytes:
                self._part.unlink(missing_ok=True)
                self._mark.unlink(missing_ok=True)

    @override
    def begin(self, etag: str) -> None:
        with self._explained():
            self._stand_at(0)
            self._mark.write_text(etag, encoding="ascii")
        self.etag = etag

    @override
    def write(self, chunk: bytes) -> None:
        with self._explained():
            self._file.write(chunk)
        self.size_bytes += len(chunk)

    def finish(self) -> Downloaded:
        """Give the whole file its name, for good. Raises: FileUnusable."""
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()
            self._publish()
        return Downloaded(str(self._target), self.size_bytes, digest)

    def _take_up(self) -> None:
        with self._explained():
            self._lock()
            self.etag = self._remembered()
            size = os.fstat(self._file.fileno()).st_size
            # The last byte is asked for again, so that a part that is whole already is no special case.
            self._stand_at(max(size - 1, 0) if self.etag else 0)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(self._file.fileno()), self._part.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise FileUnusable(f"another get is writing {self._part}")

    def _remembered(self) -> str | None:
        try:
            etag = self._mark.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return None
        return etag if _STRONG_ETAG.fullmatch(etag) else None

    def _stand_at(self, size_bytes: int) -> None:
        self._file.seek(size_bytes)
        self._file.truncate()
        self.size_bytes = size_bytes

    def _publish(self) -> None:
        if self._force:
            self._part.replace(self._target)
        else:
            # A hard link, because unlike a rename it never replaces what is there.
            self._target.hardlink_to(self._part)
            self._part.unlink()
        self._mark.unlink()
        _flush_folder(self._target.parent)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise FileUnusable(f"{self._target} cannot be written: {exc.strerror}") from exc


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A folder as a site: the embedded object store.

```
FOLDER/objects/3f/3f0c…        an object, whole, read-only
FOLDER/.incoming/<upload id>   one that is not finished; never listed, swept by its upload row
```
An object appears by rename, after its bytes and before its name are flushed (fsync of file and folder), so
no partial object is ever visible and one that was acknowledged survives a power cut.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from vault.objects.store import (
    PART_SIZE_BYTES,
    Bytes,
    Capabilities,
    ObjectMissing,
    PendingUpload,
    StoredObject,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    UploadMissing,
)

_KEY: Final = re.compile(r"(?!\.)[a-z0-9-]+(?:[./][a-z0-9-]+)*")
_INCOMING: Final = ".incoming"
_making_folders: Final = threading.RLock()


class DirectoryStore:
    """Objects as files below one folder, which must be one file system."""

    def __init__(self, site: str, folder: Path) -> None:
        """Touches nothing; see `prepare`."""
        self.site = site
        self._root = _Root(site, folder.absolute())

    def prepare(self) -> None:
        with self._root.translated():
            self._root.incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(
        self,
        key: str,
        body: Bytes,
        *,
        locked_until: datetime | None = None,
        sha256: bytes | None = None,  # noqa: ARG002 (there is no way on which it could change)
    ) -> None:
        upload = self.begin_parts(key, locked_until=locked_until)
        try:
            upload.put_part(1, body)
            upload.complete()
        except BaseException:
            with suppress(StoreUnavailable):
                upload.abort()
            raise

    def begin_parts(
        self,
        key: str,
        *,
        locked_until: datetime | None = None,  # noqa: ARG002 (a folder locks nothing)
    ) -> _FileUpload:
        target = self._path(key)
        incoming = f"{uuid4()}{_suffix(key)}"
        with self._root.translated():
            return _FileUpload(self._root, incoming, target, os.O_CREAT | os.O_EXCL)

    def resume_parts(self, key: str, upload_id: str) -> _FileUpload:
        target = self._path(key)
        if Path(upload_id).name != upload_id or not upload_id.endswith(_suffix(key)):
            raise UploadMissing(self.site, "no such upload")
        with self._root.translated(missing=UploadMissing):
            upload = _FileUpload(self._root, upload_id, target, os.O_NOFOLLOW)
            upload.keep_full_parts()
        return upload

    def open(self, key: str, offset: int = 0, length: int | None = None) -> _FileReader:
        with self._root.translated(missing=ObjectMissing):
            return _FileReader(self._root, self._path(key), offset, length)

    def size(self, key: str) -> int:
        with self._root.translated(missing=ObjectMissing):
            return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._root.translated():
            self._root.require()
            with suppress(FileNotFoundError):
                path.unlink()
                _flush_folder(path.parent)

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        with self._root.translated():
            self._root.require()
            for path in _files_in_order(self._root.folder, ""):
                if path.startswith(prefix) and path > start_after:
                    with suppress(FileNotFoundError):
                        found = (self._root.folder / path).stat()
                        yield StoredObject(path, found.st_size, _moment(found.st_mtime))

    def pending(self, prefix: str = "") -> Iterator[PendingUpload]:
        with self._root.translated():
            for path in sorted(self._root.incoming.iterdir()):
                key = path.name.partition("--")[2].replace("--", "/")
                if key.startswith(prefix):
                    with suppress(FileNotFoundError):
                        yield PendingUpload(key, path.name, _moment(path.stat().st_mtime))

    def abort_pending(self, key: str, upload_id: str) -> None:  # noqa: ARG002 (the protocol's)
        with self._root.translated():
            (self._root.incoming / Path(upload_id).name).unlink(missing_ok=True)

    def check(self) -> None:
        with self._root.translated():
            self._root.require()

    def probe(self) -> Capabilities:
        self.check()
        return Capabilities(
            conditional_put=False,
            versioning=False,
            object_lock=False,
            partial_content=True,
            lists_pending_uploads=True,
        )

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreMisconfigured(self.site, "a key outside the grammar was asked for")
        return self._root.folder / key


@dataclass(frozen=True)
class _Root:
    """The folder of a site, and what its errors mean."""

    site: str
    folder: Path

    @property
    def incoming(self) -> Path:
        """Where unfinished uploads lie; it exists as long as the site is really there."""
        return self.folder / _INCOMING

    def require(self) -> None:
        """Raises: FileNotFoundError, so that a vanished site is not taken for an empty one."""
        self.incoming.stat()

    @contextmanager
    def translated(self, *, missing: type[StoreError] | None = None) -> Iterator[None]:
        """Turn the system's errors into the store's; `missing`: what it means if the site is there,
        and the file is not."""
        try:
            yield
        except FileNotFoundError as exc:
            if missing and self.incoming.is_dir():
                raise missing(self.site, "no such object or upload") from exc
            raise StoreUnavailable(self.site, "the folder is not there") from exc
        except OSError as exc:
            reason = errno.errorcode.get(exc.errno or 0, "error")
            raise StoreUnavailable(self.site, f"the folder cannot be used ({reason})") from exc


class _FileUpload:
    """A file that grows in `.incoming`, each part at its place."""

    def __init__(self, root: _Root, upload_id: str, target: Path, flags: int) -> None:
        self.upload_id = upload_id
        self.parts_done = 0
        self._root = root
        self._path = root.incoming / upload_id
        self._target = target
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)

    def keep_full_parts(self) -> None:
        """Count what was written without a gap, and cut off the rest. Raises: OSError.

        The file's length alone would count a part that was overtaken by the next one. A gap shorter than
        a page is not seen; whoever copies reads the whole back and hashes it.
        """
        is_empty = os.fstat(self._descriptor).st_size == 0
        written = 0 if is_empty else os.lseek(self._descriptor, 0, os.SEEK_HOLE)
        self.parts_done = written // PART_SIZE_BYTES
        os.ftruncate(self._descriptor, self.parts_done * PART_SIZE_BYTES)

    def put_part(
        self,
        number: int,
        body: Bytes,
        *,
        sha256: bytes | None = None,  # noqa: ARG002 (as in put)
    ) -> None:
        rest, offset = memoryview(body), (number - 1) * PART_SIZE_BYTES
        with self._root.translated():
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written

    def complete(self) -> None:
        with self._root.translated(missing=UploadMissing):
            os.fchmod(self._descriptor, 0o400)
            os.fsync(self._descriptor)
            self._close()
            self._root.require()
            _make_folders(self._target.parent, self._root.folder)
            self._path.rename(self._target)
            _flush_folder(self._target.parent)

    def abort(self) -> None:
        self._close()
        with self._root.translated():
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _suffix(key: str) -> str:
    """What ends the upload ids of this key."""
    return f"--{key.replace('/', '--')}"


class _FileReader:
    """Part of a file, from `offset` on."""

    _descriptor = -1

    def __init__(self, root: _Root, path: Path, offset: int, length: int | None) -> None:
        self._root = root
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.object_size_bytes = os.fstat(self._descriptor).st_size
        self._at = offset
        self._stop = self.object_size_bytes if length is None else offset + length

    def readinto(self, buffer: memoryview) -> int:
        wanted = buffer[: max(self._stop - self._at, 0)]
        filled = 0
        with self._root.translated():
            while filled < len(wanted):
                got = os.preadv(self._descriptor, [wanted[filled:]], self._at)
                if got == 0:
                    break
                filled, self._at = filled + got, self._at + got
        return filled

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _files_in_order(folder: Path, below: str) -> Iterator[str]:
    """Keys below a folder in the order of whole keys, where ``/`` sorts before letters and digits."""
    with os.scandir(folder / below) as found:
        entries = sorted(
            (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name)
            for entry in found
            if entry.name != _INCOMING
        )
    for name in entries:
        if name.endswith("/"):
            yield from _files_in_order(folder, f"{below}{name}")
        else:
            yield f"{below}{name}"


def _make_folders(folder: Path, root: Path) -> None:
    """Make a folder and those above it, each durably entered in its parent; never the root itself.

    One thread at a time: another must not see a folder whose name is not flushed yet.
    Raises: FileNotFoundError: the root vanished meanwhile; another in its place would be in its way.
    """
    with _making_folders:
        if folder == root or folder.is_dir():
            return
        _make_folders(folder.parent, root)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)

"""What surrounds the embedded database in its folder: locks, the folder of its socket, its log."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Final

from api.embedded_child import Account, EmbeddedDatabaseError

MAX_LOG_SIZE: Final = 10 * 1024 * 1024
"""Bytes; a log that has grown beyond is set aside at the next start, replacing the one before."""

_MAX_TEMPORARY_PATH: Final = 60
"""Bytes; a socket's whole path may have 107 (sun_path, unix(7)), ours adds up to 40."""

_RUN_PREFIX: Final = "strongroom-"
_FAILURES: Final = ("FATAL:", "PANIC:", "error:")
_POLL: Final = timedelta(milliseconds=20)


@contextmanager
def locked(path: Path, *, patience: timedelta = timedelta()) -> Iterator[int]:
    """Hold the lock file `path`; yields its descriptor, for `name_holder` and for children.

    A child that is given the descriptor shares the lock: it ends when the last holder has ended
    (flock(2)).

    Raises:
        EmbeddedDatabaseError: another process still holds it when `patience` is over.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, time.monotonic() + patience.total_seconds())
        yield descriptor
    finally:
        os.close(descriptor)


def name_holder(lock: int, pid: int) -> None:
    """Write into a held lock file who holds it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(pid).encode(), 0)


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                pid = os.pread(descriptor, 20, 0).decode(errors="replace")
                raise EmbeddedDatabaseError(
                    f"PostgreSQL is already running on this home (pid {pid}); stop it first"
                ) from None
        time.sleep(_POLL.total_seconds())


@contextmanager
def run_folder(link: Path) -> Iterator[Path]:
    """A new, short-named temporary folder, removed afterwards.

    `link` points at it meanwhile, so that the next run finds and removes what a killed one left.
    Others may walk through it, since PostgreSQL's account may have to; nobody else may list it.
    """
    _sweep(link)
    folder = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=_temporary_folder()))
    try:
        folder.chmod(0o711)
        link.symlink_to(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        link.unlink(missing_ok=True)


def _sweep(link: Path) -> None:
    """Remove the folder behind `link` if it is still ours: names in /tmp can be taken by others."""
    with suppress(FileNotFoundError):
        folder = link.readlink()
        link.unlink()
        found = folder.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours and folder.name.startswith(_RUN_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> str:
    """Not XDG_RUNTIME_DIR, which goes when the user logs out, while the service may go on."""
    folder = tempfile.gettempdir()
    is_short = len(os.fsencode(folder)) <= _MAX_TEMPORARY_PATH
    # libpq takes a comma for the end of a host name
    return folder if is_short and "," not in folder else "/tmp"  # noqa: S108 - only its name is fixed


def make_socket_folder(run: Path, account: Account) -> Path:
    """A folder below `run` that only `account`, and root, can enter."""
    folder = run / "socket"
    folder.mkdir(mode=0o700)
    os.chown(folder, account.uid, account.gid)
    return folder


class ServerLog:
    """What PostgreSQL and its tools write: only their own affairs, no statement, no bound value."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        self.path = path
        self._start: int | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """For appending, by us, since PostgreSQL's account cannot write where the log lies."""
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > MAX_LOG_SIZE:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            self._start = file.tell()
            yield file

    def complaint(self) -> str:
        """The newest line since `open` that tells a failure, else the newest; empty if there is none."""
        if self._start is None:
            return ""
        try:
            lines = self.path.read_bytes()[self._start :].decode(errors="replace").splitlines()
        except OSError:
            return ""
        failures = [line for line in lines if any(word in line for word in _FAILURES)]
        return (failures or lines or [""])[-1]

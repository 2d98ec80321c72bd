"""Key files: made once, readable by one user, and refused if others could read or swap them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from keymgmt import durable
from keymgmt.errors import UnsafeKeyFile

KEY_FILE_MODES: Final = (0o600, 0o400)

_MAX_FILE_BYTES: Final = 4096


def create(path: Path, content: bytes) -> None:
    """Write a key file, durable and of mode 0600 when this returns.

    The folder is made with mode 0700 if it is missing.

    Raises:
        UnsafeKeyFile: a file is there already (none is ever replaced), or none can be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.create(path, content)
    except OSError as exc:
        raise UnsafeKeyFile(f"{path} cannot be made: {exc.strerror}") from exc


def read(path: Path, owners: AbstractSet[int], modes: tuple[int, ...] = KEY_FILE_MODES) -> bytes:
    """At most 4096 bytes of a regular file that one of `owners` owns and that has one of `modes`.

    Raises:
        UnsafeKeyFile: the message says what is wrong and what to do.
    """
    descriptor = _open(path)
    try:
        _refuse_unless_private(path, os.fstat(descriptor), owners, modes)
        return os.read(descriptor, _MAX_FILE_BYTES)
    except OSError as exc:
        raise UnsafeKeyFile(f"{path} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        # O_NONBLOCK: a pipe laid in the key's place must not hang the start.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise UnsafeKeyFile(
            f"{path} is missing: what its key protects opens with no other, so put it back"
        ) from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise UnsafeKeyFile(f"{path} is a symbolic link: name the file itself") from exc
        raise UnsafeKeyFile(f"{path} cannot be opened: {exc.strerror}") from exc


def _refuse_unless_private(
    path: Path, status: os.stat_result, owners: AbstractSet[int], modes: tuple[int, ...]
) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeKeyFile(f"{path} is not a regular file: put the key itself there")
    if status.st_uid not in owners:
        raise UnsafeKeyFile(
            f"{path} belongs to user {status.st_uid}: make the user that runs this its owner"
        )
    if mode not in modes:
        raise UnsafeKeyFile(f"{path} has mode {mode:04o}: run `chmod {modes[0]:04o}` on it")

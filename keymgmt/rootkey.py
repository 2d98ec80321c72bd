"""The root key: the one secret of the embedded keyring, and the ways it may lie on disk.

In order: a systemd credential, a key file sealed under a passphrase (`sealedkey`), a raw key file of
32 bytes. A file that others could read or swap is refused, never repaired.

Does not handle: the environment (callers hand in paths and passphrase), where copies are kept.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from keymgmt import durable, sealedkey
from keymgmt.errors import UnsafeKeyFile
from keymgmt.secret import KEY_SIZE_BYTES, SecretKey

CREDENTIAL_NAME: Final = "strongroom-root-key"

_MAX_FILE_BYTES: Final = 4096

_KEY_FILE_MODES: Final = (0o600, 0o400)
_CREDENTIAL_MODES: Final = (0o400, 0o440)
"""systemd's. Where it grants access by an ACL, the ACL's mask shows as the group's read bit."""


class RootKey(SecretKey):
    """256 bits from which the keyring's own keys are derived."""

    __slots__ = ()


def load_root_key(
    path: Path,
    *,
    data_folder: Path,
    passphrase: str | None = None,
    credentials_folder: Path | None = None,
) -> RootKey:
    """The root key from the credential if there is one, else from the key file.

    Args:
        data_folder: the key must not lie below it, or a copy of the data is a copy of the key.
        passphrase: given if, and only if, the key file is a sealed one.
        credentials_folder: the service manager's $CREDENTIALS_DIRECTORY.

    Raises:
        UnsafeKeyFile: the message says what is wrong and what to do.
    """
    credential = credentials_folder and credentials_folder / CREDENTIAL_NAME
    if credential and os.path.lexists(credential):
        return _raw_key(credential, _read(credential, {0, os.geteuid()}, _CREDENTIAL_MODES))
    _refuse_below(data_folder, path)
    content = _read(path, {os.geteuid()}, _KEY_FILE_MODES)
    if passphrase is None:
        return _raw_key(path, content)
    return RootKey(sealedkey.unseal(content, passphrase, path))


def create_root_key(path: Path, *, data_folder: Path, passphrase: str | None = None) -> RootKey:
    """Make a root key and its file, sealed if there is a passphrase. For set-up only.

    The folder is made with mode 0700 if it is missing. The file is durable when this returns.

    Raises:
        UnsafeKeyFile: a file is there already (a root key is never replaced), or none can be written.
    """
    _refuse_below(data_folder, path)
    root_key = RootKey.generate()
    content = root_key.reveal_to_keymgmt()
    if passphrase is not None:
        content = sealedkey.seal(content, passphrase)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.create(path, content)
    except OSError as exc:
        raise UnsafeKeyFile(f"{path} cannot be made: {exc.strerror}") from exc
    return root_key


def _refuse_below(data_folder: Path, path: Path) -> None:
    # realpath, because Path.resolve raises on a loop of links.
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(data_folder)):
        raise UnsafeKeyFile(
            f"{path} lies in the data folder {data_folder}, so a copy of the data would be a copy "
            "of the key: move it elsewhere"
        )


def _read(path: Path, owners: set[int], modes: tuple[int, ...]) -> bytes:
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
            f"{path} is missing: without it no document opens, so put it back"
        ) from exc
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise UnsafeKeyFile(f"{path} is a symbolic link: name the file itself") from exc
        raise UnsafeKeyFile(f"{path} cannot be opened: {exc.strerror}") from exc


def _refuse_unless_private(
    path: Path, status: os.stat_result, owners: set[int], modes: tuple[int, ...]
) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeKeyFile(f"{path} is not a regular file: put the key itself there")
    if status.st_uid not in owners:
        raise UnsafeKeyFile(
            f"{path} belongs to user {status.st_uid}: make the service's own user its owner"
        )
    if mode not in modes:
        raise UnsafeKeyFile(f"{path} has mode {mode:04o}: run `chmod {modes[0]:04o}` on it")


def _raw_key(path: Path, content: bytes) -> RootKey:
    if len(content) == KEY_SIZE_BYTES:
        return RootKey(content)
    if content.startswith(b"{"):
        raise UnsafeKeyFile(f"{path} is sealed under a passphrase: set the passphrase")
    raise UnsafeKeyFile(
        f"{path} has not the {KEY_SIZE_BYTES} bytes of a root key: put back the right file"
    )

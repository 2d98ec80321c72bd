"""The root key: the one secret of the embedded keyring, and the ways it may lie on disk.

In order: a systemd credential, a key file sealed under a passphrase (`sealedkey`), a raw key file of
32 bytes. A file that others could read or swap is refused, never repaired.

Does not handle: the environment (callers hand in paths and passphrase), where copies are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from keymgmt import privatefile, sealedkey
from keymgmt.errors import UnsafeKeyFile
from keymgmt.secret import KEY_SIZE_BYTES, SecretKey

CREDENTIAL_NAME: Final = "strongroom-root-key"

_SEALED_FORMAT: Final = "strongroom-root-key/1"

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
        content = privatefile.read(credential, {0, os.geteuid()}, _CREDENTIAL_MODES)
        return _raw_key(credential, content)
    _refuse_below(data_folder, path)
    content = privatefile.read(path, {os.geteuid()})
    if passphrase is None:
        return _raw_key(path, content)
    return _sealed_key(path, content, passphrase)


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
        content = sealedkey.seal(_SEALED_FORMAT, content, passphrase)
    privatefile.create(path, content)
    return root_key


def _refuse_below(data_folder: Path, path: Path) -> None:
    # realpath, because Path.resolve raises on a loop of links.
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(data_folder)):
        raise UnsafeKeyFile(
            f"{path} lies in the data folder {data_folder}, so a copy of the data would be a copy "
            "of the key: move it elsewhere"
        )


def _raw_key(path: Path, content: bytes) -> RootKey:
    if len(content) == KEY_SIZE_BYTES:
        return RootKey(content)
    if content.startswith(b"{"):
        raise UnsafeKeyFile(f"{path} is sealed under a passphrase: set the passphrase")
    raise UnsafeKeyFile(
        f"{path} has not the {KEY_SIZE_BYTES} bytes of a root key: put back the right file"
    )


def _sealed_key(path: Path, content: bytes, passphrase: str) -> RootKey:
    if len(content) == KEY_SIZE_BYTES:
        raise UnsafeKeyFile(
            f"{path} is raw, not a key file sealed under a passphrase: remove the passphrase"
        )
    return RootKey(sealedkey.unseal(_SEALED_FORMAT, content, passphrase, path))

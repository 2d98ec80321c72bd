"""A file that holds a 32-byte key sealed under a passphrase.

One JSON object, its values base64 but for the first:

    format       what the key is for, and a version: "strongroom-root-key/1"
    salt         16 bytes
    sealed_key   nonce (12) | AES-256-GCM of the key (32), associated data the format | tag (16)

    sealing key  Argon2id(passphrase in UTF-8, salt), 64 MiB, 3 iterations, 4 lanes, 32 bytes

The cost belongs to the format: it is the second recommended option of RFC 9106 §4. No file can ask for
less, or for so much that opening it stalls the host.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keymgmt.errors import UnsafeKeyFile
from keymgmt.secret import KEY_SIZE_BYTES

_MEMORY_KIB: Final = 64 * 1024
_SALT_SIZE_BYTES: Final = 16
_NONCE_SIZE_BYTES: Final = 12
_SEALED_SIZE_BYTES: Final = _NONCE_SIZE_BYTES + KEY_SIZE_BYTES + 16


def seal(file_format: str, raw: bytes, passphrase: str) -> bytes:
    """The content of a key file that holds these 32 bytes."""
    salt, nonce = os.urandom(_SALT_SIZE_BYTES), os.urandom(_NONCE_SIZE_BYTES)
    sealed = nonce + _aead(passphrase, salt).encrypt(nonce, raw, file_format.encode())
    document = {
        "format": file_format,
        "salt": base64.b64encode(salt).decode(),
        "sealed_key": base64.b64encode(sealed).decode(),
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def unseal(file_format: str, content: bytes, passphrase: str, path: Path) -> bytes:
    """The 32 bytes in a key file.

    Args:
        path: where the content comes from, for the message.

    Raises:
        UnsafeKeyFile: another file, another passphrase, or damaged.
    """
    salt, sealed = _parse(file_format, content, path)
    nonce, ciphertext = sealed[:_NONCE_SIZE_BYTES], sealed[_NONCE_SIZE_BYTES:]
    try:
        return _aead(passphrase, salt).decrypt(nonce, ciphertext, file_format.encode())
    except InvalidTag as exc:
        raise UnsafeKeyFile(
            f"{path} does not open: the passphrase is wrong or the file is damaged"
        ) from exc


def _aead(passphrase: str, salt: bytes) -> AESGCM:
    argon2 = Argon2id(
        salt=salt, length=KEY_SIZE_BYTES, iterations=3, lanes=4, memory_cost=_MEMORY_KIB
    )
    return AESGCM(argon2.derive(passphrase.encode()))


def _parse(file_format: str, content: bytes, path: Path) -> tuple[bytes, bytes]:
    """Salt and sealed key, each of its right size. Raises: UnsafeKeyFile."""
    try:
        document = json.loads(content)
        salt = base64.b64decode(document["salt"], validate=True)
        sealed = base64.b64decode(document["sealed_key"], validate=True)
        found = (document["format"], len(salt), len(sealed))
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise _not_sealed(file_format, path) from exc
    if found != (file_format, _SALT_SIZE_BYTES, _SEALED_SIZE_BYTES):
        raise _not_sealed(file_format, path)
    return salt, sealed


def _not_sealed(file_format: str, path: Path) -> UnsafeKeyFile:
    return UnsafeKeyFile(
        f"{path} is not a key file sealed under a passphrase as {file_format}: put back the right file"
    )

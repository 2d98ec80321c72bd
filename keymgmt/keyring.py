"""The keyring file: every version of every KEK, sealed under the root key.

Two lines of text, a JSON object and the MAC of that line's bytes in hex:

    {"format": "strongroom-keyring/1", "id": <32 hex>, "keks":
       {<name>: {"oldest_usable": 2, "versions": {"2": <sealed>, "3": <sealed>}}}}
    <64 hex>

    sealed     base64 of nonce (12) | AES-256-GCM of the version's 32 bytes | tag (16),
               associated data "<format>:<id>:<version>:<name>"
    MAC        HMAC-SHA256 (RFC 2104); nothing is parsed before it was found right
    keys       HKDF-SHA256(root key, info = "strongroom/keyring/v1/seal" or ".../mac"); RFC 5869

The MAC keeps anyone without the root key from bringing a retired version back. An older copy of the
whole file is genuine, though: versions that were trimmed are gone only once older copies are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.errors import KeyringDamaged
from keymgmt.kek import Kek, KekVersion
from keymgmt.rootkey import RootKey
from keymgmt.secret import KEY_SIZE_BYTES

_FORMAT: Final = "strongroom-keyring/1"
_NONCE_SIZE_BYTES: Final = 12


@dataclass(frozen=True)
class Keyring:
    """What one keyring file holds.

    Attributes:
        id: 32 hex digits, drawn once; no other keyring's versions can be put in.
    """

    id: str = field(default_factory=lambda: os.urandom(16).hex())
    keks: Mapping[str, Kek] = field(default_factory=dict)


def seal(keyring: Keyring, root_key: RootKey) -> bytes:
    """The content of the keyring's file."""
    # Each call seals all versions anew under random nonces: a key of 2^32 uses lasts any keyring.
    aead = AESGCM(_derive(root_key, b"seal"))
    document = {
        "format": _FORMAT,
        "id": keyring.id,
        "keks": {name: _seal_kek(keyring.id, kek, aead) for name, kek in keyring.keks.items()},
    }
    line = json.dumps(document).encode()
    return line + b"\n" + _mac(line, root_key) + b"\n"


def unseal(content: bytes, root_key: RootKey) -> Keyring:
    """The keyring in a file.

    Raises:
        KeyringDamaged: not every byte of it was written by `seal` under this root key.
    """
    line, _, mac = content.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(line, root_key) + b"\n"):
        raise KeyringDamaged("the keyring is damaged, or sealed under another root key")
    document = json.loads(line)
    if document["format"] != _FORMAT:
        raise KeyringDamaged("the keyring was written by a newer release: use that one")
    aead = AESGCM(_derive(root_key, b"seal"))
    keyring_id = document["id"]
    keks = {
        name: _unseal_kek(keyring_id, name, kek, aead) for name, kek in document["keks"].items()
    }
    return Keyring(keyring_id, keks)


def _seal_kek(keyring_id: str, kek: Kek, aead: AESGCM) -> dict[str, Any]:
    versions = {}
    for number, version in kek.versions.items():
        nonce = os.urandom(_NONCE_SIZE_BYTES)
        place = _place(keyring_id, number, kek.name)
        sealed = nonce + aead.encrypt(nonce, version.reveal_to_keymgmt(), place)
        versions[number] = base64.b64encode(sealed).decode()
    return {"oldest_usable": kek.oldest_usable, "versions": versions}


def _unseal_kek(keyring_id: str, name: str, document: dict[str, Any], aead: AESGCM) -> Kek:
    versions = {}
    for number, text in document["versions"].items():
        sealed = base64.b64decode(text)
        nonce, ciphertext = sealed[:_NONCE_SIZE_BYTES], sealed[_NONCE_SIZE_BYTES:]
        try:
            raw = aead.decrypt(nonce, ciphertext, _place(keyring_id, int(number), name))
        except InvalidTag as exc:
            raise KeyringDamaged(f"version {number} of key {name!r} is not in its place") from exc
        versions[int(number)] = KekVersion(raw)
    return Kek(name, document["oldest_usable"], versions)


def _place(keyring_id: str, version: int, name: str) -> bytes:
    """Names no other version of any key: only the last part may hold a colon."""
    return f"{_FORMAT}:{keyring_id}:{version}:{name}".encode()


def _mac(line: bytes, root_key: RootKey) -> bytes:
    return hmac.digest(_derive(root_key, b"mac"), line, hashlib.sha256).hex().encode()


def _derive(root_key: RootKey, use: bytes) -> bytes:
    hkdf = HKDF(SHA256(), KEY_SIZE_BYTES, salt=None, info=b"strongroom/keyring/v1/" + use)
    return hkdf.derive(root_key.reveal_to_keymgmt())

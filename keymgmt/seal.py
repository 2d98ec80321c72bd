"""Seal keys: with which rows that give authority are sealed (HMAC-SHA256, RFC 2104).

A seal shows that whoever wrote a row held the seal key, which a writer to the database alone does not. At
rest the key is wrapped by the key provider like a data key, bound to its vault and its own id, so that a row
of another vault, or under another's name, gives no key.

Does not handle: what is sealed and how it is encoded, which key is in use, and replay: a row that was once
sealed bears its seal for good.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from uuid import UUID

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.provider import KeyProvider, WrappedKey
from keymgmt.secret import SecretKey

SEAL_SIZE_BYTES: Final = 32
_TAG: Final = b"strongroom/seal-key/v1"


class SealKey(SecretKey):
    """A 256-bit key that seals rows, and nothing else."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """16 hex digits that only this key gives: a stable name, safe to store, that commits to the key.

        What is sealed never starts with the tag, so no seal is an id and no id a seal.
        """
        return hmac.digest(self.reveal_to_keymgmt(), _TAG, hashlib.sha256)[:8].hex()

    def seal(self, message: bytes) -> bytes:
        """The seal of `message`, `SEAL_SIZE_BYTES` bytes, always the same ones."""
        return hmac.digest(self.reveal_to_keymgmt(), message, hashlib.sha256)

    def matches(self, message: bytes, seal: bytes) -> bool:
        """Whether `seal` is the one of `message`; in constant time."""
        return hmac.compare_digest(self.seal(message), seal)


def wrap(provider: KeyProvider, kek: str, vault_id: UUID, key: SealKey) -> str:
    """The key wrapped under the newest version of `kek`, at most 512 ASCII characters.

    Raises:
        KeyManagementError: as `KeyProvider.wrap`.
    """
    context = wrapping_context(vault_id, key.id)
    return provider.wrap(kek, context, DataKey(key.reveal_to_keymgmt())).text


def unwrap(
    provider: KeyProvider, kek: str, vault_id: UUID, key_id: str, wrapped_key: str
) -> SealKey:
    """The key of this id.

    Raises:
        DecryptionFailed: it is another vault's, another key's, or altered.
        KeyManagementError: as `KeyProvider.unwrap`.
    """
    context = wrapping_context(vault_id, key_id)
    raw = provider.unwrap(kek, context, WrappedKey(wrapped_key)).reveal_to_keymgmt()
    key = SealKey(raw)
    if key.id != key_id:  # the context alone does not stop who may wrap under it
        raise DecryptionFailed
    return key


def wrapping_context(vault_id: UUID, key_id: str) -> bytes:
    """The KEK context of a wrapped seal key: a tag (22 bytes), the vault id (16), then the key's id."""
    return _TAG + vault_id.bytes + key_id.encode()

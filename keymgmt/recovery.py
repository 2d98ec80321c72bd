"""Keys sealed a second time, for an offline recovery key, in a way that obeys shredding.

Beside its wrapped form each data key has a *recovery blob*, which opens without the KMS:

    offset   width   what
    0        12      nonce, random
    12       1168    the data key sealed to the recovery key (`recoverykey`), encrypted
    1180     16      tag

    inner   HPKE, info = "strongroom/recovery/v1" | kind (1) | context
    outer   AES-256-GCM under the epoch key; NIST SP 800-38D
            associated data = "strongroom/recovery/v1" | kind (1) | epoch (8, big-endian) | context

The *epoch key* exists in one object only, unversioned and at both sites, never in a database, a backup
or the KMS: there it is sealed to the recovery key, and wrapped by the KMS for the running service. A
shred epoch seals the survivors' outer layer anew and deletes the old epoch key; a blob of the old epoch
in an old dump then opens for nobody, whatever the recovery key opens.

Random nonces are safe for 2^32 blobs under one epoch key (NIST SP 800-38D §8.3).

Does not handle: where epoch keys lie and when they go, key commitments (to be checked on every data
key that was opened: whoever has the epoch key and the public half can make a blob).
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.provider import KeyProvider, WrappedKey
from keymgmt.recoverykey import SEALED_KEY_SIZE_BYTES, RecoveryPrivateKey, RecoveryPublicKey
from keymgmt.secret import SecretKey

_NONCE_SIZE_BYTES: Final = 12
BLOB_SIZE_BYTES: Final = _NONCE_SIZE_BYTES + SEALED_KEY_SIZE_BYTES + 16

_TAG: Final = b"strongroom/recovery/v1"
_EPOCH_KEY_TAG: Final = b"strongroom/epoch-key/v1"


class BlobKind(IntEnum):
    """Whose data key a blob holds; one kind never opens as another."""

    VERSION = 1
    CATALOGUE = 2
    BACKUP = 3


class EpochKey(SecretKey):
    """256 bits without which no recovery blob of its epoch opens."""

    __slots__ = ()


class EpochSealer:
    """Makes and opens the recovery blobs of one epoch. Safe to share between threads.

    The `context` of a blob says what its data key belongs to (`binding`), and never changes.
    """

    def __init__(self, epoch_key: EpochKey, epoch: int) -> None:
        """Raises: OverflowError if `epoch` is not in 0 … 2^64-1."""
        self._aead = AESGCM(epoch_key.reveal_to_keymgmt())
        self._epoch = epoch.to_bytes(8, "big")

    def seal(
        self, public: RecoveryPublicKey, kind: BlobKind, context: bytes, data_key: DataKey
    ) -> bytes:
        """A new blob, `BLOB_SIZE_BYTES`."""
        return self._close(kind, context, public.seal(data_key, _info(kind, context)))

    def reseal(self, blob: bytes, successor: EpochSealer, kind: BlobKind, context: bytes) -> bytes:
        """The same data key's blob in the successor's epoch; the inner layer stays as it is.

        Raises:
            DecryptionFailed: `blob` is not of this epoch, kind and context, or altered.
        """
        return successor._close(kind, context, self._open(kind, context, blob))

    def open(
        self, private: RecoveryPrivateKey, kind: BlobKind, context: bytes, blob: bytes
    ) -> DataKey:
        """The data key.

        Raises:
            DecryptionFailed: `blob` is not of this epoch, kind and context, is sealed to another
                recovery key, or altered.
        """
        sealed_key = self._open(kind, context, blob)
        return DataKey(private.open(sealed_key, _info(kind, context)))

    def _close(self, kind: BlobKind, context: bytes, sealed_key: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE_BYTES)
        return nonce + self._aead.encrypt(nonce, sealed_key, self._bound_to(kind, context))

    def _open(self, kind: BlobKind, context: bytes, blob: bytes) -> bytes:
        if len(blob) != BLOB_SIZE_BYTES:
            raise DecryptionFailed
        nonce, ciphertext = blob[:_NONCE_SIZE_BYTES], blob[_NONCE_SIZE_BYTES:]
        try:
            return self._aead.decrypt(nonce, ciphertext, self._bound_to(kind, context))
        except InvalidTag as exc:
            raise DecryptionFailed from exc

    def _bound_to(self, kind: BlobKind, context: bytes) -> bytes:
        return b"".join((_TAG, bytes((kind,)), self._epoch, context))


def _info(kind: BlobKind, context: bytes) -> bytes:
    return _TAG + bytes((kind,)) + context


def seal_epoch_key(
    public: RecoveryPublicKey, epoch_key: EpochKey, *, vault_id: UUID, epoch: int
) -> bytes:
    """The epoch key for the recovery key alone, `SEALED_KEY_SIZE_BYTES`.

    Raises:
        OverflowError: `epoch` is not in 0 … 2^64-1.
    """
    return public.seal(epoch_key, _epoch_key_binding(vault_id, epoch))


def open_epoch_key(
    private: RecoveryPrivateKey, sealed: bytes, *, vault_id: UUID, epoch: int
) -> EpochKey:
    """What `seal_epoch_key` sealed.

    Raises:
        DecryptionFailed: another vault's, another epoch's, sealed to another key, or altered.
        OverflowError: `epoch` is not in 0 … 2^64-1.
    """
    return EpochKey(private.open(sealed, _epoch_key_binding(vault_id, epoch)))


def wrap_epoch_key(
    provider: KeyProvider, kek: str, epoch_key: EpochKey, *, vault_id: UUID, epoch: int
) -> WrappedKey:
    """The epoch key for the running service, under the newest version of `kek`.

    Raises:
        KeyManagementError: as `KeyProvider.wrap`.
        OverflowError: `epoch` is not in 0 … 2^64-1.
    """
    as_data_key = DataKey(epoch_key.reveal_to_keymgmt())
    return provider.wrap(kek, _epoch_key_binding(vault_id, epoch), as_data_key)


def unwrap_epoch_key(
    provider: KeyProvider, kek: str, wrapped: WrappedKey, *, vault_id: UUID, epoch: int
) -> EpochKey:
    """What `wrap_epoch_key` wrapped.

    Raises:
        KeyManagementError: as `KeyProvider.unwrap`.
        OverflowError: `epoch` is not in 0 … 2^64-1.
    """
    data_key = provider.unwrap(kek, _epoch_key_binding(vault_id, epoch), wrapped)
    return EpochKey(data_key.reveal_to_keymgmt())


def _epoch_key_binding(vault_id: UUID, epoch: int) -> bytes:
    """A tag (23 bytes), the vault id (16), the epoch (8, big-endian)."""
    return _EPOCH_KEY_TAG + vault_id.bytes + epoch.to_bytes(8, "big")

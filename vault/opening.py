"""The data key of a stored version: unwrapped where it is bound to, and held to its commitment."""

from __future__ import annotations

from uuid import UUID

from keymgmt.binding import associated_data
from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from vault.model import Version


def open_key(
    keys: KeyProvider, vault_id: UUID, document_id: UUID, version: Version
) -> tuple[DataKey, bytes]:
    """A version's data key, and the associated data that its object is sealed with.

    Raises:
        DecryptionFailed, KeyVersionRetired: the row is not what was written, or its key is gone.
        KeyServiceUnavailable: not now.
    """
    binding = associated_data(
        vault_id=vault_id,
        document_id=document_id,
        version_id=version.id,
        object_id=version.object_id,
    )
    data_key = keys.unwrap(Purpose.DOCUMENTS, binding, WrappedKey(version.wrapped_key))
    verify(data_key, binding, version.key_commitment)
    return data_key, binding

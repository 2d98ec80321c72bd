"""The data key of a stored version: unwrapped where it is bound to, and held to its commitment."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from keymgmt.binding import associated_data
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from keymgmt.unwrapcache import UnwrapCache
from vault.database import ServiceDatabase
from vault.model import Version
from vault.tables import versions


@dataclass(frozen=True)
class DocumentKeys:
    """Opens the data keys of this vault's documents."""

    vault_id: UUID
    database: ServiceDatabase
    keys: KeyProvider
    cache: UnwrapCache

    def open(self, document_id: UUID, version: Version) -> tuple[DataKey, bytes]:
        """A version's data key, and the associated data that its object is sealed with.

        Raises:
            DecryptionFailed, KeyVersionRetired: the row is not what was written, or its key is gone.
            KeyServiceUnavailable, DatabaseUnavailable: not now.
        """
        binding = associated_data(
            vault_id=self.vault_id,
            document_id=document_id,
            version_id=version.id,
            object_id=version.object_id,
        )
        try:
            return self._unwrap(version, binding, version.wrapped_key), binding
        except KeyVersionRetired:
            # A rotation may have passed between reading the row and this; it says so itself.
            moved = self._wrapped_now(version)
            if moved == version.wrapped_key:
                raise
            return self._unwrap(version, binding, moved), binding

    def _unwrap(self, version: Version, binding: bytes, wrapped: str) -> DataKey:
        return self.cache.unwrap(
            self.keys,
            Purpose.DOCUMENTS,
            binding,
            WrappedKey(wrapped),
            object_format=version.format,
            commitment=version.key_commitment,
        )

    def _wrapped_now(self, version: Version) -> str:
        rows = self.database.execute(
            select(versions.c.wrapped_key).where(versions.c.object_id == version.object_id), {}
        )
        if not rows:
            raise DecryptionFailed  # purged since, which is not told from damage here
        return str(rows[0].wrapped_key)

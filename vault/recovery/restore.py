"""Restoring without the KMS: a copy of the database, one site, and the private half of the recovery key.

```
newest catalogue at the site → its blobs into the copy   (if an epoch passed since the copy was made)
epoch key at the site, opened by the recovery key → blob → data key → commitment → the object's bytes
```
What was shredded stays shut: its blobs are of an epoch key that is at no site any more.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select

from keymgmt import stream
from keymgmt.binding import associated_data
from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.recovery import BlobKind, EpochKey, EpochSealer
from keymgmt.recoverykey import RecoveryPrivateKey
from vault.catalogue import Catalogues
from vault.database import ServiceDatabase
from vault.entries import Entries
from vault.errors import VaultError
from vault.objects.keys import object_key
from vault.objects.store import ObjectMissing, ObjectStore
from vault.recovery.epochkeys import EpochKeyName, open_offline
from vault.recovery.epochtable import EpochTable, RecoveryEpoch
from vault.rejoin import join_recovery
from vault.tables import documents, recovery_blobs, versions
from vault.walk import walk


class CannotRestore(VaultError):
    """Nothing can be restored with what is at hand; the message says what is missing."""


@dataclass(frozen=True)
class StoredVersion:
    """One version in the copy of the database.

    Attributes:
        epoch, blob: its recovery blob; None where it has none.
    """

    id: UUID
    document_id: UUID
    number: int
    name: str
    class_name: str
    department: str
    state: str
    media_type: str
    size_bytes: int
    created_at: datetime
    object_id: UUID
    ciphertext_size_bytes: int
    binding: bytes
    commitment: bytes
    epoch: int | None
    blob: bytes | None


class Restore:
    """Opens the documents of one vault with its recovery key."""

    def __init__(
        self,
        database: ServiceDatabase,
        vault_id: UUID,
        store: ObjectStore,
        private: RecoveryPrivateKey,
    ) -> None:
        self._database = database
        self._vault_id = vault_id
        self._store = store
        self._private = private
        self._epoch_keys: Mapping[EpochKeyName, EpochKey] = {}
        self._sealers: Mapping[int, EpochSealer] = {}

    def prepare(self) -> None:
        """Bring the copy up to the newest catalogue, and open the epoch keys that are left.

        Raises:
            CannotRestore: another recovery key is needed, or no epoch key is at this site.
            DecryptionFailed: the catalogue, or an epoch key, is damaged.
            StoreError, DatabaseUnavailable.
        """
        table = EpochTable(self._database)
        self._join_catalogue(table)
        self._epoch_keys = {
            epoch.name: key for epoch in self._mine(table.all()) for key in self._opened(epoch)
        }
        self._sealers = {
            name.epoch: EpochSealer(key, name.epoch) for name, key in self._epoch_keys.items()
        }
        if not self._sealers:
            raise CannotRestore(
                f"site {self._store.site} has no epoch key of this vault; try the other site"
            )

    def epoch_keys(self) -> list[tuple[EpochKeyName, EpochKey]]:
        """Those that are left, opened."""
        return list(self._epoch_keys.items())

    def count(self) -> int:
        """How many versions the copy has."""
        query = select(func.count()).select_from(versions)
        return int(self._database.execute(query, {})[0][0])

    def versions(self) -> Iterator[StoredVersion]:
        """All of them, by document and number. Raises: DatabaseUnavailable."""
        for rows in walk(self._database, _VERSIONS):
            for row in rows:
                yield self._stored(row)

    def data_key(self, version: StoredVersion) -> DataKey:
        """Its data key.

        Raises:
            DecryptionFailed: it was shredded, has no blob, or is not the one committed to.
        """
        sealer = self._sealers.get(version.epoch or 0)
        if sealer is None or version.blob is None:
            raise DecryptionFailed
        data_key = sealer.open(self._private, BlobKind.VERSION, version.binding, version.blob)
        verify(data_key, version.binding, version.commitment)
        return data_key

    def content(self, version: StoredVersion) -> Iterator[bytes]:
        """Its bytes, segment by segment, each authentic.

        Raises:
            DecryptionFailed: as `data_key`, or the object is damaged.
            ObjectMissing, StoreError: the site has it not, or is away.
        """
        key = object_key(version.object_id)
        return stream.open_range(
            self.data_key(version),
            version.binding,
            ciphertext_size=version.ciphertext_size_bytes,
            fetch=lambda offset, length: self._store.open(key, offset, length),
            start=0,
            stop=version.size_bytes,
        )

    def _join_catalogue(self, table: EpochTable) -> None:
        catalogues = Catalogues(self._vault_id, {self._store.site: self._store})
        found = catalogues.newest()
        if found is None or found.header.recovery is None:
            return
        recovery = found.header.recovery
        self._mine([recovery.of])
        for key in self._opened(recovery.of):
            blob, binding = base64.b64decode(recovery.blob), catalogues.binding(found.header)
            sealer = EpochSealer(key, recovery.epoch)
            data_key = sealer.open(self._private, BlobKind.CATALOGUE, binding, blob)
            entries = catalogues.entries(found, data_key)
            join_recovery(found, entries, Entries(self._database), table)

    def _mine(self, epochs: list[RecoveryEpoch]) -> list[RecoveryEpoch]:
        """Those of this recovery key. Raises: CannotRestore."""
        if not epochs:
            raise CannotRestore("no recovery key was registered when this copy was made")
        mine = [epoch for epoch in epochs if epoch.public == self._private.public]
        if not mine:
            raise CannotRestore(
                f"this is recovery key {self._private.public.id}, and the documents are sealed to "
                f"{epochs[0].public.id}: bring that one"
            )
        return mine

    def _opened(self, epoch: RecoveryEpoch) -> Iterator[EpochKey]:
        """Its key if the site has that, none if the epoch is over."""
        with suppress(ObjectMissing):
            yield open_offline(self._store, epoch.name, self._private, self._vault_id)

    def _stored(self, row: Row[Any]) -> StoredVersion:
        binding = associated_data(
            vault_id=self._vault_id,
            document_id=row.document_id,
            version_id=row.id,
            object_id=row.object_id,
        )
        return StoredVersion(
            id=row.id,
            document_id=row.document_id,
            number=row.number,
            name=row.name,
            class_name=row.class_name,
            department=row.department,
            state=row.state,
            media_type=row.media_type,
            size_bytes=row.size_bytes,
            created_at=row.created_at,
            object_id=row.object_id,
            ciphertext_size_bytes=row.ciphertext_size_bytes,
            binding=binding,
            commitment=bytes(row.key_commitment),
            epoch=row.epoch,
            blob=row.blob and bytes(row.blob),
        )


_BLOB = (recovery_blobs.c.document_id == versions.c.document_id) & (
    recovery_blobs.c.number == versions.c.number
)

_VERSIONS = (
    select(
        versions,
        documents.c.name,
        documents.c.class_name,
        documents.c.department,
        documents.c.state,
        recovery_blobs.c.epoch,
        recovery_blobs.c.blob,
    )
    .join_from(versions, documents, documents.c.id == versions.c.document_id)
    .outerjoin(recovery_blobs, _BLOB)
)

"""Recovery blobs as rows: which versions lack one of an epoch, and putting new ones there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, text

from keymgmt.binding import associated_data
from keymgmt.provider import BoundKey, WrappedKey
from vault.database import DanglingReference, ServiceDatabase
from vault.errors import RecoveryOutdated
from vault.recovery.epochs import RecoveryBlob
from vault.tables import recovery_blobs, versions
from vault.walk import walk


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One version's recovery blob, and what it takes to seal its data key anew.

    Attributes:
        present: `NO_BLOB` where there is none.
    """

    document_id: UUID
    number: int
    commitment: bytes
    bound: BoundKey
    present: RecoveryBlob


class RecoveryBlobs:
    """The recovery blobs of one vault's documents."""

    def __init__(self, database: ServiceDatabase, vault_id: UUID) -> None:
        self._database = database
        self._vault_id = vault_id

    def count_lacking(self, epoch: int) -> int:
        """How many versions have no blob of `epoch`."""
        query = select(func.count()).select_from(_JOINED).where(_lacks(epoch))
        return int(self._database.execute(query, {})[0][0])

    def lacking(self, epoch: int) -> Iterator[list[StoredBlob]]:
        """Versions without a blob of `epoch`, in batches. Raises: DatabaseUnavailable."""
        for rows in walk(self._database, _BLOBS.where(_lacks(epoch))):
            yield [self._stored(row) for row in rows]

    def put(self, epoch: int, sealed: Sequence[tuple[StoredBlob, bytes]]) -> int:
        """Store blobs of `epoch` where there is none, or one of an earlier epoch; how many rows took one.

        A version that was purged meanwhile is left out.

        Raises:
            RecoveryOutdated: the epoch is over.
        """
        values = {
            "epoch": epoch,
            "documents": [each.document_id for each, _ in sealed],
            "numbers": [each.number for each, _ in sealed],
            "blobs": [blob for _, blob in sealed],
        }
        try:
            return len(self._database.execute(PUT, values))
        except DanglingReference as exc:
            raise RecoveryOutdated from exc

    def _stored(self, row: Any) -> StoredBlob:
        binding = associated_data(
            vault_id=self._vault_id,
            document_id=row.document_id,
            version_id=row.id,
            object_id=row.object_id,
        )
        return StoredBlob(
            document_id=row.document_id,
            number=row.number,
            commitment=row.key_commitment,
            bound=BoundKey(WrappedKey(row.wrapped_key), binding),
            present=RecoveryBlob(row.epoch, row.blob and bytes(row.blob)),
        )


_JOINED = versions.outerjoin(
    recovery_blobs,
    (recovery_blobs.c.document_id == versions.c.document_id)
    & (recovery_blobs.c.number == versions.c.number),
)

_BLOBS = select(
    versions.c.document_id,
    versions.c.number,
    versions.c.id,
    versions.c.object_id,
    versions.c.wrapped_key,
    versions.c.key_commitment,
    recovery_blobs.c.epoch,
    recovery_blobs.c.blob,
).select_from(_JOINED)


def _lacks(epoch: int) -> Any:
    return recovery_blobs.c.epoch.is_distinct_from(epoch)


PUT: Final = text(
    """
    INSERT INTO recovery_blobs (document_id, number, epoch, blob)
    SELECT v.document_id, v.number, :epoch, given.blob
    FROM unnest(CAST(:documents AS uuid[]), CAST(:numbers AS integer[]), CAST(:blobs AS bytea[]))
         AS given (document_id, number, blob)
    JOIN versions v ON v.document_id = given.document_id AND v.number = given.number
    FOR KEY SHARE OF v
    ON CONFLICT (document_id, number) DO UPDATE SET blob = excluded.blob, epoch = excluded.epoch
        WHERE recovery_blobs.epoch < excluded.epoch
    RETURNING 1"""
)
"""Only for versions that are still there: they are locked against a purge until this is committed."""

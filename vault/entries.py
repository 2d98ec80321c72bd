"""What a key catalogue says of each living version, out of its rows, and back into those of an older copy."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert

from keymgmt.provider import WrappedKey
from vault.database import ServiceDatabase
from vault.recovery import blobs
from vault.recovery.epochs import Recipient
from vault.tables import kek_versions, recovery_blobs, versions
from vault.walk import walk

_NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One living version's keys.

    Attributes:
        recovery_blob: None where no recovery key is registered.
    """

    document_id: UUID
    number: int
    version_id: UUID
    wrapped: WrappedKey
    recovery_blob: bytes | None

    def to_line(self) -> str:
        """``<document id> <number> <version id> <wrapped key> <recovery blob, base64, or ->``."""
        blob = base64.b64encode(self.recovery_blob).decode() if self.recovery_blob else _NONE
        return f"{self.document_id} {self.number} {self.version_id} {self.wrapped.text} {blob}\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """What `to_line` wrote, without its end."""
        document_id, number, version_id, wrapped, blob = line.split(" ")
        return cls(
            UUID(document_id),
            int(number),
            UUID(version_id),
            WrappedKey(wrapped),
            None if blob == _NONE else base64.b64decode(blob),
        )


class Entries:
    """The entries of one vault."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def batches(self, recipient: Recipient | None) -> Iterator[list[Entry]]:
        """All of them, in batches, with the blobs that are for `recipient`.

        Raises: DatabaseUnavailable.
        """
        epoch = recipient.epoch.number if recipient else None
        blob = (
            (recovery_blobs.c.document_id == versions.c.document_id)
            & (recovery_blobs.c.number == versions.c.number)
            & (recovery_blobs.c.epoch == epoch)
        )
        query = _ENTRIES.outerjoin_from(versions, recovery_blobs, blob)
        for rows in walk(self._database, query):
            yield [_entry(row) for row in rows]

    def put_wrapped_keys(self, batch: list[Entry]) -> int:
        """Give versions that are there these wrapped keys; how many took them.

        One that is under a newer KEK version by now keeps what it has: the older one may be gone.
        """
        known = [{"version": number} for number in {entry.wrapped.version for entry in batch}]
        values = {
            "documents": [entry.document_id for entry in batch],
            "numbers": [entry.number for entry in batch],
            "ids": [entry.version_id for entry in batch],
            "wrapped": [entry.wrapped.text for entry in batch],
            "kek_versions": [entry.wrapped.version for entry in batch],
        }
        with self._database.transaction() as connection:
            connection.execute(insert(kek_versions).values(known).on_conflict_do_nothing())
            return connection.execute(_PUT_WRAPPED_KEYS, values).rowcount

    def put_recovery_blobs(self, epoch: int, batch: list[Entry]) -> int:
        """Give versions that are there these recovery blobs; how many there were."""
        sealed = [entry for entry in batch if entry.recovery_blob is not None]
        values = {
            "epoch": epoch,
            "documents": [entry.document_id for entry in sealed],
            "numbers": [entry.number for entry in sealed],
            "blobs": [entry.recovery_blob for entry in sealed],
        }
        return len(self._database.execute(blobs.PUT, values))


def _entry(row: Row[Any]) -> Entry:
    blob = row.blob and bytes(row.blob)
    return Entry(row.document_id, row.number, row.id, WrappedKey(row.wrapped_key), blob)


_ENTRIES: Final = select(
    versions.c.document_id,
    versions.c.number,
    versions.c.id,
    versions.c.wrapped_key,
    recovery_blobs.c.blob,
)

_PUT_WRAPPED_KEYS: Final = text(
    """
    UPDATE versions v SET wrapped_key = entry.wrapped
    FROM unnest(CAST(:documents AS uuid[]), CAST(:numbers AS integer[]), CAST(:ids AS uuid[]),
                CAST(:wrapped AS text[]), CAST(:kek_versions AS integer[]))
         AS entry (document_id, number, id, wrapped, kek_version)
    WHERE v.document_id = entry.document_id AND v.number = entry.number AND v.id = entry.id
        AND v.kek_version <= entry.kek_version"""
)

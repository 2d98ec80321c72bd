"""The wrapped data keys of all stored versions, and putting rewrapped ones in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, true, tuple_

from keymgmt.binding import associated_data
from keymgmt.provider import BoundKey, WrappedKey
from vault.database import ServiceDatabase
from vault.tables import documents, versions
from vault.walk import Place, walk


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One version's wrapped data key, and what it is bound to."""

    document_id: UUID
    number: int
    version_id: UUID
    class_name: str
    commitment: bytes
    bound: BoundKey

    @property
    def place(self) -> Place:
        """Where a walk goes on after this one."""
        return str(self.document_id), self.number


class WrappedKeys:
    """The wrapped data keys of one vault's documents."""

    def __init__(self, database: ServiceDatabase, vault_id: UUID) -> None:
        self._database = database
        self._vault_id = vault_id

    def count(self, *, below: int | None = None) -> int:
        """How many there are, or how many under KEK versions lower than `below`."""
        query = select(func.count()).select_from(versions).where(_under(below))
        return int(self._database.execute(query, {})[0][0])

    def batches(
        self, after: Place | None = None, *, below: int | None = None
    ) -> Iterator[list[StoredKey]]:
        """In batches, from the place `after` on. Raises: DatabaseUnavailable."""
        for rows in walk(self._database, _KEYS.where(_under(below)), after):
            yield [self._stored(row) for row in rows]

    def find(self, keys: Sequence[StoredKey]) -> list[StoredKey]:
        """The same versions as they are now; those that were purged are left out."""
        places = [(key.document_id, key.number) for key in keys]
        query = _KEYS.where(tuple_(versions.c.document_id, versions.c.number).in_(places))
        return [self._stored(row) for row in self._database.execute(query, {})]

    def replace(self, moved: Sequence[tuple[StoredKey, WrappedKey]]) -> int:
        """Put rewrapped keys in place of those they were made of; how many rows took them.

        A row that holds another wrapped key by now, or is gone, is left as it is.

        Raises:
            DanglingReference: the KEK version of the new ones is not announced.
        """
        values = {
            "documents": [key.document_id for key, _ in moved],
            "numbers": [key.number for key, _ in moved],
            "old": [key.bound.wrapped.text for key, _ in moved],
            "new": [new.text for _, new in moved],
        }
        return len(self._database.execute(_REPLACE, values))

    def _stored(self, row: Sequence[Any]) -> StoredKey:
        document_id, number, version_id, object_id, wrapped, commitment, class_name = row
        binding = associated_data(
            vault_id=self._vault_id,
            document_id=document_id,
            version_id=version_id,
            object_id=object_id,
        )
        bound = BoundKey(WrappedKey(wrapped), binding)
        return StoredKey(document_id, number, version_id, class_name, commitment, bound)


def _under(below: int | None) -> ColumnElement[bool]:
    return true() if below is None else versions.c.kek_version < below


_KEYS = select(
    versions.c.document_id,
    versions.c.number,
    versions.c.id,
    versions.c.object_id,
    versions.c.wrapped_key,
    versions.c.key_commitment,
    documents.c.class_name,
).join_from(versions, documents, documents.c.id == versions.c.document_id)

_REPLACE = text(
    """
    UPDATE versions v SET wrapped_key = moved.new
    FROM unnest(CAST(:documents AS uuid[]), CAST(:numbers AS integer[]),
                CAST(:old AS text[]), CAST(:new AS text[])) AS moved (document_id, number, old, new)
    WHERE v.document_id = moved.document_id AND v.number = moved.number AND v.wrapped_key = moved.old
    RETURNING 1"""
)

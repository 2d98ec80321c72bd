"""Which vault this database belongs to: an id made once, bound into every object's encryption."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select

from vault.database import ServiceDatabase, SharedDatabase
from vault.tables import vault_identity, versions


def vault_id_of(database: SharedDatabase) -> UUID:
    """The vault's id, which the first migration made. Raises: DatabaseUnavailable."""
    (row,) = database.execute(select(vault_identity.c.vault_id), {})
    vault_id: UUID = row.vault_id
    return vault_id


def holds_documents(database: ServiceDatabase) -> bool:
    """Whether any version exists, whose key somebody must have. Raises: DatabaseUnavailable."""
    return bool(database.execute(select(versions.c.id).limit(1), {}))

"""Seal keys: one in use, an earlier one beside it while rows move from it to its successor.

They lie in the table wrapped under the KEK `authority`. Each is unwrapped once by a process and then kept in
its memory, since it is used at every authentication; so a KMS that is away stops no caller whose rows are
sealed under a key that this process has met.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.seal import SealKey, unwrap, wrap
from vault.database import SharedDatabase
from vault.errors import VaultError
from vault.tables import seal_keys


class SealsLost(VaultError):
    """Rows that give authority cannot be told from forged ones: the service must not start."""

    def __init__(self) -> None:
        super().__init__(
            "the seal key of principals and API keys is missing, or does not open: the database is older "
            "than the seals or than the KEK authority, or the KMS is another one. Look at the principals "
            "and API keys in the database, and if they are as they should be run `strongroom adopt-authority`"
        )


class SealKeys:
    """The seal keys of one vault. Safe for threads."""

    def __init__(self, database: SharedDatabase, vault_id: UUID, provider: KeyProvider) -> None:
        self._database = database
        self._vault_id = vault_id
        self._provider = provider
        self._opened: dict[str, SealKey] = {}

    def find(self, key_id: str) -> SealKey | None:
        """The key of this id; None if there is none that opens.

        Raises: KeyServiceUnavailable, DatabaseUnavailable: it is not known whether there is one.
        """
        known = self._opened.get(key_id)
        if known is not None:
            return known
        rows = self._database.execute(select(seal_keys).where(seal_keys.c.id == key_id), {})
        return self._open(rows[0]) if rows else None

    def in_use(self, connection: Connection) -> SealKey:
        """The key that seals; until the transaction ends no other one takes its place.

        Raises: SealsLost, KeyServiceUnavailable.
        """
        query = select(seal_keys).where(seal_keys.c.retired_at.is_(None)).with_for_update(read=True)
        row = connection.execute(query).one_or_none()
        # Whoever waited for a rotation finds the old key retired, and does not see the new one yet.
        while row is None and self.is_there(connection):
            row = connection.execute(query).one_or_none()
        key = row and (self._opened.get(row.id) or self._open(row))
        if not key:
            raise SealsLost
        return key

    def is_there(self, connection: Connection) -> bool:
        """Whether a key is in use."""
        query = select(seal_keys.c.id).where(seal_keys.c.retired_at.is_(None))
        return connection.execute(query).first() is not None

    def begin(self, connection: Connection) -> SealKey:
        """Make a key that seals from now on; the one before it still checks.

        Raises: KeyServiceUnavailable.
        """
        made = SealKey.generate()
        in_use = seal_keys.c.retired_at.is_(None)
        # Waits for every transaction that seals under the one in use.
        connection.execute(update(seal_keys).where(in_use).values(retired_at=func.now()))
        wrapped_key = wrap(self._provider, Purpose.AUTHORITY, self._vault_id, made)
        connection.execute(insert(seal_keys).values(id=made.id, wrapped_key=wrapped_key))
        return made

    def retired(self, connection: Connection) -> list[str]:
        """Ids of the keys that only check."""
        query = select(seal_keys.c.id).where(seal_keys.c.retired_at.is_not(None))
        return list(connection.execute(query).scalars())

    def end(self, connection: Connection, key_ids: list[str]) -> None:
        """Let keys check no more: what is still sealed under one is refused from now on."""
        connection.execute(delete(seal_keys).where(seal_keys.c.id.in_(key_ids)))

    def end_all(self, connection: Connection) -> None:
        """End every key, the one in use too."""
        connection.execute(delete(seal_keys))

    def forget_ended(self) -> None:
        """Let go of keys that another process ended. Raises: DatabaseUnavailable."""
        there = {row.id for row in self._database.execute(select(seal_keys.c.id), {})}
        for key_id in set(self._opened) - there:
            self._opened.pop(key_id, None)

    def rewrap(self) -> None:
        """Wrap every key anew under the newest version of the KEK, before older ones go.

        Raises: KeyServiceUnavailable, DatabaseUnavailable; DecryptionFailed, KeyVersionRetired: one does
            not open, so nothing may be destroyed yet.
        """
        for row in self._database.execute(select(seal_keys), {}):
            key = self._unwrap(row)
            mine = (seal_keys.c.id == row.id) & (seal_keys.c.wrapped_key == row.wrapped_key)
            wrapped_key = wrap(self._provider, Purpose.AUTHORITY, self._vault_id, key)
            self._database.execute(
                update(seal_keys).where(mine).values(wrapped_key=wrapped_key), {}
            )

    def _open(self, row: Row[Any]) -> SealKey | None:
        try:
            self._opened[row.id] = opened = self._unwrap(row)
        except (DecryptionFailed, KeyVersionRetired):
            return None
        return opened

    def _unwrap(self, row: Row[Any]) -> SealKey:
        return unwrap(self._provider, Purpose.AUTHORITY, self._vault_id, row.id, row.wrapped_key)

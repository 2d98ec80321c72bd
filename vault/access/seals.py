"""Seals of the rows that give authority: principals, their API keys, roles and sessions.

Each bears the MAC of what it holds (`sealed_rows`), under a key that a writer to the database does not have.
It is checked each time the row is used. A row without its seal is refused as if it were not there, alarmed,
and a finding.

A MAC alone does not show that an *older* row, sealed in its time, was put back. So they carry an
*authority epoch*: each change of what a principal may do raises the principal's, and seals all its keys and
roles that live on under the new one. A key or role put back alone, or a principal put back alone, differs
from the other in its epoch. A principal put back together with all its keys and roles is noticed only by a
process that has seen a newer epoch of it since its start.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Row, Select, select, update

from vault.access.findings import Findings, SealBroken
from vault.access.seal_keys import SealKeys
from vault.access.sealed_rows import FOLLOWERS, PRINCIPALS, SealedRow, SealedTable, encode
from vault.errors import NotFound, VaultError
from vault.tables import principals

Found = TypeVar("Found")
_PRINCIPALS_REMEMBERED: Final = 100_000
_REHEARSED: Final = (UUID(int=0), "rehearsal", None, ["read", "write"], None, 1)


class PerhapsStale(SealBroken):
    """A principal of an older authority epoch than this process has seen, or a seal key that is not there.

    Refused at once. But the row may have been read just before it was changed, or sealed anew, and judged
    after; so it becomes a finding only where it is read a second time: at authentication, and by the worker.
    """


class Seals:
    """Seals and checks the rows of one vault. Safe for threads."""

    def __init__(self, vault_id: UUID, keys: SealKeys, findings: Findings) -> None:
        self._vault_id = vault_id
        self._keys = keys
        self._findings = findings
        self._newest: OrderedDict[Any, int] = OrderedDict()

    def check(self, row: SealedRow) -> None:
        """Return if the row bears its seal.

        Raises:
            SealBroken: it does not; as `PerhapsStale`, it may just have been read too early.
            KeyServiceUnavailable, DatabaseUnavailable: it cannot be told now.
        """
        try:
            message = row.encoded(self._vault_id)
        except (TypeError, ValueError, OverflowError):  # the table itself was altered
            raise _broken(row, repr(row.values).encode()) from None
        if not row.seal or not row.seal_key_id:
            raise _broken(row, message)
        key = self._keys.find(row.seal_key_id)
        if key is None:
            raise PerhapsStale(row.table.name, row.id, _state(row, message))
        if not key.matches(message, bytes(row.seal)):
            raise _broken(row, message)
        if row.table is PRINCIPALS:
            self._refuse_older(row, message)

    def check_follower(self, row: SealedRow, principal_epoch: int) -> None:
        """Return if a principal's API key or role bears its seal, of the principal's epoch if not revoked.

        Raises: as `check`.
        """
        self.check(row)
        if row.value("revoked_at") is None and row.epoch != principal_epoch:
            raise _broken(row, row.encoded(self._vault_id) + str(principal_epoch).encode())

    def is_sound(self, row: SealedRow, principal_epoch: int | None = None) -> bool:
        """Whether a row of a list bears its seal; if not, it is a finding. Raises: as `check`.

        Args:
            principal_epoch: where it follows a principal, that one's.
        """
        try:
            if principal_epoch is None:
                self.check(row)
            else:
                self.check_follower(row, principal_epoch)
        except SealBroken as exc:
            self._remember(exc)
            return False
        return True

    def rehearse(self) -> None:
        """Cost what a check costs, for a key that is not there."""
        message = encode(self._vault_id, PRINCIPALS.name, _REHEARSED)
        hashlib.sha256(message + message).digest()

    @contextmanager
    def refusing(self, answer: VaultError) -> Iterator[None]:
        """Raise `answer` where a row within does not bear its seal; alarm, and remember it.

        To be opened around the transaction, not within: what that did is rolled back before.
        """
        try:
            yield
        except SealBroken as exc:
            self._remember(exc)
            raise answer from None

    def sealed(
        self, connection: Connection, table: SealedTable, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The seal of a row, as values for its columns `seal` and `seal_key_id`.

        Raises: SealsLost, KeyServiceUnavailable.
        """
        key = self._keys.in_use(connection)
        message = table.encode(self._vault_id, row)
        return {"seal": key.seal(message), "seal_key_id": key.id}

    def locked_principal(self, connection: Connection, principal_id: UUID) -> Row[Any]:
        """A principal that bears its seal, locked. Raises: NotFound, SealBroken.

        Rows that refer to it may be written meanwhile: two who each change the other, and say by whom, would
        otherwise wait for each other for ever.
        """
        query = select(principals).where(principals.c.id == principal_id)
        found = connection.execute(query.with_for_update(key_share=True)).one_or_none()
        if found is None:
            raise NotFound("principal")
        self.check(PRINCIPALS.row_from(found))
        return found

    def change_principal(
        self, connection: Connection, principal: Row[Any], **changed: Any
    ) -> Row[Any]:
        """Change a locked principal under the next epoch, and take along what follows it and is not
        revoked.
        """
        changed = {**changed, "authority_epoch": principal.authority_epoch + 1}
        updated = self.change(connection, PRINCIPALS, principal, **changed)
        for table in FOLLOWERS:
            for row in connection.execute(_unrevoked(table, principal.id)).fetchall():
                # One that does not bear its seal is left as it is, and met by whoever uses it.
                with suppress(SealBroken):
                    self.check_follower(table.row_from(row), principal.authority_epoch)
                    epoch = updated.authority_epoch
                    self.change(connection, table, row, authority_epoch=epoch)
        return updated

    def change(
        self, connection: Connection, table: SealedTable, row: Row[Any], **changed: Any
    ) -> Row[Any]:
        """Change a locked row that was checked, and seal it anew."""
        seal = self.sealed(connection, table, {**table.by_name(row), **changed})
        return connection.execute(
            update(table.table)
            .where(table.table.c.id == row.id)
            .values(**changed, **seal)
            .returning(table.table)
        ).one()

    def _remember(self, broken: SealBroken) -> None:
        if not isinstance(broken, PerhapsStale):
            self._findings.remember(broken)

    def _refuse_older(self, row: SealedRow, message: bytes) -> None:
        newest = self._newest.get(row.values[0], 0)
        if row.epoch < newest:
            raise PerhapsStale(row.table.name, row.id, _state(row, message))
        self._newest[row.values[0]] = max(row.epoch, self._newest.get(row.values[0], 0))
        while len(self._newest) > _PRINCIPALS_REMEMBERED:
            self._newest.popitem(last=False)


def _unrevoked(table: SealedTable, principal_id: UUID) -> Select[Any]:
    columns = table.table.c
    mine = (columns.principal_id == principal_id) & columns.revoked_at.is_(None)
    return select(table.table).where(mine).order_by(columns.id).with_for_update()


def looked_again(look: Callable[[], Found]) -> Found:
    """What `look` finds, or, if that was perhaps stale, finds then. Raises: SealBroken, and as `look`."""
    try:
        return look()
    except PerhapsStale:
        return look()


def unreadable(table: SealedTable, row_id: object) -> SealBroken:
    """For a row with a value that Python has no form for, as a year before 1: we never wrote that."""
    row = SealedRow(table, (row_id,), None, None)
    return _broken(row, f"unreadable {table.name} {row_id}".encode())


def _broken(row: SealedRow, message: bytes) -> SealBroken:
    return SealBroken(row.table.name, row.id, _state(row, message))


def _state(row: SealedRow, message: bytes) -> bytes:
    return hashlib.sha256(message + bytes(row.seal or b"")).digest()

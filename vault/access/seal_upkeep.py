"""The life of the seals: taken over once, moved to a new key, looked at regularly.

Rows from before there were seals are taken over once: the KEK `authority` has just its first version then,
and gets a second one as soon as they are. Versions of a KEK only grow and lie at the KMS, where SQL does not
reach; so later on a row without a seal is refused, whatever the tables say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, Select, delete, exists, literal, select, text

from keymgmt.provider import KeyProvider, Purpose
from vault.access.authorise import require
from vault.access.findings import Findings, FoundBy, SealBroken
from vault.access.policy import Action
from vault.access.seal_keys import SealKeys, SealsLost
from vault.access.sealed_rows import FOLLOWERS, PRINCIPALS, SEALED, SESSIONS, SealedTable
from vault.access.seals import Seals, looked_again, unreadable
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.tables import api_keys, principals, sessions

_ALONE: Final = 0x7365_616C
"""Advisory lock (PostgreSQL 18 manual, §13.3.5): one process at a time takes rows over, or moves them."""

_BATCH: Final = 500


class SealUpkeep:
    """What happens to all seals of a vault together."""

    def __init__(
        self,
        database: ServiceDatabase,
        provider: KeyProvider,
        keys: SealKeys,
        seals: Seals,
        findings: Findings,
    ) -> None:
        self._database = database
        self._provider = provider
        self._keys = keys
        self._seals = seals
        self._findings = findings

    def prepare(self, mark_taken_over: Callable[[], object], *, adopt: bool = False) -> None:
        """At the start: see that there is a key, and, once in a vault's life, take over rows without a seal.

        Args:
            mark_taken_over: gives the KEK `authority` another version.
            adopt: a person says that all rows are as they should be: seal them, whatever seals they bear.

        Raises:
            SealsLost: no key opens, and there are rows.
            KeyServiceUnavailable, DatabaseUnavailable.
        """
        with self._alone() as connection:
            is_first = self._is_first()
            if adopt:
                self._keys.end_all(connection)
            if not self._keys.is_there(connection):
                if not (adopt or is_first) and _has_rows(connection):
                    raise SealsLost
                self._keys.begin(connection)
            self._keys.in_use(connection)
            if adopt or is_first:
                self._take_over(connection, everything=adopt)
        self._finish_rotation()
        with self._alone():
            # Last, so that a start that was killed before does all of it again.
            if self._is_first():
                mark_taken_over()

    def rotate(self, actor: Actor) -> str:
        """Seal with a new key from now on, and every row that bears its seal anew; the new key's id.

        The key before it ends with that: what still bears its seal is refused. Repeat it after an error.

        Raises: NotAllowed, KeyServiceUnavailable, DatabaseUnavailable.
        """
        require(actor.caller, Action.KEY_ROTATE)
        with self._alone() as connection:
            made = self._keys.begin(connection)
            detail = {"purpose": "seal", "key": made.id}
            record(connection, AccessEvent(EventType.KEK_ROTATED, actor, detail=detail))
        self._finish_rotation()
        return made.id

    def forget_ended(self) -> None:
        """Let go of keys that another process ended. Raises: DatabaseUnavailable."""
        self._keys.forget_ended()

    def look_at_all(self) -> int:
        """The worker's look at every row, used or not; how many do not bear their seals.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        self._keys.forget_ended()
        broken = 0
        for table in SEALED:
            for row_id in self._ids(table):
                broken += not self._is_as_sealed(table, row_id)
        return broken

    def _is_as_sealed(self, table: SealedTable, row_id: Any) -> bool:
        try:
            looked_again(lambda: self._check(table, row_id))
        except SealBroken as exc:
            self._findings.remember(exc, FoundBy.WORKER)
            return False
        return True

    def _check(self, table: SealedTable, row_id: Any) -> None:
        """One by one: a row that cannot be read spoils no other's look."""
        query = _with_epoch(table).where(table.table.c.id == row_id)
        try:
            rows = self._database.execute(query, {})
        except (ValueError, OverflowError):
            raise unreadable(table, row_id) from None
        for found in rows:
            row, principal_epoch = table.row_of(found[:-1]), found[-1]
            if table.follows_principal:
                self._seals.check_follower(row, principal_epoch)
            else:
                self._seals.check(row)

    def _finish_rotation(self) -> None:
        """Move rows from keys that only check to the one in use, and end those. Idempotent."""
        with self._alone() as connection:
            retired = self._keys.retired(connection)
            if not retired:
                return
            for table in SEALED:
                self._move(connection, table, retired)
            self._keys.end(connection, retired)
        self._keys.forget_ended()

    def _move(self, connection: Connection, table: SealedTable, retired: list[str]) -> None:
        columns = table.table.c
        query = select(table.table).where(columns.seal_key_id.in_(retired)).order_by(columns.id)
        for found in connection.execute(query.with_for_update(key_share=True)).fetchall():
            try:
                self._seals.check(table.row_from(found))
            except SealBroken as exc:
                self._findings.remember(exc)
                continue
            self._seals.change(connection, table, found)

    def _take_over(self, connection: Connection, *, everything: bool) -> None:
        taken = {}
        epochs = {row.id: row.authority_epoch for row in connection.execute(_EPOCHS)}
        for table in SEALED if everything else (PRINCIPALS, *FOLLOWERS):
            if table is SESSIONS:  # begun anew instead
                connection.execute(delete(sessions))
                continue
            query = select(table.table).order_by(table.table.c.id)
            query = query.with_for_update(key_share=True)
            if not everything:
                query = query.where(table.table.c.seal_key_id.is_(None))
            rows = connection.execute(query).fetchall()
            for found in rows:
                self._seals.change(connection, table, found, **_epoch(table, found, epochs))
            taken[table.name] = len(rows)
        if any(taken.values()):
            detail = {**taken, "by": "operator" if everything else "first start"}
            record(connection, AccessEvent(EventType.AUTHORITY_SEALED, None, detail=detail))

    def _ids(self, table: SealedTable) -> Iterator[Any]:
        column, last = table.table.c.id, None
        while True:
            query = select(column).order_by(column).limit(_BATCH)
            rest = query if last is None else query.where(column > last)
            rows = self._database.execute(rest, {})
            yield from (row.id for row in rows)
            if len(rows) < _BATCH:
                return
            last = rows[-1].id

    def _is_first(self) -> bool:
        return self._provider.describe(Purpose.AUTHORITY).latest == 1

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        with self._database.transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ALONE})
            yield connection


def _with_epoch(table: SealedTable) -> Select[Any]:
    """The rows of a table, and last the principal's epoch; 0 where that is none."""
    if not table.follows_principal:
        return select(*table.sealed_columns(), literal(0))
    return select(*table.sealed_columns(), principals.c.authority_epoch.label("epoch")).join(
        principals, table.table.c.principal_id == principals.c.id
    )


def _epoch(table: SealedTable, found: Row[Any], epochs: Mapping[UUID, int]) -> dict[str, int]:
    """The epoch that a row is to be of; nothing where a table knows none."""
    if table is not PRINCIPALS and not table.follows_principal:
        return {}
    return {"authority_epoch": epochs[found.principal_id if table.follows_principal else found.id]}


_EPOCHS: Final = select(principals.c.id, principals.c.authority_epoch)


def _has_rows(connection: Connection) -> bool:
    query = select(exists(select(principals.c.id)) | exists(select(api_keys.c.id)))
    return bool(connection.execute(query).scalar_one())

"""Principals: the applications and people that act, each with what it may do.

Their rows are sealed, and checked whenever they are used (`vault.access.seals`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, insert, select

from vault.access.policy import EVERY_DEPARTMENT, Scope
from vault.access.sealed_rows import PRINCIPALS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, SharedDatabase
from vault.errors import AlreadyExists, InvalidValue, NotFound
from vault.model import Page
from vault.names import label
from vault.paging import Listing, PageRequest
from vault.tables import principals


@dataclass(frozen=True)
class Principal:
    """One who acts.

    Attributes:
        department: the one it works for, ``*`` for every one, None for none.
        scopes: the most that its API keys may be used for.
    """

    id: UUID
    name: str
    department: str | None
    scopes: tuple[Scope, ...]
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True)
class NewPrincipal:
    """What an administrator says of a principal to add."""

    name: str
    scopes: Collection[Scope]
    department: str | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        label(self.name, "principal")
        if self.department not in (None, EVERY_DEPARTMENT):
            label(self.department, "department")
        if not self.scopes:
            raise InvalidValue("a principal has at least one scope")
        if self.department is None and {Scope.READ, Scope.WRITE} & set(self.scopes):
            raise InvalidValue("reading or writing needs a department, or '*' for every one")


class Principals:
    """The principals of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def add(self, actor: Actor, new: NewPrincipal) -> Principal:
        """Add a principal. Raises: AlreadyExists."""
        try:
            with self._database.transaction() as connection:
                principal = insert_principal(connection, self._seals, new)
                detail = {"principal": str(principal.id)}
                record(connection, AccessEvent(EventType.PRINCIPAL_ADDED, actor, detail=detail))
        except DuplicateRow:
            raise AlreadyExists("principal") from None
        return principal

    def list(self, actor: Actor, request: PageRequest) -> Page[Principal]:
        """A page of principals, newest first. Raises: InvalidPageToken.

        A row that does not bear its seal is left out: `Findings.list` has it.
        """
        with self._database.transaction() as connection:
            page = _PRINCIPALS.fetch(connection, select(principals), request)
            record(connection, AccessEvent(EventType.PRINCIPALS_LISTED, actor))
        sound = [row for row in page.items if self._seals.is_sound(PRINCIPALS.row_from(row))]
        return Page(tuple(map(_principal, sound)), page.next_page_token)

    def disable(self, actor: Actor, principal_id: UUID) -> Principal:
        """Stop all keys of a principal, from now on and for good. Idempotent.

        Raises:
            NotFound: no such principal.
        """
        broken = self._seals.refusing(NotFound("principal"))
        with broken, self._database.transaction() as connection:
            row = self._seals.locked_principal(connection, principal_id)
            # The event first: a principal may disable itself, and then writes no events.
            detail = {"principal": str(principal_id)}
            record(connection, AccessEvent(EventType.PRINCIPAL_DISABLED, actor, detail=detail))
            if row.disabled_at is None:
                now = connection.execute(select(func.now())).scalar_one()
                row = self._seals.change_principal(connection, row, disabled_at=now)
        return _principal(row)


def insert_principal(connection: Connection, seals: Seals, new: NewPrincipal) -> Principal:
    """Add a principal in the caller's transaction. Raises: DuplicateRow at once; KeyServiceUnavailable."""
    row = {
        "id": uuid4(),
        "name": new.name,
        "department": new.department,
        "scopes": sorted(scope.value for scope in new.scopes),
        "disabled_at": None,
        "authority_epoch": 1,
    }
    values = {**row, **seals.sealed(connection, PRINCIPALS, row)}
    return _principal(
        connection.execute(insert(principals).values(values).returning(principals)).one()
    )


def _principal(row: Row[Any]) -> Principal:
    return Principal(
        id=row.id,
        name=row.name,
        department=row.department,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


_PRINCIPALS = Listing[Row[Any]](
    name="principals",
    sort_key=(principals.c.created_at, principals.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.created_at, row.id),
    shape=lambda row: row,
)

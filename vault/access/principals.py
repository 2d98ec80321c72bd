"""Principals: the applications that act, each with what it may do; and lists of them and of people.

Their rows are sealed, and checked whenever they are used (`vault.access.seals`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, insert, select

from vault.access.departments import ensure
from vault.access.policy import EVERY_DEPARTMENT, Scope
from vault.access.sealed_rows import PRINCIPALS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, SharedDatabase
from vault.errors import AlreadyExists, InvalidValue, NotAllowed, NotFound
from vault.model import Page
from vault.names import label
from vault.paging import Listing, PageRequest
from vault.tables import principals


class PrincipalKind(StrEnum):
    """What acts: through API keys, or through sessions."""

    APPLICATION = "application"
    PERSON = "person"


@dataclass(frozen=True)
class Principal:
    """One who acts.

    Attributes:
        department: the one it works for, ``*`` for every one, None for none.
        scopes: the most that its API keys may be used for; a person has roles instead.
        person_id: the natural person behind it: principals with the same one are one person.
    """

    id: UUID
    name: str
    department: str | None
    scopes: tuple[Scope, ...]
    created_at: datetime
    disabled_at: datetime | None
    kind: PrincipalKind
    person_id: UUID | None
    display_name: str | None


@dataclass(frozen=True)
class NewPrincipal:
    """What an administrator says of an application to add.

    Attributes:
        responsible: the person who answers for it, by the id of one of their principals: what it asks for
            counts as theirs.
    """

    name: str
    scopes: Collection[Scope]
    department: str | None = None
    responsible: UUID | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        label(self.name, "principal")
        if self.department not in (None, EVERY_DEPARTMENT):
            label(self.department, "department")
        if not self.scopes:
            raise InvalidValue("a principal has at least one scope")
        if self.department is None and {Scope.READ, Scope.WRITE} & set(self.scopes):
            raise InvalidValue("reading or writing needs a department, or '*' for every one")
        administers = {Scope.OPERATE, Scope.AUDIT} & set(self.scopes)
        if administers and len(set(self.scopes)) > 1 and Scope.ADMIN not in self.scopes:
            raise InvalidValue("an application that operates or audits does nothing else")


class Principals:
    """The principals of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def add(self, actor: Actor, new: NewPrincipal) -> Principal:
        """Add an application. Raises: AlreadyExists, NotFound: nobody is responsible under that id."""
        _refuse_a_new_administrator(actor, new)
        try:
            broken = self._seals.refusing(NotFound("principal"))
            with broken, self._database.transaction() as connection:
                if Scope.ADMIN in new.scopes:
                    # Set-up is either closed before, and then they are nobody any more, or sees this one.
                    self._seals.locked_principal(connection, actor.caller.principal_id)
                principal = insert_principal(connection, self._seals, new)
                detail = {"principal": str(principal.id)}
                record(connection, AccessEvent(EventType.PRINCIPAL_ADDED, actor, detail=detail))
        except DuplicateRow:
            raise AlreadyExists("principal") from None
        return principal

    def list(
        self, actor: Actor, request: PageRequest, kind: PrincipalKind | None = None
    ) -> Page[Principal]:
        """A page of principals, of one kind or both, newest first. Raises: InvalidPageToken.

        A row that does not bear its seal is left out: `Findings.list` has it.
        """
        query = select(principals)
        if kind is not None:
            query = query.where(principals.c.kind == kind.value)
        with self._database.transaction() as connection:
            page = _PRINCIPALS.fetch(connection, query, request, {"kind": kind})
            record(connection, AccessEvent(EventType.PRINCIPALS_LISTED, actor))
        sound = [row for row in page.items if self._seals.is_sound(PRINCIPALS.row_from(row))]
        return Page(tuple(map(to_principal, sound)), page.next_page_token)

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
        return to_principal(row)


def insert_principal(connection: Connection, seals: Seals, new: NewPrincipal) -> Principal:
    """Add an application in the caller's transaction.

    Raises: DuplicateRow at once; NotFound, SealBroken: of whom is responsible; KeyServiceUnavailable.
    """
    if new.department not in (None, EVERY_DEPARTMENT):
        ensure(connection, new.department)
    row = {
        "department": new.department,
        "scopes": sorted(scope.value for scope in new.scopes),
        "person_id": person_behind(connection, seals, new.responsible),
    }
    return to_principal(insert_row(connection, seals, new.name, row))


def person_behind(connection: Connection, seals: Seals, principal_id: UUID | None) -> UUID | None:
    """The natural person behind a principal. Raises: NotFound: there is none; SealBroken."""
    if principal_id is None:
        return None
    person_id: UUID | None = seals.locked_principal(connection, principal_id).person_id
    if person_id is None:
        raise NotFound("person")
    return person_id


def insert_row(
    connection: Connection, seals: Seals, name: str, given: Mapping[str, Any]
) -> Row[Any]:
    """Add the sealed row of a principal. Raises: as `insert_principal`."""
    row = {
        "id": uuid4(),
        "name": name,
        "disabled_at": None,
        "authority_epoch": 1,
        **PRINCIPALS.later,
        **given,
    }
    values = {**row, **seals.sealed(connection, PRINCIPALS, row)}
    return connection.execute(insert(principals).values(values).returning(principals)).one()


def _refuse_a_new_administrator(actor: Actor, new: NewPrincipal) -> None:
    """Setting up ends for good: whoever is no administrator for set-up makes none. Raises: NotAllowed."""
    if Scope.ADMIN in new.scopes and Scope.ADMIN not in actor.caller.scopes:
        raise NotAllowed("the scope 'admin' is for setting up; give people roles instead")


def to_principal(row: Row[Any]) -> Principal:
    """A principal of its row."""
    return Principal(
        id=row.id,
        name=row.name,
        department=row.department,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        kind=PrincipalKind(row.kind),
        person_id=row.person_id,
        display_name=row.display_name,
    )


_PRINCIPALS = Listing[Row[Any]](
    name="principals",
    sort_key=(principals.c.created_at, principals.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.created_at, row.id),
    shape=lambda row: row,
)

"""Departments: whom documents belong to, and where people have roles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import AlreadyExists, InvalidValue, NotFound
from vault.model import Page
from vault.names import display_text, label
from vault.paging import Listing, PageRequest
from vault.tables import departments

MAX_TITLE_CHARACTERS: Final = 120


@dataclass(frozen=True)
class Department:
    """One department.

    Attributes:
        title: as people call it, in whatever script.
        closed_at: since when it takes no new people and roles; what is there stays.
    """

    name: str
    title: str
    created_at: datetime
    closed_at: datetime | None


class Departments:
    """The departments of this vault."""

    def __init__(self, database: SharedDatabase) -> None:
        self._database = database

    def add(self, actor: Actor, name: str, title: str | None = None) -> Department:
        """Add a department. Raises: NotAllowed, InvalidValue, AlreadyExists."""
        require(actor.caller, Action.DEPARTMENT_MANAGE)
        label(name, "department")
        shown = display_text(title or name, "title", MAX_TITLE_CHARACTERS)
        with self._database.transaction() as connection:
            row = connection.execute(_added(name, shown)).one_or_none()
            if row is None:
                raise AlreadyExists("department")
            record(connection, _event(EventType.DEPARTMENT_ADDED, actor, name))
        return _department(row)

    def close(self, actor: Actor, name: str) -> Department:
        """Let a department take no new people and roles. Idempotent. Raises: NotAllowed, NotFound."""
        require(actor.caller, Action.DEPARTMENT_MANAGE)
        closed_at = func.coalesce(departments.c.closed_at, func.now())
        with self._database.transaction() as connection:
            row = connection.execute(
                update(departments)
                .where(departments.c.name == name)
                .values(closed_at=closed_at)
                .returning(departments)
            ).one_or_none()
            if row is None:
                raise NotFound("department")
            record(connection, _event(EventType.DEPARTMENT_CLOSED, actor, name))
        return _department(row)

    def list(self, actor: Actor, request: PageRequest) -> Page[Department]:
        """A page of departments, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.DEPARTMENT_LIST)
        with self._database.transaction() as connection:
            return _DEPARTMENTS.fetch(connection, select(departments), request)


def require_open(connection: Connection, name: str) -> None:
    """Return if there is such a department, and it is not closed. Raises: InvalidValue."""
    is_open = (departments.c.name == name) & departments.c.closed_at.is_(None)
    if not connection.execute(select(exists().where(is_open))).scalar_one():
        raise InvalidValue("there is no such department, or it is closed; add it first")


def ensure(connection: Connection, name: str) -> None:
    """Add a department that an application is to work for, unless it is there."""
    connection.execute(_added(name, name))


def _added(name: str, title: str) -> Any:
    new = insert(departments).values(name=name, title=title)
    return new.on_conflict_do_nothing().returning(departments)


def _event(kind: EventType, actor: Actor, name: str) -> AccessEvent:
    return AccessEvent(kind, actor, detail={"department": name})


def _department(row: Row[Any]) -> Department:
    return Department(row.name, row.title, row.created_at, row.closed_at)


_DEPARTMENTS = Listing(
    name="departments",
    sort_key=(departments.c.created_at, departments.c.name),
    kinds=(datetime, str),
    place=lambda department: (department.created_at, department.name),
    shape=_department,
)

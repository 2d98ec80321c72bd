"""People: principals that act through sessions, with roles instead of scopes.

Who somebody *is* stands in `person_id`. A second account of the same person is added `same_person_as` the
first, and an application names the person responsible; so nobody decides over what they asked for
themselves, whichever account or key they use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row

from vault.access.authorise import require
from vault.access.departments import require_open
from vault.access.policy import Action
from vault.access.principals import (
    Principal,
    PrincipalKind,
    insert_row,
    person_behind,
    to_principal,
)
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, SharedDatabase
from vault.errors import AlreadyExists, NotFound
from vault.names import display_text, label

MAX_DISPLAY_NAME_CHARACTERS = 80


@dataclass(frozen=True)
class NewPerson:
    """What an administrator says of a person to add.

    Attributes:
        name: what they sign in with.
        display_name: as people call them, in whatever script; None: the name.
        department: their home department; it gives nothing by itself.
        same_person_as: a principal of the same natural person.
    """

    name: str
    display_name: str | None = None
    department: str | None = None
    same_person_as: UUID | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        label(self.name, "person")
        if self.display_name is not None:
            display_text(self.display_name, "display name", MAX_DISPLAY_NAME_CHARACTERS)


class People:
    """The people of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def add(self, actor: Actor, new: NewPerson) -> Principal:
        """Add a person, who may do nothing until roles are granted.

        Raises:
            NotAllowed, AlreadyExists.
            NotFound: `same_person_as` is nobody.
            InvalidValue: no such department.
        """
        require(actor.caller, Action.PRINCIPAL_MANAGE)
        try:
            broken = self._seals.refusing(NotFound("principal"))
            with broken, self._database.transaction() as connection:
                row = self._insert(connection, new)
                person_id = str(row.person_id)
                detail = {"principal": str(row.id), "person": person_id}
                record(connection, AccessEvent(EventType.PERSON_ADDED, actor, detail=detail))
        except DuplicateRow:
            raise AlreadyExists("principal") from None
        return to_principal(row)

    def _insert(self, connection: Connection, new: NewPerson) -> Row[Any]:
        if new.department is not None:
            require_open(connection, new.department)
        given: dict[str, Any] = {
            "department": new.department,
            "scopes": [],
            "kind": PrincipalKind.PERSON.value,
            "person_id": person_behind(connection, self._seals, new.same_person_as) or uuid4(),
            "display_name": new.display_name,
        }
        return insert_row(connection, self._seals, new.name, given)

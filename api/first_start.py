"""First start: an administrator for an empty vault, and the application `demo` for `make run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, exists, select

from vault.access.api_keys import insert_key
from vault.access.policy import Scope
from vault.access.principals import NewPrincipal, insert_principal
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, EventType, record
from vault.database import DuplicateRow, SharedDatabase
from vault.tables import principals

ADMINISTRATOR: Final = NewPrincipal("administrator", [Scope.ADMIN])
DEMO: Final = NewPrincipal("demo", [Scope.READ, Scope.WRITE], "demo")


def create_once(
    database: SharedDatabase, seals: Seals, new: NewPrincipal, show: Callable[[str], None]
) -> bool:
    """Make a principal with a key, unless one of this name is there; whether it was made.

    An administrator is made for an empty vault only: whoever renames the one there was gets no other.

    The key is shown before it is committed: one that was shown in vain does no harm, since the next
    start shows another, but one that was committed unseen would leave a vault that nobody can open.
    Two processes that start at once: one of them makes it.
    """
    try:
        with database.transaction() as connection:
            if _is_there(connection, new):
                return False
            principal = insert_principal(connection, seals, new)
            detail = {"principal": str(principal.id), "by": "first start"}
            record(connection, AccessEvent(EventType.PRINCIPAL_ADDED, None, detail=detail))
            show(insert_key(connection, seals, principal.id).token)
    except DuplicateRow:
        return False
    return True


def _is_there(connection: Connection, new: NewPrincipal) -> bool:
    found = select(principals.c.id)
    if Scope.ADMIN not in new.scopes:
        found = found.where(principals.c.name == new.name)
    return bool(connection.execute(select(exists(found))).scalar_one())

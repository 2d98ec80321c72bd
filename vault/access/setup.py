"""Set-up: the time in which one administrator does what three will do afterwards.

The first start makes a principal with the scope `admin`. Nobody without that scope can make another
(`principals`), so when set-up is closed, and every such principal disabled, it has ended for good.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, distinct, func, or_, select

from vault.access.authorise import require
from vault.access.policy import Action, Scope
from vault.access.roles import Role
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import NotFound, SetupIncomplete
from vault.tables import principals, role_grants

NEEDED: Final = {Role.SECURITY_ADMINISTRATOR: 2, Role.IT_OPERATIONS: 1, Role.AUDITOR: 1}
"""How many people carry on afterwards. Two security administrators: a dangerous role takes two people."""


class Setup:
    """The set-up of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def close(self, actor: Actor) -> int:
        """Disable every administrator for set-up, for good; how many.

        Raises:
            NotAllowed: not an administrator for set-up.
            SetupIncomplete: nobody would be there to carry on.
        """
        require(actor.caller, Action.SETUP_CLOSE)
        is_administrator = principals.c.scopes.contains([Scope.ADMIN.value])
        query = select(principals.c.id).where(is_administrator, principals.c.disabled_at.is_(None))
        broken = self._seals.refusing(NotFound("principal"))
        with broken, self._database.transaction() as connection:
            if any(_people(connection, role) < count for role, count in NEEDED.items()):
                raise SetupIncomplete
            # The event first: the one who closes it writes no more afterwards.
            record(connection, AccessEvent(EventType.SETUP_CLOSED, actor))
            found = connection.execute(query.order_by(principals.c.id)).scalars().all()
            now = connection.execute(select(func.now())).scalar_one()
            for principal_id in found:
                row = self._seals.locked_principal(connection, principal_id)
                self._seals.change_principal(connection, row, disabled_at=now)
        return len(found)


def _people(connection: Connection, role: Role) -> int:
    """How many people hold a role now."""
    columns = role_grants.c
    query = (
        select(func.count(distinct(columns.person_id)))
        .join(principals, columns.principal_id == principals.c.id)
        .where(
            columns.role == role.value,
            columns.revoked_at.is_(None),
            columns.starts_at <= func.now(),
            or_(columns.ends_at.is_(None), columns.ends_at > func.now()),
            principals.c.disabled_at.is_(None),
        )
    )
    count: int = connection.execute(query).scalar_one()
    return count

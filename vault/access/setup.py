"""Set-up: the time in which one administrator does what three will do afterwards.

The first start makes a principal with the scope `admin`. Nobody without that scope can make another
(`principals`), so when set-up is closed, and every such principal disabled, it has ended for good.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, exists, func, or_, select

from vault.access.authorise import require
from vault.access.findings import SealBroken
from vault.access.holders import holders
from vault.access.policy import Action, Scope
from vault.access.roles import Role
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import SetupIncomplete
from vault.tables import local_users, oidc_identities, principals, sessions

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
        with self._database.transaction() as connection:
            if any(_people(connection, self._seals, r) < count for r, count in NEEDED.items()):
                raise SetupIncomplete
            # The event first: the one who closes it writes no more afterwards.
            record(connection, AccessEvent(EventType.SETUP_CLOSED, actor))
            return self._disable_all(connection)

    def _disable_all(self, connection: Connection) -> int:
        """Looks again until there is none left: one may have been added until the locks were ours."""
        met: set[UUID] = set()
        disabled = 0
        while found := set(connection.execute(_ADMINISTRATORS).scalars()) - met:
            for principal_id in sorted(found):
                # One that does not bear its seal does nothing anyway.
                with suppress(SealBroken):
                    row = self._seals.locked_principal(connection, principal_id)
                    if row.disabled_at is None:
                        now = connection.execute(select(func.now())).scalar_one()
                        self._seals.change_principal(connection, row, disabled_at=now)
                        disabled += 1
            met |= found
        return disabled


def _people(connection: Connection, seals: Seals, role: Role) -> int:
    """How many people hold a role themselves, without an end, and have ever had a way to sign in."""
    return len(
        {
            row.person_id
            for row in holders(connection, seals, role)
            if row.deputy_of is None and row.ends_at is None and _comes_in(connection, row)
        }
    )


def _comes_in(connection: Connection, held: Row[Any]) -> bool:
    account = held.principal_id
    enrolled = (local_users.c.id == account) & local_users.c.enrolled_at.is_not(None)
    linked = (oidc_identities.c.principal_id == account) & oidc_identities.c.revoked_at.is_(None)
    ways = or_(
        exists().where(enrolled),
        exists().where(linked),
        exists().where(sessions.c.principal_id == account),
    )
    return bool(connection.execute(select(ways)).scalar_one())


_ADMINISTRATORS: Final = select(principals.c.id).where(
    principals.c.scopes.contains([Scope.ADMIN.value]), principals.c.disabled_at.is_(None)
)

"""Ways in: when giving somebody a new way to sign in takes two people.

Who gives it could use it, and be the other one from then on. So nobody gives it to themselves, and for
somebody with a dangerous role it takes an approval: whoever is new enrols first and gets the role then.
Roles are judged by their seals; one that SQL revoked or changed counts as held.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, select

from vault.access.approvals import Owned, Target, id_part
from vault.access.grants import Grants
from vault.access.holders import ROLES
from vault.access.policy import Action
from vault.access.principals import PrincipalKind
from vault.access.roles import DANGEROUS
from vault.access.sealed_rows import ROLE_GRANTS
from vault.access.seals import Seals
from vault.accesslog.event import Actor
from vault.errors import NotAllowed, NotFound
from vault.tables import principals, role_grants


def judge_new_way_in(
    connection: Connection, seals: Seals, grants: Grants, actor: Actor, principal: Row[Any]
) -> None:
    """Return if `actor` may give a locked principal a new way in; an approval that it takes is used up.

    Raises:
        NotAllowed: to themselves.
        ApprovalNeeded.
    """
    if principal.person_id == actor.caller.person_id:
        raise NotAllowed("nobody gives themselves another way to sign in; somebody else does it")
    if _is_dangerous(connection, seals, principal):
        target = {"principal": str(principal.id)}
        grants.use(connection, actor, Action.CREDENTIALS_RESET, target)


def owned_by_vault(connection: Connection, _actor: Actor, target: Target) -> Owned:
    """Somebody who is to get a new way in, as the target of an approval. Raises: InvalidValue, NotFound."""
    principal_id = id_part(target, "principal")
    person = (principals.c.id == principal_id) & (principals.c.kind == PrincipalKind.PERSON.value)
    if not connection.execute(select(exists().where(person))).scalar_one():
        raise NotFound("person")
    return Owned({"principal": str(principal_id)})


def _is_dangerous(connection: Connection, seals: Seals, principal: Row[Any]) -> bool:
    """Whether somebody holds a role that takes two people to give, now or later."""
    held = ROLES.where(
        role_grants.c.principal_id == principal.id,
        role_grants.c.role.in_(role.value for role in DANGEROUS),
    )
    return any(
        not seals.is_sound(ROLE_GRANTS.row_from(row), principal.authority_epoch)
        or (row.revoked_at is None and not row.is_over)
        for row in connection.execute(held).fetchall()
    )

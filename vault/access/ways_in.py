"""Ways in: when giving somebody a new way to sign in takes two people.

Who gives it could use it, and be the other one from then on. So nobody gives it to themselves, and for
somebody with a dangerous role it takes an approval once they have a way in, or had one: *had*, because else
whoever takes the old way away first could give a new one alone. A first way in takes none: the role itself
did, or will.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, exists, func, or_, select

from vault.access.approvals import Owned, Target, id_part
from vault.access.grants import Grants
from vault.access.policy import Action
from vault.access.principals import PrincipalKind
from vault.access.roles import DANGEROUS
from vault.accesslog.event import Actor
from vault.errors import NotAllowed, NotFound
from vault.tables import local_users, oidc_identities, principals, role_grants, sessions


def judge_new_way_in(
    connection: Connection, grants: Grants, actor: Actor, principal: Row[Any]
) -> None:
    """Return if `actor` may give a locked principal a new way in; an approval that it takes is used up.

    Raises:
        NotAllowed: to themselves.
        ApprovalNeeded.
    """
    if principal.person_id == actor.caller.person_id:
        raise NotAllowed("nobody gives themselves another way to sign in; somebody else does it")
    if _takes_approval(connection, principal.id):
        target = {"principal": str(principal.id)}
        grants.use(connection, actor, Action.CREDENTIALS_RESET, target)


def owned_by_vault(connection: Connection, _actor: Actor, target: Target) -> Owned:
    """Somebody who is to get a new way in, as the target of an approval. Raises: InvalidValue, NotFound."""
    principal_id = id_part(target, "principal")
    person = (principals.c.id == principal_id) & (principals.c.kind == PrincipalKind.PERSON.value)
    if not connection.execute(select(exists().where(person))).scalar_one():
        raise NotFound("person")
    return Owned({"principal": str(principal_id)})


def _takes_approval(connection: Connection, principal_id: UUID) -> bool:
    held = role_grants.c
    is_dangerous = exists().where(
        held.principal_id == principal_id,
        held.role.in_(role.value for role in DANGEROUS),
        held.revoked_at.is_(None),
        or_(held.ends_at.is_(None), held.ends_at > func.now()),
    )
    had_a_way_in = or_(
        exists().where(local_users.c.id == principal_id, local_users.c.enrolled_at.is_not(None)),
        exists().where(oidc_identities.c.principal_id == principal_id),
        exists().where(sessions.c.principal_id == principal_id),
    )
    return bool(connection.execute(select(is_dangerous & had_a_way_in)).scalar_one())

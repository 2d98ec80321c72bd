"""Who holds which role at this moment.

A role grant counts within its period, while it is not revoked and its account not disabled; a deputy's only
while whom they stand in for holds the role too, at least as far, and as nobody's deputy. So deputies have no
deputies, and what a head lost no deputy goes on with. Each row is judged by its seal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
)

from vault.access.roles import HeldRole, Role
from vault.access.sealed_rows import PRINCIPALS, ROLE_GRANTS
from vault.access.seals import PerhapsStale, Seals
from vault.tables import principals, role_grants


class Execute(Protocol):
    """Runs a statement, in a transaction or as one."""

    def __call__(self, statement: Select[Any], parameters: dict[str, Any]) -> Sequence[Row[Any]]:
        """Its rows. Raises: DatabaseUnavailable."""


def within(connection: Connection) -> Execute:
    """Runs statements in a transaction."""
    return lambda statement, parameters: connection.execute(statement, parameters).fetchall()


def roles_of(
    execute: Execute, seals: Seals, principal_id: UUID, epoch: int
) -> tuple[HeldRole, ...]:
    """The roles of a principal that count now; one that does not bear its seal is none, and a finding.

    Raises:
        PerhapsStale: they are of another epoch than `epoch`; read the principal again.
    """
    rows = execute(_OF_PRINCIPAL, {"principal": principal_id})
    for row in rows:
        if row.principal_epoch != epoch:
            raise PerhapsStale(ROLE_GRANTS.name, str(row.id), b"")
    sound = [row for row in rows if seals.is_sound(ROLE_GRANTS.row_from(row), row.principal_epoch)]
    return tuple(held_role(row) for row in sound if stands(execute, seals, row))


def holders(connection: Connection, seals: Seals, role: Role) -> list[Row[Any]]:
    """The role grants of a role that count now; what does not bear its seal gives nothing."""
    execute = within(connection)
    return [
        row
        for row in execute(_OF_ROLE, {"role": role.value})
        if row.counts and _is_sound(execute, seals, row) and stands(execute, seals, row)
    ]


def somebody_holds(
    connection: Connection, seals: Seals, role: Role, *, besides: Collection[UUID]
) -> bool:
    """Whether a person holds a role who is none of `besides`, and nobody's deputy among them.

    A row that does not bear its seal counts as somebody: it may have been one, until SQL revoked it.
    """
    execute = within(connection)
    return any(
        not _is_sound(execute, seals, row)
        or (
            row.counts
            and row.person_id not in besides
            and row.deputy_of not in besides
            and stands(execute, seals, row)
        )
        for row in execute(_OF_ROLE, {"role": role.value})
    )


def stands(execute: Execute, seals: Seals, held: Row[Any]) -> bool:
    """Whether a role is one's own, or whom a deputy stands in for holds it now."""
    if held.deputy_of is None:
        return True
    return stood_in_for(
        execute, seals, held.deputy_of, Role(held.role), held.department, held.class_name
    )


def stood_in_for(
    execute: Execute,
    seals: Seals,
    person_id: UUID,
    role: Role,
    department: str | None,
    class_name: str | None,
) -> bool:
    """Whether a person holds a role themselves now, so far that a deputy may hold it in their place."""
    values = {
        "person": person_id,
        "role": role.value,
        "department": department,
        "class": class_name,
    }
    rows = execute(_OF_WHOM_A_DEPUTY_STANDS_IN_FOR, values)
    return any(_is_sound(execute, seals, row) for row in rows)


def held_role(row: Row[Any]) -> HeldRole:
    """A row of role grants as the policy knows it."""
    return HeldRole(Role(row.role), row.department, row.class_name, row.deputy_of)


def _is_sound(execute: Execute, seals: Seals, row: Row[Any]) -> bool:
    """Whether a role grant and its account bear their seals."""
    (account,) = execute(_ACCOUNT, {"principal": row.principal_id})
    return seals.is_sound(PRINCIPALS.row_from(account)) and seals.is_sound(
        ROLE_GRANTS.row_from(row), account.authority_epoch
    )


def in_force() -> ColumnElement[bool]:
    """Whether a role grant, joined with its principal, counts, if it is no deputy's."""
    return and_(
        role_grants.c.revoked_at.is_(None),
        role_grants.c.starts_at <= func.now(),
        or_(role_grants.c.ends_at.is_(None), role_grants.c.ends_at > func.now()),
        principals.c.disabled_at.is_(None),
    )


ROLES: Final = select(
    role_grants,
    in_force().label("counts"),
    func.coalesce(role_grants.c.ends_at <= func.now(), literal(False)).label("is_over"),
    principals.c.authority_epoch.label("principal_epoch"),
).join(principals, role_grants.c.principal_id == principals.c.id)
"""Every role grant there ever was, and whether it counts."""

_ACCOUNT: Final = select(principals).where(principals.c.id == bindparam("principal"))
_OF_PRINCIPAL: Final = ROLES.where(role_grants.c.principal_id == bindparam("principal"), in_force())
_OF_ROLE: Final = ROLES.where(role_grants.c.role == bindparam("role"))
_OF_WHOM_A_DEPUTY_STANDS_IN_FOR: Final = ROLES.where(
    role_grants.c.person_id == bindparam("person"),
    role_grants.c.role == bindparam("role"),
    role_grants.c.department.is_not_distinct_from(bindparam("department")),
    or_(
        role_grants.c.class_name.is_(None),
        role_grants.c.class_name.is_not_distinct_from(bindparam("class")),
    ),
    role_grants.c.deputy_of.is_(None),
    in_force(),
)

"""Which approvals and grants a caller sees: their own, those they may decide over, those they oversee."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Table, or_, true

from vault.access.policy import RULES, Caller, Scope
from vault.access.roles import HeldRole, Role
from vault.context import Context, as_caller
from vault.tables import approvals, grants

_WHOSE: Final = {approvals: approvals.c.requested_by, grants: grants.c.principal_id}


def seen_by(caller: Caller, table: Table) -> ColumnElement[bool]:
    """Which rows of `approvals` or `grants` are for the caller's eyes."""
    if _oversees_all(caller):
        return true()
    roles = {held.role for held in caller.roles}
    decided = [action.value for action, rule in RULES.items() if rule.decided_by in roles]
    heads = [held.department for held in caller.roles if is_head(held)]
    seen = [
        _WHOSE[table] == caller.principal_id,
        table.c.department.in_(heads),
        table.c.department.is_(None) & table.c.action.in_(decided),
    ]
    if Role.COMPLIANCE in roles:
        seen.append(table.c.department.is_not(None))
    return or_(*seen)


def context_of(caller: Caller) -> Context:
    """For transactions about approvals and grants: who oversees them does so in every department."""
    is_compliance = any(held.role is Role.COMPLIANCE for held in caller.roles)
    return as_caller(caller, everywhere=is_compliance or _oversees_all(caller))


def is_head(held: HeldRole) -> bool:
    """Whether it is a department's headship; one for a single class decides over nothing."""
    return held.role is Role.DEPARTMENT_HEAD and held.class_name is None


def _oversees_all(caller: Caller) -> bool:
    audits = any(held.role is Role.AUDITOR for held in caller.roles)
    return audits or bool({Scope.ADMIN, Scope.AUDIT} & caller.scopes)

"""Conflicts: what no constraint forbids, and an organisation had better know.

`find` holds the rules, over accounts and roles as they are now; `Conflicts` reads those, leaving out rows
that do not bear their seals (they do nothing, and are findings). Nothing is changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, select

from vault.access.authorise import require
from vault.access.holders import ROLES, in_force, stands, within
from vault.access.policy import Action, Scope
from vault.access.roles import DUTY_OF, Duty, Role
from vault.access.sealed_rows import PRINCIPALS, ROLE_GRANTS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.tables import principals

_ENOUGH: Final = 2
"""Security administrators: a dangerous role takes two people."""

_ADMINISTRATORS: Final = frozenset({Duty.SYSTEM, Duty.SECURITY, Duty.AUDIT})
_BUSINESS: Final = frozenset({Scope.READ, Scope.WRITE, Scope.EXPORT_KEYS})
_OWN_DUTY: Final = {Scope.OPERATE: Duty.SYSTEM, Scope.AUDIT: Duty.AUDIT}


class ConflictKind(StrEnum):
    """What is wrong."""

    SETUP_OPEN = "setup-open"
    FEW_SECURITY_ADMINISTRATORS = "few-security-administrators"
    HEAD_AND_MANAGER = "head-and-archive-manager"
    BUSINESS_OF_ADMINISTRATOR = "business-application-of-administrator"
    DUTY_OF_ANOTHER = "administering-application-of-another-duty"
    NOBODY_RESPONSIBLE = "nobody-responsible"
    SEVERAL_ACCOUNTS = "several-accounts"
    DEPUTY_OF_NOBODY = "deputy-of-nobody"


@dataclass(frozen=True)
class Conflict:
    """One of them.

    Attributes:
        principals: whom it is about; empty: the vault.
        words: what is wrong, and what to do.
    """

    kind: ConflictKind
    principals: tuple[UUID, ...]
    person_id: UUID | None
    department: str | None
    words: str


@dataclass(frozen=True)
class Account:
    """A principal that is not disabled."""

    id: UUID
    is_person: bool
    scopes: frozenset[Scope]
    person_id: UUID | None


@dataclass(frozen=True)
class Holding:
    """A role that somebody has now.

    Attributes:
        stands: False for a deputy of somebody who does not hold the role any more: it gives nothing.
    """

    principal_id: UUID
    person_id: UUID
    role: Role
    department: str | None
    stands: bool = True


class Conflicts:
    """The conflicts of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def list(self, actor: Actor) -> Sequence[Conflict]:
        """All of them, as they are now. Raises: NotAllowed, DatabaseUnavailable."""
        require(actor.caller, Action.CONFLICT_LIST)
        with self._database.transaction() as connection:
            accounts = self._accounts(connection)
            holdings = self._holdings(connection, {account.id for account in accounts})
            record(connection, AccessEvent(EventType.CONFLICTS_LISTED, actor))
        return list(find(accounts, holdings))

    def _accounts(self, connection: Connection) -> Sequence[Account]:
        query = select(principals).where(principals.c.disabled_at.is_(None))
        rows = connection.execute(query.order_by(principals.c.created_at, principals.c.id))
        return [
            _account(row)
            for row in rows.fetchall()
            if self._seals.is_sound(PRINCIPALS.row_from(row))
        ]

    def _holdings(self, connection: Connection, known: set[UUID]) -> Sequence[Holding]:
        execute = within(connection)
        return [
            _holding(row, stands=stands(execute, self._seals, row))
            for row in execute(ROLES.where(in_force()), {})
            if row.principal_id in known
            and self._seals.is_sound(ROLE_GRANTS.row_from(row), row.principal_epoch)
        ]


def find(accounts: Sequence[Account], holdings: Sequence[Holding]) -> Iterator[Conflict]:
    """The rules, one after the other."""
    yield from _of_setup(accounts, holdings)
    yield from _of_departments(holdings)
    yield from _of_applications(accounts, holdings)
    yield from _of_people(accounts)
    for held in holdings:
        if not held.stands:
            yield Conflict(
                ConflictKind.DEPUTY_OF_NOBODY,
                (held.principal_id,),
                held.person_id,
                held.department,
                f"a deputy with the role '{held.role}' for somebody who does not hold it any more: it gives "
                "nothing; revoke it",
            )


def _of_setup(accounts: Sequence[Account], holdings: Sequence[Holding]) -> Iterator[Conflict]:
    open_for = tuple(account.id for account in accounts if Scope.ADMIN in account.scopes)
    if open_for:
        words = "set-up is open: the scope 'admin' does what three administrators do; close it"
        yield Conflict(ConflictKind.SETUP_OPEN, open_for, None, None, words)
    security = [h for h in holdings if h.role is Role.SECURITY_ADMINISTRATOR and h.stands]
    if len({held.person_id for held in security}) < _ENOUGH:
        words = (
            "fewer than two people are security administrators, so no dangerous role can be granted"
        )
        found = tuple(sorted({held.principal_id for held in security}))
        kind = ConflictKind.FEW_SECURITY_ADMINISTRATORS
        yield Conflict(kind, found, None, None, words)


def _of_departments(holdings: Sequence[Holding]) -> Iterator[Conflict]:
    held: dict[tuple[UUID, str | None], dict[Role, set[UUID]]] = defaultdict(dict)
    for each in holdings:
        by_role = held[each.person_id, each.department]
        by_role.setdefault(each.role, set()).add(each.principal_id)
    for (person_id, department), by_role in held.items():
        both = [by_role.get(role) for role in (Role.DEPARTMENT_HEAD, Role.ARCHIVE_MANAGER)]
        if all(both):
            found = tuple(sorted(set().union(*(accounts for accounts in both if accounts))))
            words = "one person asks as archive manager what they would decide as head of the same department"
            yield Conflict(ConflictKind.HEAD_AND_MANAGER, found, person_id, department, words)


def _of_applications(
    accounts: Sequence[Account], holdings: Sequence[Holding]
) -> Iterator[Conflict]:
    duties: dict[UUID, set[Duty]] = defaultdict(set)
    for held in holdings:
        duties[held.person_id].add(DUTY_OF[held.role])
    people = {account.person_id for account in accounts if account.is_person}
    for account in accounts:
        if account.is_person or Scope.ADMIN in account.scopes:
            continue
        if account.person_id is None:
            words = "nobody is responsible for the application, so it gets no approval"
            yield Conflict(ConflictKind.NOBODY_RESPONSIBLE, (account.id,), None, None, words)
        elif account.person_id not in people:
            words = "whoever was responsible for the application has no account any more"
            kind = ConflictKind.NOBODY_RESPONSIBLE
            yield Conflict(kind, (account.id,), account.person_id, None, words)
        else:
            yield from _of_responsible(account, account.person_id, duties[account.person_id])


def _of_responsible(account: Account, person_id: UUID, duties: set[Duty]) -> Iterator[Conflict]:
    if account.scopes & _BUSINESS and duties & _ADMINISTRATORS:
        words = "an administrator is responsible for an application that reads, writes or exports"
        kind = ConflictKind.BUSINESS_OF_ADMINISTRATOR
        yield Conflict(kind, (account.id,), person_id, None, words)
    for scope, duty in _OWN_DUTY.items():
        if scope in account.scopes and duties - {duty}:
            words = f"whoever is responsible for an application with the scope '{scope}' has another duty"
            kind = ConflictKind.DUTY_OF_ANOTHER
            yield Conflict(kind, (account.id,), person_id, None, words)


def _of_people(accounts: Sequence[Account]) -> Iterator[Conflict]:
    by_person: dict[UUID, list[UUID]] = defaultdict(list)
    for account in accounts:
        if account.is_person and account.person_id is not None:
            by_person[account.person_id].append(account.id)
    for person_id, found in by_person.items():
        if len(found) > 1:
            words = (
                "one person has several accounts; they count as one wherever it takes two people"
            )
            yield Conflict(ConflictKind.SEVERAL_ACCOUNTS, tuple(found), person_id, None, words)


def _account(row: Row[Any]) -> Account:
    scopes = frozenset(map(Scope, row.scopes))
    return Account(row.id, row.kind == "person", scopes, row.person_id)


def _holding(row: Row[Any], *, stands: bool) -> Holding:
    return Holding(row.principal_id, row.person_id, Role(row.role), row.department, stands)

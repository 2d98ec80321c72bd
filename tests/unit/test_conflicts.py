"""The rules of conflicts, over accounts and roles as they may stand."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from vault.access.conflicts import Account, Conflict, ConflictKind, Holding, find
from vault.access.policy import Scope
from vault.access.roles import Role

_SECURITY = [Holding(uuid4(), uuid4(), Role.SECURITY_ADMINISTRATOR, None) for _ in range(2)]
"""Without two of them there is always a conflict."""


def found(accounts: list[Account], holdings: list[Holding]) -> list[Conflict]:
    return list(find(accounts, [*_SECURITY, *holdings]))


def application(*scopes: Scope, responsible: UUID | None = None) -> Account:
    return Account(uuid4(), is_person=False, scopes=frozenset(scopes), person_id=responsible)


def someone(person_id: UUID | None = None) -> Account:
    return Account(uuid4(), is_person=True, scopes=frozenset(), person_id=person_id or uuid4())


def test_nothing_is_wrong_where_nothing_is() -> None:
    person = someone()
    assert person.person_id is not None
    holdings = [Holding(person.id, person.person_id, Role.DEPARTMENT_HEAD, "sales")]
    accounts = [person, application(Scope.READ, responsible=person.person_id)]
    assert found(accounts, holdings) == []


def test_an_administrator_for_set_up_says_that_it_is_open_and_is_nothing_else() -> None:
    admin = application(Scope.ADMIN, Scope.READ)
    (conflict,) = found([admin], [])
    assert (conflict.kind, conflict.principals) == (ConflictKind.SETUP_OPEN, (admin.id,))


def test_two_accounts_of_one_person_are_not_two_security_administrators() -> None:
    person_id = uuid4()
    holdings = [Holding(uuid4(), person_id, Role.SECURITY_ADMINISTRATOR, None) for _ in range(2)]
    kinds = [conflict.kind for conflict in find([], holdings)]
    assert kinds == [ConflictKind.FEW_SECURITY_ADMINISTRATORS]
    deputy = Holding(uuid4(), uuid4(), Role.SECURITY_ADMINISTRATOR, None, stands=False)
    assert ConflictKind.FEW_SECURITY_ADMINISTRATORS in {
        conflict.kind for conflict in find([], [*holdings, deputy])
    }


def test_head_and_archive_manager_of_one_department_by_whichever_account() -> None:
    person_id = uuid4()
    head = Holding(uuid4(), person_id, Role.DEPARTMENT_HEAD, "sales")
    elsewhere = Holding(uuid4(), person_id, Role.ARCHIVE_MANAGER, "credit")
    assert found([], [head, elsewhere]) == []
    here = Holding(uuid4(), person_id, Role.ARCHIVE_MANAGER, "sales")
    (conflict,) = found([], [head, elsewhere, here])
    assert (conflict.kind, conflict.department) == (ConflictKind.HEAD_AND_MANAGER, "sales")
    assert set(conflict.principals) == {head.principal_id, here.principal_id}
    assert conflict.person_id == person_id


@pytest.mark.parametrize(
    ("scope", "role", "kind"),
    [
        (Scope.READ, Role.IT_OPERATIONS, ConflictKind.BUSINESS_OF_ADMINISTRATOR),
        (Scope.WRITE, Role.SECURITY_ADMINISTRATOR, ConflictKind.BUSINESS_OF_ADMINISTRATOR),
        (Scope.EXPORT_KEYS, Role.AUDITOR, ConflictKind.BUSINESS_OF_ADMINISTRATOR),
        (Scope.EXPORT_KEYS, Role.DEPARTMENT_HEAD, None),
        (Scope.READ, Role.COMPLIANCE, None),
        (Scope.OPERATE, Role.IT_OPERATIONS, None),
        (Scope.OPERATE, Role.AUDITOR, ConflictKind.DUTY_OF_ANOTHER),
        (Scope.OPERATE, Role.STAFF, ConflictKind.DUTY_OF_ANOTHER),
        (Scope.AUDIT, Role.AUDITOR, None),
        (Scope.AUDIT, Role.IT_OPERATIONS, ConflictKind.DUTY_OF_ANOTHER),
    ],
)
def test_who_answers_for_an_application_has_no_other_duty(
    scope: Scope, role: Role, kind: ConflictKind | None
) -> None:
    person_id = uuid4()
    department = "sales" if role in (Role.STAFF, Role.DEPARTMENT_HEAD) else None
    app = application(scope, responsible=person_id)
    conflicts = found([app, someone(person_id)], [Holding(uuid4(), person_id, role, department)])
    assert [(each.kind, each.principals) for each in conflicts] == (
        [(kind, (app.id,))] if kind else []
    )


def test_an_application_that_nobody_answers_for_or_somebody_who_left() -> None:
    app = application(Scope.READ)
    left = application(Scope.READ, responsible=uuid4())
    conflicts = found([app, left], [])
    assert {conflict.kind for conflict in conflicts} == {ConflictKind.NOBODY_RESPONSIBLE}
    assert [conflict.principals for conflict in conflicts] == [(app.id,), (left.id,)]


def test_several_accounts_of_one_person_and_a_deputy_of_nobody() -> None:
    person_id = uuid4()
    accounts = [someone(person_id), someone(person_id), someone()]
    accounts.append(application(Scope.READ, responsible=person_id))
    deputy = Holding(accounts[2].id, uuid4(), Role.DEPARTMENT_HEAD, "sales", stands=False)
    several, of_nobody = found(accounts, [deputy])
    assert several.kind is ConflictKind.SEVERAL_ACCOUNTS
    assert several.principals == (accounts[0].id, accounts[1].id)
    assert (of_nobody.kind, of_nobody.department) == (ConflictKind.DEPUTY_OF_NOBODY, "sales")

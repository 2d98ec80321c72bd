"""The policy, decided over every action, scope and role; the truth stands here once more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from uuid import UUID, uuid4

import pytest

from vault.access.policy import (
    EVERY_DEPARTMENT,
    RULES,
    Action,
    Caller,
    GoesAlone,
    Obstacle,
    Scope,
    decide,
)
from vault.access.roles import DEPARTMENTAL, DUTY_OF, Duty, HeldRole, Role

TABLE = """
document.create | write | staff archive_manager
document.read | read | staff archive_manager department_head
document.list | read | staff archive_manager department_head
document.update | write | staff archive_manager
document.move | write | archive_manager
document.bin | write | archive_manager
class.list | * | *
class.add | admin | compliance
hold.place | admin | compliance
hold.release | admin | compliance | !
hold.list | admin audit | compliance auditor
department.list | * | *
department.manage | admin | security_administrator
principal.list | admin audit | security_administrator auditor
principal.manage | admin | security_administrator
credentials.reset | admin | security_administrator | ! <security_administrator
api-key.list | admin audit | security_administrator auditor
api-key.issue | admin | security_administrator | ! <security_administrator
api-key.manage | admin | security_administrator
api-key.rotate-own | * | -
role.list | admin audit | security_administrator auditor
role.grant | admin | security_administrator | ! <security_administrator
role.revoke | admin | security_administrator
caller.view | * | *
session.own | - | *
session.list | admin audit | security_administrator auditor
session.revoke | admin | security_administrator
setup.close | admin | -
approval.request | * | *
approval.list | * | *
approval.decide | - | department_head compliance it_operations security_administrator | !
grant.list | * | *
grant.revoke | admin | department_head compliance it_operations security_administrator
key.list | operate audit admin | it_operations auditor
key.rotate | operate admin | it_operations
key.rewrap | operate admin | it_operations
key.retire | operate admin | it_operations | !
key.shred | operate admin | it_operations | !
key.drill | operate admin | it_operations
key.export | export-keys | archive_manager | ! <department_head
key.register-recovery | admin | it_operations | ! <security_administrator
site.list | operate audit admin | it_operations auditor
site.manage | operate admin | it_operations
site.fail-over | operate admin | it_operations | ! <it_operations
job.list | operate audit admin | it_operations auditor
job.stop | operate admin | it_operations
access.explain | admin audit | security_administrator auditor
conflict.list | admin audit | security_administrator auditor compliance
finding.list | admin audit | security_administrator auditor
"""
"""Action, scopes, roles, conditions. `*`: every one, `-`: none, `!`: step-up, `<`: approved by this role."""


@dataclass(frozen=True)
class Line:
    scopes: list[str]
    roles: list[str]
    conditions: list[str]

    def allows(self, held: Scope | Role) -> bool:
        """Whether a scope or role is enough, conditions apart."""
        given = self.scopes if isinstance(held, Scope) else self.roles
        return given == ["*"] or held.value in given


def _lines() -> Iterator[tuple[str, Line]]:
    for text in TABLE.strip().splitlines():
        action, *parts = text.split("|")
        scopes, roles, conditions = [part.split() for part in [*parts, ""][:3]]
        yield action.strip(), Line(scopes, roles, conditions)


LINES = dict(_lines())


def application(*scopes: Scope, department: str | None = "sales") -> Caller:
    return Caller(uuid4(), "someone", "key", frozenset(scopes), department)


def person(*held: HeldRole, stepped_up: bool = True) -> Caller:
    return Caller(
        principal_id=uuid4(),
        name="someone",
        api_key_id=None,
        scopes=frozenset(),
        department="sales",
        session_id=UUID(int=1),
        roles=held,
        person_id=uuid4(),
        has_stepped_up=stepped_up,
    )


def having(role: Role, *, stepped_up: bool = True) -> Caller:
    department = "sales" if role in DEPARTMENTAL else None
    return person(HeldRole(role, department), stepped_up=stepped_up)


def test_the_table_knows_every_action_and_has_a_rule_for_it() -> None:
    assert set(LINES) == {action.value for action in Action} == {a.value for a in RULES}


@pytest.mark.parametrize(("action", "scope"), list(product(Action, Scope)))
def test_a_scope_allows_just_its_own_actions(action: Action, scope: Scope) -> None:
    assert decide(application(scope), action).allowed is LINES[action].allows(scope)


@pytest.mark.parametrize(("action", "role"), list(product(Action, Role)))
def test_a_role_allows_just_its_own_actions(action: Action, role: Role) -> None:
    assert decide(having(role), action).allowed is LINES[action].allows(role)


@pytest.mark.parametrize("action", Action)
def test_no_scope_and_no_role_allow_only_what_needs_none(action: Action) -> None:
    assert decide(application(), action).allowed is (LINES[action].scopes == ["*"])
    assert decide(person(), action).allowed is (LINES[action].roles == ["*"])


@pytest.mark.parametrize(("action", "role"), list(product(Action, Role)))
def test_a_step_up_stops_people_who_have_not_just_proved_who_they_are(
    action: Action, role: Role
) -> None:
    decision = decide(having(role, stepped_up=False), action)
    if LINES[action].allows(role):
        assert decision.allowed is ("!" not in LINES[action].conditions)
        assert (decision.obstacle is Obstacle.STEP_UP) is ("!" in LINES[action].conditions)
    else:
        assert decision.obstacle is None, "whoever may not learns nothing about conditions"


@pytest.mark.parametrize("action", Action)
def test_an_approval_is_given_by_whom_the_table_says(action: Action) -> None:
    rule = RULES[action]
    by = [word[1:] for word in LINES[action].conditions if word.startswith("<")]
    assert ([rule.decided_by] if rule.decided_by else []) == by
    assert bool(rule.purposes) is bool(by)
    assert by or rule.may_go_alone is GoesAlone.NEVER
    if by:
        assert rule.needs_step_up, "two people are worth little if a stolen session is one of them"
        assert decide(having(Role(by[0])), Action.APPROVAL_DECIDE).allowed


def test_an_action_without_a_rule_is_refused_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, Action.DOCUMENT_READ)
    for caller in (application(*Scope), person(*(HeldRole(role) for role in Role))):
        decision = decide(caller, Action.DOCUMENT_READ)
        assert not decision.allowed
        assert decision.rule == "no rule allows document.read"


@pytest.mark.parametrize(
    ("own", "visible"),
    [("sales", True), (EVERY_DEPARTMENT, True), ("credit", False), (None, False)],
)
def test_another_department_s_documents_do_not_exist_for_an_application(
    own: str | None, visible: bool
) -> None:
    decision = decide(application(*Scope, department=own), Action.DOCUMENT_READ, "sales")
    assert decision.allowed is decision.visible is visible


@pytest.mark.parametrize("role", sorted(DEPARTMENTAL))
def test_another_department_s_documents_do_not_exist_for_a_person(role: Role) -> None:
    caller = having(role)
    assert decide(caller, Action.DOCUMENT_READ, "sales").allowed
    elsewhere = decide(caller, Action.DOCUMENT_READ, "credit")
    assert not elsewhere.allowed
    assert not elsewhere.visible


def test_a_role_counts_in_its_own_department_and_not_in_that_of_another_role() -> None:
    caller = person(HeldRole(Role.STAFF, "sales"), HeldRole(Role.ARCHIVE_MANAGER, "credit"))
    assert decide(caller, Action.DOCUMENT_BIN, "credit").allowed
    refused = decide(caller, Action.DOCUMENT_BIN, "sales")
    assert refused.visible
    assert refused.rule == "document.bin needs the role 'archive_manager', in this department"


def test_a_role_of_the_whole_vault_reaches_every_department() -> None:
    for department in ("sales", "credit"):
        assert decide(having(Role.COMPLIANCE), Action.HOLD_PLACE, department).allowed


def test_a_role_for_one_class_reaches_no_other() -> None:
    caller = person(HeldRole(Role.STAFF, "sales", "contracts"))
    may_read = {
        name: decide(caller, Action.DOCUMENT_READ, "sales", class_name=name)
        for name in ("contracts", "general")
    }
    assert may_read["contracts"].allowed
    assert not may_read["general"].visible


@pytest.mark.parametrize("action", Action)
def test_a_hold_stops_the_bin_and_nothing_else(action: Action) -> None:
    caller = application(*Scope)
    decision = decide(caller, action, is_held=True)
    stopped = action is Action.DOCUMENT_BIN
    assert (decision.obstacle is Obstacle.HOLD) is stopped
    assert decision.allowed is (decide(caller, action).allowed and not stopped)


def test_a_hold_is_told_only_to_who_might_have_acted() -> None:
    decision = decide(having(Role.STAFF), Action.DOCUMENT_BIN, "sales", is_held=True)
    assert decision.obstacle is None
    assert "archive_manager" in decision.rule


def test_a_missing_scope_or_role_is_told_before_visibility() -> None:
    for caller in (application(department="credit"), having(Role.AUDITOR)):
        decision = decide(caller, Action.DOCUMENT_READ, "sales")
        assert not decision.allowed
        assert decision.visible


@pytest.mark.parametrize(
    ("caller", "action", "rule"),
    [
        (application(), Action.DOCUMENT_READ, "needs an API key with the scope 'read'"),
        (application(Scope.READ), Action.DOCUMENT_READ, "is allowed by the scope 'read'"),
        (application(Scope.ADMIN), Action.APPROVAL_DECIDE, "is for people, and no API key"),
        (having(Role.STAFF), Action.API_KEY_ROTATE_OWN, "is for applications, and no role"),
        (having(Role.STAFF), Action.DOCUMENT_BIN, "needs the role 'archive_manager'"),
        (having(Role.STAFF), Action.DOCUMENT_READ, "the role 'staff' in the department 'sales'"),
        (having(Role.AUDITOR), Action.CLASS_LIST, "is allowed to everybody who is signed in"),
        (having(Role.ARCHIVE_MANAGER), Action.KEY_EXPORT, ", with an approval"),
        (having(Role.IT_OPERATIONS, stepped_up=False), Action.KEY_SHRED, "(step-up)"),
        (
            person(HeldRole(Role.STAFF, "sales", "contracts", uuid4())),
            Action.DOCUMENT_READ,
            "in the department 'sales' for the class 'contracts', as a deputy",
        ),
    ],
)
def test_the_deciding_rule_is_told_in_words(caller: Caller, action: Action, rule: str) -> None:
    told = decide(caller, action).rule
    assert told.startswith(action.value)
    assert rule in told


@pytest.mark.parametrize(
    ("one", "other"), list(combinations((Duty.SYSTEM, Duty.SECURITY, Duty.AUDIT), 2))
)
def test_no_two_of_the_three_administrators_may_change_the_same(one: Duty, other: Duty) -> None:
    shared = {
        action.value
        for action in Action
        if all(
            any(LINES[action].allows(role) for role in Role if DUTY_OF[role] is duty)
            for duty in (one, other)
        )
    }
    decided_apart = {"approval.decide", "grant.revoke", "approval.request", "session.own"}
    changing = {name for name in shared if not name.endswith((".list", ".view", ".explain"))}
    assert changing <= decided_apart


@pytest.mark.parametrize("role", [r for r in Role if r not in DEPARTMENTAL])
def test_nobody_with_a_role_of_the_whole_vault_reads_or_writes_documents(role: Role) -> None:
    documents = [
        action for action in Action if action.value.startswith(("document.", "key.export"))
    ]
    assert not any(decide(having(role), action).allowed for action in documents)


def test_an_auditor_changes_nothing() -> None:
    allowed = {a.value for a in Action if decide(having(Role.AUDITOR), a).allowed}
    own = {"session.own", "approval.request"}
    assert all(name.endswith((".list", ".view", ".explain")) for name in allowed - own)

"""The policy, decided over every action, scope and department; the truth stands here once more."""

from __future__ import annotations

from itertools import product
from uuid import uuid4

import pytest

from vault.access.policy import EVERY_DEPARTMENT, Action, Caller, Scope, decide

NEEDS = {
    Action.DOCUMENT_CREATE: "write",
    Action.DOCUMENT_READ: "read",
    Action.DOCUMENT_LIST: "read",
    Action.DOCUMENT_UPDATE: "write",
    Action.DOCUMENT_MOVE: "write",
    Action.DOCUMENT_BIN: "write",
    Action.CLASS_LIST: None,
    Action.CLASS_ADD: "admin",
    Action.HOLD_PLACE: "admin",
    Action.HOLD_RELEASE: "admin",
    Action.HOLD_LIST: "admin",
    Action.PRINCIPAL_MANAGE: "admin",
    Action.API_KEY_MANAGE: "admin",
    Action.API_KEY_ROTATE_OWN: None,
    Action.KEY_LIST: "admin",
    Action.KEY_ROTATE: "admin",
    Action.KEY_REWRAP: "admin",
    Action.KEY_RETIRE: "admin",
    Action.KEY_SHRED: "admin",
    Action.KEY_DRILL: "admin",
    Action.KEY_EXPORT: "export-keys",
    Action.KEY_REGISTER_RECOVERY: "admin",
    Action.SITE_LIST: "admin",
    Action.SITE_MANAGE: "admin",
    Action.JOB_LIST: "admin",
    Action.JOB_STOP: "admin",
    Action.ACCESS_EXPLAIN: "admin",
    Action.FINDING_LIST: "admin",
}


def caller(scopes: set[Scope], department: str | None) -> Caller:
    return Caller(uuid4(), "someone", "key", frozenset(scopes), department)


def test_the_table_knows_every_action() -> None:
    assert set(NEEDS) == set(Action)


@pytest.mark.parametrize(("action", "scope"), list(product(Action, Scope)))
def test_a_scope_allows_just_its_own_actions(action: Action, scope: Scope) -> None:
    allowed = decide(caller({scope}, "sales"), action).allowed
    assert allowed is (NEEDS[action] in (None, scope.value))


@pytest.mark.parametrize("action", Action)
def test_no_scope_allows_only_what_needs_none(action: Action) -> None:
    assert decide(caller(set(), "sales"), action).allowed is (NEEDS[action] is None)


@pytest.mark.parametrize(
    ("own", "visible"),
    [("sales", True), (EVERY_DEPARTMENT, True), ("credit", False), (None, False)],
)
def test_another_department_s_documents_do_not_exist(own: str | None, visible: bool) -> None:
    decision = decide(caller(set(Scope), own), Action.DOCUMENT_READ, "sales")
    assert decision.allowed is decision.visible is visible


def test_a_missing_scope_is_told_before_visibility() -> None:
    decision = decide(caller(set(), "credit"), Action.DOCUMENT_READ, "sales")
    assert decision.visible
    assert "scope 'read'" in decision.rule

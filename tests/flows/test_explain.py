"""`access explain`: what would be decided, the rule in words, an event, and nothing done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from api import auth
from tests.api.helpers import upload
from tests.api.test_callers import issue
from tests.flows.test_cli import Cli
from tests.people import add_person, department, grant, person
from tests.running import RunningService
from vault.access.policy import Action
from vault.access.roles import Role

pytestmark = pytest.mark.parametrize("kms", ["keyring"], indirect=True)


def explain(
    service: RunningService,
    who: str,
    action: str,
    department: str | None = None,
    what: str | None = None,
) -> dict[str, Any]:
    body = {"who": who, "action": action, "department": department, "what": what}
    answer = service.admin.post("/v1/access/explain", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("by", ["id", "name", "key"])
def test_it_says_what_a_request_would_meet(service: RunningService, by: str) -> None:
    principal, token = issue(service, "clerk", scopes=["read"], department="sales")
    who = {"id": principal, "name": "clerk", "key": token.split("_")[1]}[by]
    own = explain(service, who, "document.read", "sales")
    assert (own["allowed"], own["visible"]) == (True, True)
    assert own["rule"] == "document.read is allowed by the scope 'read'"
    other = explain(service, who, "document.read", "credit")
    assert (other["allowed"], other["visible"]) == (False, False)
    assert other["rule"] == "documents of other departments are not visible"
    needs = explain(service, who, "document.create", "sales")
    assert needs["rule"] == "document.create needs an API key with the scope 'write'"
    assert (own["principal"], own["principal_id"]) == ("clerk", principal)
    assert own["api_key_id"] == (who if by == "key" else None)


def test_without_a_department_it_says_where(service: RunningService) -> None:
    issue(service, "clerk", scopes=["read"], department="sales")
    issue(service, "archive", scopes=["read"], department="*")
    assert explain(service, "clerk", "document.read")["rule"].endswith(
        "for documents of the department 'sales' only"
    )
    assert explain(service, "archive", "document.read")["rule"].endswith("of every department")


def test_a_key_of_fewer_scopes_is_judged_by_its_own(service: RunningService) -> None:
    principal, _ = issue(service, "clerk", scopes=["read", "write"], department="sales")
    body = {"principal_id": principal, "scopes": ["read"]}
    key = service.admin.post("/v1/api-keys", json=body).json()["id"]
    assert not explain(service, key, "document.create", "sales")["allowed"]
    assert explain(service, "clerk", "document.create", "sales")["allowed"]


def test_a_dead_key_may_do_nothing(service: RunningService) -> None:
    principal, token = issue(service, "clerk", scopes=["read"], department="sales")
    key = token.split("_")[1]
    service.admin.post(f"/v1/api-keys/{key}/revoke")
    found = explain(service, key, "class.list")
    assert (found["allowed"], found["rule"]) == (
        False,
        "the API key is revoked, so it may do nothing",
    )
    assert explain(service, principal, "class.list")["allowed"]
    service.admin.post(f"/v1/principals/{principal}/disable")
    assert "the principal is disabled" in explain(service, "clerk", "class.list")["rule"]


def test_nobody_known_and_actions_that_are_none_are_refused(service: RunningService) -> None:
    for who in ("nobody", "0" * 16, "00000000-0000-4000-8000-000000000000", "a\0b"):
        body = {"who": who, "action": "document.read"}
        assert service.admin.post("/v1/access/explain", json=body).status_code == 404
    wrong = {"who": "demo", "action": "document.burn"}
    assert service.admin.post("/v1/access/explain", json=wrong).status_code == 422


def test_a_person_is_judged_by_the_roles_that_count_now(service: RunningService) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    later = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    department(service, "credit")
    grant(service, clerk.id, Role.ARCHIVE_MANAGER, department="sales", starts_at=later)
    grant(service, clerk.id, Role.STAFF, department="credit", starts_at=later)
    for who in ("clerk", str(clerk.id)):
        found = explain(service, who, "document.read", what="sales")
        assert (found["allowed"], found["department"], found["api_key_id"]) == (True, "sales", None)
        assert found["rule"].endswith("by the role 'staff' in the department 'sales'")
    assert explain(service, "clerk", "document.read")["rule"].endswith("'sales' only")
    needs = explain(service, "clerk", "document.bin", "sales")
    assert needs["rule"] == "document.bin needs the role 'archive_manager'"
    hidden = explain(service, "clerk", "document.read", "credit")
    assert (hidden["allowed"], hidden["visible"]) == (False, False)
    add_person(service, "nobody-yet")
    assert not explain(service, "nobody-yet", "document.read")["allowed"]


def test_a_step_up_and_an_approval_are_named_as_conditions(service: RunningService) -> None:
    person(service, "security", [(Role.SECURITY_ADMINISTRATOR, None)], stepped_up=False)
    person(service, "manager", [(Role.ARCHIVE_MANAGER, "demo")])
    role = explain(service, "security", "role.grant")
    assert role["allowed"]
    approval = ", with an approval by the role 'security_administrator', after a step-up"
    assert role["rule"].endswith(approval)
    exported = explain(service, "manager", "key.export", what="demo")["rule"]
    assert exported.endswith("with an approval by the role 'department_head', after a step-up")


def test_about_a_document_it_knows_department_class_and_holds_and_tells_only_the_decision(
    service: RunningService,
) -> None:
    service.admin.post("/v1/classes", json={"name": "contracts"})
    document = upload(service.demo, b"x", params={"class": "contracts"})["id"]
    security = person(service, "security", [(Role.SECURITY_ADMINISTRATOR, None)])
    person(service, "manager", [(Role.ARCHIVE_MANAGER, "demo")])
    person(service, "other", [(Role.ARCHIVE_MANAGER, "sales")])
    narrow = add_person(service, "narrow")
    of_class = {"department": "demo", "class_name": "general"}
    grant(service, UUID(narrow["id"]), Role.STAFF, **of_class)

    def asked(who: str, action: str, what: str = document) -> dict[str, Any]:
        body = {"who": who, "action": action, "what": what}
        found: dict[str, Any] = security.client.post("/v1/access/explain", json=body).json()
        return found

    allowed = asked("manager", "document.bin")
    assert allowed["rule"] == "document.bin is allowed by the role 'archive_manager'"
    assert (allowed["allowed"], allowed["department"]) == (True, None)
    assert "demo" not in str(allowed)
    assert "contracts" not in str(allowed)
    assert asked("other", "document.read")["visible"] is False
    assert asked("narrow", "document.read")["allowed"] is False
    assert asked("demo", "document.read")["allowed"] is True
    service.admin.post("/v1/holds", json={"document_id": document, "reason": "a court"})
    held = asked("manager", "document.bin")
    assert (held["allowed"], held["rule"]) == (False, "a legal hold lies on the document")
    assert asked("manager", "document.read")["allowed"] is True
    missing = asked("manager", "document.read", "00000000-0000-4000-8000-000000000000")
    assert missing["status"] == 404


def test_a_role_that_sql_wrote_allows_nothing_in_an_explanation(
    service: RunningService, owner: Engine
) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    with owner.begin() as connection:
        connection.execute(text("UPDATE role_grants SET role = 'department_head'"))
    body = {"who": "clerk", "action": "document.read"}
    explained = service.admin.post("/v1/access/explain", json=body).json()
    assert explained["allowed"] is False
    (finding,) = service.admin.get("/v1/access/findings").json()["items"]
    assert finding["subject"] == "role_grants"
    assert clerk.client.get("/v1/whoami").json()["roles"] == []


def test_it_needs_a_permission_of_its_own(service: RunningService) -> None:
    body = {"who": "administrator", "action": "document.read"}
    refused = service.demo.post("/v1/access/explain", json=body)
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("access.explain needs")


def test_it_is_an_event_and_does_nothing(service: RunningService, owner: Engine) -> None:
    document = upload(service.demo, b"stays")
    explain(service, "demo", "document.bin", "demo")
    assert service.demo.get(f"/v1/documents/{document['id']}").json()["state"] == "live"
    with owner.connect() as connection:
        query = "SELECT detail FROM access_events WHERE type = 'api:access:explained'"
        (detail,) = connection.execute(text(query)).scalars()
    assert detail["action"] == "document.bin"
    assert detail["allowed"] is True


@pytest.mark.parametrize("action", [Action.CLASS_LIST, Action.CLASS_ADD, Action.DOCUMENT_LIST])
def test_it_says_the_same_as_the_act(service: RunningService, action: Action) -> None:
    acts = {
        Action.CLASS_LIST: ("GET", "/v1/classes", None),
        Action.CLASS_ADD: ("POST", "/v1/classes", {"name": "made-here"}),
        Action.DOCUMENT_LIST: ("GET", "/v1/documents", None),
    }
    method, path, body = acts[action]
    for who, client in (("administrator", service.admin), ("demo", service.demo)):
        said = explain(service, who, action.value)
        answer = client.request(method, path, json=body)
        assert answer.is_success is said["allowed"], (who, said)
        if not said["allowed"]:
            assert answer.json()["detail"] == said["rule"]


def test_the_command_line_says_it_in_words_and_lists_every_action(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "TTL_SECONDS", 0.0)
    cli = Cli(service.url, service.admin_key)
    said = cli.run("access", "explain", "demo", "document.read", "--department", "demo").stdout
    assert "allowed" in said
    assert "document.read is allowed by the scope 'read'" in said
    assert "allowed" in cli.run("access", "explain", "demo", "document.read", "demo").stdout
    document = upload(service.demo, b"x")["id"]
    assert "allowed" in cli.run("access", "explain", "demo", "document.read", document).stdout
    twice = ("access", "explain", "demo", "document.read", "demo", "--department", "demo")
    assert "once" in cli.run(*twice, exit_code=2).stderr
    hidden = cli.run("access", "explain", "demo", "document.read", "--department", "hr").stdout
    assert "refused, as if it did not exist" in hidden
    assert cli.json("access", "explain", "demo", "class.add")["allowed"] is False
    shown = "".join(cli.run("access", "explain", "--help").stdout.split()).replace("│", "")
    assert all(action.value in shown for action in Action)
    assert "no such action" in cli.run("access", "explain", "demo", "x", exit_code=2).stderr
    cli.run("access", "explain", "nobody", "class.add", exit_code=1)

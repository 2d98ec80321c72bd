"""`access explain`: what would be decided, the rule in words, an event, and nothing done."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from api import auth
from tests.api.helpers import upload
from tests.api.test_callers import issue
from tests.flows.test_cli import Cli
from tests.running import RunningService
from vault.access.policy import Action

pytestmark = pytest.mark.parametrize("kms", ["keyring"], indirect=True)


def explain(
    service: RunningService, who: str, action: str, department: str | None = None
) -> dict[str, Any]:
    body = {"who": who, "action": action, "department": department}
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
    hidden = cli.run("access", "explain", "demo", "document.read", "--department", "hr").stdout
    assert "refused, as if it did not exist" in hidden
    assert cli.json("access", "explain", "demo", "class.add")["allowed"] is False
    shown = "".join(cli.run("access", "explain", "--help").stdout.split()).replace("│", "")
    assert all(action.value in shown for action in Action)
    assert "no such action" in cli.run("access", "explain", "demo", "x", exit_code=2).stderr
    cli.run("access", "explain", "nobody", "class.add", exit_code=1)

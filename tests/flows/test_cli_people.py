"""People, roles, approvals and grants from the command line, against the running service."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer

from api.commands import moments
from api.settings import KmsSettings
from tests.api.helpers import upload
from tests.api.test_sites import sites
from tests.flows.test_cli import Cli
from tests.flows.test_cli_sites import at_a_terminal
from tests.people import Person, add_person, department, grant, person
from tests.running import RunningService
from tests.unit.test_client import Server
from vault.access.roles import Role

NOBODY = "00000000-0000-4000-8000-000000000000"
SECURITY = [(Role.SECURITY_ADMINISTRATOR, None)]


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture
def admin(service: RunningService) -> Cli:
    return Cli(service.url, service.admin_key)


@pytest.fixture
def server() -> Iterator[Server]:
    """A service that says whatever a test has it say."""
    running = Server()
    yield running
    running.close()


def of(service: RunningService, who: Person) -> Cli:
    """The command line of somebody who is signed in."""
    return Cli(service.url, who.client.headers["Authorization"].removeprefix("Bearer "))


def days_from_now(days: int) -> str:
    """A bare date."""
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()  # noqa: TID251


@pytest.fixture
def first(service: RunningService) -> Cli:
    """One of two security administrators."""
    return of(service, person(service, "first", SECURITY))


@pytest.fixture
def second(service: RunningService) -> Cli:
    """The other one."""
    return of(service, person(service, "second", SECURITY))


# Departments, people, roles, sessions


def test_departments_are_added_listed_and_closed(admin: Cli) -> None:
    assert admin.json("department", "add", "sales")["title"] == "sales"
    assert admin.json("department", "add", "credit", "--title", "信贷部")["title"] == "信贷部"
    assert "信贷部" in admin.run("department", "list").stdout
    assert admin.json("department", "close", "credit")["closed_at"] is not None
    refused = admin.json("person", "add", "late", "--department", "credit", exit_code=1)
    assert refused["status"] == 422
    admin.run("department", "close", "nowhere", exit_code=1)


def test_a_person_is_added_given_a_role_and_loses_it(admin: Cli) -> None:
    admin.run("department", "add", "sales")
    added = admin.json("person", "add", "li.wei", "--display-name", "李伟", "--department", "sales")
    words = ("role", "grant", added["id"], "staff", "--department", "sales", "--class", "general")
    granted = admin.json(*words)
    assert (granted["class"], granted["ends_at"]) == ("general", None)
    assert "staff" in admin.run("role", "list", "--principal-id", added["id"]).stdout
    assert admin.json("role", "list", "--principal-id", NOBODY)["items"] == []
    assert admin.json("role", "revoke", granted["id"])["revoked_at"] is not None
    admin.run("role", "revoke", NOBODY, exit_code=1)
    admin.run("role", "grant", added["id"], "emperor", exit_code=2)


def test_two_accounts_may_be_one_person_and_an_application_names_one(admin: Cli) -> None:
    one = admin.json("person", "add", "one")
    two = admin.json("person", "add", "two", "--same-person-as", one["id"])
    assert one["person_id"] == two["person_id"]
    words = ("principal", "add", "crm", "--scope", "operate", "--responsible", two["id"])
    assert admin.json(*words)["person_id"] == one["person_id"]
    assert {each["name"] for each in admin.json("person", "list")["items"]} == {"one", "two"}
    applications = admin.json("principal", "list", "--kind", "application")["items"]
    assert "crm" in {each["name"] for each in applications}
    assert not {"one", "two"} & {each["name"] for each in applications}
    admin.run("principal", "list", "--kind", "robot", exit_code=2)


def test_a_revoked_session_is_over_at_once(admin: Cli, service: RunningService) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    cli = of(service, clerk)
    assert cli.json("department", "list")["items"]
    (found,) = admin.json("session", "list", "--principal-id", str(clerk.id))["items"]
    assert "token" not in found
    assert "password" in admin.run("session", "list").stdout
    assert admin.json("session", "revoke", found["id"])["revoked_at"] is not None
    assert cli.json("department", "list", exit_code=1)["status"] == 401


@pytest.mark.parametrize("listed", ["department", "person", "role", "session"])
def test_lists_about_people_have_pages_and_all(
    listed: str, admin: Cli, service: RunningService
) -> None:
    for number in range(3):
        person(service, f"clerk-{number}", [(Role.STAFF, f"department-{number}")])
    _has_pages(admin, listed)


@pytest.mark.parametrize("listed", ["approval", "grant"])
def test_lists_of_approvals_and_grants_have_pages_and_all(
    listed: str, admin: Cli, first: Cli, second: Cli, service: RunningService
) -> None:
    for number in range(3):
        added = add_person(service, f"auditor-{number}")
        asked = _asked(first, added["id"])
        second.run("approval", "approve", asked["id"])
    _has_pages(admin, listed)


def _has_pages(cli: Cli, listed: str) -> None:
    page = cli.json(listed, "list", "--page-size", "2")
    assert len(page["items"]) == 2
    more = cli.json(listed, "list", "--page-size", "2", "--page-token", page["next_page_token"])
    known = {json.dumps(each) for each in page["items"]}
    assert not known & {json.dumps(each) for each in more["items"]}
    assert len(cli.json(listed, "list", "--page-size", "2", "--all")["items"]) >= 3
    assert "--page-token" in cli.run(listed, "list", "--page-size", "2").stderr


def test_set_up_is_not_closed_without_a_yes(admin: Cli, service: RunningService) -> None:
    assert "cannot be undone" in admin.run("setup", "close", exit_code=2).stderr
    refused = admin.json("setup", "close", "--yes", exit_code=1)
    assert refused["type"].endswith("setup-incomplete")
    for name, role in (
        ("first", Role.SECURITY_ADMINISTRATOR),
        ("second", Role.SECURITY_ADMINISTRATOR),
        ("operator", Role.IT_OPERATIONS),
        ("auditor", Role.AUDITOR),
    ):
        person(service, name, [(role, None)])
    code, output = at_a_terminal(admin, "n", "setup", "close")
    assert code == 2, output
    admin.run("principal", "list")
    assert admin.json("setup", "close", "--yes") == {"disabled": 1}
    assert admin.json("principal", "list", exit_code=1)["status"] == 401


# Two people


def test_a_dangerous_role_is_asked_for_approved_and_then_granted(
    first: Cli, second: Cli, service: RunningService
) -> None:
    auditor = add_person(service, "auditor")
    words = ("role", "grant", auditor["id"], "auditor")
    asked = first.run(*words, "--ask", "the audit of 2026", exit_code=1)
    assert "the audit of 2026" in asked.stdout
    assert "not done yet" in asked.stderr
    (waiting,) = second.json("approval", "list", "--state", "requested")["items"]
    assert f"approval approve {waiting['id']}" in asked.stderr
    listed = second.run("approval", "list").stdout
    for name in ("requested_by", "action", "department", "state", "decide_before"):
        assert name in listed
        assert str(waiting[name] or "")[:10] in listed
    shown = second.run("approval", "show", waiting["id"]).stdout
    assert auditor["id"] in shown
    approved = second.json("approval", "approve", waiting["id"], "--comment", "as agreed")
    assert (approved["state"], approved["comment"]) == ("approved", "as agreed")
    (given,) = first.json("grant", "list")["items"]
    assert (given["id"], given["remaining"]) == (approved["grant_id"], 1)
    assert first.json(*words, "--ask", "the audit of 2026")["role"] == "auditor"
    assert first.json("grant", "list")["items"][0]["remaining"] == 0


def test_a_role_until_a_day_is_asked_for_with_the_target_that_the_act_uses(
    first: Cli, second: Cli, service: RunningService
) -> None:
    department(service, "sales")
    head, deputy = (add_person(service, name) for name in ("head", "deputy"))
    grant(service, UUID(head["id"]), Role.DEPARTMENT_HEAD, department="sales")
    words = (
        *("role", "grant", deputy["id"], "department_head", "--department", "sales"),
        *("--deputy-of", head["id"], "--from", days_from_now(1), "--until", days_from_now(9)),
    )
    asked = first.json(*words, "--ask", "leave", exit_code=1)
    assert asked["target"]["ends_at"] == f"{days_from_now(10)}T00:00:00+00:00"
    second.run("approval", "approve", asked["id"])
    other_day = (*words[:-1], days_from_now(8))
    assert first.json(*other_day, exit_code=1)["type"].endswith("approval-needed")
    at_once = (*words[:-4], *words[-2:])
    assert first.json(*at_once, exit_code=1)["type"].endswith("approval-needed")
    granted = first.json(*words)
    assert granted["deputy_of"] == head["person_id"]
    assert granted["starts_at"].startswith(days_from_now(1))


def test_a_moment_in_another_zone_is_the_same_target(
    first: Cli, second: Cli, service: RunningService
) -> None:
    auditor = add_person(service, "auditor")
    words = ("role", "grant", auditor["id"], "auditor", "--until")
    asked = first.json(*words, f"{days_from_now(9)}T18:00+08:00", "--ask", "audit", exit_code=1)
    second.run("approval", "approve", asked["id"])
    assert first.json(*words, f"{days_from_now(9)}T10:00Z")["role"] == "auditor"


def test_without_ask_the_command_that_asks_is_printed_and_works(
    first: Cli, second: Cli, service: RunningService
) -> None:
    auditor = add_person(service, "auditor")
    words = ("role", "grant", auditor["id"], "auditor")
    refused = first.run(*words, exit_code=1)
    assert "takes an approval" in refused.stderr
    printed = refused.stderr.partition("to ask for it: strongroom ")[2]
    made = first.run("--json", *shlex.split(printed))
    assert first.json("approval", "list")["items"][0]["id"] == json.loads(made.stdout)["id"]
    assert first.json(*words, exit_code=1)["type"].endswith("approval-needed")
    second.run("approval", "approve", json.loads(made.stdout)["id"])
    first.run(*words)


def test_what_takes_no_approval_is_done_though_it_was_to_be_asked(
    admin: Cli, first: Cli, service: RunningService
) -> None:
    department(service, "sales")
    clerk = add_person(service, "clerk")
    words = ("role", "grant", clerk["id"], "staff", "--department", "sales")
    assert first.json(*words, "--ask", "new here")["role"] == "staff"
    missing = ("role", "grant", NOBODY, "staff", "--department", "sales", "--ask", "new here")
    assert first.json(*missing, exit_code=1)["status"] == 404
    assert admin.json("approval", "list")["items"] == []


def test_what_is_denied_or_withdrawn_gives_nothing(
    first: Cli, second: Cli, service: RunningService
) -> None:
    auditor = add_person(service, "auditor")
    denied, withdrawn = (_asked(first, auditor["id"]) for _ in range(2))
    refused = first.json("approval", "approve", denied["id"], exit_code=1)
    assert "nobody decides over their own request" in refused["detail"]
    found = second.json("approval", "deny", denied["id"], "--comment", "which audit?")
    assert (found["state"], found["grant_id"]) == ("denied", None)
    second.run("approval", "withdraw", withdrawn["id"], exit_code=1)
    assert first.json("approval", "withdraw", withdrawn["id"])["state"] == "withdrawn"
    over = second.json("approval", "approve", withdrawn["id"], exit_code=1)
    assert over["type"].endswith("approval-over")
    first.run("role", "grant", auditor["id"], "auditor", exit_code=1)
    states = [each["state"] for each in first.json("approval", "list", "--all")["items"]]
    assert states == ["withdrawn", "denied"]


def test_a_revoked_grant_is_used_for_nothing(
    first: Cli, second: Cli, service: RunningService
) -> None:
    auditor = add_person(service, "auditor")
    asked = _asked(first, auditor["id"])
    given = second.json("approval", "approve", asked["id"])["grant_id"]
    assert second.json("grant", "revoke", given)["revoked_at"] is not None
    assert "role.grant" in first.run("grant", "list").stdout
    first.run("role", "grant", auditor["id"], "auditor", exit_code=1)
    first.run("grant", "revoke", NOBODY, exit_code=1)


def test_a_request_that_cannot_be_read_is_exit_2(first: Cli) -> None:
    more = ("--purpose", "staffing", "--reason", "r")
    first.run("approval", "request", "role.grant", "--target", "role", *more, exit_code=2)
    unknown = ("approval", "request", "tea.make", "--target", "a=b", *more)
    assert "role.grant" in first.run(*unknown, exit_code=2).output
    first.run("approval", "request", "role.grant", "--target", "a=b", *more, exit_code=1)
    first.run("approval", "show", NOBODY, exit_code=1)
    first.run("approval", "show", "not-an-id", exit_code=2)


def _asked(cli: Cli, principal_id: str) -> Any:
    return cli.json("role", "grant", principal_id, "auditor", "--ask", "audit", exit_code=1)


# The other acts that take an approval


def test_a_data_key_is_asked_for_and_exported_once(service: RunningService, tmp_path: Path) -> None:
    manager = person(service, "manager", [(Role.ARCHIVE_MANAGER, "sales")])
    head = of(service, person(service, "head", [(Role.DEPARTMENT_HEAD, "sales")]))
    document = upload(manager.client, b"1")
    cli, file = of(service, manager), tmp_path / "key.json"
    words = ("key", "export-dek", document["id"], "--version", "1", "-o", str(file))
    ask = ("--ask", "case 7", "--purpose", "court-order")
    assert "--purpose" in cli.run(*words, "--ask", "case 7", exit_code=2).output
    assert "approval request key.export" in cli.run(*words, exit_code=1).stderr
    assert cli.json(*words, *ask[:2], "--purpose", "disaster", exit_code=1)["status"] == 422
    asked = cli.json(*words, *ask, exit_code=1)
    assert (asked["department"], asked["purpose"]) == ("sales", "court-order")
    assert not file.exists()
    head.run("approval", "approve", asked["id"])
    file.write_text("in the way")
    cli.run(*words, *ask, exit_code=2)
    file.unlink()
    cli.run(*words, *ask)
    assert json.loads(file.read_text())["size_bytes"] == 1
    cli.run(*words[:-1], str(tmp_path / "again.json"), exit_code=1)


def test_a_failover_is_asked_for_where_there_are_two_operators(service: RunningService) -> None:
    operator, other = (
        of(service, person(service, name, [(Role.IT_OPERATIONS, None)])) for name in ("one", "two")
    )
    words = ("site", "failover", "b", "--yes")
    refused = operator.run(*words, exit_code=1)
    assert "approval request site.fail-over --target site=b" in refused.stderr
    asked = operator.run(*words, "--ask", "drill", "--purpose", "exercise", exit_code=1)
    assert "not done yet" in asked.stderr
    assert not sites(service)["a"]["is_fenced"]
    (waiting,) = other.json("approval", "list")["items"]
    other.run("approval", "approve", waiting["id"])
    assert "site b goes on alone" in operator.run(*words).stdout
    assert sites(service)["a"]["is_fenced"]


# What a service may send


def test_what_a_service_says_of_people_does_not_reach_the_terminal_raw(server: Server) -> None:
    evil = "boss\x1b]0;x\x07\u202egnp.exe\u2066\x9b31m"
    item = {
        "id": NOBODY,
        "name": evil,
        "display_name": evil,
        "title": evil,
        "department": evil,
        "reason": evil,
        "target": {evil: evil},
        "state": evil,
        "decide_before": evil,
        "expires_at": evil,
    }
    page = json.dumps({"items": [item], "next_page_token": evil}).encode()
    cli = Cli(server.url, "sr_key")
    server.answer = lambda _: (200, {}, page)
    for listed in ("department", "person", "role", "session", "approval", "grant"):
        _is_harmless(cli.run(listed, "list"))
        _is_harmless(cli.run("--json", listed, "list"))
    server.answer = lambda _: (200, {}, json.dumps(item).encode())
    _is_harmless(cli.run("approval", "show", NOBODY))
    _is_harmless(cli.run("approval", "approve", NOBODY))


def test_a_refusal_and_a_request_of_a_lying_service_are_printed_harmlessly(server: Server) -> None:
    evil = "\x1b[2J\u202e"
    refused = {
        "type": "urn:strongroom:problem:approval-needed",
        "title": evil,
        "detail": evil,
        "status": 403,
    }
    made = {"id": evil, "decide_before": evil, "target": {evil: evil}}
    problem = {"Content-Type": "application/problem+json"}
    answers = iter([(403, problem, refused), (201, {}, made)])

    def answer(_: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = next(answers)
        return status, headers, json.dumps(body).encode()

    server.answer = answer
    cli = Cli(server.url, "sr_key")
    words = ("role", "grant", NOBODY, "auditor", "--ask", "audit")
    _is_harmless(cli.run(*words, exit_code=1))
    sent = json.loads(server.bodies[1])
    assert sent["target"] == {"principal": NOBODY, "role": "auditor"}


def _is_harmless(result: Any) -> None:
    for text in (result.stdout, result.stderr):
        assert not [c for c in text if c in "\x1b\x07\x9b\u202e\u2066"], repr(text)


# Moments


def test_a_bare_date_is_a_whole_day_in_utc() -> None:
    midnight = datetime(2026, 12, 31, tzinfo=UTC)
    assert moments.beginning("2026-12-31") == midnight
    assert moments.end("2026-12-31") == midnight + timedelta(days=1)
    assert moments.end("2026-12-31T08:00+08:00") == midnight


@pytest.mark.parametrize("written", ["", "soon", "2026-12-31T10:00", "9999-12-31", "2026-13-01"])
def test_what_is_no_moment_is_refused(written: str) -> None:
    with pytest.raises(typer.BadParameter):
        moments.end(written)


def test_an_account_at_the_provider_is_linked_listed_and_revoked(
    service: RunningService, first: Cli, second: Cli
) -> None:
    operator = person(service, "operator", [(Role.IT_OPERATIONS, None)])
    words = (
        *("identity", "link", str(operator.id)),
        *("--issuer", "https://login.example.org", "--subject", "8f0d"),
    )
    asked = first.json(*words, "--ask", "new directory", exit_code=1)
    assert asked["action"] == "credentials.reset"
    second.run("approval", "approve", asked["id"])
    linked = first.json(*words)
    assert linked["subject"] == "8f0d"
    assert first.json("identity", "list", str(operator.id))["items"] == [linked]
    assert first.json("identity", "revoke", linked["id"])["revoked_at"]


def test_a_key_that_reaches_every_department_is_asked_for_and_issued(
    service: RunningService, first: Cli, second: Cli
) -> None:
    made = first.json("principal", "add", "all", "--scope", "read", "--department", "*")
    words = ("api-key", "issue", made["id"])
    assert "approval request api-key.issue" in first.run(*words, exit_code=1).stderr
    asked = first.json(*words, "--ask", "the yearly export", exit_code=1)
    second.run("approval", "approve", asked["id"])
    assert first.json(*words)["token"].startswith("sr_")

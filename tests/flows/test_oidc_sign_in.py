"""People sign in at a real provider, into the real service; and what others try instead."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
import structlog
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from sqlalchemy import Engine

from api import cookies, metrics
from api.bootstrap import build
from api.cookies import COOKIE, PLAIN_COOKIE
from api.oidc import signin
from api.settings import KmsSettings, OidcSettings, Settings
from tests.api.helpers import upload
from tests.flows.test_sealed_rows import findings, run
from tests.people import add_person, department, grant, person, sign_in
from tests.running import RunningService, running
from tests.servers.lying import CLIENT_ID, KEY, LyingProvider, lying_provider, public, signed
from tests.servers.oidc import Browser, OidcServer
from vault import clock
from vault.access import oidc_sign_ins
from vault.access.roles import Role

SESSION = PLAIN_COOKIE
BINDING = cookies.PLAIN_SIGN_IN_COOKIE


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing of this reaches the KMS."""
    return keyring


@pytest.fixture
def settings(settings: Settings, oidc: OidcServer) -> Settings:
    """With the provider."""
    return settings.model_copy(update={"oidc": oidc.settings()})


class Desk:
    """Somebody's browser, with an account at the provider, in front of the service."""

    def __init__(self, service: RunningService, account: str) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.url, timeout=60, trust_env=False)
        self._browser = Browser(account)

    def leave(self, path: str = "/v1/oidc/sign-in") -> str:
        """Where the service sends the browser."""
        left = self.http.get(path)
        assert left.status_code == 302, left.text
        return str(left.headers["location"])

    def answer(self, path: str = "/v1/oidc/sign-in") -> dict[str, str]:
        """What the provider sends the browser back with."""
        return self._browser.visit(self.leave(path))

    def come_back(self, params: Any) -> httpx.Response:
        return self.http.get("/v1/oidc/callback", params=params)

    def sign_in(self) -> httpx.Response:
        return self.come_back(self.answer())

    def step_up(self) -> httpx.Response:
        return self.come_back(self.answer("/v1/oidc/step-up"))

    def post(self, path: str, json: Any = None) -> httpx.Response:
        """As a page of the service does."""
        return self.http.post(path, json=json, headers={"Origin": self.service.url})

    @property
    def session(self) -> str | None:
        return self.http.cookies.get(SESSION)


def link(service: RunningService, principal: str, subject: str) -> dict[str, Any]:
    issuer = service.services.settings.oidc.issuer if service.services.settings.oidc else ""
    linked = service.admin.post(
        f"/v1/people/{principal}/identities", json={"issuer": issuer, "subject": subject}
    )
    assert linked.status_code == 201, linked.text
    found: dict[str, Any] = linked.json()
    return found


def linked_person(
    service: RunningService, name: str, *roles: tuple[Role, str | None], subject: str | None = None
) -> str:
    """A person whom the provider knows by their name, or by `subject`."""
    added = str(add_person(service, name)["id"])
    for role, where in roles:
        if where is not None:
            department(service, where)
        grant(service, UUID(added), role, department=where)
    link(service, added, subject or name)
    return added


def is_problem(answer: httpx.Response, status: int, slug: str) -> bool:
    found = answer.json()
    return answer.status_code == status and found["type"] == f"urn:strongroom:problem:{slug}"


def sessions(owner: Engine) -> int:
    return int(run(owner, "SELECT count(*) FROM sessions")[0][0])


def pending(owner: Engine) -> int:
    return int(run(owner, "SELECT count(*) FROM oidc_sign_ins")[0][0])


def refusals(owner: Engine) -> list[dict[str, Any]]:
    query = "SELECT detail FROM access_events WHERE type = 'api:sign-in:refused' ORDER BY at"
    return [row[0] for row in run(owner, query)]


def outcomes(outcome: str) -> float:
    return float(metrics.OIDC_SIGN_INS.labels(outcome)._value.get())


# Signing in.


def test_somebody_signs_in_and_has_the_roles_of_our_database(service: RunningService) -> None:
    linked_person(service, "alice", (Role.STAFF, "sales"))
    desk, before = Desk(service, "alice"), outcomes("signed-in")
    signed_in = desk.sign_in()
    assert signed_in.status_code == 200, signed_in.text
    assert signed_in.json()["session"]["method"] == "oidc"
    assert desk.session is not None
    assert desk.session not in signed_in.text
    me = desk.http.get("/v1/whoami").json()
    assert me["name"] == "alice"
    assert [(r["role"], r["department"]) for r in me["roles"]] == [("staff", "sales")]
    assert outcomes("signed-in") == before + 1


def test_what_the_callback_sets_is_kept_from_scripts_other_sites_and_caches(
    service: RunningService,
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    left = desk.http.get("/v1/oidc/sign-in")
    (binding,) = left.headers.get_list("set-cookie")
    assert binding.startswith(f"{BINDING}=")
    assert {"HttpOnly", "SameSite=lax", "Max-Age=600"} <= set(binding.split("; "))
    came = desk.come_back(Browser("alice").visit(left.headers["location"]))
    found = {c.partition("=")[0]: c for c in came.headers.get_list("set-cookie")}
    assert {"HttpOnly", "SameSite=strict"} <= set(found[SESSION].split("; "))
    assert "Max-Age=0" in found[BINDING]
    for answer in (left, came, desk.come_back({"state": "x"})):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_on_https_cookies_are_kept_to_this_host_and_to_https(settings: Settings) -> None:
    behind_a_proxy = settings.model_copy(update={"trusted_proxies": ("127.0.0.1",)})
    with build(behind_a_proxy) as services, running(services) as service:
        linked_person(service, "alice")
        headers = {"X-Forwarded-Proto": "https"}
        left = httpx.get(f"{service.url}/v1/oidc/sign-in", headers=headers, trust_env=False)
        (binding,) = left.headers.get_list("set-cookie")
        headers["Cookie"] = binding.partition(";")[0]
        came = httpx.get(
            f"{service.url}/v1/oidc/callback",
            params=Browser("alice").visit(left.headers["location"]),
            headers=headers,
            trust_env=False,
        )
        (session,) = [c for c in came.headers.get_list("set-cookie") if "Max-Age=0" not in c]
        for cookie, name in ((binding, cookies.SIGN_IN_COOKIE), (session, COOKIE)):
            assert cookie.startswith(f"{name}=")
            assert name.startswith("__Host-")
            assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
            assert "Domain" not in cookie
        headers["Cookie"] = session.partition(";")[0]
        url = f"{service.url}/v1/whoami"
        assert httpx.get(url, headers=headers, trust_env=False).json()["name"] == "alice"


def test_two_departments_people_see_their_own_documents(service: RunningService) -> None:
    linked_person(service, "alice", (Role.STAFF, "sales"))
    linked_person(service, "bob", (Role.STAFF, "credit"))
    desks = [Desk(service, name) for name in ("alice", "bob")]
    for desk in desks:
        assert desk.sign_in().status_code == 200
        desk.http.headers["Origin"] = service.url
    filed = [upload(desk.http, b"x")["id"] for desk in desks]
    for desk, own, other in ((desks[0], *filed), (desks[1], *reversed(filed))):
        assert [d["id"] for d in desk.http.get("/v1/documents").json()["items"]] == [own]
        assert desk.http.get(f"/v1/documents/{other}").status_code == 404


def test_a_role_that_is_taken_away_is_gone_though_the_provider_still_knows_them(
    service: RunningService,
) -> None:
    principal = linked_person(service, "alice", (Role.STAFF, "sales"))
    desk = Desk(service, "alice")
    desk.sign_in()
    (role,) = service.admin.get("/v1/role-grants", params={"principal_id": principal}).json()[
        "items"
    ]
    service.admin.post(f"/v1/role-grants/{role['id']}/revoke")
    assert desk.http.get("/v1/documents").status_code == 401
    assert desk.sign_in().status_code == 200, "who they are is still known"
    assert desk.http.get("/v1/documents").status_code == 403


def test_somebody_whom_nobody_linked_is_refused_and_told_nothing(
    service: RunningService, owner: Engine
) -> None:
    add_person(service, "mallory")  # of the same name as the account, which counts for nothing
    desk, before = Desk(service, "mallory"), outcomes("identity-not-linked")
    refused = desk.sign_in()
    assert is_problem(refused, 403, "identity-not-linked")
    assert "mallory" not in refused.text
    assert desk.session is None
    assert sessions(owner) == 0
    digest = hashlib.sha256(b"mallory").hexdigest()
    (event,) = refusals(owner)
    assert event == {"method": "oidc", "reason": "identity-not-linked", "subject_sha256": digest}
    assert outcomes("identity-not-linked") == before + 1


def test_a_disabled_person_is_refused_as_if_nobody_had_linked_them(
    service: RunningService, owner: Engine
) -> None:
    principal = linked_person(service, "alice")
    service.admin.post(f"/v1/principals/{principal}/disable")
    assert is_problem(Desk(service, "alice").sign_in(), 403, "identity-not-linked")
    assert sessions(owner) == 0
    assert findings(service) == set()


def test_a_revoked_identity_ends_the_sessions_and_signs_in_no_more(service: RunningService) -> None:
    identity = link(service, linked_person(service, "alice"), "second")["id"]
    desks = [Desk(service, name) for name in ("alice", "second")]
    assert [desk.sign_in().status_code for desk in desks] == [200, 200]
    for _ in range(2):  # idempotent
        revoked = service.admin.post(f"/v1/identities/{identity}/revoke")
        assert revoked.json()["revoked_at"] is not None, revoked.text
    assert [desk.http.get("/v1/whoami").status_code for desk in desks] == [401, 401]
    assert [desk.sign_in().status_code for desk in desks] == [200, 403]


def test_somebody_who_declines_at_the_provider_is_not_signed_in(
    service: RunningService, owner: Engine
) -> None:
    desk = Desk(service, "nobody")
    assert is_problem(desk.sign_in(), 401, "sign-in-refused")
    assert [event["reason"] for event in refusals(owner)] == ["error-response"]


# Answers that were not this browser's, or are used.


def test_an_answer_is_taken_once(service: RunningService, owner: Engine) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    binding = desk.http.cookies[BINDING]
    assert desk.come_back(params).status_code == 200
    for again in (desk, Desk(service, "alice")):
        again.http.cookies.set(BINDING, binding)
        assert is_problem(again.come_back(params), 401, "sign-in-refused")
    assert sessions(owner) == 1


def test_of_one_answer_sent_many_times_at_once_one_session_comes(
    service: RunningService, owner: Engine
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    headers = {"Cookie": f"{BINDING}={desk.http.cookies[BINDING]}"}
    found: list[int] = []

    def send() -> None:
        url = f"{service.url}/v1/oidc/callback"
        with httpx.Client(trust_env=False, timeout=60) as client:
            found.append(client.get(url, params=params, headers=headers).status_code)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, *[401] * 5]
    assert sessions(owner) == 1


def test_nobody_is_signed_in_as_the_stranger_who_sent_them_the_answer(
    service: RunningService, owner: Engine
) -> None:
    linked_person(service, "mallory")
    stranger, victim = Desk(service, "mallory"), Desk(service, "alice")
    params = stranger.answer()
    assert is_problem(victim.come_back(params), 401, "sign-in-refused"), "without any cookie"
    victim.leave()
    assert is_problem(victim.come_back(params), 401, "sign-in-refused"), (
        "with a cookie of one's own"
    )
    assert victim.session is None
    assert sessions(owner) == 0
    assert refusals(owner) == [], "what costs a stranger nothing writes no events"
    assert stranger.come_back(params).status_code == 200, "and it was not used up by that"


def test_an_answer_of_another_issuer_is_refused_before_its_code_is_sent_anywhere(
    service: RunningService, owner: Engine
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = {**desk.answer(), "iss": "https://elsewhere.example"}
    assert is_problem(desk.come_back(params), 401, "sign-in-refused")
    assert [event["reason"] for event in refusals(owner)] == ["response-issuer"]
    params["iss"] = service.services.settings.oidc.issuer  # type: ignore[union-attr]
    assert desk.come_back(params).status_code == 401, "the sign-in was used up"


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
def test_an_answer_that_says_something_twice_is_refused(service: RunningService, name: str) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    twice = [*params.items(), (name, params.get(name, "x")), (name, "another")]
    assert is_problem(desk.come_back(twice), 400, "bad-request")
    assert desk.session is None


def test_a_sign_in_waits_ten_minutes(service: RunningService, owner: Engine) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    late = "UPDATE oidc_sign_ins SET began_at = now() - interval '601 seconds'"
    run(owner, late)
    assert is_problem(desk.come_back(params), 401, "sign-in-refused")
    assert pending(owner) == 1
    service.services.oidc_sign_ins.expire()
    assert pending(owner) == 0


def test_of_too_many_that_began_the_oldest_are_forgotten(
    service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_sign_ins, "MOST", 3)
    linked_person(service, "alice")
    first, last = Desk(service, "alice"), Desk(service, "alice")
    forgotten = first.answer()
    for _ in range(5):
        last.leave()
    params = last.answer()
    assert pending(owner) == 3
    assert is_problem(first.come_back(forgotten), 401, "sign-in-refused")
    assert last.come_back(params).status_code == 200


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a service that starts after this logs."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    # The one in use remembers where it wrote first.
    monkeypatch.setattr("api.request._log", structlog.get_logger("strongroom.request"))
    return stream


def test_neither_code_nor_state_nor_token_reaches_the_log(
    logged: io.StringIO, service: RunningService, owner: Engine
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    desk.come_back(params)
    desk.come_back(params)
    written = [str(row) for row in run(owner, "SELECT detail FROM access_events")]
    assert "route=/v1/oidc/callback" in logged.getvalue()
    for secret in (params["state"], params["code"], desk.http.cookies[SESSION]):
        assert secret not in logged.getvalue() + "".join(written)


# Sessions of browsers.


def test_the_session_that_a_browser_came_with_is_ended_and_never_taken_on(
    service: RunningService,
) -> None:
    linked_person(service, "alice")
    planted = person(service, "mallory").client
    token = planted.headers["Authorization"].removeprefix("Bearer ")
    desk = Desk(service, "alice")
    params = desk.answer()
    cookie = f"{SESSION}={token}; {BINDING}={desk.http.cookies[BINDING]}"
    came = httpx.get(
        f"{service.url}/v1/oidc/callback",
        params=params,
        headers={"Cookie": cookie},
        trust_env=False,
    )
    assert came.status_code == 200
    fresh = came.cookies[SESSION]
    assert fresh != token
    assert planted.get("/v1/whoami").status_code == 401
    assert service.client(fresh).get("/v1/whoami").json()["name"] == "alice"


def test_a_browser_s_session_changes_nothing_without_the_origin_of_our_pages(
    service: RunningService,
) -> None:
    linked_person(service, "alice", (Role.STAFF, "sales"))
    desk = Desk(service, "alice")
    desk.sign_in()
    for headers in ({}, {"Origin": "https://elsewhere.example"}, {"Origin": "null"}):
        refused = desk.http.post("/v1/sessions/end", headers=headers)
        assert is_problem(refused, 403, "cross-site")
    assert desk.post("/v1/sessions/end").status_code == 204
    assert desk.http.get("/v1/whoami").status_code == 401


# Step-up.


def test_a_sign_in_is_no_step_up_and_a_step_up_lets_the_dangerous_act_go(
    service: RunningService,
) -> None:
    linked_person(service, "alice", (Role.SECURITY_ADMINISTRATOR, None))
    newcomer = add_person(service, "newcomer")["id"]
    department(service, "sales")
    desk, role = Desk(service, "alice"), {"role": "staff", "department": "sales"}
    desk.sign_in()
    before = desk.session
    refused = desk.post("/v1/role-grants", {"principal_id": newcomer, **role})
    assert is_problem(refused, 403, "step-up-needed")
    stepped_up = desk.step_up()
    assert stepped_up.status_code == 200, stepped_up.text
    assert stepped_up.json()["session"]["stepped_up_at"] is not None
    granted = desk.post("/v1/role-grants", {"principal_id": newcomer, **role})
    assert granted.status_code == 201, granted.text
    assert before is not None
    assert service.client(before).get("/v1/whoami").status_code == 401, "the token is a new one"


def test_a_step_up_by_somebody_else_is_refused(service: RunningService, owner: Engine) -> None:
    linked_person(service, "alice", (Role.SECURITY_ADMINISTRATOR, None))
    linked_person(service, "bob")
    desk = Desk(service, "alice")
    desk.sign_in()
    desk._browser = Browser("bob")
    assert is_problem(desk.step_up(), 403, "other-identity")
    assert desk.http.get("/v1/whoami").json()["has_stepped_up"] is False
    assert [event["reason"] for event in refusals(owner)] == ["other-identity"]
    desk._browser = Browser("carol")
    assert is_problem(desk.step_up(), 403, "identity-not-linked")


def test_a_step_up_of_a_session_that_ended_meanwhile_begins_none(
    service: RunningService, owner: Engine
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    desk.sign_in()
    params = desk.answer("/v1/oidc/step-up")
    desk.post("/v1/sessions/end")
    assert desk.come_back(params).status_code == 401
    assert sessions(owner) == 1


def test_only_people_who_are_signed_in_step_up(service: RunningService) -> None:
    assert Desk(service, "alice").http.get("/v1/oidc/step-up").status_code == 401
    assert is_problem(service.admin.get("/v1/oidc/step-up"), 403, "not-allowed")


# Linking.


def test_linking_an_identity_to_somebody_dangerous_who_had_a_way_in_takes_an_approval(
    service: RunningService,
) -> None:
    head = linked_person(service, "head", (Role.IT_OPERATIONS, None))
    first = person(service, "first", [(Role.SECURITY_ADMINISTRATOR, None)])
    second = person(service, "second", [(Role.SECURITY_ADMINISTRATOR, None)])
    issuer = service.services.settings.oidc.issuer  # type: ignore[union-attr]
    path, mine = f"/v1/people/{head}/identities", {"issuer": issuer, "subject": "mine"}
    assert is_problem(first.client.post(path, json=mine), 403, "approval-needed")
    for identity in first.client.get(path).json()["items"]:
        first.client.post(f"/v1/identities/{identity['id']}/revoke")
    refused = first.client.post(path, json=mine)
    assert is_problem(refused, 403, "approval-needed"), "also once the old way in is gone"
    asked = {
        "action": "credentials.reset",
        "target": {"principal": head},
        "purpose": "staffing",
        "reason": "a new directory",
    }
    approval = first.client.post("/v1/approvals", json=asked)
    assert approval.status_code == 201, approval.text
    decided = second.client.post(f"/v1/approvals/{approval.json()['id']}/approve", json={})
    assert decided.is_success, decided.text
    assert first.client.post(path, json=mine).status_code == 201
    again = first.client.post(path, json={**mine, "subject": "another"})
    assert is_problem(again, 403, "approval-needed"), "once for each approval"


def test_who_is_new_is_linked_alone_and_gets_the_role_then(service: RunningService) -> None:
    first = person(service, "first", [(Role.SECURITY_ADMINISTRATOR, None)])
    person(service, "second", [(Role.SECURITY_ADMINISTRATOR, None)])
    issuer = service.services.settings.oidc.issuer  # type: ignore[union-attr]
    clerk = linked_person(service, "clerk", (Role.STAFF, "sales"))
    new, operator = (add_person(service, name)["id"] for name in ("new", "operator"))
    grant(service, UUID(operator), Role.IT_OPERATIONS)

    def link(principal: str) -> httpx.Response:
        identity = {"issuer": issuer, "subject": f"of-{principal}"}
        return first.client.post(f"/v1/people/{principal}/identities", json=identity)

    assert (link(clerk).status_code, link(new).status_code) == (201, 201)
    assert is_problem(link(operator), 403, "approval-needed"), "whoever links it could be them"


def test_an_identity_is_linked_once_to_people_only_and_by_who_may(service: RunningService) -> None:
    alice, bob = linked_person(service, "alice"), add_person(service, "bob")["id"]
    issuer = service.services.settings.oidc.issuer  # type: ignore[union-attr]
    path, new = f"/v1/people/{bob}/identities", {"issuer": issuer, "subject": "alice"}
    assert is_problem(service.admin.post(path, json=new), 409, "already-exists")
    for wrong in (
        {**new, "issuer": f"{issuer}/"},
        {**new, "subject": ""},
        {**new, "subject": "a" * 256},
        {**new, "subject": "a\nb"},
        {**new, "subject": "änne"},
    ):
        assert is_problem(service.admin.post(path, json=wrong), 422, "invalid-input")
    application = service.admin.get("/v1/principals").json()["items"][-1]["id"]
    other = {"issuer": issuer, "subject": "other"}
    answer = service.admin.post(f"/v1/people/{application}/identities", json=other)
    assert is_problem(answer, 404, "not-found")
    clerk = sign_in(service, UUID(alice))
    assert is_problem(clerk.post(path, json=other), 403, "not-allowed")
    assert is_problem(clerk.get(path), 403, "not-allowed")
    listed = service.admin.get(f"/v1/people/{alice}/identities").json()["items"]
    assert [(found["issuer"], found["subject"]) for found in listed] == [(issuer, "alice")]


# Rows that were written behind the service's back.


FORGED = {
    "to another person": "UPDATE oidc_identities SET principal_id = :other",
    "of another subject": "UPDATE oidc_identities SET subject = 'mallory'",
    "of another epoch": "UPDATE oidc_identities SET authority_epoch = authority_epoch + 1",
    "without a seal": "UPDATE oidc_identities SET seal = NULL, seal_key_id = NULL",
}


@pytest.mark.parametrize("sql", FORGED.values(), ids=list(FORGED))
def test_an_identity_that_sql_changed_signs_nobody_in_and_is_a_finding(
    service: RunningService, owner: Engine, sql: str
) -> None:
    other = add_person(service, "operator")["id"]
    identity = link(service, add_person(service, "alice")["id"], "alice")["id"]
    account = "mallory" if "mallory" in sql else "alice"
    run(owner, sql, **({"other": other} if ":other" in sql else {}))
    desk = Desk(service, account)
    assert is_problem(desk.sign_in(), 403, "identity-not-linked")
    assert sessions(owner) == 0
    assert findings(service) == {("oidc_identities", identity)}
    assert service.services.seal_upkeep.look_at_all() == 1


def test_an_identity_that_sql_inserted_signs_nobody_in_and_is_a_finding(
    service: RunningService, owner: Engine
) -> None:
    alice = linked_person(service, "alice", (Role.IT_OPERATIONS, None))
    copied = run(
        owner,
        "INSERT INTO oidc_identities (id, principal_id, issuer, subject, linked_by, authority_epoch, seal, "
        "seal_key_id) SELECT gen_random_uuid(), principal_id, issuer, 'mallory', linked_by, authority_epoch, "
        "seal, seal_key_id FROM oidc_identities RETURNING id",
    )[0][0]
    assert is_problem(Desk(service, "mallory").sign_in(), 403, "identity-not-linked")
    assert findings(service) == {("oidc_identities", str(copied))}
    listed = service.admin.get(f"/v1/people/{alice}/identities").json()["items"]
    assert [found["subject"] for found in listed] == ["alice"]


def test_a_revoked_identity_that_sql_put_back_stays_dead(
    service: RunningService, owner: Engine
) -> None:
    identity = link(service, add_person(service, "alice")["id"], "alice")["id"]
    run(owner, "CREATE TABLE before AS TABLE oidc_identities")
    service.admin.post(f"/v1/identities/{identity}/revoke")
    run(
        owner,
        "UPDATE oidc_identities t SET revoked_at = b.revoked_at, authority_epoch = b.authority_epoch, "
        "seal = b.seal, seal_key_id = b.seal_key_id FROM before b WHERE b.id = t.id",
    )
    assert is_problem(Desk(service, "alice").sign_in(), 403, "identity-not-linked")
    assert findings(service) == {("oidc_identities", identity)}


def test_an_identity_outlives_changes_of_its_person_s_roles_and_the_seal_key(
    service: RunningService,
) -> None:
    alice = linked_person(service, "alice")
    department(service, "sales")
    grant(service, UUID(alice), Role.STAFF, department="sales")
    assert service.admin.post("/v1/keys/seal/rotate").is_success
    assert Desk(service, "alice").sign_in().status_code == 200
    assert findings(service) == set()


# The provider.


def test_while_the_provider_is_away_the_service_says_so_and_goes_on(
    service: RunningService, oidc: OidcServer
) -> None:
    linked_person(service, "alice")
    desk = Desk(service, "alice")
    params = desk.answer()
    oidc.stop()
    try:
        away = desk.come_back(params)
        assert is_problem(away, 503, "provider-unavailable")
        assert int(away.headers["retry-after"]) > 0
        assert service.admin.get("/v1/whoami").status_code == 200
    finally:
        oidc.start()
    assert desk.come_back(params).status_code == 401, "a sign-in is tried once"
    assert desk.sign_in().status_code == 200


def test_more_exchanges_at_a_time_than_threads_are_kept_for_are_put_off(
    service: RunningService,
) -> None:
    provider = service.services.provider_sign_in
    assert provider is not None
    for _ in range(signin.MAX_EXCHANGES):
        assert provider._exchanges.acquire(blocking=False)
    busy = Desk(service, "alice").http.get("/v1/oidc/sign-in")
    assert is_problem(busy, 503, "provider-unavailable")
    assert "retry-after" in busy.headers
    for _ in range(signin.MAX_EXCHANGES):
        provider._exchanges.release()
    assert Desk(service, "alice").http.get("/v1/oidc/sign-in").status_code == 302


@pytest.fixture
def liar() -> Iterator[LyingProvider]:
    """A provider that signs what it is told to."""
    with lying_provider() as provider:
        yield provider


def test_a_key_that_the_provider_withdrew_signs_nobody_in(
    settings: Settings, liar: LyingProvider
) -> None:
    given = OidcSettings(
        issuer=liar.issuer,
        client_id=CLIENT_ID,
        client_secret=SecretStr("secret"),
        redirect_url=OidcServer.redirect_url,
    )
    with (
        build(settings.model_copy(update={"oidc": given})) as services,
        running(services) as service,
    ):
        linked_person(service, "alice")
        desk = Desk(service, "alice")
        assert came_back(desk, liar).status_code == 200
        liar.keys = [public(RSAKey.generate_key(2048, {"kid": "two"}))]
        assert is_problem(came_back(desk, liar), 401, "sign-in-refused")


def came_back(desk: Desk, liar: LyingProvider) -> httpx.Response:
    """With a token that is honest and of this moment."""
    asked = {name: found[0] for name, found in parse_qs(urlsplit(desk.leave()).query).items()}
    second = int(clock.now().timestamp())
    claims = {"iss": liar.issuer, "aud": CLIENT_ID, "sub": "alice", "nonce": asked["nonce"]}
    liar.token = signed({**claims, "iat": second, "exp": second + 60}, KEY)
    return desk.come_back({"state": asked["state"], "code": "code", "iss": liar.issuer})


def test_where_no_provider_is_set_up_the_answer_names_the_setting(settings: Settings) -> None:
    with (
        build(settings.model_copy(update={"oidc": None})) as services,
        running(services) as service,
    ):
        for path in ("sign-in", "callback"):
            answer = Desk(service, "alice").http.get(f"/v1/oidc/{path}")
            assert is_problem(answer, 404, "not-configured")
            assert "STRONGROOM_OIDC__ISSUER" in answer.json()["detail"]

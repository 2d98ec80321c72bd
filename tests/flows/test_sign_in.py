"""Signing in over HTTP: enrolment, sessions, step-up, and each attack that has a name."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import argon2
import httpx
import pyotp
import pytest
from sqlalchemy import Engine, select
from typing_extensions import override

from api.settings import KmsSettings
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.totp import unwrap
from tests.enrolled import (
    PASSWORD,
    Enrolled,
    Watch,
    anonymous,
    confirm,
    enrol,
    enrolment_token,
)
from tests.flows.test_sealed_rows import copied_rows, events, findings, run
from tests.people import add_person, department, grant, person
from tests.process import ServeProcess
from tests.running import RunningService
from vault.access.passwords import AT_A_TIME, WAITING, Passwords
from vault.access.roles import Role
from vault.access.sealed_rows import LOCAL_USERS, SESSIONS
from vault.errors import SignInBusy
from vault.tables import local_users, sessions

REFUSED = "urn:strongroom:problem:sign-in-refused"
DELAYED = "urn:strongroom:problem:sign-in-delayed"


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Where the keys are matters to one test, which asks for the other kind itself."""
    return keyring


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def wei(service: RunningService, watch: Watch) -> Enrolled:
    return enrol(service, watch, "chen.wei")


def refusals(owner: Engine) -> list[dict[str, Any]]:
    sql = "SELECT detail FROM access_events WHERE type = 'api:sign-in:refused' ORDER BY at, id"
    return [row[0] for row in run(owner, sql)]


def forget_delays(owner: Engine) -> None:
    run(owner, "UPDATE sign_in_attempts SET next_at = now()")


def reset_attempts(owner: Engine) -> None:
    run(owner, "DELETE FROM sign_in_attempts")


# Enrolment


def test_a_person_enrols_and_signs_in(service: RunningService, watch: Watch) -> None:
    added = add_person(service, "chen.wei", display_name="陈伟")
    token = enrolment_token(service, added["id"])
    body = {"token": token, "password": PASSWORD}
    begun = anonymous(service, "/v1/enrolment", body)
    assert begun.json()["otpauth_url"].startswith("otpauth://totp/Strongroom:chen.wei?secret=")
    assert begun.headers["cache-control"] == "no-store"
    app = pyotp.TOTP(begun.json()["secret"])
    early = {"name": "chen.wei", "password": PASSWORD, "totp": app.at(watch.now())}
    refused = anonymous(service, "/v1/sessions/password", early)
    assert refused.json()["type"] == REFUSED, "nothing counts before it is confirmed"
    right, wrong = app.at(watch.now()), app.at(watch.now() + timedelta(hours=1))
    confirming = {"token": token, "totp": wrong}
    unfit = anonymous(service, "/v1/enrolment/confirm", confirming)
    assert (unfit.status_code, unfit.json()["type"][-13:]) == (422, "invalid-input")
    confirmed = anonymous(service, "/v1/enrolment/confirm", {"token": token, "totp": right})
    codes = confirmed.json()["recovery_codes"]
    assert len(set(codes)) == 10
    wei = Enrolled(added["id"], "chen.wei", service, watch, app.secret, codes)
    signed_in = wei.sign_in()
    assert signed_in.status_code == 201
    assert signed_in.json()["session"]["method"] == "password"
    seen = service.client(signed_in.json()["token"]).get("/v1/whoami").json()
    assert (seen["name"], seen["has_stepped_up"]) == ("chen.wei", True)


def test_an_enrolment_token_is_good_once_and_until_its_day(
    service: RunningService, watch: Watch, owner: Engine
) -> None:
    added = add_person(service, "chen.wei")
    first = enrolment_token(service, added["id"])
    second = enrolment_token(service, added["id"])
    body = {"password": PASSWORD}
    assert anonymous(service, "/v1/enrolment", {"token": first, **body}).status_code == 401
    confirm(service, second, watch)
    again = anonymous(service, "/v1/enrolment", {"token": second, **body})
    assert again.json()["type"].endswith("enrolment-refused")
    late = enrolment_token(service, add_person(service, "late")["id"])
    make_late(service, owner)
    assert anonymous(service, "/v1/enrolment", {"token": late, **body}).status_code == 401
    for wrong in ("", "se_x", late[:-1] + "x", service.demo_key):
        refused = anonymous(service, "/v1/enrolment", {"token": wrong, **body})
        assert refused.status_code == 401, wrong


def test_what_was_typed_in_an_enrolment_that_ran_out_is_forgotten(
    service: RunningService, owner: Engine
) -> None:
    token = enrolment_token(service, add_person(service, "late")["id"])
    anonymous(service, "/v1/enrolment", {"token": token, "password": PASSWORD})
    service.services.enrolments.expire()
    assert run(owner, "SELECT password_hash IS NULL FROM local_users")[0][0] is False
    make_late(service, owner)
    service.services.enrolments.expire()
    kept = "SELECT password_hash, totp_secret, enrolment_sha256 FROM local_users"
    assert tuple(run(owner, kept)[0]) == (None, None, None)
    assert findings(service) == set()


def make_late(service: RunningService, owner: Engine) -> None:
    """Let open enrolments have run out a moment ago, under sound seals."""
    with service.services.database.as_shared().transaction() as connection:
        query = select(local_users).where(local_users.c.enrolment_sha256.is_not(None))
        for row in connection.execute(query).fetchall():
            early = row.enrolment_expires_at.replace(year=2020)
            service.services.seals.change(connection, LOCAL_USERS, row, enrolment_expires_at=early)


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("short", "12 to 128 characters"),
        ("x" * 129, "12 to 128 characters"),
        ("I am Chen.Wei, hello", "holds the person's name"),
        ("陈伟陈伟陈伟陈伟陈伟陈伟!", "holds the person's name"),
        ("my name is ＣＨＥＮ．ＷＥＩ", "holds the person's name"),
    ],
)
def test_a_password_that_is_guessed_is_refused_and_it_says_why(
    service: RunningService, password: str, says: str
) -> None:
    token = enrolment_token(service, add_person(service, "chen.wei", display_name="陈伟陈")["id"])
    refused = anonymous(service, "/v1/enrolment", {"token": token, "password": password})
    assert refused.status_code == 422
    assert says in refused.json()["detail"]
    assert password not in refused.text


def test_every_keyboard_writes_the_same_password(service: RunningService, watch: Watch) -> None:
    added = add_person(service, "anna")
    secret, codes = confirm(
        service, enrolment_token(service, added["id"]), watch, "Ǻngström и 密码 ﬁne"
    )
    anna = Enrolled(added["id"], "anna", service, watch, secret, codes)
    anna.password = "A\u030a\u0301ngstro\u0308m и 密码 fine"
    assert anna.sign_in().status_code == 201


def test_anew_for_a_head_takes_two_people_and_ends_what_was_before(
    service: RunningService, watch: Watch
) -> None:
    first = person(service, "security", [(Role.SECURITY_ADMINISTRATOR, None)])
    second = person(service, "security-too", [(Role.SECURITY_ADMINISTRATOR, None)])
    department(service, "sales")
    head = enrol(service, watch, "head")
    path = f"/v1/people/{head.id}/enrolment"
    clerk = enrol(service, watch, "clerk")
    assert first.client.post(f"/v1/people/{clerk.id}/enrolment").status_code == 201
    assert clerk.sign_in().status_code == 401, "what they had before is gone"
    grant(service, UUID(head.id), Role.DEPARTMENT_HEAD, department="sales")
    session = head.client()
    refused = first.client.post(path)
    assert refused.json()["type"].endswith("approval-needed"), refused.text
    assert session.get("/v1/whoami").status_code == 200
    asked = first.client.post(
        "/v1/approvals",
        json={
            "action": "credentials.reset",
            "target": {"principal": head.id},
            "purpose": "staffing",
            "reason": "lost the phone",
        },
    )
    assert asked.status_code == 201, asked.text
    approve = f"/v1/approvals/{asked.json()['id']}/approve"
    assert first.client.post(approve, json={}).status_code == 403
    assert second.client.post(approve, json={}).status_code == 200
    issued = first.client.post(path)
    assert issued.status_code == 201, issued.text
    assert session.get("/v1/whoami").status_code == 401
    assert head.sign_in().status_code == 401
    head.secret, _ = confirm(service, issued.json()["token"], watch)
    assert head.sign_in().status_code == 201
    assert first.client.post(path).status_code == 403, "an approval is for one time"


def test_nobody_resets_their_own_credentials_nor_without_proving_who_they_are(
    service: RunningService, watch: Watch
) -> None:
    security = person(service, "security", [(Role.SECURITY_ADMINISTRATOR, None)])
    other = add_person(service, "other")
    own = security.client.post(f"/v1/people/{security.id}/enrolment")
    assert own.status_code == 403
    tired = person(
        service, "tired", [(Role.SECURITY_ADMINISTRATOR, None)], stepped_up=False
    ).client.post(f"/v1/people/{other['id']}/enrolment")
    assert tired.json()["type"].endswith("step-up-needed")
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    assert clerk.client.post(f"/v1/people/{other['id']}/enrolment").status_code == 403
    application = service.services.api_keys.authenticate(service.demo_key).principal_id
    assert service.admin.post(f"/v1/people/{application}/enrolment").status_code == 404


# Codes


def test_a_code_counts_once(wei: Enrolled, owner: Engine) -> None:
    code = wei.code()
    assert wei.sign_in(totp=code).status_code == 201
    replayed = wei.sign_in(totp=code)
    assert (replayed.status_code, replayed.json()["type"]) == (401, REFUSED)
    assert refusals(owner)[-1]["reason"] == "code-used"


def test_of_one_code_shown_several_times_at_once_one_counts(wei: Enrolled, owner: Engine) -> None:
    code = wei.code()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: wei.sign_in(totp=code).status_code, range(3)))
    assert sorted(answers) == [201, 401, 401]
    assert events(owner, "api:session:begun") == 1


def test_a_code_from_before_one_that_was_used_counts_no_more(wei: Enrolled) -> None:
    before, after = wei.code(), wei.code()
    assert wei.sign_in(totp=after).status_code == 201
    assert wei.sign_in(totp=before).status_code == 401


def test_a_recovery_code_counts_once_and_ends_other_sessions(wei: Enrolled) -> None:
    client = wei.client()
    code = wei.recovery_codes[3].lower().replace("-", " ")
    signed_in = wei.sign_in(recovery_code=code)
    assert signed_in.status_code == 201, signed_in.text
    assert client.get("/v1/whoami").status_code == 401
    assert wei.sign_in(recovery_code=code).status_code == 401
    assert wei.sign_in(recovery_code=wei.recovery_codes[4]).status_code == 201
    both = wei.sign_in(totp=wei.code(), recovery_code=wei.recovery_codes[5])
    assert both.status_code == 422


def test_of_one_recovery_code_shown_several_times_at_once_one_counts(wei: Enrolled) -> None:
    code = wei.recovery_codes[0]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: wei.sign_in(recovery_code=code).status_code, range(3)))
    assert sorted(answers) == [201, 401, 401]


# What strangers learn


@contextmanager
def counted_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every hash that argon2 verifies within."""
    verified: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counting(hasher: argon2.PasswordHasher, stored: str, password: str) -> bool:
        verified.append(stored)
        return verify(hasher, stored, password)

    with monkeypatch.context() as patched:
        patched.setattr(argon2.PasswordHasher, "verify", counting)
        yield verified


@contextmanager
def counted_openings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[UUID]]:
    """Whose secrets the KMS is asked to open within."""
    opened: list[UUID] = []

    def counting(provider: KeyProvider, kek: str, vault_id: UUID, owner: UUID, wrapped: str) -> Any:
        opened.append(owner)
        return unwrap(provider, kek, vault_id, owner, wrapped)

    with monkeypatch.context() as patched:
        patched.setattr("keymgmt.totp.unwrap", counting)
        yield opened


def test_known_and_unknown_names_get_the_same_bytes_at_the_same_cost(
    service: RunningService,
    watch: Watch,
    wei: Enrolled,
    owner: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_person(service, "never-enrolled")
    disabled = enrol(service, watch, "disabled")
    service.admin.post(f"/v1/principals/{disabled.id}/disable")
    theirs, used = disabled.code(), wei.code()
    assert wei.sign_in(totp=used).status_code == 201
    tries = {
        "unknown": {"name": "nobody", "password": PASSWORD, "totp": "123456"},
        "unknown ": {"name": "Not A Name\0", "password": PASSWORD, "totp": "123456"},
        "not-enrolled": {"name": "never-enrolled", "password": PASSWORD, "totp": "123456"},
        "disabled": {"name": "disabled", "password": PASSWORD, "totp": theirs},
        "wrong-password": {"name": wei.name, "password": "wrong" * 4, "totp": used},
        "wrong-code": {"name": wei.name, "password": PASSWORD, "totp": "x"},
        "code-used": {"name": wei.name, "password": PASSWORD, "totp": used},
    }
    service.services.sign_in._proofs._make_decoy()
    answers = set()
    for reason, body in tries.items():
        reset_attempts(owner)
        with counted_hashes(monkeypatch) as verified, counted_openings(monkeypatch) as opened:
            answer = anonymous(
                service, "/v1/sessions/password", body, {"X-Request-Id": "the-same-one"}
            )
        assert (len(verified), len(opened)) == (1, 1), reason
        assert verified[0].startswith("$argon2id$v=19$m=65536,t=3,p=4$"), reason
        kept = {k: v for k, v in answer.headers.items() if k != "date"}
        answers.add((answer.status_code, answer.content, json.dumps(kept)))
    assert len(answers) == 1
    assert [found["reason"] for found in refusals(owner)] == [reason.strip() for reason in tries]
    written = json.dumps(refusals(owner))
    assert "nobody" not in written
    assert "Not A Name" not in written


def fail(service: RunningService, name: str) -> httpx.Response:
    body = {"name": name, "password": "wrong" * 4, "totp": "123456"}
    headers = {"X-Request-Id": "the-same-one"}
    return anonymous(service, "/v1/sessions/password", body, headers)


def waits_after_failure(service: RunningService, owner: Engine, name: str, seconds: int) -> bool:
    """Whether a further failure delays the next try by so many seconds; that delay is over then."""
    before = run(owner, "SELECT clock_timestamp()")[0][0]
    assert fail(service, name).status_code == 401
    newest = "SELECT next_at, clock_timestamp() FROM sign_in_attempts ORDER BY next_at DESC"
    next_at, after = run(owner, newest)[0]
    forget_delays(owner)
    wait = timedelta(seconds=seconds)
    return bool(before + wait <= next_at <= after + wait)


@pytest.mark.parametrize("name", ["chen.wei", "nobody"])
def test_who_fails_waits_longer_each_time_and_is_never_locked_out(
    wei: Enrolled, service: RunningService, owner: Engine, name: str
) -> None:
    reset_attempts(owner)
    for seconds in (0, 0, 0, 2, 4, 8, 16):
        assert waits_after_failure(service, owner, name, seconds), seconds
    run(owner, "UPDATE sign_in_attempts SET failures = 99, next_at = now()")
    assert waits_after_failure(service, owner, name, 300), "never longer"
    if name == wei.name:
        assert wei.sign_in().status_code == 201
        assert waits_after_failure(service, owner, name, 0), "success clears the count"


def test_who_comes_too_soon_is_told_alike_for_known_and_unknown_names(
    wei: Enrolled, service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (wei.name, "nobody"):
        fail(service, name)
    run(owner, "UPDATE sign_in_attempts SET next_at = now() + interval '1 hour'")
    with counted_hashes(monkeypatch) as verified:
        one, other = fail(service, wei.name), fail(service, "nobody")
        assert wei.sign_in().status_code == 429, "whatever is shown meanwhile"
    assert verified == []
    assert (one.status_code, one.json()["type"], one.content) == (429, DELAYED, other.content)
    assert {int(each.headers["retry-after"]) // 600 for each in (one, other)} <= {5, 6}


def test_of_many_guesses_at_once_each_is_counted_before_it_is_judged(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    fail(service, wei.name)
    run(owner, "UPDATE sign_in_attempts SET failures = 99, next_at = now()")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: wei.sign_in(totp=f"{n:06}").status_code, range(8)))
    assert sorted(answers) == [401, *[429] * 7]


def test_attempts_are_forgotten_after_a_day(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    wei.sign_in(totp="x")
    service.services.attempts.expire()
    assert len(run(owner, "SELECT FROM sign_in_attempts")) == 1
    run(owner, "UPDATE sign_in_attempts SET next_at = now() - interval '25 hours'")
    service.services.attempts.expire()
    assert run(owner, "SELECT FROM sign_in_attempts") == []


def test_strangers_take_neither_memory_nor_threads() -> None:
    class Hanging(argon2.PasswordHasher):
        @override
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            started.release()
            go_on.wait(30)
            return True

    started, go_on = threading.Semaphore(0), threading.Event()
    passwords = Passwords(Hanging())
    with ThreadPoolExecutor(AT_A_TIME + WAITING) as pool:
        tries = [pool.submit(passwords.matches, "", "") for _ in range(AT_A_TIME + WAITING)]
        for _ in range(AT_A_TIME):
            assert started.acquire(timeout=30)
        assert not started.acquire(blocking=False), "one more at a time than there is memory for"
        while passwords._places._value:
            started.acquire(timeout=0.01)
        with pytest.raises(SignInBusy):
            passwords.matches("", "")
        go_on.set()
    assert all(each.result() for each in tries)


def test_while_the_kms_is_away_known_and_unknown_names_are_told_alike_and_sessions_go_on(
    wei: Enrolled, service: RunningService
) -> None:
    client = wei.client()
    keyring = service.services.settings.home / "keys" / "keyring.json"
    away = keyring.rename(keyring.with_name("away"))
    known, unknown = wei.sign_in(), fail(service, "nobody")
    assert client.get("/v1/whoami").status_code == 200
    away.rename(keyring)
    for answer in (known, unknown):
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("keys-unavailable")
    assert wei.sign_in().status_code == 201


# Browsers


def origin_of(service: RunningService) -> dict[str, str]:
    return {"Origin": service.url}


def test_a_session_cookie_from_before_signing_in_is_another_one_afterwards(
    wei: Enrolled, service: RunningService
) -> None:
    body = {"name": wei.name, "password": PASSWORD, "as_cookie": True}
    with httpx.Client(base_url=service.url, headers=origin_of(service), trust_env=False) as browser:
        signed_in = browser.post("/v1/sessions/password", json={**body, "totp": wei.code()})
        assert signed_in.status_code == 201, signed_in.text
        assert signed_in.json()["token"] is None
        attributes = signed_in.headers["set-cookie"].lower()
        for attribute in ("httponly", "samesite=strict", "path=/", "max-age=43200"):
            assert attribute in attributes
        assert "domain" not in attributes
        before = browser.cookies["strongroom"]
        assert browser.get("/v1/whoami").json()["name"] == wei.name
        again = browser.post("/v1/sessions/password", json={**body, "totp": wei.code()})
        assert again.status_code == 201
        after = browser.cookies["strongroom"]
        assert after.split("_")[1] != before.split("_")[1]
        assert browser.get("/v1/whoami").status_code == 200
    assert service.client(before).get("/v1/whoami").status_code == 401
    planted = {"Cookie": "strongroom=planted-by-somebody", **origin_of(service)}
    fresh = anonymous(
        service, "/v1/sessions/password", {**body, "totp": wei.code()}, headers=planted
    )
    assert "planted-by-somebody" not in fresh.headers["set-cookie"]


@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.example", "http://127.0.0.1"])
def test_another_site_s_page_signs_nobody_in_and_does_nothing_with_a_cookie(
    wei: Enrolled, service: RunningService, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    body = {"name": wei.name, "password": PASSWORD, "totp": wei.code(), "as_cookie": True}
    refused = anonymous(service, "/v1/sessions/password", body, headers)
    assert (refused.status_code, refused.headers.get("set-cookie")) == (403, None)
    assert refused.json()["type"].endswith("cross-site")
    token = wei.sign_in().json()["token"]
    cookie = {"Cookie": f"strongroom={token}"}
    for path in ("/v1/sessions/end", "/v1/sessions/step-up", "/v1/me/password"):
        crossing = httpx.post(
            f"{service.url}{path}", headers={**cookie, **headers}, trust_env=False
        )
        assert crossing.status_code == 403, path
    assert service.client(token).get("/v1/whoami").status_code == 200
    own = {**cookie, **origin_of(service)}
    assert httpx.post(f"{service.url}/v1/sessions/end", headers=own).status_code == 204


# Step-up and password


def test_who_steps_up_goes_on_under_a_new_token(wei: Enrolled, owner: Engine) -> None:
    begun = wei.sign_in().json()
    client = wei.service.client(begun["token"])
    wrong = client.post("/v1/sessions/step-up", json={"password": PASSWORD, "totp": "x"})
    assert wrong.json()["type"] == REFUSED
    body = {"password": PASSWORD, "totp": wei.code()}
    stepped_up = client.post("/v1/sessions/step-up", json=body)
    assert stepped_up.status_code == 200, stepped_up.text
    found = stepped_up.json()
    assert found["session"]["id"] == begun["session"]["id"]
    assert client.get("/v1/whoami").status_code == 401, "the old token"
    fresh = wei.service.client(found["token"])
    assert fresh.get("/v1/whoami").json()["has_stepped_up"]
    assert fresh.post("/v1/sessions/step-up", json=body).status_code == 401, "the code was used"
    assert events(owner, "api:session:stepped-up") == 1
    application = wei.service.demo.post("/v1/sessions/step-up", json=body)
    assert application.status_code == 403


def test_strangers_who_fail_under_a_name_do_not_delay_its_signed_in_person(
    wei: Enrolled, service: RunningService
) -> None:
    client = wei.client()
    while wei.sign_in(password="wrong" * 4, totp="123456").status_code != 429:
        pass
    body = {"password": PASSWORD, "totp": wei.code()}
    assert client.post("/v1/sessions/step-up", json=body).status_code == 200


def test_a_changed_password_ends_every_other_session(wei: Enrolled) -> None:
    one, other = wei.client(), wei.client()
    new = "a wholly different sentence"
    body = {"old": PASSWORD, "new": new, "totp": wei.code()}
    named = one.post("/v1/me/password", json={**body, "new": f"I am {wei.name}!!"})
    assert "name" in named.json()["detail"]
    wrong = one.post("/v1/me/password", json={**body, "old": "wrong" * 4})
    assert wrong.json()["type"] == REFUSED
    changed = one.post("/v1/me/password", json=body)
    assert changed.status_code == 200, changed.text
    assert [client.get("/v1/whoami").status_code for client in (one, other)] == [401, 401]
    fresh = wei.service.client(changed.json()["token"])
    assert fresh.get("/v1/whoami").json()["has_stepped_up"]
    assert wei.sign_in().status_code == 401
    wei.password = new
    assert wei.sign_in().status_code == 201


def test_a_hash_of_older_parameters_is_made_anew(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    stored = "SELECT password_hash FROM local_users"
    before = run(owner, stored)[0][0]
    assert wei.sign_in().status_code == 201
    assert run(owner, stored)[0][0] == before
    stronger = argon2.PasswordHasher(time_cost=4)
    service.services.sign_in._passwords._hasher = stronger
    assert wei.sign_in().status_code == 201
    assert "t=4" in run(owner, stored)[0][0]
    assert wei.sign_in().status_code == 201
    assert findings(service) == set()


# Sessions


SESSION_ENDS = {
    "idle": "UPDATE sessions SET last_seen_at = now() - interval '31 minutes'",
    "disabled": None,
}


@pytest.mark.parametrize("sql", SESSION_ENDS.values(), ids=list(SESSION_ENDS))
def test_a_session_ends_when_it_is_idle_and_with_its_person(
    wei: Enrolled, service: RunningService, owner: Engine, sql: str | None
) -> None:
    client = wei.client()
    assert client.get("/v1/whoami").status_code == 200
    if sql is None:
        service.admin.post(f"/v1/principals/{wei.id}/disable")
        assert wei.sign_in().json()["type"] == REFUSED
    else:
        run(owner, sql)
    assert client.get("/v1/whoami").status_code == 401


def test_a_session_ends_after_its_time(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    client = wei.client()

    def moved(by: timedelta) -> None:
        """Under a sound seal, which the service would make and never write."""
        with service.services.database.as_shared().transaction() as connection:
            row = connection.execute(select(sessions)).one()
            new = {**SESSIONS.by_name(row), "expires_at": row.expires_at - by}
            seal = service.services.seals.sealed(connection, SESSIONS, new)
        sql = "UPDATE sessions SET expires_at = :at, seal = :seal"
        run(owner, sql, at=new["expires_at"], seal=seal["seal"])

    moved(timedelta(hours=11))
    assert client.get("/v1/whoami").status_code == 200
    moved(timedelta(hours=1))
    assert client.get("/v1/whoami").status_code == 401
    service.services.sessions.expire()
    assert len(run(owner, "SELECT FROM sessions")) == 1
    moved(timedelta(days=31))
    service.services.sessions.expire()
    assert run(owner, "SELECT FROM sessions") == []
    assert findings(service) == set()


# Rows that were written behind the service's back


def test_an_older_password_that_is_put_back_is_refused_and_found(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    with copied_rows(owner, "local_users"):
        client = wei.client()
        body = {"old": PASSWORD, "new": "a wholly different sentence", "totp": wei.code()}
        assert client.post("/v1/me/password", json=body).status_code == 200
    assert wei.sign_in().json()["type"] == REFUSED
    assert findings(service) == {("local_users", wei.id)}


REPLACED = {
    "hash": "UPDATE local_users SET password_hash = :hash",
    "another's secret": "UPDATE local_users SET totp_secret = 'local:v1:AAAA'",
    "recovery codes": "UPDATE local_users SET recovery_sha256 = ARRAY[sha256('MINE')]",
    "an open enrolment": "UPDATE local_users SET enrolment_sha256 = sha256('mine'), "
    "enrolment_expires_at = now() + interval '1 day'",
    "no seal": "UPDATE local_users SET seal = NULL, seal_key_id = NULL",
    "epoch": "UPDATE local_users SET authority_epoch = authority_epoch + 1",
}


@pytest.mark.parametrize("sql", REPLACED.values(), ids=list(REPLACED))
def test_credentials_that_sql_replaced_are_refused_and_found(
    wei: Enrolled, service: RunningService, owner: Engine, sql: str
) -> None:
    mine = "mine, twelve or more"
    values = {"hash": argon2.PasswordHasher().hash(mine)} if ":hash" in sql else {}
    run(owner, sql, **values)
    for password in (mine, PASSWORD):
        assert wei.sign_in(password=password).json()["type"] == REFUSED
    assert wei.sign_in(recovery_code="MINE").json()["type"] == REFUSED
    assert findings(service) == {("local_users", wei.id)}
    assert service.services.seal_upkeep.look_at_all() == 1
    assert service.admin.post(f"/v1/people/{wei.id}/enrolment").status_code == 404


def test_credentials_copied_to_another_person_open_nothing(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    boss = add_person(service, "boss")["id"]
    columns = "password_hash, totp_secret, recovery_sha256, enrolled_at, authority_epoch, seal, seal_key_id"
    run(
        owner,
        f"INSERT INTO local_users (id, principal_id, {columns}) "
        f"SELECT :boss, :boss, {columns} FROM local_users",
        boss=boss,
    )
    assert wei.sign_in(name="boss").json()["type"] == REFUSED
    assert findings(service) == {("local_users", boss)}


@pytest.mark.parametrize("kms", ["keyring", "transit"], indirect=True)
def test_secrets_of_apps_move_on_before_an_older_key_is_destroyed(
    wei: Enrolled, service: RunningService, owner: Engine
) -> None:
    before = run(owner, "SELECT totp_secret FROM local_users")[0][0]
    for act in ("authority/rotate", "seal/rotate", "authority/retire"):
        assert service.admin.post(f"/v1/keys/{act}").is_success, act
    after = run(owner, "SELECT totp_secret FROM local_users")[0][0]
    assert before != after
    assert wei.sign_in(name="nobody").status_code == 401
    assert wei.sign_in().status_code == 201
    assert service.services.keys.describe(Purpose.AUTHORITY).oldest_kept > 1
    assert findings(service) == set()


# Secrets


def test_a_credential_in_a_url_is_refused(wei: Enrolled, service: RunningService) -> None:
    token = wei.sign_in().json()["token"]
    places = [
        f"/v1/documents?api_key={service.demo_key}",
        f"/v1/documents?x=1&token={token}",
        f"/v1/whoami?{token}",
        f"/v1/documents?key={service.demo_key[:50]}",
        f"/v1/documents?key={service.demo_key.replace('_', '%5F')}",
        f"/v1/documents/{token}",
        f"/healthz?{token}",
    ]
    for place in places:
        refused = service.demo.get(place)
        assert refused.status_code == 400, place
        assert refused.json()["type"].endswith("credential-in-url")
        assert "treat the key as leaked" in refused.json()["detail"]
        assert token not in refused.text
        assert service.demo_key not in refused.text
    assert service.demo.get("/v1/documents?name_prefix=sr_1").status_code != 400


def test_no_secret_is_in_the_log_and_no_stranger_s_address_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"STRONGROOM_TRUSTED_PROXIES": "192.0.2.1"}
    with ServeProcess(tmp_path, environment=environment) as serve:
        admin = serve.client(serve.admin_key)
        forwarded = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
        added = admin.post("/v1/people", json={"name": "chen.wei"}).json()
        token = admin.post(f"/v1/people/{added['id']}/enrolment").json()["token"]
        opened = httpx.Client(base_url=serve.url, headers=forwarded, trust_env=False)
        secret = opened.post("/v1/enrolment", json={"token": token, "password": PASSWORD}).json()[
            "secret"
        ]
        code = pyotp.TOTP(secret).now()
        codes = opened.post("/v1/enrolment/confirm", json={"token": token, "totp": code}).json()[
            "recovery_codes"
        ]
        body = {"name": "chen.wei", "password": PASSWORD, "recovery_code": codes[0]}
        session = opened.post("/v1/sessions/password", json=body).json()["token"]
        typed = "typed in the wrong field"
        opened.post("/v1/sessions/password", json={**body, "name": typed})
        opened.post("/v1/sessions/password", json={**body, "password": [typed]})
        opened.get("/v1/documents", params={"api_key": session})
        assert serve.stop() == 0
        log = serve.output("stderr")
    for told in (token, secret, session, PASSWORD, codes[0], typed, serve.admin_key):
        assert told not in log
        assert hashlib.sha256(told.encode()).hexdigest() not in log
    assert "/v1/sessions/password" in log
    assert "127.0.0.1" in log
    assert "203.0.113.7" not in log


def test_a_forwarded_address_of_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    environment = {"STRONGROOM_TRUSTED_PROXIES": "127.0.0.0/8"}
    with ServeProcess(tmp_path, environment=environment) as serve:
        headers = {"X-Forwarded-For": "198.51.100.9, 203.0.113.7"}
        httpx.get(f"{serve.url}/v1/documents", headers=headers, trust_env=False)
        assert serve.stop() == 0
        log = serve.output("stderr")
    assert "203.0.113.7" in log, "what the proxy itself saw"
    assert "198.51.100.9" not in log, "what its client claimed"

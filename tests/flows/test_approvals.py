"""Approvals and grants over HTTP: what two people do together, and every way that one tried to do alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Engine, select, text, true
from sqlalchemy.exc import IntegrityError

from api import metrics
from api.settings import KmsSettings
from api.worker import Worker
from keymgmt.recoverykey import RecoveryPrivateKey
from tests.api.helpers import upload
from tests.people import (
    Person,
    add_person,
    approved,
    ask,
    caller_of,
    decide,
    department,
    exporter,
    grant,
    person,
    sign_in,
)
from tests.running import RunningService
from vault.access.approval_upkeep import LookedAfter
from vault.access.policy import Action
from vault.access.roles import Role
from vault.access.sealed_rows import APPROVALS, GRANTS, SealedTable
from vault.context import as_caller
from vault.tables import approvals

MISSING: Final = "00000000-0000-4000-8000-000000000000"
SECURITY: Final = [(Role.SECURITY_ADMINISTRATOR, None)]
OPERATIONS: Final = [(Role.IT_OPERATIONS, None)]
HEAD: Final = [(Role.DEPARTMENT_HEAD, "demo")]
MANAGER: Final = [(Role.ARCHIVE_MANAGER, "demo")]


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture(autouse=True)
def _look_up_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.auth.TTL_SECONDS", 0.0)


@dataclass(frozen=True)
class Exit:
    """A document whose key somebody wants, who may ask for it, and who decides."""

    document: dict[str, Any]
    target: dict[str, str]
    client: httpx.Client
    head: Person

    def export(self) -> httpx.Response:
        return self.client.post(f"/v1/documents/{self.document['id']}/versions/1/export-key")

    def ask(self, **given: Any) -> dict[str, Any]:
        return ask(self.client, Action.KEY_EXPORT, self.target, **given)

    def approved(self, **given: Any) -> dict[str, Any]:
        return approved(self.client, self.head, Action.KEY_EXPORT, self.target, **given)


@pytest.fixture
def leaving(service: RunningService) -> Exit:
    """An application that asks, and the head of the department."""
    document = upload(service.demo, b"to be taken along")
    head = person(service, "head", HEAD)
    target = {"document": document["id"], "version": "1"}
    return Exit(document, target, service.client(exporter(service)), head)


def run(owner: Engine, sql: str, **values: Any) -> list[Any]:
    """The attacker: whatever the owner of the tables may do."""
    with owner.begin() as connection:
        result = connection.execute(text(sql), values)
        return list(result.fetchall()) if result.returns_rows else []


def reseal(
    service: RunningService, owner: Engine, table: SealedTable, row_id: str, **changed: datetime
) -> None:
    """Change moments of a row, and seal it as the service does: time that went by."""
    with owner.begin() as connection:
        query = select(table.table).where(table.table.c.id == UUID(row_id))
        found = connection.execute(query.with_for_update()).one()
        service.services.seals.change(connection, table, found, **changed)


def age(service: RunningService, owner: Engine, approval: dict[str, Any], by: timedelta) -> None:
    """As if it had been asked for so long ago."""
    before = service.services.database.now() + timedelta(days=7) - by
    reseal(service, owner, APPROVALS, approval["id"], decide_before=before)


def findings(service: RunningService) -> set[tuple[str, str]]:
    items = service.admin.get("/v1/access/findings").json()["items"]
    return {(item["subject"], item["subject_id"]) for item in items}


def events(owner: Engine, kind: str) -> int:
    return int(run(owner, "SELECT count(*) FROM access_events WHERE type = :t", t=kind)[0][0])


def slug(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


def without_request(answer: httpx.Response) -> dict[str, Any]:
    return {**answer.json(), "request_id": None}


# Each act that takes two


def test_a_key_is_exported_once_the_head_approved_and_so_many_times(
    leaving: Exit, owner: Engine
) -> None:
    refused = leaving.export()
    assert (refused.status_code, slug(refused)) == (403, "approval-needed")
    assert "'document' and 'version'" in refused.json()["detail"]
    given = leaving.approved(uses=2, ticket="EX-7", purpose="exit")
    assert (given["state"], given["department"]) == ("approved", "demo")
    assert [leaving.export().status_code for _ in range(3)] == [200, 200, 403]
    assert events(owner, "api:grant:used") == events(owner, "api:key:exported") == 2
    (shown,) = leaving.client.get("/v1/grants").json()["items"]
    assert (shown["id"], shown["remaining"], shown["max_uses"]) == (given["grant_id"], 0, 2)


def test_a_dangerous_role_is_granted_once_another_administrator_approved(
    service: RunningService,
) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    department(service, "sales")
    new = add_person(service, "new")
    body = {"principal_id": new["id"], "role": "department_head", "department": "sales"}
    refused = one.client.post("/v1/role-grants", json=body)
    assert (refused.status_code, slug(refused)) == (403, "approval-needed")
    target = {"principal": new["id"], "role": "department_head", "department": "sales"}
    approved(one.client, two, Action.ROLE_GRANT, target)
    other = {**body, "role": "compliance", "department": None}
    assert slug(one.client.post("/v1/role-grants", json=other)) == "approval-needed"
    assert one.client.post("/v1/role-grants", json=body).status_code == 201
    client = sign_in(service, UUID(new["id"]))
    assert [r["role"] for r in client.get("/v1/whoami").json()["roles"]] == ["department_head"]


def test_a_role_until_a_day_is_granted_as_it_was_approved(service: RunningService) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    new = add_person(service, "new")
    ends = datetime.now(UTC) + timedelta(days=30)  # noqa: TID251
    longer = (ends + timedelta(days=1)).isoformat()
    target = {"principal": new["id"], "role": "auditor", "ends_at": ends.isoformat()}
    approved(one.client, two, Action.ROLE_GRANT, target)
    body = {"principal_id": new["id"], "role": "auditor", "ends_at": longer}
    assert slug(one.client.post("/v1/role-grants", json=body)) == "approval-needed"
    body["ends_at"] = ends.isoformat()
    assert one.client.post("/v1/role-grants", json=body).status_code == 201


def test_a_failover_takes_two_operators_where_there_are_two(
    service: RunningService, owner: Engine
) -> None:
    one, two = (person(service, name, OPERATIONS) for name in ("one", "two"))
    path, body = "/v1/sites/b/failover", {"accepted": 0}
    assert slug(one.client.post(path, json=body)) == "approval-needed"
    approved(one.client, two, Action.SITE_FAIL_OVER, {"site": "b"})
    assert slug(one.client.post("/v1/sites/a/failover", json=body)) == "approval-needed"
    assert one.client.post(path, json=body).status_code == 200
    assert events(owner, "api:act:without-approval") == 0


def test_a_single_operator_fails_over_alone_and_the_event_says_so(
    service: RunningService, owner: Engine
) -> None:
    one = person(service, "one", OPERATIONS)
    body = {"accepted": 0}
    assert one.client.post("/v1/sites/b/failover", json=body).status_code == 200
    assert events(owner, "api:act:without-approval") == 1


def test_a_recovery_key_takes_an_operator_and_a_security_administrator(
    service: RunningService,
) -> None:
    operator = person(service, "operator", OPERATIONS)
    public = RecoveryPrivateKey.generate().public
    path, body = "/v1/keys/recovery", {"public_key": public.to_text()}
    alone = operator.client.post(path, json=body)
    assert slug(alone) == "approval-needed", (
        "also where nobody could approve it: set-up is not theirs"
    )
    security = person(service, "security", SECURITY)
    approved(operator.client, security, Action.KEY_REGISTER_RECOVERY, {"key": public.id})
    assert operator.client.post(path, json=body).status_code in (200, 201, 202)


def test_the_administrator_for_set_up_goes_alone_only_while_nobody_could_decide(
    service: RunningService, owner: Engine
) -> None:
    public = RecoveryPrivateKey.generate().public
    new = add_person(service, "first")
    body = {"principal_id": new["id"], "role": "security_administrator"}
    assert service.admin.post("/v1/role-grants", json=body).status_code == 201
    assert events(owner, "api:act:without-approval") == 1
    path = "/v1/keys/recovery"
    refused = service.admin.post(path, json={"public_key": public.to_text()})
    assert slug(refused) == "approval-needed"
    body["principal_id"] = add_person(service, "second")["id"]
    assert slug(service.admin.post("/v1/role-grants", json=body)) == "approval-needed"


# Deciding over one's own


def test_an_own_request_is_not_approved_by_the_same_account(service: RunningService) -> None:
    both = person(service, "both", [*HEAD, *MANAGER])
    target = {"document": upload(service.demo, b"x")["id"], "version": "1"}
    refused = decide(both.client, ask(both.client, Action.KEY_EXPORT, target))
    assert (refused.status_code, slug(refused)) == (403, "not-allowed")
    assert "nobody decides over their own request" in refused.json()["detail"]


def test_an_own_request_is_not_approved_through_a_second_account(service: RunningService) -> None:
    manager = person(service, "manager", MANAGER)
    again = person(service, "again", HEAD, same_person_as=str(manager.id))
    target = {"document": upload(service.demo, b"x")["id"], "version": "1"}
    refused = decide(again.client, ask(manager.client, Action.KEY_EXPORT, target))
    assert "whichever account" in refused.json()["detail"]
    assert refused.status_code == 403


def test_an_own_request_is_not_approved_by_a_deputy(service: RunningService) -> None:
    both = person(service, "both", [*HEAD, *MANAGER])
    deputy = add_person(service, "deputy")
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    given = {"department": "demo", "deputy_of": both.id, "ends_at": ends}
    grant(service, UUID(deputy["id"]), Role.DEPARTMENT_HEAD, **given)
    client = sign_in(service, UUID(deputy["id"]))
    target = {"document": upload(service.demo, b"x")["id"], "version": "1"}
    refused = decide(client, ask(both.client, Action.KEY_EXPORT, target))
    assert refused.status_code == 403
    assert "a deputy does not decide" in refused.json()["detail"]
    manager = person(service, "manager", MANAGER)
    decided = decide(client, ask(manager.client, Action.KEY_EXPORT, target)).json()
    assert decided["decided_for"] == str(both.person_id)


def test_an_own_request_is_not_approved_through_an_api_key(
    service: RunningService, leaving: Exit
) -> None:
    asked = leaving.ask()
    for client in (leaving.client, service.admin, service.demo):
        assert decide(client, asked).status_code == 403


def test_what_an_application_asks_for_is_not_approved_by_who_answers_for_it(
    service: RunningService,
) -> None:
    head = person(service, "head", HEAD)
    new = {"name": "exit", "scopes": ["export-keys"], "department": "demo"}
    added = service.admin.post("/v1/principals", json={**new, "responsible": str(head.id)}).json()
    issued = service.admin.post("/v1/api-keys", json={"principal_id": added["id"]}).json()
    target = {"document": upload(service.demo, b"x")["id"], "version": "1"}
    asked = ask(service.client(issued["token"]), Action.KEY_EXPORT, target)
    assert decide(head.client, asked).status_code == 403
    again = person(service, "again", HEAD, same_person_as=str(head.id))
    assert decide(again.client, asked).status_code == 403


def test_an_application_that_nobody_answers_for_does_not_ask(service: RunningService) -> None:
    """Whoever decides could hold its key."""
    new = {"name": "exit", "scopes": ["export-keys"], "department": "demo"}
    added = service.admin.post("/v1/principals", json=new).json()
    issued = service.admin.post("/v1/api-keys", json={"principal_id": added["id"]}).json()
    target = {"document": upload(service.demo, b"x")["id"], "version": "1"}
    refused = request(service.client(issued["token"]), Action.KEY_EXPORT, target)
    assert refused.status_code == 403
    assert "responsible" in refused.json()["detail"]


def test_a_race_of_two_approvals_gives_one_grant(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    heads = [person(service, f"head-{number}", HEAD) for number in range(4)]
    asked = leaving.ask()
    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(lambda head: decide(head.client, asked).status_code, heads))
    assert codes == [200, 409, 409, 409]
    assert run(owner, "SELECT count(*) FROM grants")[0][0] == 1


def test_nobody_decides_over_a_role_for_themselves_by_any_account_or_for_their_deputy(
    service: RunningService,
) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    second = add_person(service, "second", same_person_as=str(two.id))
    third = add_person(service, "third")
    role = {"role": "security_administrator"}
    ends = (datetime.now(UTC) + timedelta(days=3)).isoformat()  # noqa: TID251
    for target in (
        {**role, "principal": str(two.id)},
        {**role, "principal": second["id"]},
        {**role, "principal": third["id"], "deputy_of": str(two.id), "ends_at": ends},
        {**role, "principal": third["id"], "deputy_of": second["id"], "ends_at": ends},
    ):
        refused = decide(two.client, ask(one.client, Action.ROLE_GRANT, target))
        assert refused.status_code == 403
        assert "about themselves" in refused.json()["detail"]
    own = request(one.client, Action.ROLE_GRANT, {**role, "principal": str(one.id)})
    assert own.status_code == 403


@pytest.mark.parametrize(
    ("decider", "constraint"),
    [
        ("decided_by = requested_by", "ck_approvals_own"),
        ("decided_by = :other, decided_person = requested_person", "ck_approvals_same_person"),
        (
            "decided_by = :other, decided_person = gen_random_uuid(), decided_for = requested_person",
            "ck_approvals_own_deputy",
        ),
    ],
)
def test_the_database_too_lets_nobody_decide_over_their_own(
    leaving: Exit, owner: Engine, decider: str, constraint: str
) -> None:
    asked = leaving.ask()
    sql = f"UPDATE approvals SET state = 'approved', {decider} WHERE id = :id"
    if "decided_person" not in decider:
        sql = sql.replace("WHERE", ", decided_person = gen_random_uuid() WHERE")
    with pytest.raises(IntegrityError, match=constraint):
        run(owner, sql, id=asked["id"], **({"other": leaving.head.id} if ":other" in sql else {}))


# Who sees and decides


def test_the_head_of_another_department_neither_sees_nor_decides(
    service: RunningService, leaving: Exit
) -> None:
    asked, unknown = leaving.ask(), {"id": MISSING}
    other = person(service, "other", [(Role.DEPARTMENT_HEAD, "sales")])
    manager = person(service, "manager", MANAGER)
    assert other.client.get("/v1/approvals").json()["items"] == []
    for what in ("approve", "deny"):
        answers = [decide(other.client, each, what) for each in (asked, unknown)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert without_request(answers[0]) == without_request(answers[1])
    for client in (other.client, manager.client):
        seen = [client.get(f"/v1/approvals/{each['id']}") for each in (asked, unknown)]
        assert [answer.status_code for answer in seen] == [404, 404]
        assert without_request(seen[0]) == without_request(seen[1])
    given = decide(leaving.head.client, asked).json()["grant_id"]
    assert other.client.get("/v1/grants").json()["items"] == []
    assert other.client.post(f"/v1/grants/{given}/revoke").status_code == 404


def test_behind_the_flow_the_database_hides_another_department_s_approvals(
    service: RunningService, leaving: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving.approved()
    other = person(service, "other", [(Role.DEPARTMENT_HEAD, "sales")])
    for module in ("approvals", "grants"):
        monkeypatch.setattr(f"vault.access.{module}.seen_by", lambda *_: true())
    for path in ("/v1/approvals", "/v1/grants"):
        assert other.client.get(path).json()["items"] == []
        assert len(leaving.head.client.get(path).json()["items"]) == 1
    context = as_caller(caller_of(service, other))
    with service.services.database.transaction(context) as connection:
        assert connection.execute(select(approvals)).fetchall() == []


def test_security_administrators_and_operators_see_no_department_s_requests(
    service: RunningService, leaving: Exit
) -> None:
    leaving.ask()
    for name, roles in (("security", SECURITY), ("operator", OPERATIONS)):
        someone = person(service, name, roles)
        assert someone.client.get("/v1/approvals").json()["items"] == []
    auditor = person(service, "auditor", [(Role.AUDITOR, None)])
    (seen,) = auditor.client.get("/v1/approvals").json()["items"]
    assert decide(auditor.client, seen).status_code == 403


def test_compliance_decides_a_department_s_request_only_once_it_is_escalated(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    compliance = person(service, "compliance", [(Role.COMPLIANCE, None)])
    asked = leaving.ask()
    assert len(compliance.client.get("/v1/approvals").json()["items"]) == 1
    refused = decide(compliance.client, asked)
    assert (refused.status_code, slug(refused)) == (403, "not-allowed")
    age(service, owner, asked, timedelta(days=1, minutes=1))
    assert service.services.approval_upkeep.look_after().escalated == 1
    assert decide(compliance.client, asked).status_code == 200
    assert leaving.export().status_code == 200


def test_a_head_for_one_class_decides_over_nothing(service: RunningService, leaving: Exit) -> None:
    narrow = add_person(service, "narrow")
    role = {"department": "demo", "class_name": "general"}
    grant(service, UUID(narrow["id"]), Role.DEPARTMENT_HEAD, **role)
    client = sign_in(service, UUID(narrow["id"]))
    assert decide(client, leaving.ask()).status_code == 404


def test_asking_needs_no_step_up_and_the_act_does(service: RunningService, leaving: Exit) -> None:
    manager = person(service, "manager", [(Role.ARCHIVE_MANAGER, "demo")], stepped_up=False)
    asked = ask(manager.client, Action.KEY_EXPORT, leaving.target)
    assert decide(leaving.head.client, asked).json()["state"] == "approved"
    path = f"/v1/documents/{leaving.document['id']}/versions/1/export-key"
    assert slug(manager.client.post(path)) == "step-up-needed"
    with sign_in(service, manager.id) as awake:
        assert awake.post(path).status_code == 200


def test_without_a_step_up_nobody_decides(service: RunningService, leaving: Exit) -> None:
    sleepy = person(service, "sleepy", HEAD, stepped_up=False)
    refused = decide(sleepy.client, leaving.ask())
    assert (refused.status_code, slug(refused)) == (403, "step-up-needed")


def test_a_denied_withdrawn_or_decided_request_is_over(leaving: Exit) -> None:
    denied, withdrawn, given = (leaving.ask() for _ in range(3))
    assert decide(leaving.head.client, denied, "deny").json()["state"] == "denied"
    path = f"/v1/approvals/{withdrawn['id']}/withdraw"
    assert leaving.head.client.post(path).status_code == 404, "only who asked withdraws"
    assert leaving.client.post(path).json()["state"] == "withdrawn"
    assert leaving.export().status_code == 403
    assert decide(leaving.head.client, given).status_code == 200
    for over in (denied, withdrawn, given):
        for what in ("approve", "deny"):
            again = decide(leaving.head.client, over, what)
            assert (again.status_code, slug(again)) == (409, "approval-over")
    assert leaving.client.post(f"/v1/approvals/{given['id']}/withdraw").status_code == 409


def test_an_expired_request_is_over_whether_or_not_the_worker_was_there(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    asked = leaving.ask()
    age(service, owner, asked, timedelta(days=7, minutes=1))
    assert slug(decide(leaving.head.client, asked)) == "approval-over"
    assert service.services.approval_upkeep.look_after().expired == 1
    assert slug(decide(leaving.head.client, asked)) == "approval-over"
    shown = leaving.client.get(f"/v1/approvals/{asked['id']}").json()
    assert shown["state"] == "expired"


def test_approvals_and_grants_come_in_pages(leaving: Exit) -> None:
    made = [leaving.approved()["id"] for _ in range(5)]
    for path, field in (("/v1/approvals", "id"), ("/v1/grants", "approval_id")):
        found: list[str] = []
        token = None
        while True:
            params = {"page_size": 2, **({"page_token": token} if token else {})}
            page = leaving.head.client.get(path, params=params).json()
            found += [item[field] for item in page["items"]]
            token = page["next_page_token"]
            if token is None:
                break
        assert found == made[::-1]
    asked = leaving.ask()["id"]
    only = leaving.head.client.get("/v1/approvals", params={"state": "requested"}).json()["items"]
    assert [item["id"] for item in only] == [asked]


# What can be asked for


def request(client: httpx.Client, action: str, target: object, **given: Any) -> httpx.Response:
    body = {"action": action, "target": target, "purpose": "staffing", "reason": "x", **given}
    if action == Action.KEY_EXPORT:
        body["purpose"] = given.get("purpose", "exit")
    return client.post("/v1/approvals", json=body)


def test_a_purpose_that_the_act_does_not_take_is_refused(leaving: Exit) -> None:
    for purpose in ("staffing", "disaster", "curiosity"):
        refused = request(leaving.client, "key.export", leaving.target, purpose=purpose)
        assert refused.status_code == 422
    assert request(leaving.client, "document.read", leaving.target).status_code == 422


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"document": "no id"},
        {"document": "\0"},
        {"document": MISSING, "version": "-1"},
        {"document": MISSING, "version": "9" * 12},
        {"document": MISSING, "version": "x"},
        {"document": 7},
        "text",
        {f"part-{number}": "x" for number in range(9)},
    ],
)
def test_a_malformed_target_is_refused(leaving: Exit, target: object) -> None:
    assert request(leaving.client, "key.export", target).status_code == 422


@pytest.mark.parametrize(
    "given",
    [
        {"role": "king"},
        {"role": "staff", "department": "demo"},
        {"role": "department_head"},
        {"role": "department_head", "department": "nowhere"},
        {"role": "department_head", "department": "\0"},
        {"role": "auditor", "department": "demo"},
        {"role": "auditor", "ends_at": "tomorrow"},
        {"role": "auditor", "ends_at": "2999-01-01T00:00:00"},
        {"role": "auditor", "ends_at": "0001-01-01T00:00:00+14:00"},
        {"role": "auditor", "deputy_of": MISSING},
        {"role": "auditor", "principal": "nobody"},
    ],
)
def test_a_role_that_could_not_be_granted_is_not_asked_for(
    service: RunningService, given: dict[str, str]
) -> None:
    security = person(service, "security", SECURITY)
    target = {"principal": add_person(service, "new")["id"], **given}
    assert request(security.client, "role.grant", target).status_code == 422


def test_what_is_not_there_or_not_theirs_is_not_asked_for(
    service: RunningService, leaving: Exit
) -> None:
    target = {"document": MISSING, "version": "1"}
    missing = request(leaving.client, "key.export", target)
    stranger = service.client(exporter(service, "elsewhere"))
    hidden = request(stranger, "key.export", leaving.target)
    assert (missing.status_code, hidden.status_code) == (404, 404)
    assert without_request(missing) == without_request(hidden)
    assert request(service.demo, "key.export", leaving.target).status_code == 403
    operator = person(service, "operator", OPERATIONS)
    site = request(operator.client, "site.fail-over", {"site": "c\0"}, purpose="exercise")
    assert site.status_code == 422
    site = request(operator.client, "site.fail-over", {"site": "c"}, purpose="exercise")
    assert site.status_code == 404


@pytest.mark.parametrize(
    "given", [{"uses": 0}, {"uses": 101}, {"lasts_minutes": 0}, {"reason": ""}, {"ticket": "\0"}]
)
def test_an_approval_is_for_a_while_and_so_many_uses_and_a_reason(
    leaving: Exit, given: dict[str, Any]
) -> None:
    assert request(leaving.client, "key.export", leaving.target, **given).status_code == 422


def test_parts_that_an_act_does_not_know_are_not_kept(leaving: Exit) -> None:
    asked = ask(leaving.client, Action.KEY_EXPORT, {**leaving.target, "more": "for the eye"})
    assert asked["target"] == leaving.target


# Using a grant


def test_40_concurrent_uses_of_a_3_use_grant_give_exactly_3(leaving: Exit, owner: Engine) -> None:
    leaving.approved(uses=3)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: leaving.export(), range(40)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(403)) == (3, 37)
    assert events(owner, "api:grant:used") == events(owner, "api:key:exported") == 3


def test_a_use_that_comes_to_nothing_is_given_back(service: RunningService) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    holder = person(service, "holder", [(Role.AUDITOR, None)])
    target = {"principal": str(holder.id), "role": "auditor"}
    given = approved(one.client, two, Action.ROLE_GRANT, target)
    body = {"principal_id": str(holder.id), "role": "auditor"}
    assert one.client.post("/v1/role-grants", json=body).status_code == 409
    (shown,) = one.client.get("/v1/grants").json()["items"]
    assert (shown["id"], shown["remaining"]) == (given["grant_id"], 1)


def test_no_use_after_expiry(leaving: Exit, service: RunningService, owner: Engine) -> None:
    given = leaving.approved(lasts_minutes=1)
    past = service.services.database.now() - timedelta(seconds=1)
    reseal(service, owner, GRANTS, given["grant_id"], expires_at=past)
    assert slug(leaving.export()) == "approval-needed"


@pytest.mark.parametrize("by", ["head", "requester"])
def test_no_use_after_revocation(leaving: Exit, by: str) -> None:
    given = leaving.approved()
    client = leaving.head.client if by == "head" else leaving.client
    revoked = client.post(f"/v1/grants/{given['grant_id']}/revoke")
    assert revoked.json()["revoked_at"]
    assert slug(leaving.export()) == "approval-needed"
    assert client.post(f"/v1/grants/{given['grant_id']}/revoke").json() == revoked.json()


def test_no_use_after_the_role_was_lost(service: RunningService, leaving: Exit) -> None:
    manager = add_person(service, "manager")
    role = grant(service, UUID(manager["id"]), Role.ARCHIVE_MANAGER, department="demo")
    client = sign_in(service, UUID(manager["id"]))
    approved(client, leaving.head, Action.KEY_EXPORT, leaving.target)
    service.admin.post(f"/v1/role-grants/{role}/revoke")
    path = f"/v1/documents/{leaving.document['id']}/versions/1/export-key"
    assert client.post(path).status_code == 401, "the session ended with the role"
    grant(service, UUID(manager["id"]), Role.STAFF, department="demo")
    assert slug(sign_in(service, UUID(manager["id"])).post(path)) == "not-allowed"


def test_no_use_after_the_document_went_to_another_department(
    service: RunningService, owner: Engine
) -> None:
    document = upload(service.demo, b"x")
    manager = person(service, "manager", [*MANAGER, (Role.ARCHIVE_MANAGER, "sales")])
    head = person(service, "head", HEAD)
    target = {"document": document["id"], "version": "1"}
    approved(manager.client, head, Action.KEY_EXPORT, target)
    run(owner, "UPDATE documents SET department = 'sales' WHERE id = :id", id=document["id"])
    path = f"/v1/documents/{document['id']}/versions/1/export-key"
    assert slug(manager.client.post(path)) == "approval-needed"


def test_a_grant_is_for_one_account_and_one_target(service: RunningService, leaving: Exit) -> None:
    leaving.approved()
    other = service.client(exporter(service))
    path = f"/v1/documents/{leaving.document['id']}/versions/1/export-key"
    assert slug(other.post(path)) == "approval-needed"
    second = upload(service.demo, b"another")
    path = f"/v1/documents/{second['id']}/versions/1/export-key"
    assert slug(leaving.client.post(path)) == "approval-needed"
    assert leaving.export().status_code == 200


# Rows that SQL wrote

FORGED_APPROVALS: Final = {
    "an edited target": "UPDATE approvals SET target = replace(target, :document, :other) WHERE id = :id",
    "an edited reason": "UPDATE approvals SET reason = 'a court says so' WHERE id = :id",
    "more uses": "UPDATE approvals SET uses = 99 WHERE id = :id",
    "another requester": "UPDATE approvals SET requested_person = NULL WHERE id = :id",
    "escalated": "UPDATE approvals SET escalated_at = now() WHERE id = :id",
    "another department": "UPDATE approvals SET department = 'sales' WHERE id = :id",
    "no seal": "UPDATE approvals SET seal = NULL WHERE id = :id",
}


@pytest.mark.parametrize("sql", FORGED_APPROVALS.values(), ids=list(FORGED_APPROVALS))
def test_an_approval_edited_after_the_request_is_not_decided_and_found(
    service: RunningService, leaving: Exit, owner: Engine, sql: str
) -> None:
    asked = leaving.ask()
    head = person(service, "head-of-both", [*HEAD, (Role.DEPARTMENT_HEAD, "sales")])
    values = {"document": leaving.document["id"], "other": MISSING}
    run(owner, sql, id=asked["id"], **(values if ":document" in sql else {}))
    assert decide(head.client, asked).status_code == 404
    assert findings(service) == {("approvals", asked["id"])}
    assert head.client.get("/v1/approvals").json()["items"] == []
    assert head.client.get(f"/v1/approvals/{asked['id']}").status_code == 404
    assert service.services.seal_upkeep.look_at_all() == 1


def test_an_approval_that_sql_lets_wait_for_ever_is_not_decided_and_found(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    asked = leaving.ask()
    run(owner, "UPDATE approvals SET decide_before = 'infinity'")
    assert decide(leaving.head.client, asked).status_code == 404
    assert findings(service) == {("approvals", asked["id"])}


def test_an_approval_that_sql_inserted_or_approved_gives_nothing(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    asked = leaving.ask()
    copied = "11111111-0000-4000-8000-000000000000"
    columns = [column.name for column in approvals.c if column.name != "id" and not column.computed]
    names = ", ".join(columns)
    run(
        owner,
        f"INSERT INTO approvals (id, {names}) SELECT CAST(:copied AS uuid), {names} FROM approvals",
        copied=copied,
    )
    assert decide(leaving.head.client, {"id": copied}).status_code == 404
    run(
        owner,
        "UPDATE approvals SET state = 'approved', decided_by = :head, decided_person = :person "
        "WHERE id = :id",
        head=leaving.head.id,
        person=leaving.head.person_id,
        id=asked["id"],
    )
    assert slug(leaving.export()) == "approval-needed"
    assert service.services.seal_upkeep.look_at_all() == 2
    assert findings(service) == {("approvals", copied), ("approvals", asked["id"])}


FORGED_GRANTS: Final = {
    "more uses": "UPDATE grants SET remaining = 9, max_uses = 9",
    "one more use": "UPDATE grants SET remaining = remaining + 1",
    "for ever": "UPDATE grants SET expires_at = 'infinity'",
    "longer": "UPDATE grants SET expires_at = now() + interval '9 days'",
    "not revoked": "UPDATE grants SET revoked_at = NULL",
    "another's": "UPDATE grants SET principal_id = :mine",
    "another target": "UPDATE grants SET target = :target",
    "no seal": "UPDATE grants SET seal = NULL, remaining = 1, revoked_at = NULL",
}


@pytest.mark.parametrize("sql", FORGED_GRANTS.values(), ids=list(FORGED_GRANTS))
def test_a_grant_edited_by_sql_is_none_and_found(
    service: RunningService, leaving: Exit, owner: Engine, sql: str
) -> None:
    given = leaving.approved()
    using = leaving
    if "revoked_at" in sql:
        leaving.client.post(f"/v1/grants/{given['grant_id']}/revoke")
    elif ":mine" in sql:
        using = Exit(
            leaving.document, leaving.target, service.client(exporter(service)), using.head
        )
    elif ":target" in sql:
        document = upload(service.demo, b"another")
        target = {"document": document["id"], "version": "1"}
        using = Exit(document, target, leaving.client, leaving.head)
    else:
        assert leaving.export().status_code == 200
    values: dict[str, Any] = {}
    if ":mine" in sql:
        values["mine"] = using.client.get("/v1/whoami").json()["principal_id"]
    if ":target" in sql:
        values["target"] = json.dumps(using.target, sort_keys=True, separators=(",", ":"))
    run(owner, sql, **values)
    assert slug(using.export()) == "approval-needed"
    assert findings(service) <= {("grants", given["grant_id"])}
    service.services.seal_upkeep.look_at_all()
    assert findings(service) == {("grants", given["grant_id"])}


def test_a_grant_that_sql_inserted_is_none_and_found(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    asked = leaving.ask()
    mine = "11111111-0000-4000-8000-000000000000"
    run(
        owner,
        "INSERT INTO grants (id, approval_id, principal_id, action, target, department, expires_at, "
        "max_uses, remaining, seal, seal_key_id) SELECT CAST(:mine AS uuid), id, requested_by, action, "
        "target, department, now() + interval '1 day', 9, 9, seal, seal_key_id FROM approvals",
        mine=mine,
    )
    assert slug(leaving.export()) == "approval-needed"
    assert findings(service) == {("grants", mine)}
    refused = decide(leaving.head.client, asked)
    assert slug(refused) == "approval-over", "its place is taken"


ROLE_EDITS: Final = {
    "the role": "UPDATE role_grants SET role = 'department_head' WHERE id = :id",
    "the department": "UPDATE role_grants SET department = 'sales' WHERE id = :id",
    "the end": "UPDATE role_grants SET ends_at = '2999-01-01' WHERE id = :id",
    "the account": "UPDATE role_grants SET principal_id = :other WHERE id = :id",
}


@pytest.mark.parametrize("sql", ROLE_EDITS.values(), ids=list(ROLE_EDITS))
def test_a_role_row_edited_by_sql_opens_nothing_and_is_found(
    service: RunningService, leaving: Exit, owner: Engine, sql: str
) -> None:
    department(service, "sales")
    other = person(service, "other", [(Role.STAFF, "sales")])
    added = add_person(service, "clerk")
    role = grant(service, UUID(added["id"]), Role.STAFF, department="demo")
    client = sign_in(service, UUID(added["id"]))
    values = {"other": other.id} if ":other" in sql else {}
    run(owner, sql, id=role, **values)
    own = {"role": "staff", "department": "sales", "class": None, "deputy_of": None}
    whoami = (other.client if values else client).get("/v1/whoami").json()
    assert whoami["roles"] == ([own] if values else []), "it spoils no other role"
    assert client.get("/v1/documents").status_code == 403
    assert findings(service) == {("role_grants", str(role))}


def test_a_role_that_sql_takes_from_the_other_operator_lets_nobody_go_alone(
    service: RunningService, owner: Engine
) -> None:
    one, two = (person(service, name, OPERATIONS) for name in ("one", "two"))
    body = {"accepted": 0}
    run(
        owner,
        "UPDATE role_grants SET revoked_at = now() WHERE principal_id = :id",
        id=two.id,
    )
    refused = one.client.post("/v1/sites/b/failover", json=body)
    assert slug(refused) == "approval-needed"
    assert {subject for subject, _ in findings(service)} == {"role_grants"}


def test_an_account_that_sql_disables_lets_nobody_go_alone(
    service: RunningService, owner: Engine
) -> None:
    one, two = (person(service, name, OPERATIONS) for name in ("one", "two"))
    run(owner, "UPDATE principals SET disabled_at = now() WHERE id = :id", id=two.id)
    refused = one.client.post("/v1/sites/b/failover", json={"accepted": 0})
    assert slug(refused) == "approval-needed"
    assert findings(service) == {("principals", str(two.id))}


# Whether somebody else could decide


def disabled(service: RunningService, other: Person) -> None:
    service.admin.post(f"/v1/principals/{other.id}/disable")


def revoked(service: RunningService, other: Person) -> None:
    params = {"principal_id": str(other.id)}
    for role in service.admin.get("/v1/role-grants", params=params).json()["items"]:
        service.admin.post(f"/v1/role-grants/{role['id']}/revoke")


@pytest.mark.parametrize("away", [disabled, revoked])
def test_an_operator_goes_alone_once_the_other_is_none_any_more(
    service: RunningService, away: Callable[[RunningService, Person], None]
) -> None:
    one, two = (person(service, name, OPERATIONS) for name in ("one", "two"))
    away(service, two)
    body = {"accepted": 0}
    assert one.client.post("/v1/sites/b/failover", json=body).status_code == 200


def test_who_has_not_started_stands_in_or_is_the_same_person_could_not_decide(
    service: RunningService,
) -> None:
    one = person(service, "one", OPERATIONS)
    later = datetime.now(UTC) + timedelta(days=2)  # noqa: TID251
    future = add_person(service, "future")
    grant(service, UUID(future["id"]), Role.IT_OPERATIONS, starts_at=later)
    deputy = add_person(service, "deputy")
    given = {"deputy_of": one.id, "ends_at": later}
    grant(service, UUID(deputy["id"]), Role.IT_OPERATIONS, **given)
    person(service, "again", OPERATIONS, same_person_as=str(one.id))
    body = {"accepted": 0}
    assert one.client.post("/v1/sites/b/failover", json=body).status_code == 200


def test_a_security_administrator_who_revokes_the_other_goes_not_alone(
    service: RunningService,
) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    for role in one.client.get("/v1/role-grants", params={"principal_id": str(two.id)}).json()[
        "items"
    ]:
        assert one.client.post(f"/v1/role-grants/{role['id']}/revoke").status_code == 200
    body = {"principal_id": add_person(service, "new")["id"], "role": "auditor"}
    assert slug(one.client.post("/v1/role-grants", json=body)) == "approval-needed"


def test_a_security_administrator_gets_no_key_of_the_administrator_for_set_up(
    service: RunningService,
) -> None:
    """With it they would ask, and decide as themselves."""
    one = person(service, "one", SECURITY)
    items = service.admin.get("/v1/principals").json()["items"]
    (admin,) = [item["id"] for item in items if "admin" in item["scopes"]]
    assert one.client.post("/v1/api-keys", json={"principal_id": admin}).status_code == 403


# Roles


def test_two_duties_at_once_for_two_accounts_of_one_person_give_exactly_one(
    service: RunningService,
) -> None:
    first = add_person(service, "first")
    accounts = [first["id"]] + [
        add_person(service, f"account-{n}", same_person_as=first["id"])["id"] for n in range(3)
    ]
    department(service, "sales")
    roles = [
        {"role": "staff", "department": "sales"},
        {"role": "security_administrator"},
        {"role": "compliance"},
        {"role": "auditor"},
    ]

    def give(each: tuple[str, dict[str, str]]) -> int:
        body = {"principal_id": each[0], **each[1]}
        return service.admin.post("/v1/role-grants", json=body).status_code

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(give, zip(accounts, roles, strict=True)))
    assert codes == [201, 409, 409, 409]


def test_a_duty_that_sql_inserted_gives_nobody_a_second_one(
    service: RunningService, owner: Engine
) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "demo")])
    with pytest.raises(IntegrityError):
        run(
            owner,
            "UPDATE person_duties SET duty = 'audit' WHERE person_id = :id",
            id=clerk.person_id,
        )
    with pytest.raises(IntegrityError):
        run(owner, "INSERT INTO person_duties VALUES (:id, 'audit')", id=clerk.person_id)
    new = add_person(service, "new")
    run(owner, "INSERT INTO person_duties VALUES (:id, 'audit')", id=new["person_id"])
    grant(service, UUID(new["id"]), Role.STAFF, department="demo")
    body = {"principal_id": new["id"], "role": "auditor"}
    assert slug(service.admin.post("/v1/role-grants", json=body)) == "duties-conflict"


def test_two_who_change_each_other_s_roles_do_not_wait_for_each_other(
    service: RunningService,
) -> None:
    """Each locks the other, and says that they did it; one of the two sessions may end by it."""
    one, two, third, fourth = (person(service, f"person-{n}", SECURITY) for n in range(4))
    ends = (datetime.now(UTC) + timedelta(days=3)).isoformat()  # noqa: TID251
    role = {"role": "security_administrator", "deputy_of": str(third.id), "ends_at": ends}
    for granter, deputy in ((one, two), (two, one)):
        target = {**role, "principal": str(deputy.id)}
        approved(granter.client, fourth, Action.ROLE_GRANT, target)

    def give(each: tuple[Person, Person]) -> int:
        body = {**role, "principal_id": str(each[1].id)}
        return each[0].client.post("/v1/role-grants", json=body).status_code

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(give, ((one, two), (two, one))))
    assert 201 in codes
    assert set(codes) <= {201, 401}


def test_a_closed_department_takes_no_roles_and_asks_for_none(service: RunningService) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    one = person(service, "one", SECURITY)
    service.admin.post("/v1/departments/sales/close")
    assert clerk.client.get("/v1/documents").status_code == 200, "what is there stays"
    new = add_person(service, "new")
    target = {"principal": new["id"], "role": "department_head", "department": "sales"}
    assert request(one.client, "role.grant", target).status_code == 422
    body = {"principal_id": new["id"], "role": "staff", "department": "sales"}
    assert service.admin.post("/v1/role-grants", json=body).status_code == 422


def test_deputies_have_no_deputies_and_reach_no_further_than_whom_they_stand_in_for(
    service: RunningService,
) -> None:
    service.admin.post("/v1/classes", json={"name": "contracts"})
    department(service, "sales")
    head, deputy, third = (add_person(service, name)["id"] for name in ("head", "deputy", "third"))
    narrow = {"department": "sales", "class_name": "contracts"}
    grant(service, UUID(head), Role.DEPARTMENT_HEAD, **narrow)
    ends = (datetime.now(UTC) + timedelta(days=3)).isoformat()  # noqa: TID251
    body = {"role": "staff", "department": "sales", "ends_at": ends}
    grant(service, UUID(head), Role.STAFF, **narrow)

    def give(who: str, whom: str, **more: str) -> int:
        given = {**body, "principal_id": who, "deputy_of": whom, **more}
        return service.admin.post("/v1/role-grants", json=given).status_code

    assert give(deputy, head) == 422, "of the whole department, which the head is not"
    assert give(deputy, head, **{"class": "contracts"}) == 201
    assert give(third, deputy, **{"class": "contracts"}) == 422
    again = add_person(service, "again", same_person_as=head)["id"]
    assert give(again, head, **{"class": "contracts"}) == 422, (
        "their own deputy, by another account"
    )
    service.admin.post(f"/v1/principals/{head}/disable")
    assert sign_in(service, UUID(deputy)).get("/v1/whoami").json()["roles"] == []


def test_what_sql_gave_back_to_a_head_no_deputy_goes_on_with(
    service: RunningService, owner: Engine
) -> None:
    department(service, "sales")
    head, deputy = (add_person(service, name)["id"] for name in ("head", "deputy"))
    headship = grant(service, UUID(head), Role.DEPARTMENT_HEAD, department="sales")
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    given = {"department": "sales", "deputy_of": UUID(head), "ends_at": ends}
    grant(service, UUID(deputy), Role.DEPARTMENT_HEAD, **given)
    service.admin.post(f"/v1/role-grants/{headship}/revoke")
    run(owner, "UPDATE role_grants SET revoked_at = NULL WHERE id = :id", id=headship)
    assert sign_in(service, UUID(deputy)).get("/v1/whoami").json()["roles"] == []
    assert findings(service) == {("role_grants", str(headship))}


def test_a_head_whom_sql_enabled_again_lends_no_deputy_anything(
    service: RunningService, owner: Engine
) -> None:
    department(service, "sales")
    head, deputy = (add_person(service, name)["id"] for name in ("head", "deputy"))
    grant(service, UUID(head), Role.DEPARTMENT_HEAD, department="sales")
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    given = {"department": "sales", "deputy_of": UUID(head), "ends_at": ends}
    grant(service, UUID(deputy), Role.DEPARTMENT_HEAD, **given)
    service.admin.post(f"/v1/principals/{head}/disable")
    run(owner, "UPDATE principals SET disabled_at = NULL WHERE id = :id", id=head)
    assert sign_in(service, UUID(deputy)).get("/v1/whoami").json()["roles"] == []
    assert ("principals", head) in findings(service)


def test_a_role_that_sql_hid_still_makes_a_new_way_in_take_two_people(
    service: RunningService, owner: Engine
) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    path = f"/v1/people/{two.id}/enrolment"
    assert slug(one.client.post(path)) == "approval-needed"
    run(owner, "UPDATE role_grants SET revoked_at = now() WHERE principal_id = :id", id=two.id)
    assert slug(one.client.post(path)) == "approval-needed"
    assert {table for table, _ in findings(service)} == {"role_grants"}


def test_a_deputy_does_not_decide_over_whom_they_stand_in_for(service: RunningService) -> None:
    one, two = (person(service, name, SECURITY) for name in ("one", "two"))
    deputy = UUID(add_person(service, "deputy")["id"])
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    grant(service, deputy, Role.SECURITY_ADMINISTRATOR, deputy_of=two.id, ends_at=ends)
    asked = ask(one.client, Action.CREDENTIALS_RESET, {"principal": str(two.id)})
    refused = decide(sign_in(service, deputy), asked)
    assert (refused.status_code, slug(refused)) == (403, "not-allowed")
    assert "whom they stand in for" in refused.json()["detail"]


def test_what_decides_over_people_is_approved_for_one_use(service: RunningService) -> None:
    body = {
        "action": "role.grant",
        "target": {"principal": add_person(service, "next")["id"], "role": "auditor"},
        "purpose": "staffing",
        "reason": "a colleague",
        "uses": 2,
    }
    assert slug(service.admin.post("/v1/approvals", json=body)) == "invalid-input"


# Set-up


def test_set_up_does_not_end_with_people_who_cannot_come_in_or_stay(
    service: RunningService,
) -> None:
    one = person(service, "one", SECURITY)
    for name, roles in (("o", OPERATIONS), ("a", [(Role.AUDITOR, None)])):
        person(service, name, roles)
    deputy = UUID(add_person(service, "deputy")["id"])
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    grant(service, deputy, Role.SECURITY_ADMINISTRATOR, deputy_of=one.id, ends_at=ends)
    sign_in(service, deputy)
    assert slug(service.admin.post("/v1/setup/close")) == "setup-incomplete"
    outside = UUID(add_person(service, "outside")["id"])
    grant(service, outside, Role.SECURITY_ADMINISTRATOR)
    assert slug(service.admin.post("/v1/setup/close")) == "setup-incomplete"
    sign_in(service, outside)
    assert service.admin.post("/v1/setup/close").status_code == 200


def test_set_up_is_closed_though_sql_put_an_administrator_there(
    service: RunningService, owner: Engine
) -> None:
    for name, roles in (("o", OPERATIONS), ("a", [(Role.AUDITOR, None)]), ("s", SECURITY)):
        person(service, name, roles)
    run(
        owner,
        "INSERT INTO role_grants (id, principal_id, person_id, role, granted_by) "
        "SELECT gen_random_uuid(), p.id, d.person_id, 'security_administrator', a.id "
        "FROM principals p, principals a, person_duties d "
        "WHERE p.name = 'o' AND a.name = 'a' AND d.duty = 'security'",
    )
    assert slug(service.admin.post("/v1/setup/close")) == "setup-incomplete"
    person(service, "s2", SECURITY)
    run(
        owner,
        "INSERT INTO principals (id, name, scopes) VALUES (gen_random_uuid(), 'mine', '{admin}')",
    )
    assert service.admin.post("/v1/setup/close").json() == {"disabled": 1}


def test_an_administrator_added_while_set_up_is_closed_is_disabled_or_not_added(
    service: RunningService, owner: Engine
) -> None:
    for name, roles in (
        ("o", OPERATIONS),
        ("a", [(Role.AUDITOR, None)]),
        ("s", SECURITY),
        ("s2", SECURITY),
    ):
        person(service, name, roles)

    def add(number: int) -> int:
        body = {"name": f"more-{number}", "scopes": ["admin"]}
        return service.admin.post("/v1/principals", json=body).status_code

    with ThreadPoolExecutor(9) as pool:
        added = [pool.submit(add, number) for number in range(4)]
        closed = pool.submit(service.admin.post, "/v1/setup/close")
        added += [pool.submit(add, number) for number in range(4, 8)]
    assert closed.result().status_code == 200
    assert {each.result() for each in added} <= {201, 401}
    living = "SELECT count(*) FROM principals WHERE disabled_at IS NULL AND 'admin' = ANY(scopes)"
    assert run(owner, living)[0][0] == 0


# The worker


def test_the_worker_escalates_after_a_day_and_expires_after_a_week_each_once(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    upkeep = service.services.approval_upkeep
    fresh, late, over = (leaving.ask() for _ in range(3))
    age(service, owner, fresh, timedelta(hours=23))
    age(service, owner, late, timedelta(hours=25))
    age(service, owner, over, timedelta(days=7))
    run(
        owner,
        "UPDATE approvals SET requested_at = now() - interval '2 days' WHERE id = :id",
        id=fresh["id"],
    )
    assert upkeep.look_after() == LookedAfter(expired=1, escalated=1)
    assert upkeep.look_after() == LookedAfter(expired=0, escalated=0)
    shown = {item["id"]: item for item in leaving.client.get("/v1/approvals").json()["items"]}
    assert [shown[each["id"]]["state"] for each in (fresh, late, over)] == [
        "requested",
        "requested",
        "expired",
    ]
    escalated = [shown[each["id"]]["escalated_at"] is not None for each in (fresh, late, over)]
    assert escalated == [False, True, False]
    assert (
        events(owner, "worker:approval:escalated") == events(owner, "worker:approval:expired") == 1
    )
    assert service.services.seal_upkeep.look_at_all() == 0
    assert decide(leaving.head.client, late).status_code == 200


def test_two_workers_at_once_move_each_approval_once(
    service: RunningService, leaving: Exit, owner: Engine
) -> None:
    late, over = [leaving.ask() for _ in range(6)], [leaving.ask() for _ in range(6)]
    for each in late:
        age(service, owner, each, timedelta(days=2))
    for each in over:
        age(service, owner, each, timedelta(days=8))
    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(service.services.approval_upkeep.look_after) for _ in range(4)]
    moved = [look.result() for look in looks]
    assert (sum(m.expired for m in moved), sum(m.escalated for m in moved)) == (6, 6)
    assert (
        events(owner, "worker:approval:escalated") == events(owner, "worker:approval:expired") == 6
    )


@pytest.mark.parametrize("moment", ["now() - interval '1 hour'", "'-infinity'", "'4000-01-01 BC'"])
def test_a_request_that_sql_aged_is_left_and_found(
    service: RunningService, leaving: Exit, owner: Engine, moment: str
) -> None:
    forged, over = leaving.ask(), leaving.ask()
    run(owner, f"UPDATE approvals SET decide_before = {moment} WHERE id = :id", id=forged["id"])
    age(service, owner, over, timedelta(days=8))
    assert service.services.approval_upkeep.look_after() == LookedAfter(expired=1, escalated=0)
    (state,) = run(owner, "SELECT state FROM approvals WHERE id = :id", id=forged["id"])[0]
    assert state == "requested"
    assert findings(service) == {("approvals", forged["id"])}
    assert events(owner, "worker:authority:seal-broken") == 1


def test_the_worker_shows_how_many_requests_are_open(
    service: RunningService, leaving: Exit
) -> None:
    asked = [leaving.ask() for _ in range(2)]
    Worker(service.services).look_after_approvals()
    shown = {
        sample.labels["action"]: sample.value
        for family in metrics.APPROVALS_OPEN.collect()
        for sample in family.samples
    }
    assert (shown["key.export"], shown["role.grant"]) == (2, 0)
    for each in asked:
        decide(leaving.head.client, each, "deny")
    Worker(service.services).look_after_approvals()
    (family,) = metrics.APPROVALS_OPEN.collect()
    assert all(sample.value == 0 for sample in family.samples)


def test_a_new_seal_key_takes_approvals_and_grants_along(
    service: RunningService, leaving: Exit
) -> None:
    leaving.approved()
    asked = leaving.ask()
    rotated = service.admin.post("/v1/keys/seal/rotate")
    assert rotated.is_success, rotated.text
    assert service.services.seal_upkeep.look_at_all() == 0
    assert leaving.export().status_code == 200
    assert decide(leaving.head.client, asked).status_code == 200


def test_adopting_the_rows_of_a_restored_vault_takes_approvals_along_and_ends_sessions(
    service: RunningService, leaving: Exit
) -> None:
    leaving.approved()
    asked = leaving.ask()
    service.services.seal_upkeep.prepare(lambda: None, adopt=True)
    assert service.services.seal_upkeep.look_at_all() == 0
    assert leaving.head.client.get("/v1/whoami").status_code == 401
    assert leaving.export().status_code == 200
    assert decide(sign_in(service, leaving.head.id), asked).status_code == 200


def test_decisions_uses_and_roles_go_on_while_seals_are_moved(
    service: RunningService, leaving: Exit
) -> None:
    """All of them lock principals, approvals and grants: never in an order that two wait for each other."""
    leaving.approved(uses=8)
    asked = [leaving.ask() for _ in range(8)]
    people = [add_person(service, f"person-{number}")["id"] for number in range(8)]

    def give(principal_id: str) -> int:
        body = {"principal_id": principal_id, "role": "staff", "department": "demo"}
        return service.admin.post("/v1/role-grants", json=body).status_code

    def rotate() -> int:
        return service.admin.post("/v1/keys/seal/rotate").status_code

    with ThreadPoolExecutor(12) as pool:
        rotated = [pool.submit(rotate) for _ in range(3)]
        decided = [pool.submit(decide, leaving.head.client, each) for each in asked]
        used = [pool.submit(leaving.export) for _ in range(8)]
        given = [pool.submit(give, each) for each in people]
    assert {each.result() for each in rotated} == {201}
    assert {each.result().status_code for each in decided} == {200}
    assert {each.result().status_code for each in used} == {200}
    assert {each.result() for each in given} == {201}
    assert service.services.seal_upkeep.look_at_all() == 0
    assert findings(service) == set()

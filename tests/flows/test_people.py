"""People: departments, roles, sessions, and what each duty may and may not do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from api.first_start import ADMINISTRATOR, create_once
from api.settings import KmsSettings
from tests.api.helpers import upload
from tests.people import add_person, department, grant, person, sign_in
from tests.running import RunningService
from vault.access.roles import Role


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


def test_a_clerk_files_and_reads_in_their_own_department_only(service: RunningService) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    other = person(service, "other", [(Role.STAFF, "credit")])
    filed = upload(clerk.client, b"a contract", name="合同.pdf")
    assert filed["department"] == "sales"
    path = f"/v1/documents/{filed['id']}"
    assert clerk.client.get(f"{path}/content").content == b"a contract"
    missing = "/v1/documents/00000000-0000-4000-8000-000000000000"
    hidden, unknown = other.client.get(path), other.client.get(missing)
    assert hidden.status_code == unknown.status_code == 404
    assert hidden.json()["detail"] == unknown.json()["detail"]
    assert [d["id"] for d in clerk.client.get("/v1/documents").json()["items"]] == [filed["id"]]
    assert other.client.get("/v1/documents").json()["items"] == []
    refused = clerk.client.delete(path)
    assert refused.status_code == 403
    assert "the role 'archive_manager'" in refused.json()["detail"]


def test_a_person_of_two_departments_sees_both_and_says_where_they_file(
    service: RunningService,
) -> None:
    both = person(service, "both", [(Role.STAFF, "sales"), (Role.ARCHIVE_MANAGER, "credit")])
    assert both.client.post("/v1/documents", content=b"x").status_code == 400
    one = upload(both.client, b"1", params={"department": "sales"})
    two = upload(both.client, b"2", params={"department": "credit"})
    listed = {d["id"] for d in both.client.get("/v1/documents").json()["items"]}
    assert listed == {one["id"], two["id"]}
    assert both.client.delete(f"/v1/documents/{two['id']}").status_code == 200
    assert both.client.delete(f"/v1/documents/{one['id']}").status_code == 403


def test_a_role_for_one_class_reaches_no_other(service: RunningService) -> None:
    service.admin.post("/v1/classes", json={"name": "contracts"})
    manager = person(service, "manager", [(Role.ARCHIVE_MANAGER, "sales")])
    narrow = add_person(service, "narrow")
    grant(service, narrow["id"], Role.STAFF, department="sales", class_name="contracts")
    client = sign_in(service, narrow["id"])
    general = upload(manager.client, b"1")
    contract = upload(manager.client, b"2", params={"class": "contracts"})
    assert [d["id"] for d in client.get("/v1/documents").json()["items"]] == [contract["id"]]
    assert client.get(f"/v1/documents/{general['id']}").status_code == 404
    assert client.get(f"/v1/documents/{contract['id']}/content").content == b"2"
    changed = client.patch(f"/v1/documents/{contract['id']}", json={"class": "general"})
    assert changed.status_code in (403, 404), "they could not take it back"


def test_a_role_that_is_taken_away_is_gone_with_the_next_request(service: RunningService) -> None:
    department(service, "sales")
    added = add_person(service, "leaving")
    role = grant(service, added["id"], Role.STAFF, department="sales")
    client = sign_in(service, added["id"])
    assert client.get("/v1/documents").status_code == 200
    assert service.admin.post(f"/v1/role-grants/{role}/revoke").status_code == 200
    assert client.get("/v1/documents").status_code == 401


def test_a_deputy_acts_until_their_day_and_only_while_the_head_is_one(
    service: RunningService,
) -> None:
    department(service, "sales")
    head = add_person(service, "head")
    headship = grant(service, head["id"], Role.DEPARTMENT_HEAD, department="sales")
    deputy = add_person(service, "deputy")
    ends = datetime.now(UTC) + timedelta(days=3)  # noqa: TID251
    grant(
        service,
        deputy["id"],
        Role.DEPARTMENT_HEAD,
        department="sales",
        deputy_of=head["id"],
        ends_at=ends,
    )
    client = sign_in(service, deputy["id"])
    assert [r["deputy_of"] for r in client.get("/v1/whoami").json()["roles"]] == [head["person_id"]]
    service.admin.post(f"/v1/role-grants/{headship}/revoke")
    assert client.get("/v1/whoami").json()["roles"] == []


def test_nobody_holds_roles_of_two_duties(service: RunningService) -> None:
    operator = add_person(service, "operator")
    role = grant(service, operator["id"], Role.IT_OPERATIONS)
    second = add_person(service, "operator-too", same_person_as=operator["id"])
    department(service, "sales")
    for principal in (operator, second):
        refused = service.admin.post(
            "/v1/role-grants",
            json={"principal_id": principal["id"], "role": "staff", "department": "sales"},
        )
        assert refused.status_code == 409, refused.text
        assert refused.json()["type"].endswith("duties-conflict")
    service.admin.post(f"/v1/role-grants/{role}/revoke")
    granted = service.admin.post(
        "/v1/role-grants",
        json={"principal_id": second["id"], "role": "staff", "department": "sales"},
    )
    assert granted.status_code == 201, "a duty that was laid down keeps nothing apart"


def test_set_up_ends_for_good_once_people_carry_on(service: RunningService) -> None:
    assert service.admin.post("/v1/setup/close").json()["type"].endswith("setup-incomplete")
    first = person(service, "first", [(Role.SECURITY_ADMINISTRATOR, None)])
    person(service, "second", [(Role.SECURITY_ADMINISTRATOR, None)])
    person(service, "operator", [(Role.IT_OPERATIONS, None)])
    person(service, "auditor", [(Role.AUDITOR, None)])
    assert service.admin.post("/v1/setup/close").json() == {"disabled": 1}
    assert service.admin.get("/v1/principals").status_code == 401
    new = {"name": "again", "scopes": ["admin"]}
    assert first.client.post("/v1/principals", json=new).status_code == 403


def test_a_key_that_reaches_every_department_takes_two_people(service: RunningService) -> None:
    one = person(service, "one", [(Role.SECURITY_ADMINISTRATOR, None)])
    other = person(service, "other", [(Role.SECURITY_ADMINISTRATOR, None)])
    new = {"name": "reads-all", "scopes": ["read"], "department": "*"}
    application = one.client.post("/v1/principals", json=new).json()
    wanted = {"principal_id": application["id"]}
    refused = one.client.post("/v1/api-keys", json=wanted)
    assert (refused.status_code, refused.json()["type"][-15:]) == (403, "approval-needed")
    asked = {
        "action": "api-key.issue",
        "target": {"principal": application["id"]},
        "purpose": "staffing",
        "reason": "the yearly export",
    }
    approval = one.client.post("/v1/approvals", json=asked).json()
    decided = other.client.post(f"/v1/approvals/{approval['id']}/approve", json={})
    assert decided.json()["state"] == "approved"
    assert one.client.post("/v1/api-keys", json=wanted).status_code == 201
    assert one.client.post("/v1/api-keys", json=wanted).status_code == 403, "it was for one"
    narrow = {"name": "reads-sales", "scopes": ["read"], "department": "sales"}
    application = one.client.post("/v1/principals", json=narrow).json()
    issued = one.client.post("/v1/api-keys", json={"principal_id": application["id"]})
    assert issued.status_code == 201


def test_whoever_renames_the_administrator_gets_no_other(
    service: RunningService, owner: Engine
) -> None:
    with owner.begin() as connection:
        connection.execute(text("UPDATE principals SET name = 'x' WHERE name = 'administrator'"))
    shown: list[str] = []
    services = service.services
    shared = services.database.as_shared()
    assert not create_once(shared, services.seals, ADMINISTRATOR, shown.append)
    assert shown == []


def test_a_revoked_session_that_sql_put_back_stays_over(
    service: RunningService, owner: Engine
) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    (session,) = service.admin.get(f"/v1/sessions?principal_id={clerk.id}").json()["items"]
    with owner.begin() as connection:
        before = connection.execute(text("SELECT seal FROM sessions")).scalar_one()
        connection.commit()
    assert service.admin.post(f"/v1/sessions/{session['id']}/revoke").status_code == 200
    assert clerk.client.get("/v1/whoami").status_code == 401
    with owner.begin() as connection:
        put_back = text("UPDATE sessions SET revoked_at = NULL, seal = :seal")
        connection.execute(put_back, {"seal": bytes(before)})
    assert clerk.client.get("/v1/whoami").status_code == 401


def test_a_session_whose_last_use_sql_put_into_the_future_is_over(
    service: RunningService, owner: Engine
) -> None:
    clerk = person(service, "clerk", [(Role.STAFF, "sales")])
    with owner.begin() as connection:
        connection.execute(text("UPDATE sessions SET last_seen_at = 'infinity'"))
    assert clerk.client.get("/v1/whoami").status_code == 401


def test_what_a_hold_or_a_duty_refuses_is_an_event(service: RunningService, owner: Engine) -> None:
    manager = person(service, "manager", [(Role.ARCHIVE_MANAGER, "sales")])
    document = upload(manager.client, b"x")["id"]
    service.admin.post("/v1/holds", json={"document_id": document, "reason": "a court"})
    assert manager.client.delete(f"/v1/documents/{document}").status_code == 409
    operator = add_person(service, "operator")["id"]
    grant(service, operator, Role.IT_OPERATIONS)
    body = {"principal_id": operator, "role": "staff", "department": "sales"}
    assert service.admin.post("/v1/role-grants", json=body).status_code == 409
    with owner.connect() as connection:
        query = text("SELECT detail ->> 'rule' FROM access_events WHERE type = 'api:act:denied'")
        held, duties = connection.execute(query).scalars()
    assert "legal hold" in held
    assert "another duty" in duties


def test_nobody_is_responsible_who_is_no_person(service: RunningService) -> None:
    demo = service.admin.get("/v1/principals").json()["items"][0]
    new = {"name": "app", "scopes": ["read"], "department": "demo", "responsible": demo["id"]}
    assert service.admin.post("/v1/principals", json=new).status_code == 404

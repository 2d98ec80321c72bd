"""Who may call: keys of every kind of wrong, scopes, departments, and a policy that defaults to no."""

from __future__ import annotations

import time
import zlib
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from sqlalchemy import create_engine, text

from api.auth import PUBLIC, UndeclaredPermission, refuse_undeclared_routes
from api.embedded import DatabaseUrls
from api.settings import KmsSettings
from tests.api.helpers import named, upload
from tests.running import RunningService
from vault.access.credentials import CredentialRefused
from vault.accesslog.event import Actor


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


def with_checksum(body: str) -> str:
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def issue(service: RunningService, name: str, **new: object) -> tuple[str, str]:
    """An application's principal id and token."""
    principal = service.admin.post("/v1/principals", json={"name": name, **new})
    assert principal.status_code == 201, principal.text
    issued = service.admin.post("/v1/api-keys", json={"principal_id": principal.json()["id"]})
    return principal.json()["id"], issued.json()["token"]


def status_with(service: RunningService, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return httpx.get(f"{service.url}/v1/documents", headers=headers, trust_env=False)


def test_no_key_and_malformed_keys_are_told_what_to_send(service: RunningService) -> None:
    assert "Authorization" in status_with(service, None).json()["detail"]
    for wrong in ("Basic abc", "Bearer", "Bearer x", f"Bearer {service.demo_key[:-1]}0x"):
        answer = status_with(service, wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_secret_and_an_unknown_key_get_the_same_answer(service: RunningService) -> None:
    _, key_id, secret, _ = service.demo_key.split("_", 3)[0:2] + ["x" * 43, ""]  # noqa: RUF005
    wrong = with_checksum(f"sr_{key_id}_{secret}")
    unknown = with_checksum(f"sr_{'0' * 16}_{secret}")
    answers = [status_with(service, f"Bearer {token}") for token in (wrong, unknown)]
    bodies = [{**answer.json(), "request_id": None} for answer in answers]
    assert bodies[0] == bodies[1]
    assert answers[0].status_code == 401
    assert secret not in answers[0].text


def test_a_revoked_key_is_dead_at_once(service: RunningService) -> None:
    _, token = issue(service, "app", scopes=["read", "write"], department="demo")
    client = service.client(token)
    document = upload(client, b"x")
    key_id = token.split("_")[1]
    assert service.admin.post(f"/v1/api-keys/{key_id}/revoke").status_code == 200
    for answer in (
        client.get("/v1/documents"),
        client.get(f"/v1/documents/{document['id']}/content"),
        client.post("/v1/documents", content=b"y", headers=named("b")),
        client.put(f"/v1/documents/{document['id']}/content", content=b"y"),
        client.delete(f"/v1/documents/{document['id']}"),
    ):
        assert answer.status_code == 401
    assert len(service.demo.get("/v1/documents").json()["items"]) == 1


def test_a_disabled_principal_is_dead_at_once(service: RunningService) -> None:
    principal_id, token = issue(service, "app", scopes=["read"], department="demo")
    client = service.client(token)
    assert client.get("/v1/documents").status_code == 200
    service.admin.post(f"/v1/principals/{principal_id}/disable")
    assert client.get("/v1/documents").status_code == 401


def test_an_expired_key_is_refused(service: RunningService) -> None:
    principal_id, token = issue(service, "app", scopes=["read"], department="demo")
    actor = Actor(service.services.api_keys.authenticate(service.admin_key), "test")
    short = service.services.api_keys.issue(
        actor, UUID(principal_id), lifetime=timedelta(seconds=1)
    )
    client = service.client(short.token)
    assert client.get("/v1/documents").status_code == 200
    time.sleep(1.1)
    assert client.get("/v1/documents").status_code == 401, "of a key that is remembered too"
    with pytest.raises(CredentialRefused) as refused:
        service.services.api_keys.authenticate(short.token)
    assert refused.value.reason == "expired"
    assert service.client(token).get("/v1/documents").status_code == 200


def test_rotation_keeps_two_keys_alive_and_refuses_a_third(service: RunningService) -> None:
    _, token = issue(service, "app", scopes=["read", "write"], department="demo")
    old = service.client(token)
    rotated = old.post("/v1/api-keys/rotate", json={})
    assert rotated.status_code == 201
    new = service.client(rotated.json()["token"])
    assert old.get("/v1/documents").status_code == new.get("/v1/documents").status_code == 200
    assert new.post("/v1/api-keys/rotate", json={}).status_code == 409


def test_a_successor_lives_no_longer_than_the_key_it_succeeds(service: RunningService) -> None:
    principal_id, _ = issue(service, "app", scopes=["read"], department="demo")
    body = {"principal_id": principal_id, "lifetime_days": 1}
    short = service.admin.post("/v1/api-keys", json=body).json()
    first = service.admin.get(f"/v1/api-keys?principal_id={principal_id}").json()["items"][-1]
    service.admin.post(f"/v1/api-keys/{first['id']}/revoke")
    client = service.client(short["token"])
    for asked in ({}, {"lifetime_days": 30}):
        rotated = client.post("/v1/api-keys/rotate", json=asked).json()
        assert rotated["expires_at"] == short["expires_at"]
        service.admin.post(f"/v1/api-keys/{rotated['id']}/revoke")


def test_secrets_are_not_stored(service: RunningService, database_urls: DatabaseUrls) -> None:
    secret = service.demo_key.split("_", 2)[2].rpartition("_")[0]
    owner = create_engine(database_urls.owner)
    with owner.connect() as connection:
        rows = connection.execute(text("SELECT k::text FROM api_keys k")).scalars().all()
    owner.dispose()
    assert rows
    assert all(secret not in row for row in rows)


@pytest.mark.parametrize(
    ("scopes", "method", "path", "expected"),
    [
        (["read"], "POST", "/v1/documents", 403),
        (["write"], "GET", "/v1/documents", 403),
        (["read", "write"], "POST", "/v1/classes", 403),
        (["read", "write"], "GET", "/v1/principals", 403),
        (["read", "write"], "GET", "/v1/holds", 403),
    ],
)
def test_a_scope_that_is_missing_is_named(
    service: RunningService, scopes: list[str], method: str, path: str, expected: int
) -> None:
    _, token = issue(service, "app", scopes=scopes, department="demo")
    answer = service.client(token).request(method, path, headers=named("a"), json={"name": "x"})
    assert answer.status_code == expected
    assert "scope" in answer.json()["detail"]


def test_the_administrator_reads_no_content(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    assert service.admin.get(f"/v1/documents/{document['id']}/content").status_code == 403
    assert service.admin.get("/v1/documents").status_code == 403


def test_missing_and_invisible_documents_answer_alike(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    _, token = issue(service, "other", scopes=["read", "write"], department="elsewhere")
    other = service.client(token)
    missing = "00000000-0000-4000-8000-000000000000"
    for method, suffix in (
        ("GET", ""),
        ("GET", "/content"),
        ("HEAD", "/content"),
        ("GET", "/versions"),
        ("GET", "/history"),
        ("PATCH", ""),
        ("DELETE", ""),
        ("PUT", "/content"),
        ("POST", "/undelete"),
        ("GET", "/versions/1"),
    ):
        answers = [
            other.request(method, f"/v1/documents/{which}{suffix}", json={})
            for which in (document["id"], missing)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], (method, suffix)
        if method != "HEAD":
            bodies = [{**answer.json(), "request_id": None} for answer in answers]
            assert bodies[0] == bodies[1]
    assert other.get("/v1/documents").json()["items"] == []
    assert (
        other.post("/v1/documents?department=demo", content=b"x", headers=named("a")).status_code
        == 404
    )


def test_every_department_is_a_grant_of_its_own(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    _, token = issue(service, "archive", scopes=["read", "write"], department="*")
    archive = service.client(token)
    assert archive.get(f"/v1/documents/{document['id']}/content").content == b"x"
    assert archive.post("/v1/documents", content=b"x", headers=named("a")).status_code == 400
    refused = service.admin.post("/v1/principals", json={"name": "none", "scopes": ["read"]})
    assert refused.status_code == 422


def test_denials_and_refused_keys_are_events(
    service: RunningService, database_urls: DatabaseUrls
) -> None:
    document = upload(service.demo, b"x")
    service.admin.get(f"/v1/documents/{document['id']}")
    status_with(service, "Bearer " + with_checksum(f"sr_{'0' * 16}_{'x' * 43}"))
    owner = create_engine(database_urls.owner)
    with owner.connect() as connection:
        types = connection.execute(text("SELECT type FROM access_events")).scalars().all()
    owner.dispose()
    assert {"api:act:denied", "api:credential:refused", "api:document:created"} <= set(types)


def test_a_route_without_a_declared_permission_stops_the_start() -> None:
    app, router = FastAPI(), APIRouter()
    router.get("/v1/forgotten")(lambda: None)
    app.include_router(router)
    with pytest.raises(UndeclaredPermission, match="/v1/forgotten"):
        refuse_undeclared_routes(app)


def test_a_route_outside_the_framework_s_own_kind_stops_the_start_too() -> None:
    app = FastAPI()
    app.add_route("/v1/raw", lambda request: Response())
    with pytest.raises(UndeclaredPermission, match="/v1/raw"):
        refuse_undeclared_routes(app)


def test_openapi_names_the_permission_of_every_operation(service: RunningService) -> None:
    description = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    for path, operations in description["paths"].items():
        for operation in operations.values():
            is_guarded = path.startswith("/v1") and path not in PUBLIC
            assert ("x-required-permission" in operation) is is_guarded, path

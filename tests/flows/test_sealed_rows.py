"""Rows that give authority, written behind the service's back with the owner's SQL: refused and found."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import httpx
import pytest
from alembic import command
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

import migrations
from api import metrics
from api.bootstrap import build
from api.cli import app
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.services import Services
from api.settings import KmsSettings, Settings, Sites, SiteSettings
from keymgmt.provider import Purpose
from migrations.run import configured
from tests.api.helpers import upload
from tests.api.test_callers import issue, status_with, with_checksum
from tests.flows.test_cli import Cli
from tests.running import RunningService, running
from vault.access.seal_keys import SealsLost
from vault.accesslog.event import Actor

ROLES = Path(migrations.__file__).with_name("roles.sql")

only_keyring = pytest.mark.parametrize("kms", ["keyring"], indirect=True)
"""What never reaches the KMS is tried with one kind of it."""


@pytest.fixture(autouse=True)
def _look_up_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is remembered between two requests, so that each meets the rows as they are."""
    monkeypatch.setattr("api.auth.TTL_SECONDS", 0.0)


def run(owner: Engine, sql: str, **values: Any) -> list[Any]:
    """The attacker: whatever the owner of the tables may do."""
    with owner.begin() as connection:
        result = connection.execute(text(sql), values)
        return list(result.fetchall()) if result.returns_rows else []


def key_id(token: str) -> str:
    return token.split("_")[1]


def of_unknown_key(service: RunningService) -> httpx.Response:
    return status_with(service, "Bearer " + with_checksum(f"sr_{'0' * 16}_{'x' * 43}"))


def is_refused_as_unknown(service: RunningService, token: str) -> bool:
    """Whether the answer is, to the byte, what a key gets that nobody ever issued."""
    answers = [status_with(service, f"Bearer {token}"), of_unknown_key(service)]
    bodies = [{**answer.json(), "request_id": None} for answer in answers]
    headers = [answer.headers["www-authenticate"] for answer in answers]
    return answers[0].status_code == 401 and bodies[0] == bodies[1] and headers[0] == headers[1]


def findings(service: RunningService) -> set[tuple[str, str]]:
    items = service.admin.get("/v1/access/findings").json()["items"]
    return {(item["subject"], item["subject_id"]) for item in items}


def events(owner: Engine, kind: str) -> int:
    return int(run(owner, "SELECT count(*) FROM access_events WHERE type = :t", t=kind)[0][0])


def failures() -> float:
    (family,) = metrics.SEAL_FAILURES.collect()
    return float(family.samples[0].value)


def application(service: RunningService, name: str = "app", **given: Any) -> tuple[str, str]:
    return issue(service, name, **{"scopes": ["read"], "department": "demo", **given})


@contextmanager
def copied_rows(owner: Engine, *tables: str) -> Iterator[None]:
    """What the tables hold now is put back at the end, seals and all: a replay."""
    for table in tables:
        run(owner, f"CREATE TABLE before_{table} AS TABLE {table}")
    yield
    for table in tables:
        columns = [row[0] for row in run(owner, _COLUMNS, t=table) if row[0] != "id"]
        sets = ", ".join(f"{column} = b.{column}" for column in columns)
        run(owner, f"UPDATE {table} t SET {sets} FROM before_{table} b WHERE b.id = t.id")


_COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_name = :t"


# Rows that were inserted or changed


@only_keyring
def test_a_key_copied_from_another_with_a_secret_of_one_s_own_is_no_key(
    service: RunningService, owner: Engine
) -> None:
    secret, mine = secrets.token_urlsafe(32), "abcdef0123456789"
    run(
        owner,
        "INSERT INTO api_keys (id, principal_id, secret_sha256, scopes, authority_epoch, seal, seal_key_id) "
        "SELECT :mine, principal_id, :digest, scopes, authority_epoch, seal, seal_key_id "
        "FROM api_keys WHERE id = :theirs",
        mine=mine,
        digest=hashlib.sha256(secret.encode()).digest(),
        theirs=key_id(service.admin_key),
    )
    assert is_refused_as_unknown(service, with_checksum(f"sr_{mine}_{secret}"))
    assert findings(service) == {("api_keys", mine)}


CHANGED_KEYS = {
    "scopes": "UPDATE api_keys SET scopes = '{read,write}' WHERE id = :key",
    "scopes in another order": "UPDATE api_keys SET scopes = '{read,read}' WHERE id = :key",
    "expiry": "UPDATE api_keys SET expires_at = now() + interval '9 years' WHERE id = :key",
    "expiry for ever": "UPDATE api_keys SET expires_at = 'infinity' WHERE id = :key",
    "expiry before our era": "UPDATE api_keys SET expires_at = '4000-01-01 BC' WHERE id = :key",
    "principal": "UPDATE api_keys SET principal_id = (SELECT id FROM principals WHERE name = "
    "'administrator') WHERE id = :key",
    "secret": "UPDATE api_keys SET secret_sha256 = sha256('mine') WHERE id = :key",
    "epoch": "UPDATE api_keys SET authority_epoch = authority_epoch + 1 WHERE id = :key",
    "no seal": "UPDATE api_keys SET seal = NULL, seal_key_id = NULL WHERE id = :key",
    "an empty seal": "UPDATE api_keys SET seal = '' WHERE id = :key",
    "a short seal": "UPDATE api_keys SET seal = substr(seal, 1, 31) WHERE id = :key",
    "another seal key": "UPDATE api_keys SET seal_key_id = '0000000000000000' WHERE id = :key",
}


@only_keyring
@pytest.mark.parametrize("sql", CHANGED_KEYS.values(), ids=list(CHANGED_KEYS))
def test_a_changed_key_is_no_key(service: RunningService, owner: Engine, sql: str) -> None:
    _, token = application(service)
    run(owner, sql, key=key_id(token))
    before = failures()
    assert is_refused_as_unknown(service, token)
    assert failures() > before
    assert findings(service) == {("api_keys", key_id(token))}
    assert service.services.seal_upkeep.look_at_all() == 1
    assert findings(service) == {("api_keys", key_id(token))}


CHANGED_PRINCIPALS = {
    "scopes": "UPDATE principals SET scopes = '{read,write,admin}' WHERE id = :id",
    "department": "UPDATE principals SET department = '*' WHERE id = :id",
    "no department": "UPDATE principals SET department = NULL WHERE id = :id",
    "name": "UPDATE principals SET name = 'renamed' WHERE id = :id",
    "epoch": "UPDATE principals SET authority_epoch = authority_epoch + 1 WHERE id = :id",
    "no seal": "UPDATE principals SET seal = NULL, seal_key_id = NULL WHERE id = :id",
}


@only_keyring
@pytest.mark.parametrize("sql", CHANGED_PRINCIPALS.values(), ids=list(CHANGED_PRINCIPALS))
def test_all_keys_of_a_changed_principal_are_none(
    service: RunningService, owner: Engine, sql: str
) -> None:
    principal, token = application(service)
    second = service.client(token).post("/v1/api-keys/rotate", json={}).json()["token"]
    run(owner, sql, id=principal)
    assert is_refused_as_unknown(service, token)
    assert is_refused_as_unknown(service, second)
    assert findings(service) == {("principals", principal)}


@only_keyring
def test_an_unrevoked_key_stays_dead(service: RunningService, owner: Engine) -> None:
    _, token = application(service)
    assert service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke").status_code == 200
    run(owner, "UPDATE api_keys SET revoked_at = NULL WHERE id = :k", k=key_id(token))
    assert is_refused_as_unknown(service, token)
    assert findings(service) == {("api_keys", key_id(token))}


@only_keyring
def test_a_principal_that_is_enabled_again_stays_dead(
    service: RunningService, owner: Engine
) -> None:
    principal, token = application(service)
    assert service.admin.post(f"/v1/principals/{principal}/disable").status_code == 200
    assert status_with(service, f"Bearer {token}").status_code == 401
    assert findings(service) == set()
    run(owner, "UPDATE principals SET disabled_at = NULL WHERE id = :id", id=principal)
    assert is_refused_as_unknown(service, token)
    assert findings(service) == {("principals", principal)}


@only_keyring
def test_swapped_secrets_open_neither(service: RunningService, owner: Engine) -> None:
    tokens = [application(service, name)[1] for name in ("one", "two")]
    a, b = map(key_id, tokens)
    run(
        owner,
        "UPDATE api_keys k SET secret_sha256 = o.secret_sha256 FROM api_keys o "
        "WHERE (k.id = :a AND o.id = :b) OR (k.id = :b AND o.id = :a)",
        a=a,
        b=b,
    )
    bodies = [token.split("_", 2)[2].rpartition("_")[0] for token in tokens]
    crossed = [with_checksum(f"sr_{a}_{bodies[1]}"), with_checksum(f"sr_{b}_{bodies[0]}")]
    assert all(is_refused_as_unknown(service, token) for token in (*tokens, *crossed))
    assert findings(service) == {("api_keys", a), ("api_keys", b)}


@only_keyring
def test_rows_of_another_vault_under_the_same_kms_give_nothing(
    service: RunningService,
    owner: Engine,
    settings: Settings,
    other_database: DatabaseUrls,
    tmp_path: Path,
) -> None:
    theirs = create_engine(other_database.owner)
    folders = {site: SiteSettings(path=tmp_path / f"other-{site}") for site in ("a", "b")}
    given = {"database_url": SecretStr(other_database.service), "sites": Sites(**folders)}
    with build(settings.model_copy(update=given)) as services, running(services) as other:
        token = other.admin_key
        assert other.admin.get("/v1/principals").is_success
    tables = ("seal_keys", "principals", "api_keys")
    rows = {table: run(theirs, f"SELECT * FROM {table}") for table in tables}
    theirs.dispose()
    run(owner, "UPDATE seal_keys SET retired_at = now()")
    for table in tables:
        for row in rows[table]:
            values = dict(row._mapping)
            if table == "principals":
                values["name"] += "-of-theirs"
            names = ", ".join(values)
            run(
                owner,
                f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + n for n in values)})",
                **values,
            )
    assert is_refused_as_unknown(service, token)
    assert service.admin.get("/v1/access/findings").status_code == 200, "ours work on"


@pytest.fixture
def other_database(postgres: EmbeddedPostgres, template: str) -> Iterator[DatabaseUrls]:
    """A second database, of a vault of its own."""
    name = f"other_{secrets.token_hex(4)}"
    admin = create_engine(
        make_url(postgres.superuser_url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} TEMPLATE {template} OWNER strongroom_owner")
        )
    urls = _urls(postgres, name)
    engine = create_engine(urls.owner)
    run(engine, "UPDATE vault_identity SET vault_id = gen_random_uuid()")
    engine.dispose()
    yield urls
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def _urls(postgres: EmbeddedPostgres, name: str) -> DatabaseUrls:
    return DatabaseUrls(
        **{
            role: make_url(getattr(postgres.urls, role))
            .set(database=name)
            .render_as_string(hide_password=False)
            for role in ("owner", "service", "sequencer")
        }
    )


# Older rows, sealed in their time


@only_keyring
def test_a_key_put_back_as_it_was_before_it_was_revoked_stays_dead(
    service: RunningService, owner: Engine
) -> None:
    _, token = application(service)
    with copied_rows(owner, "api_keys"):
        service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke")
    assert is_refused_as_unknown(service, token)
    assert findings(service) == {("api_keys", key_id(token))}


@only_keyring
def test_a_principal_put_back_as_it_was_before_it_was_disabled_stays_dead(
    services: Services, owner: Engine
) -> None:
    with running(services) as service:
        principal, token = application(service)
        with copied_rows(owner, "principals"):
            service.admin.post(f"/v1/principals/{principal}/disable")
    # A process that never saw the newer row goes by the epochs alone.
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert is_refused_as_unknown(again, token)
        assert findings(again) == {("api_keys", key_id(token))}


@only_keyring
def test_a_principal_put_back_with_all_its_keys_is_noticed_by_who_saw_it_newer_and_ended_by_rotation(
    services: Services, owner: Engine
) -> None:
    with running(services) as service:
        principal, token = application(service)
        with copied_rows(owner, "principals", "api_keys"):
            service.admin.post(f"/v1/principals/{principal}/disable")
            assert status_with(service, f"Bearer {token}").status_code == 401
        assert is_refused_as_unknown(service, token)
        assert findings(service) == {("principals", principal)}
    # The honest limit: docs/threat-model.md.
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert status_with(again, f"Bearer {token}").status_code == 200
        again.admin.post(f"/v1/principals/{principal}/disable")
        again.admin.post("/v1/keys/seal/rotate")
        run(owner, "DROP TABLE before_principals, before_api_keys")
        assert status_with(again, f"Bearer {token}").status_code == 401


@only_keyring
def test_after_a_rotation_no_older_row_counts_whatever_it_is_put_back_with(
    services: Services, owner: Engine
) -> None:
    with running(services) as service:
        principal, token = application(service)
        run(owner, "CREATE TABLE old_keys AS TABLE seal_keys")
        with copied_rows(owner, "principals", "api_keys"):
            service.admin.post(f"/v1/principals/{principal}/disable")
            for path in ("authority/rotate", "seal/rotate", "authority/retire"):
                assert service.admin.post(f"/v1/keys/{path}").is_success
        run(owner, "INSERT INTO seal_keys SELECT id, wrapped_key, created_at, now() FROM old_keys")
        assert is_refused_as_unknown(service, token)
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert is_refused_as_unknown(again, token)


# What callers and administrators meet


@only_keyring
def test_an_administrator_meets_a_forged_row_as_if_it_were_not_there(
    service: RunningService, owner: Engine
) -> None:
    principal, token = application(service)
    _, sound = application(service, "sound")
    run(owner, "UPDATE principals SET scopes = '{admin}' WHERE id = :id", id=principal)
    answers = [
        service.admin.post("/v1/api-keys", json={"principal_id": principal}),
        service.admin.post(f"/v1/principals/{principal}/disable"),
        service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke"),
        service.admin.post("/v1/access/explain", json={"who": principal, "action": "class.add"}),
        service.admin.post("/v1/access/explain", json={"who": "app", "action": "class.add"}),
    ]
    assert [answer.status_code for answer in answers] == [404] * 5
    listed = [item["name"] for item in service.admin.get("/v1/principals").json()["items"]]
    assert sorted(listed) == ["administrator", "demo", "sound"]
    run(owner, "UPDATE api_keys SET scopes = '{admin}' WHERE id = :k", k=key_id(sound))
    listed = [item["id"] for item in service.admin.get("/v1/api-keys").json()["items"]]
    assert key_id(sound) not in listed
    assert findings(service) == {("principals", principal), ("api_keys", key_id(sound))}


@only_keyring
def test_a_key_whose_rows_change_between_authentication_and_rotation_gets_no_successor(
    service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.auth.TTL_SECONDS", 60.0)
    principal, token = application(service)
    client = service.client(token)
    assert client.get("/v1/classes").status_code == 200
    run(owner, "UPDATE principals SET scopes = '{read,admin}' WHERE id = :id", id=principal)
    assert client.post("/v1/api-keys/rotate", json={}).status_code == 401
    assert findings(service) == {("principals", principal)}


@only_keyring
def test_revoking_one_key_takes_no_forged_neighbour_along(
    service: RunningService, owner: Engine
) -> None:
    _, token = application(service)
    second = service.client(token).post("/v1/api-keys/rotate", json={}).json()["token"]
    run(owner, "UPDATE api_keys SET scopes = '{read,admin}' WHERE id = :k", k=key_id(second))
    assert service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke").status_code == 200
    assert is_refused_as_unknown(service, second)


@only_keyring
def test_the_neighbours_of_a_revoked_key_live_on(service: RunningService) -> None:
    _, token = application(service)
    second = service.client(token).post("/v1/api-keys/rotate", json={}).json()["token"]
    for _ in range(2):  # idempotent
        assert service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke").status_code == 200
    assert status_with(service, f"Bearer {token}").status_code == 401
    assert status_with(service, f"Bearer {second}").status_code == 200
    third = service.client(second).post("/v1/api-keys/rotate", json={}).json()["token"]
    assert status_with(service, f"Bearer {third}").status_code == 200
    assert findings(service) == set()


@only_keyring
def test_a_finding_is_written_once_for_each_state_and_alarmed_each_time(
    service: RunningService, owner: Engine
) -> None:
    _, token = application(service)
    run(owner, "UPDATE api_keys SET scopes = '{read,write}' WHERE id = :k", k=key_id(token))
    before = failures()
    for _ in range(3):
        status_with(service, f"Bearer {token}")
    assert failures() == before + 3
    assert events(owner, "api:authority:seal-broken") == 1
    assert events(owner, "api:credential:refused") == 3
    run(owner, "UPDATE api_keys SET scopes = '{read,admin}' WHERE id = :k", k=key_id(token))
    status_with(service, f"Bearer {token}")
    assert events(owner, "api:authority:seal-broken") == 2
    pages = service.admin.get("/v1/access/findings?page_size=1").json()
    assert len(pages["items"]) == 1
    rest = {"page_size": 1, "page_token": pages["next_page_token"]}
    assert len(service.admin.get("/v1/access/findings", params=rest).json()["items"]) == 1
    cli = Cli(service.url, service.admin_key)
    assert len(cli.json("access", "findings", "--all")["items"]) == 2
    assert key_id(token) in cli.run("access", "findings").stdout
    assert service.demo.get("/v1/access/findings").status_code == 403


@only_keyring
def test_a_finding_that_somebody_deleted_is_soon_back(
    service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = application(service)
    run(owner, "UPDATE api_keys SET scopes = '{read,write}' WHERE id = :k", k=key_id(token))
    status_with(service, f"Bearer {token}")
    run(owner, "DELETE FROM findings")
    later = time.monotonic() + 61
    monkeypatch.setattr(service.services.findings, "_clock", lambda: later)
    status_with(service, f"Bearer {token}")
    assert findings(service) == {("api_keys", key_id(token))}


@only_keyring
def test_the_worker_finds_a_forged_row_that_nobody_used(
    service: RunningService, owner: Engine
) -> None:
    principal, token = application(service)
    assert service.services.seal_upkeep.look_at_all() == 0
    run(owner, "UPDATE principals SET department = '*' WHERE id = :id", id=principal)
    run(owner, "UPDATE api_keys SET expires_at = NULL, seal = '' WHERE id = :k", k=key_id(token))
    for _ in range(2):
        assert service.services.seal_upkeep.look_at_all() == 2
    assert findings(service) == {("principals", principal), ("api_keys", key_id(token))}
    assert events(owner, "worker:authority:seal-broken") == 2


@only_keyring
def test_a_forged_key_is_refused_about_as_fast_as_an_unknown_one(
    service: RunningService, owner: Engine
) -> None:
    _, token = application(service)
    run(owner, "UPDATE api_keys SET scopes = '{read,write}' WHERE id = :k", k=key_id(token))
    status_with(service, f"Bearer {token}")
    unknown = with_checksum(f"sr_{'0' * 16}_{'x' * 43}")
    with httpx.Client(base_url=service.url, trust_env=False) as client:

        def seconds(credential: str) -> float:
            began = time.perf_counter()
            client.get("/v1/documents", headers={"Authorization": f"Bearer {credential}"})
            return time.perf_counter() - began

        taken = [(seconds(token), seconds(unknown)) for _ in range(60)]
    ratio = median(forged for forged, _ in taken) / median(never for _, never in taken)
    assert 0.6 < ratio < 1.6, ratio


@only_keyring
def test_what_sql_does_to_a_remembered_key_ends_with_the_memory_of_it(
    service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.auth.TTL_SECONDS", 1.0)
    principal, token = application(service, scopes=["read", "write"])
    client = service.client(token)
    upload(client, b"x")
    # More authority by SQL is never seen: what a key may do was read when its rows bore their seals.
    run(owner, "UPDATE principals SET scopes = '{read,write,admin}' WHERE id = :id", id=principal)
    assert client.get("/v1/principals").status_code == 403
    # A revocation that SQL takes back is: statements ask the plain columns. For as long as the memory lasts.
    run(owner, "UPDATE api_keys SET revoked_at = now() WHERE id = :k", k=key_id(token))
    assert client.get("/v1/documents").status_code == 401
    run(owner, "UPDATE api_keys SET revoked_at = NULL WHERE id = :k", k=key_id(token))
    time.sleep(1.1)
    assert is_refused_as_unknown(service, token)


# The seal key and its KEK


def test_rotation_seals_every_sound_row_anew_and_no_other(
    service: RunningService, owner: Engine
) -> None:
    tokens = [application(service, f"app-{n}")[1] for n in range(3)]
    service.admin.post(f"/v1/api-keys/{key_id(tokens[0])}/revoke")
    run(owner, "UPDATE api_keys SET scopes = '{admin}' WHERE id = :k", k=key_id(tokens[1]))
    (before,) = run(owner, "SELECT id FROM seal_keys")
    rotated = service.admin.post("/v1/keys/seal/rotate")
    assert rotated.status_code == 201
    (after,) = run(owner, "SELECT id FROM seal_keys")
    assert after.id == rotated.json()["id"] != before.id
    sealed = run(owner, "SELECT id FROM api_keys WHERE seal_key_id <> :n", n=after.id)
    assert [row.id for row in sealed] == [key_id(tokens[1])]
    codes = [status_with(service, f"Bearer {token}").status_code for token in tokens]
    assert codes == [401, 401, 200]
    assert findings(service) == {("api_keys", key_id(tokens[1]))}
    assert Cli(service.url, service.admin_key).json("key", "rotate-seal")["id"] != after.id
    assert service.demo.post("/v1/keys/seal/rotate").status_code == 403


def test_another_process_follows_a_rotation_and_forgets_the_key_that_ended(
    service: RunningService, owner: Engine
) -> None:
    with build(service.services.settings) as services, running(services, of=service) as other:
        assert other.admin.get("/v1/principals").is_success
        with copied_rows(owner, "principals", "api_keys"):
            service.admin.post("/v1/keys/seal/rotate")
        services.seal_upkeep.forget_ended()
        assert other.admin.get("/v1/principals").status_code == 401


def test_keys_issued_by_another_process_during_a_rotation_are_not_lost(
    service: RunningService,
) -> None:
    with build(service.services.settings) as services, running(services, of=service) as other:
        assert other.admin.get("/v1/principals").is_success
        service.admin.post("/v1/keys/seal/rotate")
        _, token = application(other)
        assert status_with(service, f"Bearer {token}").status_code == 200


def test_a_rotation_that_was_broken_off_is_finished_by_the_next_start(
    service: RunningService, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep = service.services.seal_upkeep
    monkeypatch.setattr(upkeep, "_finish_rotation", lambda: None)
    service.admin.post("/v1/keys/seal/rotate")
    monkeypatch.undo()
    assert len(run(owner, "SELECT id FROM seal_keys")) == 2
    assert service.admin.get("/v1/principals").is_success, "both keys check meanwhile"
    with build(service.services.settings):
        pass
    (left,) = run(owner, "SELECT id FROM seal_keys")
    used = run(owner, "SELECT DISTINCT seal_key_id FROM (TABLE api_keys) k")
    assert [row.seal_key_id for row in used] == [left.id]


def test_retiring_the_kek_moves_the_seal_key(service: RunningService, owner: Engine) -> None:
    before = run(owner, "SELECT wrapped_key FROM seal_keys")
    assert service.admin.post("/v1/keys/authority/rotate").is_success
    assert service.admin.post("/v1/keys/authority/retire").is_success
    assert run(owner, "SELECT wrapped_key FROM seal_keys") != before
    with build(service.services.settings) as services, running(services, of=service) as again:
        assert again.admin.get("/v1/principals").is_success
        assert again.demo.get("/v1/documents").is_success


@only_keyring
def test_callers_go_on_while_the_kms_is_away(
    service: RunningService, settings: Settings, owner: Engine
) -> None:
    _, unused = application(service)
    run(owner, "UPDATE api_keys SET scopes = '{admin}' WHERE id = :k", k=key_id(service.demo_key))
    keyring = settings.home / "keys" / "keyring.json"
    with build(settings) as services, running(services, of=service) as other:
        service.admin.post("/v1/keys/seal/rotate")
        away = shutil.move(keyring, keyring.with_name("away"))
        try:
            assert status_with(service, f"Bearer {unused}").status_code == 200
            assert is_refused_as_unknown(service, service.demo_key)
            # The other process has not met the new seal key: it cannot tell, and says so.
            unsure = status_with(other, f"Bearer {unused}")
            assert unsure.status_code == 503
            assert unsure.json()["type"] == "urn:strongroom:problem:keys-unavailable"
        finally:
            shutil.move(away, keyring)
        assert status_with(other, f"Bearer {unused}").status_code == 200


@only_keyring
def test_no_sound_row_is_taken_for_a_forged_one_while_all_are_sealed_anew(
    service: RunningService, owner: Engine
) -> None:
    principal, stable = application(service)
    actor = Actor(service.services.api_keys.authenticate(service.admin_key), "test")
    api_keys, seals_over = service.services.api_keys, threading.Event()

    def authenticate() -> int:
        times = 0
        while not seals_over.is_set():
            api_keys.authenticate(stable)
            times += 1
        return times

    with ThreadPoolExecutor(4) as pool:
        running_ = [pool.submit(authenticate) for _ in range(4)]
        try:
            for turn in range(12):
                issued = api_keys.issue(actor, UUID(principal))
                if turn % 3 == 0:
                    service.services.seal_upkeep.rotate(actor)
                api_keys.revoke(actor, issued.key.id)
        finally:
            seals_over.set()
        assert all(each.result() > 10 for each in running_)
    assert findings(service) == set()
    assert service.services.seal_upkeep.look_at_all() == 0


# The start


@only_keyring
def test_rows_without_a_seal_are_never_adopted_again(services: Services, owner: Engine) -> None:
    with running(services) as service:
        _, token = application(service)
    run(owner, "UPDATE api_keys SET seal = NULL, seal_key_id = NULL WHERE id = :k", k=key_id(token))
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert is_refused_as_unknown(again, token)
        assert again.admin.get("/v1/principals").is_success


@only_keyring
def test_who_removes_all_seals_and_the_seal_key_stops_the_start(
    services: Services, owner: Engine
) -> None:
    with running(services) as service:
        pass
    for table in ("principals", "api_keys"):
        run(owner, f"UPDATE {table} SET seal = NULL, seal_key_id = NULL")
    run(owner, "DELETE FROM seal_keys")
    with pytest.raises(SealsLost, match="adopt-authority"), build(services.settings):
        pass
    # An operator who has looked at the rows says so.
    adopted = CliRunner().invoke(app, ["adopt-authority"], "y\n", environment(services.settings))
    assert adopted.exit_code == 0, adopted.output + adopted.stderr
    assert "are sealed" in adopted.stdout
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert again.admin.get("/v1/principals").is_success
    assert events(owner, "api:authority:sealed") == 1


@only_keyring
def test_the_first_start_after_the_migration_seals_the_rows_that_are_there_once(
    services: Services, owner: Engine, tmp_path: Path
) -> None:
    with running(services) as service:
        _, token = application(service)
        service.admin.post(f"/v1/api-keys/{key_id(token)}/revoke")
    # As the migration leaves it: columns without values, no seal key, and a KMS that knows no such KEK.
    for table in ("principals", "api_keys"):
        run(owner, f"UPDATE {table} SET seal = NULL, seal_key_id = NULL, authority_epoch = 1")
    run(owner, "DELETE FROM seal_keys")
    keyring_from_before(services.settings)
    with build(services.settings) as upgraded, running(upgraded, of=service) as again:
        assert again.admin.get("/v1/principals").is_success
        assert again.demo.get("/v1/documents").is_success
        assert status_with(again, f"Bearer {token}").status_code == 401
        assert findings(again) == set()
        assert upgraded.keys.describe(Purpose.AUTHORITY).latest == 2
        run(
            owner,
            "INSERT INTO principals (id, name, department, scopes) "
            "VALUES (gen_random_uuid(), 'later', '*', '{read}')",
        )
        assert again.services.seal_upkeep.look_at_all() == 1
    assert events(owner, "api:authority:sealed") == 1


@only_keyring
def test_a_vault_of_the_release_before_is_migrated_and_taken_over(
    settings: Settings, postgres: EmbeddedPostgres, empty_database: DatabaseUrls
) -> None:
    owner = create_engine(empty_database.owner)
    command.upgrade(configured(owner), "0004")
    secret, mine = secrets.token_urlsafe(32), "abcdef0123456789"
    run(
        owner,
        "INSERT INTO principals (id, name, department, scopes) "
        "VALUES (gen_random_uuid(), 'administrator', NULL, '{admin}')",
    )
    run(
        owner,
        "INSERT INTO api_keys (id, principal_id, secret_sha256, scopes) "
        "SELECT :mine, id, :digest, scopes FROM principals",
        mine=mine,
        digest=hashlib.sha256(secret.encode()).digest(),
    )
    command.upgrade(configured(owner), "head")
    given = {"database_url": SecretStr(empty_database.service)}
    token = with_checksum(f"sr_{mine}_{secret}")
    for _ in range(2):
        with build(settings.model_copy(update=given)) as services:
            assert services.api_keys.authenticate(token).name == "administrator"
    assert events(owner, "api:authority:sealed") == 1
    owner.dispose()


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[DatabaseUrls]:
    """A database before its first migration."""
    name = f"empty_{secrets.token_hex(4)}"
    superuser = make_url(postgres.superuser_url)
    admin = create_engine(superuser.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} OWNER strongroom_owner"))
    inside = create_engine(superuser.set(database=name))
    with inside.begin() as connection:
        connection.exec_driver_sql(ROLES.read_text().replace("%", "%%"))
    inside.dispose()
    yield _urls(postgres, name)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def keyring_from_before(settings: Settings) -> None:
    """Take the KEK `authority` out of the keyring: that of the release before had none."""
    from keymgmt.local import LocalKeyring
    from keymgmt.rootkey import load_root_key

    assert settings.kms.key_file is not None
    root_key = load_root_key(settings.kms.key_file, data_folder=settings.home)
    LocalKeyring(settings.home / "keys" / "keyring.json", root_key).destroy_key(Purpose.AUTHORITY)


@only_keyring
def test_a_start_that_was_killed_before_the_marker_seals_no_row_twice(
    services: Services, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(services) as service:
        pass
    for table in ("principals", "api_keys"):
        run(owner, f"UPDATE {table} SET seal = NULL, seal_key_id = NULL")
    run(owner, "DELETE FROM seal_keys")
    keyring_from_before(services.settings)

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vault.keks.Keks.rotate", killed)
        with pytest.raises(KeyboardInterrupt), build(services.settings):
            pass
    (made,) = run(owner, "SELECT id FROM seal_keys")
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert again.admin.get("/v1/principals").is_success
        assert fresh.keys.describe(Purpose.AUTHORITY).latest == 2
    assert run(owner, "SELECT id FROM seal_keys") == [made]
    assert events(owner, "api:authority:sealed") == 1


@only_keyring
def test_another_kms_does_not_make_the_rows_be_adopted(
    services: Services, tmp_path: Path, owner: Engine
) -> None:
    with running(services):
        pass
    key_file = tmp_path / "another" / "root.key"
    key_file.parent.mkdir(mode=0o700)
    key_file.touch(mode=0o600)
    key_file.write_bytes(secrets.token_bytes(32))
    given = {"home": tmp_path / "another-home", "kms": KmsSettings(key_file=key_file)}
    with (
        pytest.raises(SealsLost),
        build(services.settings.model_copy(update=given)),
    ):
        pass


@only_keyring
def test_who_says_no_adopts_nothing(services: Services, owner: Engine) -> None:
    with running(services) as service:
        _, token = application(service)
    run(owner, "UPDATE api_keys SET scopes = '{admin}' WHERE id = :k", k=key_id(token))
    asked = CliRunner().invoke(app, ["adopt-authority"], "n\n", environment(services.settings))
    assert asked.exit_code == 1
    assert "as they should be" in asked.output
    with build(services.settings) as fresh, running(fresh, of=service) as again:
        assert is_refused_as_unknown(again, token)


def environment(settings: Settings) -> dict[str, str]:
    """The settings of a test as a command meets them."""
    assert settings.database_url is not None
    return {
        "STRONGROOM_HOME": str(settings.home),
        "STRONGROOM_DATABASE_URL": settings.database_url.get_secret_value(),
        "STRONGROOM_DATABASE_STANDBY": "managed",
        "STRONGROOM_SITES__A__PATH": str(settings.sites.a.path),
        "STRONGROOM_SITES__B__PATH": str(settings.sites.b.path),
        "STRONGROOM_KMS__KEY_FILE": str(settings.kms.key_file),
    }

"""A dependency away at each step: 503 with Retry-After, nothing half done, and on with it afterwards."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from typing_extensions import override

from api.bootstrap import build
from api.doctor import _examine_running
from api.embedded import EmbeddedPostgres
from api.settings import Settings
from keymgmt.transit import TransitProvider
from migrations.run import upgrade
from tests.api.helpers import named, upload
from tests.running import RunningService, running
from tests.servers.kms import POLICIES, VaultServer
from vault.context import Context
from vault.database import Database, PreparedStatement
from vault.errors import DatabaseUnavailable

MIB = 2**20


@contextmanager
def away(path: Path) -> Iterator[None]:
    """A file or folder that is not there for a while."""
    hidden = path.with_name(path.name + ".away")
    path.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(path)


def site_a(service: RunningService) -> Path:
    folder = service.services.settings.sites.a.path
    assert folder is not None
    return folder


def keyring(service: RunningService) -> Path:
    return service.services.settings.home / "keys" / "keyring.json"


def is_unavailable(answer: httpx.Response, kind: str) -> bool:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    return bool(answer.json()["type"] == f"urn:strongroom:problem:{kind}")


def test_an_upload_without_its_store_is_a_503_and_leaves_nothing(service: RunningService) -> None:
    with away(site_a(service)):
        answer = service.demo.post("/v1/documents", content=b"x", headers=named("a"))
        assert is_unavailable(answer, "store-unavailable")
    assert service.demo.get("/v1/documents").json()["items"] == []
    assert upload(service.demo, b"x")["version"]["number"] == 1


def test_a_store_that_goes_in_mid_upload_is_a_503(service: RunningService) -> None:
    folder = site_a(service)
    hidden = folder.with_name("hidden")

    def chunks() -> Iterator[bytes]:
        yield bytes(12 * MIB)
        folder.rename(hidden)
        for _ in range(30):
            yield bytes(MIB)

    answer = service.demo.post("/v1/documents", content=chunks(), headers=named("a"))
    hidden.rename(folder)
    assert is_unavailable(answer, "store-unavailable")
    service.services.sweep.run()
    assert service.demo.get("/v1/documents").json()["items"] == []
    assert list(service.services.stores["a"].list("objects/")) == []
    assert list(service.services.stores["a"].pending()) == []


def test_a_download_without_its_store_is_a_503(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    path = f"/v1/documents/{document['id']}/content"
    with away(site_a(service)):
        assert is_unavailable(service.demo.get(path), "store-unavailable")
    assert service.demo.get(path).content == b"x"


@pytest.mark.parametrize("kms", ["keyring"], indirect=True)
def test_without_the_keyring_nothing_is_stored_and_nothing_read(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    path = f"/v1/documents/{document['id']}/content"
    with away(keyring(service)):
        create = service.demo.post("/v1/documents", content=b"y", headers=named("a"))
        assert is_unavailable(create, "keys-unavailable")
        assert is_unavailable(service.demo.get(path), "keys-unavailable")
        ready = httpx.get(f"{service.url}/readyz", trust_env=False)
        assert ready.status_code == 503
        assert ready.json()["dependencies"]["keys"] != "up"
        assert ready.json()["dependencies"]["database"] == "up"
    assert len(service.demo.get("/v1/documents").json()["items"]) == 1
    assert service.demo.get(path).content == b"x"


@pytest.mark.parametrize("kms", ["transit"], indirect=True)
@pytest.mark.parametrize("trouble", ["sealed", "stopped"])
def test_without_the_kms_nothing_is_stored_and_only_what_was_just_read_is_read(
    service: RunningService, vault: VaultServer, trouble: str
) -> None:
    read, unread = (upload(service.demo, name) for name in (b"read", b"unread"))
    path = f"/v1/documents/{read['id']}/content"
    assert service.demo.get(path).content == b"read"
    disturb, mend = {
        "sealed": (vault.seal, vault.unseal),
        "stopped": (vault.stop, vault.start),
    }[trouble]
    disturb()
    try:
        create = service.demo.post("/v1/documents", content=b"y", headers=named("a"))
        assert is_unavailable(create, "keys-unavailable")
        assert service.demo.get(path).content == b"read"
        missed = service.demo.get(f"/v1/documents/{unread['id']}/content")
        assert is_unavailable(missed, "keys-unavailable")
        ready = httpx.get(f"{service.url}/readyz", trust_env=False, timeout=30)
        assert ready.json()["dependencies"]["keys"] == "KeyServiceUnavailable"
        assert 'strongroom_dependency_up{name="keys"} 0.0' in metrics(service)
    finally:
        mend()
    assert service.demo.get(f"/v1/documents/{unread['id']}/content").content == b"unread"
    upload(service.demo, b"it takes documents again")
    assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
    assert 'strongroom_dependency_up{name="keys"} 1.0' in metrics(service)


def metrics(service: RunningService) -> str:
    return httpx.get(f"{service.url}/metrics", trust_env=False).text


@pytest.mark.parametrize("kms", ["transit"], indirect=True)
def test_a_kms_that_takes_five_seconds_delays_uploads_and_not_what_was_just_read(
    service: RunningService, vault: VaultServer
) -> None:
    read = upload(service.demo, b"read")
    path = f"/v1/documents/{read['id']}/content"
    assert service.demo.get(path).content == b"read"
    vault.hang()
    timer = threading.Timer(5, vault.go_on)
    timer.start()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(upload, service.demo, b"slow")
        began = time.monotonic()
        assert service.demo.get(path).content == b"read"
        assert time.monotonic() - began < 2
        assert not slow.done()
        document = slow.result()
    timer.join()
    assert service.demo.get(f"/v1/documents/{document['id']}/content").content == b"slow"


@pytest.mark.parametrize("kms", ["transit"], indirect=True)
def test_doctor_names_the_permission_that_the_policy_lacks(
    service: RunningService, vault: VaultServer
) -> None:
    rules = (POLICIES / "service.hcl").read_text(encoding="utf-8")
    lines = [line for line in rules.splitlines() if "transit/rewrap/" not in line]
    vault.set_policy("lacks-rewrap", "\n".join(lines))
    keys = service.services.keys
    assert isinstance(keys, TransitProvider)
    keys._session = vault.session("lacks-rewrap")
    wrong = [finding for finding in _examine_running(service.services) if not finding.ok]
    assert [finding.about for finding in wrong] == ["kms-policy"]
    assert f"update on transit/rewrap/{keys._prefix}documents" in wrong[0].words
    assert "datakey" not in wrong[0].words


@pytest.mark.parametrize("kms", ["transit"], indirect=True)
def test_a_job_waits_for_a_sealed_kms_and_goes_on(
    service: RunningService, vault: VaultServer
) -> None:
    upload(service.demo, b"x")
    job = service.admin.post("/v1/keys/drill").json()
    vault.seal()
    try:
        assert service.services.job_runner.run_one()
        waiting = service.admin.get(f"/v1/jobs/{job['id']}").json()
        assert (waiting["state"], waiting["error"] is None) == ("queued", False)
    finally:
        vault.unseal()
    with service.services.database.as_service().transaction() as connection:
        connection.execute(text("UPDATE jobs SET due_at = now()"))
    assert service.services.job_runner.run_one()
    ended = service.admin.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["result"]["opened"]) == ("done", 1)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that a test may kill."""
    with EmbeddedPostgres(tmp_path / "own") as server:
        upgrade(server.urls.owner)
        yield server


def kill(server: EmbeddedPostgres) -> None:
    pid = int((server._data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    server._process.wait(20)


def test_postgresql_away_at_the_start_in_the_middle_and_at_the_commit(
    settings: Settings, own_postgres: EmbeddedPostgres
) -> None:
    own = settings.model_copy(update={"database_url": SecretStr(own_postgres.urls.service)})
    with build(own) as services, running(services) as service:
        kept = upload(service.demo, b"acknowledged")

        def chunks() -> Iterator[bytes]:
            yield bytes(10 * MIB)
            kill(own_postgres)
            yield bytes(10 * MIB)

        cut = service.demo.post("/v1/documents", content=chunks(), headers=named("a"))
        assert is_unavailable(cut, "unavailable")
        for answer in (
            service.demo.post("/v1/documents", content=b"x", headers=named("a")),
            service.demo.get("/v1/documents"),
            service.demo.get(f"/v1/documents/{kept['id']}/content"),
            service.demo.delete(f"/v1/documents/{kept['id']}"),
        ):
            assert is_unavailable(answer, "unavailable")
        assert httpx.get(f"{service.url}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 503


class ForgetfulDatabase(Database):
    """The database whose answer to a commit gets lost, as a cut connection loses it."""

    lose_answers = False

    @override
    def execute_prepared(
        self, context: Context, statement: PreparedStatement, parameters: dict[str, Any]
    ) -> Any:
        rows = super().execute_prepared(context, statement, parameters)
        if self.lose_answers:
            raise DatabaseUnavailable
        return rows


def test_a_commit_whose_answer_is_lost_keeps_its_object_and_happens_once(
    service: RunningService,
) -> None:
    database = service.services.database
    database.__class__ = ForgetfulDatabase
    key = {**named("a"), "Idempotency-Key": "k"}
    try:
        ForgetfulDatabase.lose_answers = True
        lost = service.demo.post("/v1/documents", content=b"kept", headers=key)
    finally:
        ForgetfulDatabase.lose_answers = False
    assert is_unavailable(lost, "unavailable")
    again = service.demo.post("/v1/documents", content=b"kept", headers=key)
    assert again.status_code == 201
    (document,) = service.demo.get("/v1/documents").json()["items"]
    assert document["id"] == again.json()["id"]
    assert service.demo.get(f"/v1/documents/{document['id']}/content").content == b"kept"


def test_a_body_shorter_than_announced_leaves_nothing(service: RunningService) -> None:
    answer = _raw(service, announced=1000, sent=b"only this")
    assert b"201" not in answer
    assert service.demo.get("/v1/documents").json()["items"] == []


def test_of_a_body_longer_than_announced_only_the_announced_part_counts(
    service: RunningService,
) -> None:
    answer = _raw(service, announced=4, sent=b"four and more")
    # The rest is no HTTP request; the server may say so before it answers the first one.
    assert answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 400"))
    for document in service.demo.get("/v1/documents").json()["items"]:
        assert service.demo.get(f"/v1/documents/{document['id']}/content").content == b"four"


def _raw(service: RunningService, *, announced: int, sent: bytes) -> bytes:
    host, _, port = service.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(
            b"POST /v1/documents HTTP/1.1\r\nHost: x\r\n"
            b"Authorization: Bearer " + service.demo_key.encode() + b"\r\n"
            b'Content-Disposition: attachment; filename="a"\r\n'
            b"Content-Length: " + str(announced).encode() + b"\r\n\r\n" + sent
        )
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)

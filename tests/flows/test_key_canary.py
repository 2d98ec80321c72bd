"""No key bytes outside `keymgmt`: not in logs, answers, metrics, settings, rows, files or exceptions."""

from __future__ import annotations

import base64
import io
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import Engine, text

from keymgmt.errors import DecryptionFailed
from keymgmt.recoverykey import RecoveryPrivateKey
from keymgmt.secret import SecretKey
from tests.api.helpers import upload
from tests.api.test_damage import object_file
from tests.flows.epochs import run_job
from tests.running import RunningService
from vault.records import find_document


@pytest.fixture
def every_key(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every key that this process makes or unwraps from now on."""
    seen: list[bytes] = []
    original = SecretKey.__init__

    def remember(self: SecretKey, raw: bytes) -> None:
        original(self, raw)
        seen.append(bytes(raw))

    monkeypatch.setattr(SecretKey, "__init__", remember)
    return seen


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a service that starts after this logs."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_no_key_is_seen_outside_of_the_room_of_keys(
    every_key: list[bytes],
    logged: io.StringIO,
    service: RunningService,
    owner: Engine,
    tmp_path: Path,
) -> None:
    body = {"public_key": RecoveryPrivateKey.generate().public.to_text()}
    run_job(service, "/v1/keys/recovery", json=body)
    run_job(service, "/v1/keys/epochs")
    forge_a_key(owner, service)
    lists = (
        "/v1/access/findings",
        "/v1/keys",
        "/v1/jobs",
        "/v1/keys/epochs",
        "/v1/keys/public",
        "/v1/keys/recovery",
    )
    answers = [_use(service), *(service.admin.get(path).text for path in lists)]
    answers.append(httpx.get(f"{service.url}/metrics", trust_env=False).text)
    answers.append(service.services.settings.model_dump_json() + repr(service.services))
    rows = list(_every_value(owner))
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    said = "\n".join([*answers, *rows, logged.getvalue()]).encode() + b"".join(files)
    assert "does not bear its seal" in logged.getvalue()
    assert "decryption failed" in logged.getvalue(), "the service logs nothing"
    assert len(every_key) > 5
    for raw in set(every_key) - _root_keys(tmp_path):
        for shown in (raw, raw.hex().encode(), base64.b64encode(raw), repr(raw)[2:-1].encode()):
            assert shown not in said


def test_what_an_exception_shows_with_all_locals_holds_no_key(
    every_key: list[bytes], service: RunningService
) -> None:
    document = upload(service.demo, b"x")
    with service.services.database.as_service().transaction() as connection:
        found = find_document(connection, UUID(document["id"]))
    wrong = replace(found.version, key_commitment=bytes(32))
    with pytest.raises(DecryptionFailed) as failed:
        service.services.contents._keys.open(found.id, wrong)
    described = traceback.TracebackException.from_exception(failed.value, capture_locals=True)
    frames = [frame for frame in described.stack if "/tests/" not in frame.filename]
    said = "".join(f"{frame.name} {frame.locals}" for frame in frames)
    assert "DataKey(****)" in said
    for raw in every_key:
        assert not [shown for shown in (repr(raw), raw.hex()) if shown in said]


def forge_a_key(owner: Engine, service: RunningService) -> None:
    """So that a broken seal is met, logged and remembered."""
    key_id = service.demo_key.split("_")[1]
    with owner.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO api_keys (id, principal_id, secret_sha256, scopes, seal, seal_key_id) "
                "SELECT 'forged', principal_id, secret_sha256, scopes, seal, seal_key_id "
                "FROM api_keys WHERE id = :id"
            ),
            {"id": key_id},
        )
    assert service.services.seal_upkeep.look_at_all() == 1


def _use(service: RunningService) -> str:
    """File, read, damage, rotate, drill and shred; whatever is answered."""
    whole, damaged = (upload(service.demo, name) for name in (b"whole", b"damaged"))
    file = object_file(service, damaged)
    file.write_bytes(bytes([*file.read_bytes()[:-1], 0]))
    said = ""
    for document in (whole, damaged):
        said += service.demo.get(f"/v1/documents/{document['id']}/content").text
    for path in (
        "/v1/keys/seal/rotate",
        "/v1/keys/documents/rotate",
        "/v1/keys/drill",
        "/v1/keys/epochs",
    ):
        said += service.admin.post(path).text
    while service.services.job_runner.run_one():
        pass
    return said


def _every_value(owner: Engine) -> Iterator[str]:
    with owner.connect() as connection:
        tables = connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ).scalars()
        for table in list(tables):
            yield from connection.execute(text(f"SELECT t::text FROM {table} t")).scalars()


def _root_keys(folder: Path) -> set[bytes]:
    """The raw root key lies in its own file, by design."""
    return {path.read_bytes() for path in folder.rglob("root.key")}

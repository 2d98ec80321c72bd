"""Nobody needs us to read their data: an exported key opens its object with Tink, and with docs/reader.py."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests import people
from tests.api.helpers import upload
from tests.api.test_damage import object_file
from tests.running import RunningService
from tests.sealed_objects import open_with_keyset

READER = Path(__file__).parents[2] / "docs" / "reader.py"


@pytest.fixture
def exporter(service: RunningService) -> str:
    """An API key that may export keys of the department demo, and nothing else."""
    return people.exporter(service)


def export(service: RunningService, key: str, document: dict[str, Any]) -> dict[str, Any]:
    with service.client(key) as client:
        people.let_export(service, client, document)
        answer = client.post(f"/v1/documents/{document['id']}/versions/1/export-key")
    assert answer.status_code == 200, answer.text
    exported: dict[str, Any] = answer.json()
    return exported


def read(
    tmp_path: Path, sealed: bytes, exported: dict[str, Any]
) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "object").write_bytes(sealed)
    (tmp_path / "export.json").write_text(json.dumps(exported))
    command = [sys.executable, str(READER), str(tmp_path / "object"), str(tmp_path / "export.json")]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.mark.parametrize("size", [0, 1, 1_048_520, 1_048_521, 3 * 2**20])
def test_an_object_from_the_store_opens_with_tink_and_with_the_reader(
    service: RunningService, exporter: str, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    document = upload(service.demo, content)
    sealed = object_file(service, document).read_bytes()
    exported = export(service, exporter, document)
    binding = base64.b64decode(exported["associated_data"])
    assert open_with_keyset(exported["keyset"], sealed, binding) == content
    done = read(tmp_path, sealed, exported)
    assert (done.returncode, done.stdout) == (0, content)


@pytest.mark.parametrize("damage", ["flipped", "cut", "extended", "another's key"])
def test_the_reader_writes_nothing_of_a_damaged_segment(
    service: RunningService, exporter: str, tmp_path: Path, damage: str
) -> None:
    document, other = upload(service.demo, b"content"), upload(service.demo, b"another")
    sealed = object_file(service, document).read_bytes()
    exported = export(service, exporter, document)
    if damage == "another's key":
        exported["keyset"] = export(service, exporter, other)["keyset"]
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    altered = {"flipped": flipped, "cut": sealed[:-1], "extended": sealed + b"\0"}
    done = read(tmp_path, altered.get(damage, sealed), exported)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr


def test_an_export_needs_its_own_scope_department_and_approval_and_leaves_an_event(
    service: RunningService, exporter: str
) -> None:
    document = upload(service.demo, b"x")
    path = f"/v1/documents/{document['id']}/versions/1/export-key"
    assert service.demo.post(path).status_code == 403
    assert service.admin.post(path).status_code == 403
    with service.client(people.exporter(service, "other")) as client:
        assert client.post(path).status_code == 404
    with service.client(exporter) as client:
        refused = client.post(path)
        assert refused.status_code == 403
        assert refused.json()["type"].endswith("approval-needed")
    export(service, exporter, document)
    with service.services.database.as_service().transaction() as connection:
        kinds = connection.execute(text("SELECT type FROM access_events")).scalars().all()
    assert kinds.count("api:key:exported") == 1

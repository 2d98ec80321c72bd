"""Kill -9 while keys are rotated, retired, shredded and sealed for recovery: all that lives still opens.

Each loop serves the same home, files and purges some documents, starts work on the keys, and kills the
service at a random moment of it. The next start lets the work end; then a drill says whether any key is lost.
At the end each purged document stands in one certificate, and of a copy of the database from before all that
the drill names exactly those.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a loop that failed can be run again)
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text

from api.bootstrap import build, open_offline
from api.settings import KmsSettings, Settings
from keymgmt.recoverykey import RecoveryPrivateKey
from tests.api.helpers import upload
from tests.process import ServeProcess, wait_until
from vault.jobs import JobKind

DOCUMENTS: Final = 120
"""At the start: enough that work on them lasts a while, few enough that a loop is short."""

DOOMED: Final = 10
"""More of them, which are purged while the work goes on, as is one of each loop."""

WORK: Final = (
    ["/v1/keys/documents/rotate", "/v1/keys/documents/rewrap"],
    ["/v1/keys/documents/rotate", "/v1/keys/documents/rewrap", "/v1/keys/documents/retire"],
    ["/v1/keys/epochs"],
    ["/v1/keys/epochs", "/v1/keys/documents/rewrap"],
    ["/v1/keys/recovery"],
    ["/v1/keys/recovery", "/v1/keys/epochs"],
)


@pytest.fixture
def kms(request: pytest.FixtureRequest) -> KmsSettings | None:
    """None: the local keyring, which each home has of its own."""
    found: KmsSettings | None = request.param and request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("kms", "loops", "seed"),
    [
        (None, 4, 20_260_401),
        ("transit", 2, 20_260_403),
        pytest.param(None, 100, 20_260_402, marks=pytest.mark.soak),
        pytest.param("transit", 100, 20_260_404, marks=pytest.mark.soak),
    ],
    indirect=["kms"],
)
def test_a_kill_during_work_on_keys_loses_no_document(
    tmp_path: Path, kms: KmsSettings | None, loops: int, seed: int
) -> None:
    print(f"seed {seed}")
    random, kept, private = Random(seed), {}, RecoveryPrivateKey.generate()
    with ServeProcess(tmp_path, environment=_environment(kms)) as serve:
        with serve.client(serve.admin_key) as admin:
            rules = {"name": "short-lived", "retention_days": 0, "bin_days": 0}
            assert admin.post("/v1/classes", json=rules).status_code == 201
        with serve.client() as demo:
            for number in range(DOCUMENTS):
                kept[upload(demo, b"%d" % number)["id"]] = b"%d" % number
            doomed = [_short_lived(demo) for _ in range(DOOMED)]
        serve.stop()
        _copy(serve.home / "postgres", tmp_path / "before")
        known, gone = [*kept, *doomed], list(doomed)
        serve.start()
        with serve.client(serve.admin_key) as admin:
            _start(admin, "/v1/keys/recovery", private)
        for _ in range(loops):
            gone += _work_and_kill(serve, kept, doomed, random, private)
            serve.start()
            with serve.client(serve.admin_key) as admin, serve.client() as demo:
                _let_all_jobs_end(admin)
                _let_all_be_purged(demo, gone)
                drilled = _drill(admin)
            assert (drilled["failed"], drilled["opened"]) == (0, len(kept))
        with serve.client() as demo, serve.client(serve.admin_key) as admin:
            found = {each: demo.get(f"/v1/documents/{each}/content").content for each in kept}
            _start(admin, "/v1/keys/epochs", private)
            _let_all_jobs_end(admin)
            assert _certified(admin) == Counter(gone)
        assert found == kept
        serve.stop()
        assert _recovered(serve.home, private) == kept
        again = kms or KmsSettings(key_file=serve.root_key_file)
        named = _named_by_a_drill(serve, again, tmp_path / "before", len(set(known) & set(kept)))
        assert named == set(known) & set(gone)


def _work_and_kill(
    serve: ServeProcess,
    kept: dict[str, bytes],
    doomed: list[str],
    random: Random,
    private: RecoveryPrivateKey,
) -> list[str]:
    """What is new in the bin afterwards; all of `doomed` goes there too."""
    with serve.client() as demo, serve.client(serve.admin_key) as admin:
        content = random.randbytes(10)
        kept[upload(demo, content)["id"]] = content
        made = [_short_lived(demo)]
        for each in [*doomed, *made]:
            assert demo.delete(f"/v1/documents/{each}").status_code == 200
        doomed.clear()
        for path in random.choice(WORK):
            _start(admin, path, private)
            time.sleep(random.uniform(0, 0.2))
    time.sleep(random.uniform(0, 0.4))
    serve.kill()
    return made


def _short_lived(demo: httpx.Client) -> str:
    """A document that the next purge takes once it is in the bin."""
    return str(upload(demo, b"short-lived", params={"class": "short-lived"})["id"])


def _let_all_be_purged(demo: httpx.Client, gone: list[str]) -> None:
    def is_purged(document: str) -> bool:
        return demo.get(f"/v1/documents/{document}").status_code == 404

    assert wait_until(lambda: all(map(is_purged, gone[-DOOMED - 1 :])), 60)


def _certified(admin: httpx.Client) -> Counter[str]:
    """How often each document stands in a certificate."""
    epochs = admin.get("/v1/keys/epochs", params={"page_size": 1000}).json()["items"]
    payloads = [each["certificate"]["payload"] for each in epochs if each["certificate"]]
    lines = [line for each in payloads for line in json.loads(base64.b64decode(each))["shredded"]]
    return Counter(line.split()[0] for line in lines)


def _copy(folder: Path, to: Path) -> None:
    """With owners: PostgreSQL's files are not root's."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


def _environment(kms: KmsSettings | None) -> dict[str, str]:
    if kms is None or kms.roles.service is None:
        return {}
    return {
        "STRONGROOM_KMS__KIND": kms.kind,
        "STRONGROOM_KMS__ADDRESS": str(kms.address),
        "STRONGROOM_KMS__KEY_PREFIX": kms.key_prefix,
        "STRONGROOM_KMS__ROLES__SERVICE__ROLE_ID": kms.roles.service.role_id,
        "STRONGROOM_KMS__ROLES__SERVICE__SECRET_ID_FILE": str(kms.roles.service.secret_id_file),
    }


def _named_by_a_drill(
    serve: ServeProcess, kms: KmsSettings, database: Path, expected: int
) -> set[str]:
    """The documents of a restored copy whose keys do not open; `expected` ones do."""
    home = serve.home.with_name("restored")
    _copy(serve.home, home)
    shutil.rmtree(home / "postgres")
    _copy(database, home / "postgres")
    with build(Settings(home=home, kms=kms)) as restored:
        assert restored.rejoin.run().joined == expected
        job = restored.jobs.start(None, JobKind.DRILL)
        assert restored.job_runner.run_one()
        query = text("SELECT result FROM jobs WHERE id = :id")
        result = restored.database.as_service().execute(query, {"id": job.id})[0].result
    assert result["opened"] == expected
    return {each["document"] for each in result["failed_versions"]}


def _start(admin: httpx.Client, path: str, private: RecoveryPrivateKey) -> None:
    body = {"public_key": private.public.to_text()} if path == "/v1/keys/recovery" else None
    answer = admin.post(path, json=body)
    # 409: an earlier kill left a version in use, or the job that is under way.
    assert answer.status_code in (200, 201, 202, 409), answer.text


def _recovered(home: Path, private: RecoveryPrivateKey) -> dict[str, bytes]:
    """Every document without the KMS."""
    with open_offline(Settings(home=home), private, None) as offline:
        offline.restore.prepare()
        return {
            str(version.document_id): b"".join(offline.restore.content(version))
            for version in offline.restore.versions()
        }


def _let_all_jobs_end(admin: httpx.Client) -> None:
    assert wait_until(lambda: not _under_way(admin), 60), admin.get("/v1/jobs").text
    failed = [job for job in admin.get("/v1/jobs").json()["items"] if job["state"] == "failed"]
    assert failed == []


def _under_way(admin: httpx.Client) -> list[dict[str, Any]]:
    time.sleep(0.1)
    items = admin.get("/v1/jobs").json()["items"]
    return [job for job in items if job["state"] in ("queued", "running")]


def _drill(admin: httpx.Client) -> dict[str, Any]:
    started = admin.post("/v1/keys/drill").json()
    _let_all_jobs_end(admin)
    result: dict[str, Any] = admin.get(f"/v1/jobs/{started['id']}").json()["result"]
    return result

"""Kill -9 while keys are rotated, retired, shredded and sealed for recovery: all that lives still opens.

Each loop serves the same home, files and purges some documents, starts work on the keys, and kills the
service at a random moment of it. The next start lets the work end; then a drill says whether any key is lost.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a loop that failed can be run again)
from typing import Any, Final

import httpx
import pytest

from api.bootstrap import open_offline
from api.settings import Settings
from keymgmt.recoverykey import RecoveryPrivateKey
from tests.api.helpers import upload
from tests.process import ServeProcess, wait_until

DOCUMENTS: Final = 120
"""At the start: enough that work on them lasts a while, few enough that a loop is short."""

WORK: Final = (
    ["/v1/keys/documents/rotate", "/v1/keys/documents/rewrap"],
    ["/v1/keys/documents/rotate", "/v1/keys/documents/rewrap", "/v1/keys/documents/retire"],
    ["/v1/keys/epochs"],
    ["/v1/keys/epochs", "/v1/keys/documents/rewrap"],
    ["/v1/keys/recovery"],
    ["/v1/keys/recovery", "/v1/keys/epochs"],
)


@pytest.mark.parametrize(
    ("loops", "seed"), [(4, 20_260_401), pytest.param(100, 20_260_402, marks=pytest.mark.soak)]
)
def test_a_kill_during_work_on_keys_loses_no_document(
    tmp_path: Path, loops: int, seed: int
) -> None:
    print(f"seed {seed}")
    random, kept, private = Random(seed), {}, RecoveryPrivateKey.generate()
    with ServeProcess(tmp_path) as serve:
        with serve.client() as demo:
            for number in range(DOCUMENTS):
                kept[upload(demo, b"%d" % number)["id"]] = b"%d" % number
        with serve.client(serve.admin_key) as admin:
            _start(admin, "/v1/keys/recovery", private)
        for _ in range(loops):
            _work_and_kill(serve, kept, random, private)
            serve.start()
            with serve.client(serve.admin_key) as admin:
                _let_all_jobs_end(admin)
                drilled = _drill(admin)
            assert (drilled["failed"], drilled["opened"]) == (0, len(kept))
        with serve.client() as demo:
            found = {each: demo.get(f"/v1/documents/{each}/content").content for each in kept}
        assert found == kept
        serve.stop()
        assert _recovered(serve.home, private) == kept


def _work_and_kill(
    serve: ServeProcess, kept: dict[str, bytes], random: Random, private: RecoveryPrivateKey
) -> None:
    with serve.client() as demo, serve.client(serve.admin_key) as admin:
        content = random.randbytes(10)
        kept[upload(demo, content)["id"]] = content
        for path in random.choice(WORK):
            _start(admin, path, private)
            time.sleep(random.uniform(0, 0.2))
    time.sleep(random.uniform(0, 0.4))
    serve.kill()


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

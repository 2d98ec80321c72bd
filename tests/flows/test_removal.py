"""Bin, holds, purge, sweep and journal: what goes, what stays, and who wins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from replication.copier import Copier
from tests.api.helpers import named, upload
from tests.process import wait_until
from tests.replicating import waiting, work_off
from tests.running import RunningService
from vault import clock
from vault.journal import Bulk

LATER = timedelta(days=40)


@pytest.fixture
def short_lived(service: RunningService) -> str:
    """A class whose documents may go after 30 days in the bin and 20 of retention."""
    rules = {"name": "short-lived", "retention_days": 20, "bin_days": 30}
    assert service.admin.post("/v1/classes", json=rules).status_code == 201
    return "short-lived"


def work_off_journal(service: RunningService) -> None:
    work_off(service.services)


def objects(service: RunningService, site: str) -> list[str]:
    return [stored.key for stored in service.services.stores[site].list("objects/")]


def binned(service: RunningService, class_name: str) -> dict[str, Any]:
    document = upload(service.demo, b"x", params={"class": class_name})
    assert service.demo.delete(f"/v1/documents/{document['id']}").status_code == 200
    return document


def test_every_object_reaches_the_second_site_verified(service: RunningService) -> None:
    for size in (0, 10, 3 * 2**20, 20 * 2**20):
        upload(service.demo, bytes(size))
    work_off_journal(service)
    assert objects(service, "a") == objects(service, "b") != []
    items = service.demo.get("/v1/documents").json()["items"]
    assert all(item["version"]["durable_on"] == ["a", "b"] for item in items)


def test_a_damaged_source_is_never_counted_as_a_copy(service: RunningService) -> None:
    upload(service.demo, b"precious")
    folder = service.services.settings.sites.a.path
    assert folder is not None
    (stored,) = [path for path in (folder / "objects").rglob("*") if path.is_file()]
    stored.write_bytes(b"x" * stored.stat().st_size)
    work_off_journal(service)
    assert objects(service, "b") == []
    assert service.demo.get("/v1/documents").json()["items"][0]["version"]["durable_on"] == []
    assert waiting(service.services) == {("b", "copy"): 1, ("a", "copy"): 1}


def test_purge_waits_for_bin_and_retention_both(service: RunningService, short_lived: str) -> None:
    document = binned(service, short_lived)
    purge, now = service.services.purge, clock.now()
    assert purge.run(now) == 0
    assert purge.run(now + timedelta(days=29)) == 0
    assert service.demo.get(f"/v1/documents/{document['id']}").status_code == 200
    assert purge.run(now + timedelta(days=31)) == 1
    assert service.demo.get(f"/v1/documents/{document['id']}").status_code == 404


def test_retention_longer_than_the_bin_keeps_a_document(service: RunningService) -> None:
    rules = {"name": "long", "retention_days": 3650, "bin_days": 1}
    service.admin.post("/v1/classes", json=rules)
    binned(service, "long")
    assert service.services.purge.run(clock.now() + timedelta(days=3649)) == 0
    assert service.services.purge.run(clock.now() + timedelta(days=3651)) == 1


def test_a_purge_removes_rows_keys_names_and_objects_at_both_sites(
    service: RunningService, short_lived: str, owner: Engine
) -> None:
    document = binned(service, short_lived)
    work_off_journal(service)
    assert service.services.purge.run(clock.now() + LATER) == 1
    work_off_journal(service)
    assert objects(service, "a") == objects(service, "b") == []
    with owner.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM versions")).scalar_one() == 0
        row = connection.execute(text("SELECT name, state FROM documents")).one()
        types = connection.execute(text("SELECT type FROM access_events")).scalars().all()
    assert tuple(row) == ("", "purged")
    assert "worker:document:purged" in types
    assert service.demo.post(f"/v1/documents/{document['id']}/undelete").status_code == 404


def test_a_copy_that_is_still_due_does_not_rise_after_a_purge(
    service: RunningService, short_lived: str
) -> None:
    binned(service, short_lived)
    (task,) = service.services.journal.claim("b", copies=True, bulk=Bulk(1, 100))
    assert service.services.purge.run(clock.now() + LATER) == 1
    Copier(service.services.stores).copy(task, lambda _upload_id: True)
    service.services.journal.copied([(task, "a")])
    work_off_journal(service)
    assert objects(service, "b") == []


def test_a_hold_beats_bin_and_purge(service: RunningService, short_lived: str) -> None:
    document = binned(service, short_lived)
    hold = service.admin.post(
        "/v1/holds", json={"document_id": document["id"], "reason": "case 2026/17"}
    ).json()
    assert service.services.purge.run(clock.now() + LATER) == 0
    service.demo.post(f"/v1/documents/{document['id']}/undelete")
    refused = service.demo.delete(f"/v1/documents/{document['id']}")
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:strongroom:problem:document-held"
    assert service.admin.post(f"/v1/holds/{hold['id']}/release").status_code == 200
    assert service.demo.delete(f"/v1/documents/{document['id']}").status_code == 200
    assert service.services.purge.run(clock.now() + LATER) == 1


def test_two_holds_need_two_releases(service: RunningService, short_lived: str) -> None:
    document = binned(service, short_lived)
    place = {"document_id": document["id"], "reason": "case"}
    holds = [service.admin.post("/v1/holds", json=place).json() for _ in range(2)]
    service.admin.post(f"/v1/holds/{holds[0]['id']}/release")
    assert service.services.purge.run(clock.now() + LATER) == 0
    listed = service.admin.get("/v1/holds", params={"document_id": document["id"]}).json()["items"]
    assert [hold["released_at"] is None for hold in listed] == [True, False]


def test_a_hold_on_one_document_stops_no_other_purge(
    service: RunningService, short_lived: str
) -> None:
    held, _ = binned(service, short_lived), binned(service, short_lived)
    service.admin.post("/v1/holds", json={"document_id": held["id"], "reason": "case"})
    assert service.services.purge.run(clock.now() + LATER) == 1


def test_hold_and_purge_racing_never_both_succeed(
    service: RunningService, short_lived: str
) -> None:
    for _ in range(10):
        document = binned(service, short_lived)
        place = {"document_id": document["id"], "reason": "case"}
        with ThreadPoolExecutor(2) as pool:
            placing = pool.submit(service.admin.post, "/v1/holds", json=place)
            purging = pool.submit(service.services.purge.run, clock.now() + LATER)
            assert (placing.result().status_code == 201) is (purging.result() == 0)


def test_the_sweep_takes_what_a_dead_process_left(service: RunningService, owner: Engine) -> None:
    rows, store = service.services.upload_rows, service.services.stores["a"]
    orphan = rows.take()
    store.put(f"objects/{orphan.hex[:2]}/{orphan}", b"nobody's")
    assert service.services.sweep.run() == 0, "a live process's row was taken"
    assert len(objects(service, "a")) == 1
    _age_processes(owner)
    assert service.services.sweep.run() > 0
    assert objects(service, "a") == []


def test_an_upload_whose_row_was_swept_is_not_committed(
    service: RunningService, owner: Engine
) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(3 * 2**20)
        assert wait_until(lambda: _has_upload_rows(owner), 10), "the upload did not begin"
        _age_processes(owner)
        assert service.services.sweep.run() > 0
        yield b"late"

    answer = service.demo.post("/v1/documents", content=chunks(), headers=named("late.bin"))
    assert answer.status_code == 503
    assert service.demo.get("/v1/documents").json()["items"] == []
    assert objects(service, "a") == []


def test_a_very_slow_upload_outlives_the_sweep(service: RunningService) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            service.services.sweep.run()
            yield bytes(2**20)

    answer = service.demo.post("/v1/documents", content=chunks(), headers=named("slow.bin"))
    assert answer.status_code == 201
    content = service.demo.get(f"/v1/documents/{answer.json()['id']}/content").content
    assert content == bytes(20 * 2**20)


def test_a_client_that_leaves_half_way_leaves_nothing(service: RunningService) -> None:
    class Gone(Exception):
        pass

    def chunks() -> Iterator[bytes]:
        yield bytes(20 * 2**20)
        raise Gone

    with pytest.raises(Gone):
        service.demo.post("/v1/documents", content=chunks(), headers=named("half.bin"))
    _wait_until_idle(service)
    service.services.sweep.run()
    assert service.demo.get("/v1/documents").json()["items"] == []
    assert objects(service, "a") == []
    assert list(service.services.stores["a"].pending()) == []


def _wait_until_idle(service: RunningService) -> None:
    """The server notices a closed connection on its own time; a second request is served after it."""
    store = service.services.stores["a"]
    for _ in range(100):
        if not list(store.pending()):
            return
        service.demo.get("/healthz")


def _has_upload_rows(owner: Engine) -> bool:
    with owner.connect() as connection:
        return bool(connection.scalar(text("SELECT EXISTS (SELECT FROM uploads)")))


def _age_processes(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(text("UPDATE processes SET alive_until = now() - interval '1 minute'"))

"""What the stores of the sites can or cannot do: locks that hold, and the plainest S3 there is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from api.settings import Settings
from tests.api.helpers import upload
from tests.flows.sites import (
    Gateway,
    TwoSites,
    age_processes,
    all_verified,
    backlog,
    contents,
    drained,
    expected,
    found_incidents,
    notice,
    object_of,
    parked,
    run_job,
    settle,
    two_sites,
    verify_all,
    working,
)
from tests.replicating import make_all_due, worker_of
from tests.running import RunningService
from tests.servers.s3 import S3Server
from vault import clock
from vault.jobs import JobKind
from vault.objects import directory
from vault.objects.keys import object_key
from vault.objects.store import ObjectLocked, ObjectStore, StoreUnavailable
from vault.tables import journal

MIB = 2**20
SIZES = (0, 10, 100_000, 3 * MIB, 20 * MIB)


@pytest.fixture
def locking(
    sites_settings: Settings, tmp_path: Path, gateways: dict[str, S3Server]
) -> Iterator[tuple[TwoSites, RunningService]]:
    """Two sites whose buckets lock objects, and a process at a."""
    with (
        two_sites(sites_settings, tmp_path, gateways, object_lock=True) as pair,
        pair.served("a") as service,
    ):
        yield pair, service


@pytest.fixture
def plain(
    sites_settings: Settings, tmp_path: Path, rclone: S3Server
) -> Iterator[tuple[TwoSites, RunningService]]:
    """A folder, and an S3 that knows no conditions, versions or partial answers; a process at a."""
    with (
        two_sites(sites_settings, tmp_path, {"b": rclone}) as pair,
        pair.served("a") as service,
    ):
        yield pair, service


def durable_on(service: RunningService, document_id: str) -> list[str]:
    answer = service.demo.get(f"/v1/documents/{document_id}")
    found: list[str] = answer.json()["version"]["durable_on"]
    return found


@pytest.mark.parametrize("durability", ["async", "sync"])
@pytest.mark.parametrize("size", [1000, 9 * MIB])
def test_a_locked_document_outlives_its_purge_only_as_ciphertext(
    locking: tuple[TwoSites, RunningService], durability: str, size: int
) -> None:
    _, service = locking
    rules = {"name": "kept", "durability": durability, "worm_days": 2}
    service.admin.post("/v1/classes", json={**rules, "retention_days": 0, "bin_days": 0})
    document = upload(service.demo, os.urandom(size), params={"class": "kept"})
    settle(service.services)
    assert durable_on(service, document["id"]) == ["a", "b"]
    object_id = object_of(service.services, document["id"])
    for store in service.services.stores.values():
        with pytest.raises(ObjectLocked):
            store.delete(object_key(object_id))
    assert verify_all(service.services) == all_verified(service.services)
    service.demo.delete(f"/v1/documents/{document['id']}")
    assert service.services.purge.run(clock.now() + timedelta(days=1)) == 1
    rows = service.services.database.as_service().execute(select(journal), {})
    until = clock.now() + timedelta(days=2)
    assert [abs(row.due_at - until) < timedelta(minutes=5) for row in rows] == [True, True]
    assert not worker_of(service.services).run_one(), "it asks before the lock ends"
    settle(service.services)  # as if it had ended by our clock only
    rows = service.services.database.as_service().execute(select(journal), {})
    assert [abs(row.due_at - until) < timedelta(minutes=5) for row in rows] == [True, True]
    assert parked(service.services) == 0
    assert service.demo.get(f"/v1/documents/{document['id']}/content").status_code == 404
    assert service.admin.post("/v1/keys/epochs").status_code == 202
    assert service.services.job_runner.run_one((JobKind.SHRED,))
    newest = service.services.jobs.newest(JobKind.SHRED)
    assert newest is not None
    assert newest.result is not None
    assert newest.result["shredded"] == 1
    assert found_incidents(service.services) == []


def test_a_damaged_locked_copy_is_repaired(locking: tuple[TwoSites, RunningService]) -> None:
    sites, service = locking
    service.admin.post("/v1/classes", json={"name": "kept", "worm_days": 2})
    content = os.urandom(1000)
    document = upload(service.demo, content, params={"class": "kept"})
    settle(service.services)
    sites.b.flip(object_of(service.services, document["id"]))
    assert verify_all(service.services)["b"] == {"damaged": 1}
    settle(service.services)
    assert verify_all(service.services) == all_verified(service.services)
    assert found_incidents(service.services, open_only=True) == []


def test_a_plain_s3_is_a_second_site(plain: tuple[TwoSites, RunningService]) -> None:
    _, service = plain
    service.admin.post("/v1/classes", json={"name": "both", "durability": "sync"})
    sent = {}
    for size in SIZES:
        for params in ({}, {"class": "both"}):
            body = os.urandom(size)
            document = upload(service.demo, body, params=params)
            sent[document["id"]] = body
    settle(service.services)
    assert backlog(service.services) == 0
    assert {tuple(durable_on(service, each)) for each in sent} == {("a", "b")}
    assert verify_all(service.services) == all_verified(service.services)
    result = run_job(service.services, JobKind.SCRUB)["sites"]
    assert result["b"]["compared"] == len(sent)
    assert found_incidents(service.services) == []


def test_a_plain_s3_serves_reads_from_the_middle_on(
    plain: tuple[TwoSites, RunningService],
) -> None:
    sites, service = plain
    content = os.urandom(3 * MIB)
    document = upload(service.demo, content)
    settle(service.services)
    sites.a.flip(object_of(service.services, document["id"]), MIB + MIB // 2)
    path = f"/v1/documents/{document['id']}/content"
    part = service.demo.get(path, headers={"Range": f"bytes={MIB}-{2 * MIB}"})
    assert part.content == content[MIB : 2 * MIB + 1]
    assert service.demo.get(path).content == content
    settle(service.services)
    assert verify_all(service.services) == all_verified(service.services)


def test_purges_and_sweeps_leave_nothing_at_a_plain_s3(
    plain: tuple[TwoSites, RunningService],
) -> None:
    _, service = plain
    service.admin.post("/v1/classes", json={"name": "short", "retention_days": 0, "bin_days": 0})
    document = upload(service.demo, os.urandom(9 * MIB), params={"class": "short"})
    settle(service.services)
    left = service.services.upload_rows.take()
    service.services.stores["b"].put(object_key(left), b"x")
    service.demo.delete(f"/v1/documents/{document['id']}")
    service.services.purge.run(clock.now() + timedelta(days=1))
    settle(service.services)
    age_processes(service.services)
    service.services.sweep.run()
    assert [list(_objects(store)) for store in service.services.stores.values()] == [[], []]


def test_a_slow_line_gets_everything_over(sites: TwoSites, at_a: RunningService) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder has no line")
    sites.b.proxy.misbehaviour.pause_seconds = 0.03
    sent = {upload(at_a.demo, body)["id"]: body for body in map(os.urandom, (10, 1000, 9 * MIB))}
    with sites.a.away():
        notice(at_a.services)
    settle(at_a.services)
    assert backlog(at_a.services) == 0
    with sites.a.away():
        assert contents(at_a.demo, sent) == sent
    assert found_incidents(at_a.services) == []


def test_a_site_that_hangs_while_its_copies_are_made_gets_them_afterwards(
    sites: TwoSites, at_a: RunningService
) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder does not hang")
    with working(at_a.services):
        with sites.b.hung():
            sent = {upload(at_a.demo, body)["id"]: body for body in map(os.urandom, [1000] * 10)}
            notice(at_a.services)
            assert not at_a.services.health.is_up("b")
        make_all_due(at_a.services)  # the calls that hung end when the site goes on
        assert drained(at_a.services, 60)
    notice(at_a.services)
    assert parked(at_a.services) == 0
    assert len(expected(at_a.services)) == len(sent)
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_verify_does_not_wait_for_a_hung_site_once_for_every_object(
    sites: TwoSites, at_a: RunningService
) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder does not hang")
    for _ in range(20):
        upload(at_a.demo, b"x")
    settle(at_a.services)
    with sites.b.hung():
        notice(at_a.services)
        began = time.monotonic()
        assert verify_all(at_a.services) == {"a": {"verified": 20}, "b": {"unreachable": 20}}
        assert time.monotonic() - began < 3
    assert found_incidents(at_a.services) == []


def test_a_folder_that_vanishes_in_the_middle_of_a_write_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hidden = tmp_path / "site", tmp_path / "hidden"
    store = directory.DirectoryStore("b", folder)
    store.prepare()
    require = directory._Root.require

    def vanish(root: directory._Root) -> None:
        require(root)
        folder.rename(hidden)

    upload_ = store.begin_parts("objects/00/x")
    upload_.put_part(1, b"x")
    monkeypatch.setattr(directory._Root, "require", vanish)
    with pytest.raises(StoreUnavailable):
        upload_.complete()
    assert not folder.exists()


def _objects(store: ObjectStore) -> Iterator[str]:
    yield from (stored.key for stored in store.list("objects/"))

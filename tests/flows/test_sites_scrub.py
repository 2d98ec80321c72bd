"""Emptied, restored and silently damaged sites: noticed, filled again, and nothing that was deleted rises."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, func, select, text, update

from api.settings import ScrubSettings, Settings
from replication.copier import Copier
from replication.leavings import Leavings
from tests.api.helpers import upload
from tests.flows.epochs import purged
from tests.flows.sites import (
    TwoSites,
    administrator,
    agree,
    all_verified,
    backlog,
    contents,
    drained,
    expected,
    found_incidents,
    notice,
    object_of,
    run_job,
    settle,
    verify_all,
    working,
)
from tests.process import wait_until
from tests.replicating import make_all_due, work_off, worker_of
from tests.running import RunningService
from vault import clock, jobrun
from vault.jobs import JobKind, JobState
from vault.journal import Bulk, Reason, Task
from vault.objects.keys import object_key
from vault.objects.store import MAX_OBJECT_BYTES, PART_SIZE_BYTES, ObjectLocked
from vault.tables import jobs, journal, orphans, replicas, uploads

MIB = 2**20
ANY = Bulk(1000, MAX_OBJECT_BYTES)


def uploaded(service: RunningService, count: int, size: int = 1000) -> dict[str, bytes]:
    bodies = [os.urandom(size) for _ in range(count)]
    return {upload(service.demo, body)["id"]: body for body in bodies}


def companions(sites: TwoSites) -> list[set[str]]:
    """What lies beside the objects at each site, but for the marks, which differ."""
    return [
        {
            str(path.relative_to(site.root)).split("/")[0]
            for path in site.files()
            if not path.is_relative_to(site.root / "objects")
        }
        for site in sites
    ]


def with_catalogue(service: RunningService) -> None:
    """A first shred epoch is over, so that there is a catalogue at each site."""
    purged(service, b"gone")
    service.services.purge.run(clock.now() + timedelta(days=1))
    answer = service.admin.post("/v1/keys/epochs")
    assert answer.status_code in (200, 202), answer.text
    while service.services.job_runner.run_one((JobKind.SHRED,)):
        pass
    state = service.services.database.as_service().execute(select(jobs.c.state, jobs.c.error), {})
    assert [row.state for row in state] == ["done"], state


def test_an_emptied_site_is_noticed_and_filled_again_by_itself(
    sites: TwoSites, at_a: RunningService
) -> None:
    sent = uploaded(at_a, 30) | uploaded(at_a, 1, 9 * MIB)
    settle(at_a.services)
    sites.b.empty()
    emptied = time.monotonic()
    with working(at_a.services):
        assert wait_until(lambda: len(sites.b.objects()) > 0, 20), "nothing began"
        assert time.monotonic() - emptied < 8, "it began late"
        assert wait_until(lambda: found_incidents(at_a.services, open_only=True) == [], 60)
        assert drained(at_a.services)
    assert ("emptied", "b") in found_incidents(at_a.services)
    assert agree(sites, expected(at_a.services))
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert contents(at_a.demo, sent) == sent


def test_a_resync_brings_the_newest_first(sites: TwoSites, at_a: RunningService) -> None:
    documents = list(uploaded(at_a, 12))
    settle(at_a.services)
    sites.b.empty()
    _noted(at_a)
    order = [
        task.object_id
        for _ in range(12)
        for task in at_a.services.journal.claim("b", copies=True, bulk=Bulk(1, MAX_OBJECT_BYTES))
    ]
    newest_first = [object_of(at_a.services, each) for each in reversed(documents)]
    assert order == newest_first


def test_fresh_work_overtakes_a_resync(sites: TwoSites, at_a: RunningService) -> None:
    uploaded(at_a, 5)
    settle(at_a.services)
    sites.b.empty()
    _noted(at_a)
    fresh = upload(at_a.demo, b"fresh")
    (first,) = at_a.services.journal.claim("b", copies=True, bulk=Bulk(1, MAX_OBJECT_BYTES))
    assert first.object_id == object_of(at_a.services, fresh["id"])


def test_a_resync_that_was_stopped_stays_so_and_goes_on_when_it_is_resumed(
    sites: TwoSites, at_a: RunningService
) -> None:
    uploaded(at_a, 10)
    settle(at_a.services)
    sites.b.empty()
    at_a.services.sites.watch.look(clock.now())
    job = at_a.services.jobs.newest(JobKind.RESYNC_B)
    assert job is not None
    admin = administrator(at_a)
    at_a.services.jobs.stop(admin, job.id)
    for _ in range(3):
        at_a.services.sites.watch.look(clock.now())
    newest = at_a.services.jobs.newest(JobKind.RESYNC_B)
    assert newest is not None
    assert (newest.id, newest.state) == (job.id, JobState.STOPPED)
    at_a.services.jobs.resume(admin, job.id)
    with working(at_a.services):
        assert wait_until(lambda: found_incidents(at_a.services, open_only=True) == [], 30)
        assert drained(at_a.services)
    assert agree(sites, expected(at_a.services))
    done = at_a.services.jobs.view(admin, job.id)
    assert done.result is not None
    assert (done.state, done.result["missing"]) == (JobState.DONE, 10)


def test_a_site_emptied_again_during_its_resync_is_not_called_complete(
    sites: TwoSites, at_a: RunningService
) -> None:
    uploaded(at_a, 10)
    settle(at_a.services)
    sites.b.empty()
    at_a.services.sites.watch.look(at_a.services.database.now())
    emptied: list[Task] = []

    def once_more(task: Task) -> None:
        if len(sites.b.objects()) == 10 and not emptied:
            sites.b.empty()
            emptied.append(task)

    with working(at_a.services):
        journal_ = at_a.services.journal
        copied = journal_.copied
        journal_.copied = lambda done: (copied(done), [once_more(task) for task, _ in done])[0]  # type: ignore[method-assign, func-returns-value]
        assert wait_until(lambda: bool(emptied), 30)
        assert wait_until(lambda: agree(sites, expected(at_a.services)), 30)
        assert wait_until(lambda: found_incidents(at_a.services, open_only=True) == [], 30)
        assert drained(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_copy_that_was_read_back_before_the_site_was_emptied_does_not_count(
    sites: TwoSites, at_a: RunningService
) -> None:
    document = upload(at_a.demo, b"x")
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    source = Copier(at_a.services.stores).copy(task, lambda _: True)
    sites.b.empty()
    _noted(at_a)
    at_a.services.journal.copied([(task, source)])
    path = f"/v1/documents/{document['id']}"
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a"]
    settle(at_a.services)
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a", "b"]
    assert agree(sites, expected(at_a.services))


def test_a_scrub_that_rests_longer_than_its_lease_keeps_it_and_can_be_stopped(
    sites: TwoSites, sites_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobrun, "LEASE", timedelta(seconds=2))
    monkeypatch.setattr(jobrun, "KEEP_EVERY", timedelta(seconds=0.3))
    slow = ScrubSettings(mib_per_second=1)
    slowly = TwoSites(sites.a, sites.b, sites.settings.model_copy(update={"scrub": slow}))
    with slowly.served("a") as service:
        upload(service.demo, os.urandom(20 * MIB))
        settle(service.services)
        runner = service.services.job_runner
        job = service.services.jobs.start(None, JobKind.SCRUB)
        scrubbing = threading.Thread(target=runner.run_one, args=((JobKind.SCRUB,),))
        scrubbing.start()
        for _ in range(8):
            time.sleep(0.5)
            assert not runner.run_one((JobKind.SCRUB,)), "it was taken for dead"
        assert scrubbing.is_alive()
        admin = administrator(service)
        service.services.jobs.stop(admin, job.id)
        scrubbing.join(5)
        assert service.services.jobs.view(admin, job.id).state is JobState.STOPPED


def test_a_scrub_that_was_stopped_before_it_began_is_not_the_last(
    at_a: RunningService,
) -> None:
    job = at_a.services.jobs.start(None, JobKind.SCRUB)
    at_a.services.jobs.stop(administrator(at_a), job.id)
    now = at_a.services.database.now()
    watch, newest = at_a.services.sites.watch, at_a.services.jobs.newest
    watch.look(now + timedelta(minutes=5))
    assert newest(JobKind.SCRUB) == at_a.services.jobs.view(administrator(at_a), job.id)
    watch.look(now + timedelta(days=2))
    latest = newest(JobKind.SCRUB)
    assert latest is not None
    assert latest.id != job.id


def test_companions_come_back_with_a_resync(sites: TwoSites, at_a: RunningService) -> None:
    uploaded(at_a, 2)
    settle(at_a.services)
    with_catalogue(at_a)
    settle(at_a.services)
    before = companions(sites)
    assert "catalogue" in before[1]
    sites.b.empty()
    with working(at_a.services):
        assert wait_until(lambda: ("emptied", "b") in found_incidents(at_a.services), 20)
        assert wait_until(lambda: found_incidents(at_a.services, open_only=True) == [], 30)
        assert drained(at_a.services)
    assert companions(sites) == before


def test_what_an_old_copy_of_a_site_brings_back_is_deleted_again(
    sites: TwoSites, at_a: RunningService, tmp_path: Path
) -> None:
    kept = upload(at_a.demo, b"kept")
    gone = purged(at_a, b"gone")
    settle(at_a.services)
    gone_id = object_of(at_a.services, gone["id"])
    with_catalogue_before = tmp_path / "copy"
    with sites.b.as_it_was(with_catalogue_before):
        at_a.services.purge.run(clock.now() + timedelta(days=1))
        settle(at_a.services)
        newer = upload(at_a.demo, b"newer")
        settle(at_a.services)
    assert gone_id in sites.b.objects(), "the copy is not old"
    assert object_of(at_a.services, newer["id"]) not in sites.b.objects()
    notice(at_a.services)
    result = run_job(at_a.services, JobKind.SCRUB)["sites"]
    assert (result["b"]["risen"], result["b"]["missing"]) == (1, 1)
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))
    assert kept["id"]
    assert found_incidents(at_a.services, open_only=True) == []
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_older_catalogues_of_an_old_copy_do_not_stay(
    sites: TwoSites, at_a: RunningService, tmp_path: Path
) -> None:
    uploaded(at_a, 2)
    with_catalogue(at_a)
    settle(at_a.services)

    def catalogues() -> set[str]:
        return {
            str(path.relative_to(sites.b.root))
            for path in sites.b.files()
            if path.is_relative_to(sites.b.root / "catalogue")
        }

    old = catalogues()
    assert old
    with sites.b.as_it_was(tmp_path / "copy"):
        purged(at_a, b"gone too")
        at_a.services.purge.run(clock.now() + timedelta(days=1))
        assert at_a.admin.post("/v1/keys/epochs").status_code in (200, 202)
        while at_a.services.job_runner.run_one((JobKind.SHRED,)):
            pass
        settle(at_a.services)
        new = catalogues()
        assert new & old == set()
    assert catalogues() == old
    notice(at_a.services)
    run_job(at_a.services, JobKind.SCRUB)
    now = catalogues()
    assert now & old == set()
    assert now != set()


@pytest.mark.parametrize("site", ["a", "b"])
def test_a_scrub_finds_what_is_missing_too_long_and_damaged(
    sites: TwoSites, at_a: RunningService, site: str
) -> None:
    sent = uploaded(at_a, 6)
    settle(at_a.services)
    missing, longer, flipped, *_ = [object_of(at_a.services, each) for each in sent]
    broken = {"a": sites.a, "b": sites.b}[site]
    broken.lose(missing)
    broken.damage(longer, lambda data: data + b"\0")
    broken.flip(flipped)
    at_a.services.database.as_service().execute(  # so that it is due to be read back
        update(replicas).values(verified_at=func.now() - timedelta(days=31)), {}
    )
    counts = run_job(at_a.services, JobKind.SCRUB)["sites"][site]
    assert (counts["missing"], counts["damaged"], counts["read-damaged"]) == (1, 1, 1)
    assert sorted(found_incidents(at_a.services, open_only=True)) == [
        ("damaged", site),
        ("damaged", site),
        ("missing", site),
    ]
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert contents(at_a.demo, sent) == sent


def test_a_scrub_finds_a_copy_that_is_due_and_was_forgotten(
    sites: TwoSites, at_a: RunningService
) -> None:
    uploaded(at_a, 2)
    at_a.services.database.as_service().execute(text("DELETE FROM journal"), {})
    assert run_job(at_a.services, JobKind.SCRUB)["sites"]["b"]["due"] == 2
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))
    assert found_incidents(at_a.services) == []


def test_a_scrub_reads_back_its_share_and_goes_on_where_it_was_stopped(
    sites: TwoSites, at_a: RunningService
) -> None:
    uploaded(at_a, 31)
    settle(at_a.services)
    counts = run_job(at_a.services, JobKind.SCRUB)["sites"]
    # 31 objects, 30 passes: two in each.
    assert (counts["a"]["read-verified"], counts["b"]["read-verified"]) == (2, 2)
    job = at_a.services.jobs.start(None, JobKind.SCRUB)
    at_a.services.database.as_service().execute(update(jobs).values(stop_requested=True), {})
    assert at_a.services.job_runner.run_one((JobKind.SCRUB,))
    admin = administrator(at_a)
    assert at_a.services.jobs.view(admin, job.id).state is JobState.STOPPED
    at_a.services.jobs.resume(admin, job.id)
    assert at_a.services.job_runner.run_one((JobKind.SCRUB,))
    ended = at_a.services.jobs.view(admin, job.id)
    assert ended.state is JobState.DONE
    assert ended.result is not None
    assert ended.result["sites"]["a"]["compared"] == ended.result["sites"]["b"]["compared"] == 31


def test_a_scrub_looks_at_one_site_while_the_other_is_away(
    sites: TwoSites, at_a: RunningService
) -> None:
    sent = uploaded(at_a, 2)
    settle(at_a.services)
    sites.a.lose(object_of(at_a.services, next(iter(sent))))
    with sites.b.away():
        notice(at_a.services)
        counts = run_job(at_a.services, JobKind.SCRUB)["sites"]
    assert counts["a"]["missing"] == 1
    assert counts["a"]["read-verified"] == 1
    assert counts["b"] == {"listing-left-out": 1, "reading-left-out": 1}
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []


def test_an_upload_that_just_ends_is_no_orphan(
    sites: TwoSites, at_a: RunningService, owner: Engine
) -> None:
    """It moves from its upload row to its version between the two questions that a scrub asks."""
    document = upload(at_a.demo, b"x")
    version = object_of(at_a.services, document["id"])
    spare = at_a.services.upload_rows.take()

    def as_if(statements: str) -> None:
        with owner.begin() as connection:
            for statement in statements.split(";"):
                connection.execute(text(statement), {"v": version, "spare": spare})

    as_if("UPDATE uploads SET object_id = :v WHERE object_id = :spare;"
          "UPDATE versions SET object_id = :spare WHERE object_id = :v")  # fmt: skip
    asked: list[str] = []

    def commit_in_between(*args: object) -> None:
        asked.extend(
            [str(args[2])] * ("FROM uploads" in str(args[2]) or "FROM versions" in str(args[2]))
        )
        if len(asked) == 2:
            asked.append("the commit")
            as_if("UPDATE versions SET object_id = :v WHERE object_id = :spare;"
                  "DELETE FROM uploads WHERE object_id = :v")  # fmt: skip

    event.listen(at_a.services.database.engine, "before_cursor_execute", commit_in_between)
    found = at_a.services.sites.inventory.judge_extras("a", [(version, 1)])
    event.remove(at_a.services.database.engine, "before_cursor_execute", commit_in_between)
    assert "the commit" in asked
    assert found.unknown == found.risen == set()


def test_uploads_that_nobody_goes_on_with_are_dropped_and_others_are_not(
    sites: TwoSites, at_a: RunningService
) -> None:
    store = at_a.services.stores["b"]
    nobodys = store.begin_parts(object_key(UUID(int=1)))
    nobodys.put_part(1, bytes(PART_SIZE_BYTES))
    open_ = store.begin_parts(object_key(at_a.services.upload_rows.take()))
    upload(at_a.demo, bytes(9 * MIB))
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    copying = store.begin_parts(object_key(task.object_id))
    assert at_a.services.journal.renew(task, upload_id=copying.upload_id)
    leavings = Leavings(at_a.services.database.as_service(), at_a.services.health)
    assert leavings.clear("b") == 0, "all are younger than a day"
    old = Leavings(
        at_a.services.database.as_service(), at_a.services.health, grace=timedelta(seconds=-2)
    )
    assert old.clear("b") == 1
    left = {each.upload_id for each in store.pending()}
    assert left == {open_.upload_id, copying.upload_id}


def test_a_locked_object_is_deleted_once_its_lock_ends(
    sites: TwoSites, at_a: RunningService
) -> None:
    """The lock is a store's that says so; what a real one does stands in the contract suite."""
    document = purged(at_a, b"locked")
    settle(at_a.services)
    object_id = object_of(at_a.services, document["id"])
    until = clock.now() + timedelta(days=3)
    store = at_a.services.stores["b"]
    delete = store.delete

    def locked(_key: str) -> None:
        raise ObjectLocked("b", until)

    store.delete = locked  # type: ignore[method-assign, assignment]
    at_a.services.purge.run(clock.now() + timedelta(days=1))
    assert worker_of(at_a.services).run_one()
    assert worker_of(at_a.services).run_one()
    (row,) = at_a.services.database.as_service().execute(select(journal), {})
    assert (row.site, row.attempts, row.parked_at) == ("b", 0, None)
    assert abs(row.due_at - until) < timedelta(seconds=2)
    assert (sites.a.objects(), sites.b.objects()) == (set(), {object_id})
    store.delete = delete  # type: ignore[method-assign]
    make_all_due(at_a.services)
    work_off(at_a.services)
    assert agree(sites, set())


def test_a_dead_upload_of_a_locked_object_waits_for_its_lock_in_the_journal(
    sites: TwoSites, at_a: RunningService
) -> None:
    object_id = at_a.services.upload_rows.take()
    store = at_a.services.stores["a"]
    store.put(object_key(object_id), b"x")
    until = clock.now() + timedelta(days=3)

    def locked(_key: str) -> None:
        raise ObjectLocked("a", until)

    store.delete = locked  # type: ignore[method-assign, assignment]
    at_a.services.upload_rows.abandon(object_id)
    assert at_a.services.sweep.run() == 1
    rows = at_a.services.database.as_service().execute(select(journal).order_by(journal.c.site), {})
    assert [(row.object_id, row.site, row.reason) for row in rows] == [
        (object_id, site, Reason.SWEEP) for site in "ab"
    ]
    gone = uploads.c.object_id == object_id
    assert at_a.services.database.as_service().execute(select(uploads).where(gone), {}) == []


def test_verify_all_says_what_is_there_and_repairs_the_rest(
    sites: TwoSites, at_a: RunningService
) -> None:
    sent = uploaded(at_a, 8)
    settle(at_a.services)
    first, second, *_ = [object_of(at_a.services, each) for each in sent]
    sites.a.lose(first)
    sites.b.flip(second)
    assert verify_all(at_a.services) == {
        "a": {"verified": 7, "missing": 1},
        "b": {"verified": 7, "damaged": 1},
    }
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert backlog(at_a.services) == 0
    assert at_a.services.database.as_service().execute(select(orphans), {}) == []


def _noted(service: RunningService) -> None:
    """As a resync's look does it, without waiting for the copies."""
    inventory = service.services.sites.inventory
    for batch in inventory.newest_first():
        ids = [stored.object_id for stored in batch]
        inventory.lost("b", ids)
        inventory.have_copied("b", ids, Reason.RESYNC)

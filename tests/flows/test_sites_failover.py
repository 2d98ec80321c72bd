"""Failover: said before it is done, the other site fenced, both histories kept, nothing swept meanwhile."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, select, text, update

from api.bootstrap import UnsafeStart
from api.worker import Worker
from tests.api.helpers import named, upload
from tests.flows.sites import (
    TwoSites,
    administrator,
    age_processes,
    agree,
    all_verified,
    contents,
    expected,
    found_incidents,
    object_of,
    run_job,
    settle,
    verify_all,
)
from tests.replicating import make_all_due, waiting, worker_of
from tests.running import RunningService
from vault import clock
from vault.errors import OutlookWorse, SiteFenced, SweepHeld
from vault.jobs import JobKind
from vault.journal import Bulk
from vault.objects.keys import object_key
from vault.objects.store import MAX_OBJECT_BYTES
from vault.sweephold import HoldReason
from vault.tables import orphans, topology

MIB = 2**20
ANY = Bulk(100, MAX_OBJECT_BYTES)

in_folders = pytest.mark.parametrize("sites", ["folders"], indirect=True)
"""For what is decided in PostgreSQL alone, whatever stands behind the sites."""


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    found: str = answer.json()["type"].rpartition(":")[2]
    return found


def fail_over(service: RunningService, site: str, accepted: int = 0) -> None:
    service.services.sites.failover.run(administrator(service), site, accepted=accepted)


def post(service: RunningService, content: bytes = b"x") -> httpx.Response:
    return service.demo.post("/v1/documents", content=content, headers=named("x"))


def test_failover_with_a_backlog_writes_there_and_back_keeps_both_histories(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    sent = {upload(at_a.demo, body)["id"]: body for body in (b"at both", os.urandom(9 * MIB))}
    settle(at_a.services)
    owed = upload(at_a.demo, b"only at a, not copied yet")
    sent[owed["id"]] = b"only at a, not copied yet"
    with pytest.raises(OutlookWorse):
        fail_over(at_b, "b")
    assert post(at_a).status_code == 201, "nothing was to be done"
    outlook = at_b.services.sites.failover.outlook(administrator(at_b), "b")
    assert outlook.only_elsewhere == 2
    fail_over(at_b, "b", accepted=2)
    assert refused(post(at_a)) == "site-fenced"
    with pytest.raises(SiteFenced):
        at_a.services.journal.claim("b", copies=True, bulk=ANY)
    assert not worker_of(at_a.services).run_one()
    sent[upload(at_b.demo, b"written at b")["id"]] = b"written at b"
    changed = at_b.demo.put(f"/v1/documents/{owed['id']}/content", content=b"changed at b")
    assert changed.status_code in (200, 201)
    settle(at_b.services)
    at_b.services.sites.sweep_holds.release(administrator(at_b))
    fail_over(at_a, "a", accepted=0)
    assert refused(post(at_b)) == "site-fenced"
    assert refused(post(at_a)) == "site-fenced", "the process at a was of an older epoch: once"
    assert post(at_a).status_code == 201
    settle(at_a.services)
    sent[owed["id"]] = b"changed at b"
    assert contents(at_a.demo, sent) == sent
    first = at_a.demo.get(f"/v1/documents/{owed['id']}/versions/1/content")
    assert first.content == b"only at a, not copied yet"
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert found_incidents(at_a.services) == []


@in_folders
def test_the_site_that_goes_on_is_not_disturbed(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    upload(at_b.demo, b"before")
    (task,) = at_b.services.journal.claim("a", copies=True, bulk=ANY)
    fail_over(at_b, "b")
    assert post(at_b).status_code == 201
    assert at_b.services.journal.renew(task, upload_id=None)
    at_b.services.journal.put_back([task])
    settle(at_b.services)
    assert verify_all(at_b.services) == all_verified(at_b.services)


@in_folders
def test_an_upload_that_was_under_way_at_the_fenced_site_is_refused(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    def body() -> object:
        yield bytes(3 * MIB)
        fail_over(at_b, "b", accepted=0)
        yield b"late"

    answer = at_a.demo.post("/v1/documents", content=body(), headers=named("x"))  # type: ignore[arg-type]
    assert refused(answer) == "site-fenced"
    assert expected(at_a.services) == set()


@in_folders
def test_a_worker_that_was_fenced_in_the_middle_of_its_work_settles_nothing(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    document = upload(at_a.demo, b"x")
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    fail_over(at_b, "b", accepted=1)
    at_a.services.journal.copied([(task, "a")])
    path = f"/v1/documents/{document['id']}"
    assert at_b.demo.get(path).json()["version"]["durable_on"] == ["a"]
    assert waiting(at_b.services) == {("b", "copy"): 1}
    settle(at_b.services)
    assert at_b.demo.get(path).json()["version"]["durable_on"] == ["a", "b"]


@in_folders
def test_a_fenced_process_still_reads(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    document = upload(at_a.demo, b"readable")
    settle(at_a.services)
    fail_over(at_b, "b")
    assert contents(at_a.demo, {document["id"]: b""}) == {document["id"]: b"readable"}


@in_folders
def test_an_admitted_site_serves_again_beside_the_other(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    fail_over(at_b, "b")
    assert refused(post(at_a)) == "site-fenced"
    at_b.services.sites.failover.admit(administrator(at_b), "a")
    assert refused(post(at_a)) == "site-fenced", "it was of an older epoch: once"
    assert post(at_a).status_code == post(at_b).status_code == 201
    at_b.services.sites.failover.admit(administrator(at_b), "a")
    assert post(at_a).status_code == post(at_b).status_code == 201
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))


@in_folders
def test_a_process_started_at_a_fenced_site_is_refused_until_it_is_admitted(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    fail_over(at_b, "b")
    with sites.served("a", of=at_a) as late:
        assert refused(post(late)) == refused(post(late)) == "site-fenced"
        at_b.services.sites.failover.admit(administrator(at_b), "a")
        post(late)
        assert post(late).status_code == 201


@in_folders
def test_of_two_failovers_at_once_one_is_last_and_one_site_serves(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    threads = [
        threading.Thread(target=fail_over, args=(service, site))
        for service, site in ((at_a, "a"), (at_b, "b"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    states = {site.name: site.is_fenced for site in at_a.services.sites.statuses.current().sites}
    assert sorted(states.values()) == [False, True]
    for service in (at_a, at_b):
        post(service)
    answers = {"a": post(at_a).status_code, "b": post(at_b).status_code}
    assert answers == {site: 503 if fenced else 201 for site, fenced in states.items()}
    epochs = at_a.services.database.as_service().execute(text("SELECT epoch FROM topology"), {})
    assert epochs[0].epoch == 3


@in_folders
def test_the_outlook_says_exactly_what_would_be_lost(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    def outlook(site: str) -> tuple[int, int, int, int, int]:
        found = at_a.services.sites.failover.outlook(administrator(at_a), site)
        assert (found.oldest_only_elsewhere is None) == (found.only_elsewhere == 0)
        return (
            found.only_elsewhere,
            found.only_elsewhere_bytes,
            found.unverified,
            found.parked,
            found.uploaders,
        )

    at_a.services.upload_rows.stop()
    at_b.services.upload_rows.stop()
    assert outlook("a") == outlook("b") == (0, 0, 0, 0, 0)
    copied, owed = (upload(at_a.demo, bytes(size)) for size in (10, 1000))
    (first, second) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    sizes = {each["id"]: each["version"]["ciphertext_size_bytes"] for each in (copied, owed)}
    assert outlook("b")[:3] == (2, sum(sizes.values()), 0)
    assert outlook("a")[:3] == (0, 0, 2)
    at_a.services.journal.put_back([first, second])
    worker = worker_of(at_a.services)
    assert worker.run_one()
    assert outlook("b")[:3] == (1, sizes[owed["id"]], 0)
    assert outlook("a")[:3] == (0, 0, 1)
    settle(at_a.services)
    assert outlook("b")[:3] == outlook("a")[:3] == (0, 0, 0)
    sites.b.lose(object_of(at_a.services, owed["id"]))
    verify_all(at_a.services)
    assert outlook("b")[:3] == (1, sizes[owed["id"]], 0)


@in_folders
def test_nothing_is_swept_after_a_failover_until_a_person_confirms(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    left = at_a.services.upload_rows.take()
    at_a.services.stores["a"].put(object_key(left), b"perhaps somebody's only copy")
    fail_over(at_b, "b")
    age_processes(at_a.services)
    assert at_a.services.sweep.run() == at_b.services.sweep.run() == 0
    assert sites.a.objects() == {left}
    hold = at_b.services.sites.sweep_holds.current()
    assert hold is not None
    assert hold.why is HoldReason.FAILOVER
    at_b.services.sites.sweep_holds.release(administrator(at_b))
    age_processes(at_a.services)
    assert at_b.services.sweep.run() > 0
    assert agree(sites, set())


@in_folders
@pytest.mark.parametrize("change", [{"system_identifier": "1"}, {"timeline": 99}])
def test_nothing_is_swept_after_postgresql_was_restored_or_promoted(
    sites: TwoSites, at_a: RunningService, change: dict[str, object]
) -> None:
    left = at_a.services.upload_rows.take()
    at_a.services.stores["a"].put(object_key(left), b"perhaps somebody's only copy")
    at_a.services.database.as_service().execute(update(topology).values(change), {})
    with sites.services("a") as again:
        hold = again.sites.sweep_holds.current()
        assert hold is not None
        assert hold.why is HoldReason.DATABASE
        age_processes(again)
        assert again.sweep.run() == 0
        assert sites.a.objects() == {left}
        assert not again.sites.sweep_holds.look(), "it is known by now"
        again.sites.sweep_holds.release(administrator(at_a))
        assert again.sweep.run() > 0
    assert agree(sites, set())


@in_folders
def test_a_process_that_a_promotion_left_running_sweeps_nothing_either(
    sites: TwoSites, at_a: RunningService
) -> None:
    """The database's URL names both servers, so nobody has to start anything again."""
    services = at_a.services
    left = services.upload_rows.take()
    services.stores["a"].put(object_key(left), b"perhaps somebody's only copy")
    services.database.as_service().execute(update(topology).values(timeline=99), {})
    age_processes(services)
    assert services.sites.sweep_holds.current() is None, "it has not looked yet"
    assert services.sweep.run() == 0
    with pytest.raises(SweepHeld):
        services.sites.orphans.remove(administrator(at_a), grace=timedelta(0))
    assert services.sites.sweep_holds.look()
    assert sites.a.objects() == {left}


@in_folders
def test_orphans_are_remembered_and_removed_only_when_asked_and_old(
    sites: TwoSites, at_a: RunningService, owner: Engine
) -> None:
    stranger, open_ = uuid4(), at_a.services.upload_rows.take()
    kept = upload(at_a.demo, b"kept")
    settle(at_a.services)
    for object_id in (stranger, open_):
        at_a.services.stores["b"].put(object_key(object_id), b"from somewhere")
    result = run_job(at_a.services, JobKind.SCRUB)["sites"]
    assert result["b"]["unexpected"] == 1
    assert found_incidents(at_a.services, open_only=True) == [("unexpected", "b")]
    rows = at_a.services.database.as_service().execute(select(orphans), {})
    assert [(row.object_id, row.site) for row in rows] == [(stranger, "b")]
    admin, held = administrator(at_a), at_a.services.sites.orphans
    assert held.remove(admin) == 0, "it is not known for long enough"
    settle(at_a.services)
    assert stranger in sites.b.objects()
    assert held.remove(admin, grace=timedelta(0)) == 1
    settle(at_a.services)
    assert sites.b.objects() == {object_of(at_a.services, kept["id"]), open_}
    assert found_incidents(at_a.services, open_only=True) == []


@in_folders
def test_an_orphan_that_went_by_itself_is_forgotten_with_its_incident(
    sites: TwoSites, at_a: RunningService
) -> None:
    stranger = uuid4()
    at_a.services.stores["b"].put(object_key(stranger), b"from somewhere")
    run_job(at_a.services, JobKind.SCRUB)
    at_a.services.stores["b"].delete(object_key(stranger))
    run_job(at_a.services, JobKind.SCRUB)
    assert at_a.services.database.as_service().execute(select(orphans), {}) == []
    assert found_incidents(at_a.services, open_only=True) == []


@pytest.fixture
def a_day_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clock of this process is a day ahead of PostgreSQL's."""
    present = clock.now
    monkeypatch.setattr(clock, "now", lambda: present() + timedelta(days=1))


@in_folders
@pytest.mark.usefixtures("a_day_ahead")
def test_a_process_whose_clock_is_a_day_ahead_purges_nothing_early(
    sites: TwoSites, at_a: RunningService
) -> None:
    at_a.admin.post("/v1/classes", json={"name": "short", "retention_days": 0, "bin_days": 1})
    document = upload(at_a.demo, b"x", params={"class": "short"})
    at_a.demo.delete(f"/v1/documents/{document['id']}")
    Worker(at_a.services).housekeep()
    assert len(expected(at_a.services)) == 1
    assert at_a.services.sweep.run() == 0, "live rows were taken for dead ones"


@in_folders
@pytest.mark.usefixtures("a_day_ahead")
def test_a_process_whose_clock_is_a_day_ahead_scrubs_and_remembers_as_others_do(
    sites: TwoSites, at_a: RunningService
) -> None:
    upload(at_a.demo, b"x")
    settle(at_a.services)
    at_a.services.stores["b"].put(object_key(uuid4()), b"from somewhere")
    result = run_job(at_a.services, JobKind.SCRUB)["sites"]
    assert result["b"]["unexpected"] == 1
    assert len(at_a.services.database.as_service().execute(select(orphans), {})) == 1
    first = at_a.services.jobs.newest(JobKind.SCRUB)
    Worker(at_a.services).watch_sites()
    assert at_a.services.jobs.newest(JobKind.SCRUB) == first, "it scrubs all day long"


@in_folders
@pytest.mark.usefixtures("a_day_ahead")
def test_leases_and_delays_are_postgresqls_clocks(sites: TwoSites, at_a: RunningService) -> None:
    upload(at_a.demo, b"x")
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    assert at_a.services.journal.claim("b", copies=True, bulk=ANY) == []
    assert at_a.services.journal.renew(task, upload_id=None)
    assert not at_a.services.journal.failed(task, "for once")
    assert at_a.services.journal.claim("b", copies=True, bulk=ANY) == []
    make_all_due(at_a.services)
    assert len(at_a.services.journal.claim("b", copies=True, bulk=ANY)) == 1


@in_folders
def test_a_site_that_is_anothers_stops_the_start(sites: TwoSites, tmp_path: Path) -> None:
    with sites.services("a") as services:
        mark = services.stores["b"]
        mark.put("site/mark", b'{"vault": "x", "site": "b", "mark": "y"}')
    with pytest.raises(UnsafeStart), sites.services("a"):
        pass

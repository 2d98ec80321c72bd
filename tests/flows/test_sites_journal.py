"""Backlogs: a site that was away gets everything, deletes too, and nothing is dropped or done twice."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from typing_extensions import override

from replication import worker as worker_module
from replication.copier import Copier, TaskLost
from tests.api.helpers import upload
from tests.flows.sites import (
    TwoSites,
    agree,
    all_verified,
    backlog,
    contents,
    drained,
    expected,
    found_incidents,
    notice,
    object_of,
    parked,
    settle,
    verify_all,
    working,
)
from tests.process import wait_until
from tests.replicating import make_all_due, waiting, work_off, worker_of
from tests.running import RunningService
from vault import clock
from vault.incidents import FoundBy, IncidentKind
from vault.journal import LEASE, MAX_ATTEMPTS, Bulk, Operation, Task
from vault.objects.keys import object_key
from vault.objects.store import MAX_OBJECT_BYTES
from vault.tables import journal

MIB = 2**20
SIZES = (0, 10, 16 * 1024, 300_000, MIB, 3 * MIB, 9 * MIB)
ANY = Bulk(100, MAX_OBJECT_BYTES)
LATER = timedelta(days=40)


def uploaded(service: RunningService, sizes: tuple[int, ...] = SIZES) -> dict[str, bytes]:
    """Documents by id."""
    bodies = [os.urandom(size) for size in sizes]
    return {upload(service.demo, body)["id"]: body for body in bodies}


def short_lived(service: RunningService) -> str:
    rules = {"name": "short-lived", "retention_days": 0, "bin_days": 0}
    service.admin.post("/v1/classes", json=rules)
    return "short-lived"


def purge(service: RunningService, document_id: str) -> None:
    assert service.demo.delete(f"/v1/documents/{document_id}").status_code == 200
    assert service.services.purge.run(clock.now() + LATER) == 1


def durable_on(service: RunningService, document_id: str) -> list[str]:
    found: list[str] = service.demo.get(f"/v1/documents/{document_id}").json()["version"][
        "durable_on"
    ]
    return found


def row_of(service: RunningService) -> Any:
    (row,) = service.services.database.as_service().execute(select(journal), {})
    return row


def test_a_site_away_for_the_whole_upload_run_gets_everything_by_itself(
    sites: TwoSites, at_a: RunningService
) -> None:
    with working(at_a.services):
        with sites.b.away():
            notice(at_a.services)
            sent = uploaded(at_a)
            time.sleep(1)
            assert backlog(at_a.services) == len(SIZES)
        returned = time.monotonic()
        assert wait_until(lambda: backlog(at_a.services) < len(SIZES), 15), "nothing began"
        assert time.monotonic() - returned < 6, "it began late"
        assert drained(at_a.services)
    assert parked(at_a.services) == 0
    assert agree(sites, expected(at_a.services))
    assert contents(at_a.demo, sent) == sent
    assert found_incidents(at_a.services) == []
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_site_that_is_away_costs_no_tries(sites: TwoSites, at_a: RunningService) -> None:
    upload(at_a.demo, b"x")
    with sites.b.away():
        for _ in range(MAX_ATTEMPTS + 3):
            make_all_due(at_a.services)
            worker_of(at_a.services).run_one()
        assert row_of(at_a).attempts <= 1
        assert row_of(at_a).parked_at is None


def test_purges_and_versions_made_while_a_site_was_away_reach_it(
    sites: TwoSites, at_a: RunningService
) -> None:
    document_class = {"class": short_lived(at_a)}
    gone, kept = (upload(at_a.demo, name, params=document_class) for name in (b"gone", b"kept"))
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))
    with sites.b.away():
        notice(at_a.services)
        purge(at_a, gone["id"])
        changed = at_a.demo.put(f"/v1/documents/{kept['id']}/content", content=b"kept on")
        assert changed.status_code in (200, 201), changed.text
        settle(at_a.services)
        assert sites.a.objects() == expected(at_a.services), "a dead peer blocked a local delete"
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))
    assert len(expected(at_a.services)) == 2
    assert backlog(at_a.services) == 0


def test_two_workers_never_have_the_same_row(at_a: RunningService, at_b: RunningService) -> None:
    uploaded(at_a, (1,) * 20)
    mine = at_a.services.journal.claim("b", copies=True, bulk=Bulk(12, MAX_OBJECT_BYTES))
    others = at_b.services.journal.claim("b", copies=True, bulk=ANY)
    assert (len(mine), len(others)) == (12, 8)
    assert {task.id for task in mine} & {task.id for task in others} == set()
    assert at_b.services.journal.claim("b", copies=True, bulk=ANY) == []


def test_work_of_a_dead_worker_is_taken_over_and_the_late_one_settles_nothing(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    document = upload(at_a.demo, b"x")
    (late,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    assert at_b.services.journal.claim("b", copies=True, bulk=ANY) == [], "it was leased"
    _as_if_later(at_a, LEASE)
    (taken,) = at_b.services.journal.claim("b", copies=True, bulk=ANY)
    assert taken.id == late.id
    at_a.services.journal.copied([(late, "a")])
    assert not at_a.services.journal.failed(late, "too late")
    at_a.services.journal.put_back([late])
    at_a.services.journal.put_off(late, clock.now() + LATER)
    assert not at_a.services.journal.renew(late, upload_id=None)
    assert row_of(at_a).lease == taken.lease
    assert durable_on(at_a, document["id"]) == ["a"]
    Copier(at_b.services.stores).copy(taken, lambda _: True)
    at_b.services.journal.copied([(taken, "a")])
    assert durable_on(at_a, document["id"]) == ["a", "b"]
    assert backlog(at_a.services) == 0


def test_a_task_that_always_fails_is_parked_with_an_incident_and_retried_on_request(
    sites: TwoSites, at_a: RunningService
) -> None:
    document = upload(at_a.demo, b"x")
    sites.a.lose(object_of(at_a.services, document["id"]))
    for _ in range(MAX_ATTEMPTS):
        assert parked(at_a.services) == 0
        make_all_due(at_a.services)
        at_a.services.database.as_service().execute(  # the repair of a is another row, and fails likewise
            update(journal).where(journal.c.site == "a").values(due_at=func.now() + LEASE), {}
        )
        assert worker_of(at_a.services).run_one()
    assert parked(at_a.services) == 1
    assert ("parked", "b") in found_incidents(at_a.services, open_only=True)
    sites.a.file(object_of(at_a.services, document["id"])).write_bytes(b"")  # never claimed again
    make_all_due(at_a.services)
    assert {task.site for task in _claimed(at_a)} == set()
    assert _retry_parked(at_a) == 1
    assert parked(at_a.services) == 0


def test_a_parked_copy_that_succeeds_at_last_ends_its_incident(
    sites: TwoSites, at_a: RunningService
) -> None:
    upload(at_a.demo, b"x")
    _park(at_a)
    assert found_incidents(at_a.services, open_only=True) == [("parked", "b")]
    assert _retry_parked(at_a) == 1
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []
    assert agree(sites, expected(at_a.services))


def test_a_parked_delete_that_succeeds_at_last_ends_its_incident(
    sites: TwoSites, at_a: RunningService
) -> None:
    document = upload(at_a.demo, b"x", params={"class": short_lived(at_a)})
    settle(at_a.services)
    purge(at_a, document["id"])
    _park(at_a)
    assert found_incidents(at_a.services, open_only=True) == [("parked", "b")]
    assert _retry_parked(at_a) == 1
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []
    assert agree(sites, set())


def test_a_task_that_meets_a_defect_of_ours_is_not_tried_for_ever(at_a: RunningService) -> None:
    upload(at_a.demo, b"x")
    worker = worker_of(at_a.services)

    class Broken:
        def copy(self, *_: object) -> None:
            raise ValueError("a defect")

        def source_of(self, task: Task) -> str:
            return "a"

    worker._copier = Broken()  # type: ignore[assignment]
    for _ in range(MAX_ATTEMPTS):
        make_all_due(at_a.services)
        assert worker.run_one()
    assert parked(at_a.services) == 1
    assert "ValueError" in row_of(at_a).last_error


def test_the_backlog_of_one_site_does_not_hold_up_the_other(
    at_a: RunningService, at_b: RunningService
) -> None:
    uploaded(at_b, (1,) * 20)  # owed to a
    document = upload(at_a.demo, b"x")  # owed to b
    worker = worker_of(at_a.services)
    for _ in range(4):
        assert worker.run_one()
    assert durable_on(at_a, document["id"]) == ["a", "b"]


def test_what_a_slow_worker_did_not_come_to_goes_back_untried(
    at_a: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(at_a, (1,) * 5)
    monkeypatch.setattr(worker_module, "CLAIM_SECONDS", 0.0)
    assert worker_of(at_a.services, (ANY,)).run_one()
    rows = at_a.services.database.as_service().execute(select(journal), {})
    assert [(row.attempts, row.lease) for row in rows] == [(0, None)] * 5
    monkeypatch.setattr(worker_module, "CLAIM_SECONDS", 20.0)
    work_off(at_a.services)
    assert backlog(at_a.services) == 0


def test_a_copy_that_lands_while_its_delete_is_under_way_does_not_stay(
    sites: TwoSites, at_a: RunningService
) -> None:
    document = upload(at_a.demo, b"x", params={"class": short_lived(at_a)})
    journal_ = at_a.services.journal
    (copy,) = journal_.claim("b", copies=True, bulk=ANY)
    purge(at_a, document["id"])
    (deletion,) = journal_.claim("b", copies=True, bulk=ANY)
    assert deletion.operation is Operation.DELETE
    copier = Copier(at_a.services.stores)
    copier.delete(deletion)
    copier.copy(copy, lambda _: True)  # on its way since before the purge
    journal_.copied([(copy, "a")])
    journal_.deleted([deletion])
    settle(at_a.services)
    assert agree(sites, set())


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_copy_that_loses_its_task_to_a_purge_does_not_stay(
    sites: TwoSites, at_a: RunningService, size: int
) -> None:
    document = upload(at_a.demo, bytes(size), params={"class": short_lived(at_a)})
    worker = worker_of(at_a.services)
    copier = worker._copier

    class Slow(Copier):
        @override
        def copy(self, task: Task, renew: Any) -> None:
            purge(at_a, document["id"])
            settle_deletes(at_a)
            super().copy(task, lambda upload_id: True)  # it did not notice until the object stood
            assert sites.b.objects() == {task.object_id}
            raise TaskLost

    worker._copier = Slow(copier.stores)
    assert worker.run_one()
    settle(at_a.services)
    assert agree(sites, set())


def settle_deletes(service: RunningService) -> None:
    """Deletes at b are done, by another worker."""
    while work := service.services.journal.claim("b", copies=False, bulk=ANY):
        for task in work:
            Copier(service.services.stores).delete(task)
        service.services.journal.deleted(work)


def test_a_large_copy_goes_on_with_the_parts_that_are_there(
    sites: TwoSites, at_a: RunningService
) -> None:
    body = os.urandom(20 * MIB)
    document = upload(at_a.demo, body)
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    upload_ids: list[str | None] = []

    def dies_after_the_first_part(upload_id: str | None) -> bool:
        upload_ids.append(upload_id)
        at_a.services.journal.renew(task, upload_id=upload_id)
        if len(upload_ids) == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        Copier(at_a.services.stores).copy(task, dies_after_the_first_part)
    make_all_due(at_a.services)
    (again,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    assert again.upload_id == upload_ids[0]
    resumed = at_a.services.stores["b"].resume_parts(
        object_key(again.object_id), again.upload_id or ""
    )
    assert resumed.parts_done == 1
    make_all_due(at_a.services)
    work_off(at_a.services)
    assert durable_on(at_a, document["id"]) == ["a", "b"]
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert list(at_a.services.stores["b"].pending()) == []


def test_a_lock_whose_end_seems_past_is_not_asked_about_without_pause(
    at_a: RunningService,
) -> None:
    document = upload(at_a.demo, b"x", params={"class": short_lived(at_a)})
    settle(at_a.services)
    purge(at_a, document["id"])
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY)
    at_a.services.journal.put_off(task, clock.now() - timedelta(days=1))
    assert at_a.services.journal.claim("b", copies=True, bulk=ANY) == []


def test_both_sites_in_turn_away_lose_nothing(sites: TwoSites, at_a: RunningService) -> None:
    with working(at_a.services):
        sent = uploaded(at_a, (10, 9 * MIB))
        with sites.a.away():
            notice(at_a.services)
            time.sleep(0.5)
        with sites.b.away():
            sent |= uploaded(at_a, (100, MIB))
        assert drained(at_a.services)
    assert parked(at_a.services) == 0
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert contents(at_a.demo, sent) == sent


def _claimed(service: RunningService) -> list[Task]:
    held = service.services.journal.claim("b", copies=True, bulk=ANY)
    service.services.journal.put_back(held)
    return held


def _park(service: RunningService) -> None:
    """The rows of b fail until they are parked."""
    services = service.services
    for _ in range(MAX_ATTEMPTS):
        make_all_due(services)
        for task in services.journal.claim("b", copies=True, bulk=ANY):
            if services.journal.failed(task, "it does not want to"):
                services.incidents.object_found(
                    "b", task.object_id, IncidentKind.PARKED, FoundBy.COPY
                )
    assert waiting(services)["b", services.journal.backlog()[0].operation.value] >= 1


def _as_if_later(service: RunningService, delay: timedelta) -> None:
    seconds = delay.total_seconds() + 1
    service.services.database.as_service().execute(
        text("UPDATE journal SET due_at = due_at - make_interval(secs => :s)"), {"s": seconds}
    )


def _retry_parked(service: RunningService) -> int:
    answer = service.admin.post("/v1/sites/parked/retry")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["count"])

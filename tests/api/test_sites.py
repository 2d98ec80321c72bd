"""/v1/sites over HTTP: what it shows, who may, what each act does, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from threading import Event, Thread
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from api.settings import KmsSettings
from replication.reading import CopyState
from replication.status import SiteStatuses
from tests.api.helpers import named, upload
from tests.api.test_damage import flip, object_file
from tests.flows.epochs import run_job, site_b_away
from tests.replicating import make_all_due, work_off
from tests.running import RunningService
from vault import clock
from vault.incidents import FoundBy, IncidentKind
from vault.inventory import Stored
from vault.journal import MAX_ATTEMPTS, Bulk, enqueue_deletes
from vault.objects.keys import object_key
from vault.sweephold import HoldReason, hold

ROUTES: Final = [
    ("GET", "/v1/sites"),
    ("GET", "/v1/sites/incidents"),
    ("GET", "/v1/sites/orphans"),
    ("POST", "/v1/sites/orphans/remove"),
    ("POST", "/v1/sites/sweep/confirm"),
    ("POST", "/v1/sites/parked/retry"),
    ("POST", "/v1/sites/verify"),
    ("POST", "/v1/sites/scrub"),
    ("POST", "/v1/documents/0198c0de-0000-7000-8000-000000000000/verify"),
    ("POST", "/v1/sites/b/resync"),
    ("GET", "/v1/sites/b/failover"),
    ("POST", "/v1/sites/b/failover"),
    ("POST", "/v1/sites/b/admit"),
]
SOME: Final = Bulk(10, 2**30)


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


def sites(service: RunningService) -> dict[str, Any]:
    answer = service.admin.get("/v1/sites")
    assert answer.status_code == 200, answer.text
    return {site["name"]: site for site in answer.json()["sites"]}


def events(owner: Engine) -> list[str]:
    with owner.connect() as connection:
        return list(connection.execute(text("SELECT type FROM access_events")).scalars())


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def park(service: RunningService) -> None:
    """All that waits was tried once too often."""
    with service.services.database.as_service().transaction() as connection:
        connection.execute(text("UPDATE journal SET attempts = :n"), {"n": MAX_ATTEMPTS})
    for site in ("a", "b"):
        for task in service.services.journal.claim(site, copies=True, bulk=SOME):
            assert service.services.journal.failed(task, "seen in a test")


def put_orphans(service: RunningService, number: int) -> None:
    """Objects at site a that nothing explains, known for two days."""
    for _ in range(number):
        service.services.stores["a"].put(object_key(uuid4()), b"whose?")
    run_job(service, "/v1/sites/scrub")
    with service.services.database.as_service().transaction() as connection:
        old = "UPDATE orphans SET first_seen_at = first_seen_at - interval '2 days'"
        connection.execute(text(old))


@contextmanager
def copying(service: RunningService) -> Iterator[None]:
    """What is due is done meanwhile."""
    ended = Event()

    def work() -> None:
        while not ended.wait(0.05):
            make_all_due(service.services)
            work_off(service.services)

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def later() -> datetime:
    return clock.now() + timedelta(days=1)


# Who may


def test_a_key_without_the_scope_admin_is_refused_everywhere(service: RunningService) -> None:
    for method, path in ROUTES:
        answer = service.demo.request(method, path, json={"accepted": 0})
        assert problem(answer) == (403, "not-allowed"), path


def test_nobody_gets_anything_without_a_key(service: RunningService) -> None:
    with service.client("sr_nothing") as nobody:
        for method, path in ROUTES:
            assert problem(nobody.request(method, path)) == (401, "unauthenticated"), path


def test_a_site_that_is_not_there_is_not_found(service: RunningService) -> None:
    for method, path in (
        ("POST", "/v1/sites/c/resync"),
        ("GET", "/v1/sites/c/failover"),
        ("POST", "/v1/sites/c/failover"),
        ("POST", "/v1/sites/c/admit"),
    ):
        answer = service.admin.request(method, path, json={"accepted": 0})
        assert problem(answer) == (404, "not-found"), path
    assert service.admin.get("/v1/sites").json()["epoch"] == 1


# Status


def test_the_status_tells_what_is_owed_until_it_is_verified(
    service: RunningService, owner: Engine
) -> None:
    upload(service.demo, b"x" * 1000)
    before = sites(service)
    assert before["a"]["is_local"]
    assert before["a"]["counted"] == 1
    assert (before["b"]["counted"], before["b"]["verified"]) == (0, 0)
    (owed,) = before["b"]["backlog"]
    assert (owed["operation"], owed["reason"], owed["waiting"]) == ("copy", "upload", 1)
    assert owed["size_bytes"] > 1000
    assert before["b"]["oldest_unverified_seconds"] >= 0
    assert before["b"]["oldest_unverified_at"] == owed["oldest_at"]
    work_off(service.services)
    for site in sites(service).values():
        assert (site["counted"], site["verified"], site["backlog"]) == (1, 1, [])
        assert site["oldest_unverified_at"] is None
        assert site["read_within_period"] == 1.0
        assert site["is_up"]
        assert site["capabilities"]["partial_content"]
    assert "api:sites:viewed" in events(owner)


def test_a_worker_does_not_count_all_versions_all_the_time(service: RunningService) -> None:
    services = service.services
    statuses = SiteStatuses(
        database=services.database.as_service(),
        health=services.health,
        journal=services.journal,
        sweep_holds=services.sites.sweep_holds,
        local_site="a",
        period=timedelta(days=30),
        monotonic=count(step=4).__next__,  # a count takes 4 seconds
    )
    assert statuses.current().versions == 0
    upload(service.demo, b"not counted yet")
    again = statuses.current()
    assert again.versions == 0
    assert sum(row.waiting for site in again.sites for row in site.backlog) == 1
    for _ in range(20):
        statuses.current()
    assert statuses.current().versions == 1


def test_the_status_shows_a_site_that_is_away(service: RunningService) -> None:
    with site_b_away(service):
        service.services.health.confirm("b")
        found = sites(service)["b"]
    assert not found["is_up"]
    assert found["capabilities"] is None


def test_the_status_tells_of_the_last_scrub(service: RunningService) -> None:
    assert service.admin.get("/v1/sites").json()["scrubbed_at"] is None
    assert run_job(service, "/v1/sites/scrub")["state"] == "done"
    assert 0 <= service.admin.get("/v1/sites").json()["scrubbed_seconds"] < 60


# Incidents and verification


def test_damage_is_found_remembered_repaired_and_resolved(service: RunningService) -> None:
    document = upload(service.demo, b"y" * 5000)
    work_off(service.services)
    flip(object_file(service, document), 100)
    copies = service.admin.post(f"/v1/documents/{document['id']}/verify")
    assert copies.status_code == 200, copies.text
    assert copies.json()["items"] == [
        {"version": 1, "site": "a", "state": "damaged"},
        {"version": 1, "site": "b", "state": "verified"},
    ]
    found = sites(service)["a"]
    assert (found["open_incidents"], found["lost"], found["mismatches"]) == (1, 1, 1)
    query = {"open": "true", "document_id": document["id"]}
    (incident,) = service.admin.get("/v1/sites/incidents", params=query).json()["items"]
    assert (incident["kind"], incident["site"], incident["version"]) == ("damaged", "a", 1)
    assert incident["found_by"] == "verify"
    work_off(service.services)
    assert service.admin.get("/v1/sites/incidents", params=query).json()["items"] == []
    (ended,) = service.admin.get("/v1/sites/incidents").json()["items"]
    assert ended["resolution"] == "repaired"
    repaired = sites(service)["a"]
    assert (repaired["open_incidents"], repaired["lost"], repaired["repairs"]) == (0, 0, 1)


def test_a_copy_that_is_still_due_is_missing_and_no_incident(service: RunningService) -> None:
    document = upload(service.demo, b"not there yet")
    states = service.admin.post(f"/v1/documents/{document['id']}/verify").json()["items"]
    assert [copy["state"] for copy in states] == ["verified", "missing"]
    assert service.admin.get("/v1/sites/incidents").json()["items"] == []


def test_a_document_that_is_not_there_cannot_be_verified(service: RunningService) -> None:
    answer = service.admin.post(f"/v1/documents/{uuid4()}/verify")
    assert problem(answer) == (404, "not-found")


def test_verifying_everything_is_a_job_and_one_at_a_time(service: RunningService) -> None:
    for _ in range(3):
        upload(service.demo, b"z")
    work_off(service.services)
    assert service.admin.post("/v1/sites/verify").status_code == 202
    assert problem(service.admin.post("/v1/sites/verify")) == (409, "job-under-way")
    assert service.services.job_runner.run_one()
    (job,) = service.admin.get("/v1/jobs").json()["items"]
    assert job["result"]["sites"] == {"a": {"verified": 3}, "b": {"verified": 3}}


def test_incidents_come_in_pages(service: RunningService) -> None:
    documents = [upload(service.demo, b"p%d" % number) for number in range(3)]
    work_off(service.services)
    for document in documents:
        object_file(service, document).unlink()
    run_job(service, "/v1/sites/verify")
    first = service.admin.get("/v1/sites/incidents", params={"page_size": 2}).json()
    token = first["next_page_token"]
    rest = service.admin.get("/v1/sites/incidents", params={"page_token": token}).json()
    assert (len(first["items"]), len(rest["items"])) == (2, 1)
    other = service.admin.get("/v1/sites/incidents", params={"page_token": token, "open": "true"})
    assert problem(other) == (400, "invalid-page-token")


def test_the_incidents_of_a_purged_document_are_over(service: RunningService) -> None:
    rules = {"name": "short-lived", "retention_days": 0, "bin_days": 0}
    service.admin.post("/v1/classes", json=rules)
    document = upload(service.demo, b"soon gone", params={"class": "short-lived"})
    work_off(service.services)
    object_file(service, document).unlink()
    service.admin.post(f"/v1/documents/{document['id']}/verify")
    assert sites(service)["a"]["open_incidents"] == 1
    service.demo.delete(f"/v1/documents/{document['id']}")
    assert service.services.purge.run(later()) == 1
    assert sites(service)["a"]["open_incidents"] == 0
    (incident,) = service.admin.get("/v1/sites/incidents").json()["items"]
    assert incident["resolution"] == "removed"


# Resync


def test_an_emptied_site_is_filled_again(service: RunningService) -> None:
    documents = [upload(service.demo, b"r%d" % number) for number in range(3)]
    work_off(service.services)
    folder = service.services.settings.sites.b.path
    assert folder is not None
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    started = service.admin.post("/v1/sites/b/resync")
    assert (started.status_code, started.json()["kind"]) == (202, "resync-b")
    with copying(service):
        assert service.services.job_runner.run_one()
    job = service.admin.get(f"/v1/jobs/{started.json()['id']}").json()
    assert (job["state"], job["result"]["missing"]) == ("done", 3)
    for document in documents:
        copies = service.admin.post(f"/v1/documents/{document['id']}/verify").json()["items"]
        assert {copy["state"] for copy in copies} == {"verified"}


# Parked work


def test_parked_work_is_shown_and_tried_again_on_request(
    service: RunningService, owner: Engine
) -> None:
    upload(service.demo, b"hard to copy")
    park(service)
    assert sites(service)["b"]["parked"] == 1
    work_off(service.services)
    assert sites(service)["b"]["parked"] == 1
    assert service.admin.post("/v1/sites/parked/retry").json() == {"count": 1}
    work_off(service.services)
    assert (sites(service)["b"]["parked"], sites(service)["b"]["verified"]) == (0, 1)
    assert "api:journal:parked-retried" in events(owner)


# Orphans and the sweep's brake


def test_orphans_come_in_pages_and_are_removed_on_request(service: RunningService) -> None:
    document = upload(service.demo, b"explained")
    put_orphans(service, 3)
    first = service.admin.get("/v1/sites/orphans", params={"page_size": 2}).json()
    assert len(first["items"]) == 2
    assert first["items"][0]["size_bytes"] == 6
    token = {"page_token": first["next_page_token"]}
    assert len(service.admin.get("/v1/sites/orphans", params=token).json()["items"]) == 1
    assert sites(service)["a"]["open_incidents"] == 3
    assert service.admin.post("/v1/sites/orphans/remove").json() == {"count": 3}
    work_off(service.services)
    assert service.admin.get("/v1/sites/orphans").json()["items"] == []
    assert sites(service)["a"]["open_incidents"] == 0
    assert len(list(service.services.stores["a"].list("objects/"))) == 1
    assert service.demo.get(f"/v1/documents/{document['id']}/content").content == b"explained"


def test_an_orphan_that_is_new_is_kept(service: RunningService) -> None:
    service.services.stores["a"].put(object_key(uuid4()), b"whose?")
    run_job(service, "/v1/sites/scrub")
    assert service.admin.post("/v1/sites/orphans/remove").json() == {"count": 0}
    assert len(service.admin.get("/v1/sites/orphans").json()["items"]) == 1


def test_an_orphan_that_went_away_by_itself_is_forgotten_with_its_incident(
    service: RunningService,
) -> None:
    key = object_key(uuid4())
    service.services.stores["a"].put(key, b"whose?")
    run_job(service, "/v1/sites/scrub")
    assert sites(service)["a"]["open_incidents"] == 1
    service.services.stores["a"].delete(key)
    run_job(service, "/v1/sites/scrub")
    assert sites(service)["a"]["open_incidents"] == 0
    assert service.admin.get("/v1/sites/orphans").json()["items"] == []


def test_orphans_are_kept_while_the_sweep_is_held(service: RunningService) -> None:
    put_orphans(service, 1)
    with service.services.database.as_service().transaction() as connection:
        hold(connection, HoldReason.DATABASE)
    held = service.admin.get("/v1/sites").json()["sweep_hold"]
    assert held["why"] == "database"
    assert problem(service.admin.post("/v1/sites/orphans/remove")) == (409, "sweep-held")
    assert service.admin.post("/v1/sites/sweep/confirm").json()["sweep_hold"] is None
    assert service.admin.post("/v1/sites/orphans/remove").json() == {"count": 1}


# Failover


def test_failover_says_what_it_means_and_wants_that_number(service: RunningService) -> None:
    upload(service.demo, b"only at a")
    outlook = service.admin.get("/v1/sites/b/failover").json()
    assert (outlook["site"], outlook["is_up"], outlook["only_elsewhere"]) == ("b", True, 1)
    assert outlook["only_elsewhere_bytes"] > 0
    assert outlook["uploaders"] == 1
    refused = service.admin.post("/v1/sites/b/failover", json={"accepted": 0})
    assert problem(refused) == (409, "outlook-worse")
    assert not sites(service)["a"]["is_fenced"]
    for body in ({}, {"accepted": -1}, {"accepted": 1, "force": True}):
        assert service.admin.post("/v1/sites/b/failover", json=body).status_code == 422
    done = service.admin.post("/v1/sites/b/failover", json={"accepted": 1})
    assert (done.status_code, done.json()["only_elsewhere"]) == (200, 1)
    assert sites(service)["a"]["is_fenced"]


def test_a_fenced_site_takes_no_upload_until_it_is_admitted(
    service: RunningService, owner: Engine
) -> None:
    service.admin.post("/v1/sites/b/failover", json={"accepted": 0})
    refused = service.demo.post("/v1/documents", content=b"late", headers=named("late.bin"))
    assert problem(refused) == (503, "site-fenced")
    ready = service.admin.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["dependencies"]["site-a"] == "fenced"
    admitted = service.admin.post("/v1/sites/a/admit").json()
    assert not any(site["is_fenced"] for site in admitted["sites"])
    assert admitted["sweep_hold"]["why"] == "failover"
    assert service.admin.get("/readyz").status_code == 200
    # The first attempt learns of the new epoch.
    service.demo.post("/v1/documents", content=b"again", headers=named("again.bin"))
    upload(service.demo, b"and on it goes")
    assert {"api:site:failed-over", "api:site:admitted"} <= set(events(owner))


# Ready


def test_a_dead_peer_is_shown_and_the_process_stays_ready(service: RunningService) -> None:
    with site_b_away(service):
        ready = service.demo.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["dependencies"]["site-b"] == "StoreUnavailable"
        document = upload(service.demo, b"goes on")
        content = service.demo.get(f"/v1/documents/{document['id']}/content")
        assert content.content == b"goes on"


# Classes


def test_a_class_that_locks_versions_needs_stores_that_lock(service: RunningService) -> None:
    refused = service.admin.post("/v1/classes", json={"name": "worm", "worm_days": 10})
    assert problem(refused) == (422, "invalid-input")
    assert "site a and site b" in refused.json()["detail"]
    assert service.admin.post("/v1/classes", json={"name": "plain"}).status_code == 201


# Metrics


def test_the_metrics_have_every_series_and_follow_the_status(service: RunningService) -> None:
    upload(service.demo, b"m" * 100)
    service.admin.get("/v1/sites")
    shown = service.demo.get("/metrics").text
    upload_to_b = '{operation="copy",reason="upload",site="b"}'
    assert f"strongroom_journal_backlog{upload_to_b} 1.0" in shown
    assert f"strongroom_journal_backlog_bytes{upload_to_b} 0.0" not in shown
    assert 'strongroom_journal_backlog{operation="delete",reason="purge",site="a"} 0.0' in shown
    for name in ("up", "fenced", "parked", "debt", "lost_replicas", "open_incidents"):
        assert f'strongroom_site_{name}{{site="b"}}' in shown
    assert 'strongroom_site_up{site="b"} 1.0' in shown
    assert "strongroom_scrub_age_seconds NaN" in shown
    work_off(service.services)
    service.admin.get("/v1/sites")
    assert f"strongroom_journal_backlog{upload_to_b} 0.0" in service.demo.get("/metrics").text


def test_a_read_that_the_other_site_helped_is_counted(service: RunningService) -> None:
    document = upload(service.demo, b"from b")
    work_off(service.services)
    object_file(service, document).unlink()
    answer = service.demo.get(f"/v1/documents/{document['id']}/content")
    assert answer.content == b"from b"
    assert "strongroom_failover_reads 1.0" in service.demo.get("/metrics").text


# What was found wrong with the core


def test_the_incident_of_a_parked_delete_ends_with_the_delete(service: RunningService) -> None:
    object_id = uuid4()
    with service.services.database.as_service().transaction() as connection:
        enqueue_deletes(connection, [object_id], ["b"])
    park(service)
    incidents = service.services.incidents
    assert incidents.object_found("b", object_id, IncidentKind.PARKED, FoundBy.COPY)
    assert sites(service)["b"]["open_incidents"] == 1
    service.admin.post("/v1/sites/parked/retry")
    work_off(service.services)
    assert sites(service)["b"]["open_incidents"] == 0


def test_a_look_that_meets_a_purge_finds_nothing_wrong(service: RunningService) -> None:
    gone = Stored(uuid4(), uuid4(), 1, 10, b"\0" * 32, clock.now())
    reading = service.services.sites.verify._reading
    assert reading.read("a", [gone], FoundBy.VERIFY) == [CopyState.PURGED]
    assert service.admin.get("/v1/sites/incidents").json()["items"] == []


def test_orphans_that_are_explained_by_now_do_not_end_the_removal(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(service.demo, b"makes this process reserve upload rows")
    put_orphans(service, 1)
    with service.services.database.as_service().transaction() as connection:
        explained = """
            INSERT INTO orphans (object_id, site, size_bytes, first_seen_at)
            SELECT object_id, 'a', 1, now() - interval '3 days' FROM uploads LIMIT 5"""
        assert connection.execute(text(explained)).rowcount == 5
    monkeypatch.setattr("vault.orphans.LIMIT", 1)
    assert service.admin.post("/v1/sites/orphans/remove").json() == {"count": 1}
    assert service.admin.get("/v1/sites/orphans").json()["items"] == []

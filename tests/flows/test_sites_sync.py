"""Uploads that want both sites at once: verified there before the 201, or refused, or owed and seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random  # noqa: TID251 (seeded)
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tests.api.helpers import named, upload
from tests.flows.sites import (
    Gateway,
    TwoSites,
    age_processes,
    agree,
    all_verified,
    backlog,
    contents,
    expected,
    found_incidents,
    notice,
    object_of,
    parked,
    settle,
    verify_all,
)
from tests.replicating import make_all_due, worker_of
from tests.running import RunningService
from vault.journal import Reason
from vault.objects.destination import BothSites
from vault.objects.health import WatchedStore
from vault.objects.keys import object_key
from vault.objects.store import Bytes, ObjectStore, PendingUpload
from vault.tables import journal, uploads
from vault.uploads import _SealedUpload

MIB = 2**20
SIZES = (0, 16 * 1024, 3 * MIB, 20 * MIB)


@pytest.fixture
def both(at_a: RunningService) -> dict[str, str]:
    """Parameters of uploads that are refused without the peer."""
    return _class(at_a, "both", "refuse")


@pytest.fixture
def both_or_owed(at_a: RunningService) -> dict[str, str]:
    """Parameters of uploads that go on without the peer."""
    return _class(at_a, "both-or-owed", "degrade")


def _class(service: RunningService, name: str, if_peer_away: str) -> dict[str, str]:
    rules = {"name": name, "durability": "sync", "if_peer_away": if_peer_away}
    rules |= {"retention_days": 0, "bin_days": 0}  # type: ignore[dict-item]
    assert service.admin.post("/v1/classes", json=rules).status_code == 201
    return {"class": name}


def problem(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    found: str = answer.json()["type"].rpartition(":")[2]
    return found


def nothing_is_left(sites: TwoSites, service: RunningService) -> bool:
    """After the sweep."""
    age_processes(service.services)
    while service.services.sweep.run():
        pass
    pending = [list(store.pending()) for store in service.services.stores.values()]
    return agree(sites, set()) and pending == [[], []]


@pytest.mark.parametrize("size", SIZES)
def test_a_sync_upload_is_verified_at_both_sites_when_it_is_acknowledged(
    sites: TwoSites, at_a: RunningService, both: dict[str, str], size: int
) -> None:
    content = os.urandom(size)
    document = upload(at_a.demo, content, params=both)
    assert document["version"]["durable_on"] == ["a", "b"]
    assert backlog(at_a.services) == 0
    assert agree(sites, expected(at_a.services))
    status = {site.name: site for site in at_a.services.sites.statuses.current().sites}
    assert (status["a"].verified, status["b"].verified) == (1, 1)
    sites.a.lose(object_of(at_a.services, document["id"]))
    assert contents(at_a.demo, {document["id"]: b""}) == {document["id"]: content}


def test_without_the_peer_a_sync_upload_is_refused_and_leaves_nothing(
    sites: TwoSites, at_a: RunningService, both: dict[str, str]
) -> None:
    with sites.b.away():
        notice(at_a.services)
        answer = at_a.demo.post("/v1/documents", content=b"x", params=both, headers=named("x"))
        assert problem(answer) == "peer-away"
    assert nothing_is_left(sites, at_a)
    at_a.services.upload_rows._reserved.clear()  # swept, since all processes were taken for dead
    notice(at_a.services)
    upload(at_a.demo, b"x", params=both)


@pytest.mark.parametrize("at", [0, 20])
def test_a_peer_that_dies_in_the_middle_of_a_sync_upload_is_a_503_and_leaves_nothing(
    sites: TwoSites, at_a: RunningService, both: dict[str, str], at: int
) -> None:
    def body() -> Iterator[bytes]:
        for number in range(40):
            if number == at:
                sites.b.stop()
            yield bytes(MIB)

    answer = at_a.demo.post("/v1/documents", content=body(), params=both, headers=named("x"))
    assert problem(answer) in ("store-unavailable", "peer-away")
    assert at_a.demo.get("/v1/documents").json()["items"] == []
    sites.b.start()
    notice(at_a.services)
    assert nothing_is_left(sites, at_a)


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_a_degraded_upload_is_owed_seen_and_made_good(
    sites: TwoSites,
    at_a: RunningService,
    both_or_owed: dict[str, str],
    size: int,
    is_noticed: bool,
) -> None:
    content = os.urandom(size)
    with sites.b.away():
        if is_noticed:
            notice(at_a.services)
        document = upload(at_a.demo, content, params=both_or_owed)
        assert document["version"]["durable_on"] == ["a"]
        status = {site.name: site for site in at_a.services.sites.statuses.current().sites}
        assert status["b"].debt == 1
        assert _reasons(at_a) == [Reason.DEBT]
    settle(at_a.services)
    assert backlog(at_a.services) == 0
    again = at_a.demo.get(f"/v1/documents/{document['id']}").json()
    assert again["version"]["durable_on"] == ["a", "b"]
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_peer_that_dies_in_the_middle_of_a_degradable_upload_is_owed(
    sites: TwoSites, at_a: RunningService, both_or_owed: dict[str, str]
) -> None:
    def body() -> Iterator[bytes]:
        for number in range(30):
            if number == 12:
                sites.b.stop()
            yield bytes(MIB)

    answer = at_a.demo.post(
        "/v1/documents", content=body(), params=both_or_owed, headers=named("x")
    )
    if isinstance(sites.b, Gateway):
        assert (answer.status_code, answer.json()["version"]["durable_on"]) == (201, ["a"])
    assert answer.status_code == 201, answer.text
    sites.b.start()
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert backlog(at_a.services) == 0


class LyingStore:
    """Takes small objects, says so, and keeps nothing, or something else."""

    def __init__(self, store: ObjectStore, kept: bytes | None) -> None:
        self._store = store
        self._kept = kept
        self.site = store.site

    def put(self, key: str, body: Bytes, **options: Any) -> None:
        if self._kept is not None:
            self._store.put(key, self._kept, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def lies(service: RunningService, site: str, kept: bytes | None) -> ObjectStore:
    """Have a site lie to the service; the store that stood there before."""
    watched = service.services.stores[site]
    assert isinstance(watched, WatchedStore)
    honest = watched._store
    watched._store = LyingStore(honest, kept)
    return honest


@pytest.mark.parametrize("kept", [None, b"something else"])
@pytest.mark.parametrize("site", ["a", "b"])
def test_a_site_that_lies_gets_no_sync_upload_acknowledged(
    sites: TwoSites, at_a: RunningService, both: dict[str, str], kept: bytes | None, site: str
) -> None:
    lies(at_a, site, kept)
    answer = at_a.demo.post("/v1/documents", content=b"x", params=both, headers=named("x"))
    assert problem(answer) == "store-unavailable"
    assert at_a.demo.get("/v1/documents").json()["items"] == []
    assert nothing_is_left(sites, at_a)


@pytest.mark.parametrize("kept", [None, b"something else"])
def test_a_peer_that_lies_is_owed_by_a_degradable_upload(
    sites: TwoSites, at_a: RunningService, both_or_owed: dict[str, str], kept: bytes | None
) -> None:
    honest = lies(at_a, "b", kept)
    document = upload(at_a.demo, b"x", params=both_or_owed)
    assert document["version"]["durable_on"] == ["a"]
    make_all_due(at_a.services)
    assert worker_of(at_a.services).run_one()
    assert backlog(at_a.services) == 1, "a lie was counted as a copy"
    at_a.services.stores["b"]._store = honest  # type: ignore[attr-defined]
    settle(at_a.services)
    assert backlog(at_a.services) == 0
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_copy_that_was_acknowledged_and_not_stored_never_counts(
    sites: TwoSites, at_a: RunningService
) -> None:
    document = upload(at_a.demo, b"x")
    honest = lies(at_a, "b", None)
    for _ in range(3):
        make_all_due(at_a.services)
        assert worker_of(at_a.services).run_one()
    path = f"/v1/documents/{document['id']}"
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a"]
    at_a.services.stores["b"]._store = honest  # type: ignore[attr-defined]
    settle(at_a.services)
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a", "b"]


def test_an_upload_given_up_after_it_lost_the_peer_leaves_no_orphan_there(
    sites: TwoSites, at_a: RunningService, both_or_owed: dict[str, str]
) -> None:
    rules = at_a.services.classes.get(both_or_owed["class"])
    object_id = at_a.services.upload_rows.take()
    upload_ = at_a.services.uploads._seal(object_id, object_id, rules)
    upload_.write(b"x")
    upload_.finish()
    assert agree(sites, {object_id})
    destination = upload_._destination
    assert isinstance(destination, BothSites)
    destination.owed = ("b",)  # the answer of b was lost, so it is taken for away

    def nothing() -> Any:
        raise AssertionError

    _SealedUpload(upload_, object_id, at_a.services.upload_rows, nothing).abort()
    assert sites.a.objects() == set()
    rows = at_a.services.database.as_service().execute(
        select(uploads).where(uploads.c.object_id == object_id), {}
    )
    assert len(rows) == 1, "nobody would ever remove the object at b"
    assert nothing_is_left(sites, at_a)


def test_a_lost_answer_to_a_copy_ends_well(sites: TwoSites, at_a: RunningService) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder's answers do not get lost")
    document = upload(at_a.demo, b"x")
    lost: list[bytes] = []

    def first_put(request: bytes) -> bool:
        is_it = request.startswith(b"PUT ") and not lost
        lost.extend([request] * is_it)
        return is_it

    sites.b.proxy.misbehaviour.loses = first_put
    assert worker_of(at_a.services).run_one()
    assert len(lost) == 1
    assert sites.b.objects() == expected(at_a.services), "it was stored"
    path = f"/v1/documents/{document['id']}"
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a"]
    settle(at_a.services)
    assert at_a.demo.get(path).json()["version"]["durable_on"] == ["a", "b"]
    assert found_incidents(at_a.services) == []


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_a_lost_answer_to_an_upload_is_a_503_and_leaves_nothing(
    sites: TwoSites, at_a: RunningService, both: dict[str, str], size: int
) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder's answers do not get lost")
    wanted = b"POST " if size > 8 * MIB else b"PUT "
    sites.b.proxy.misbehaviour.loses = lambda request: (
        request.startswith(wanted) and b"uploads=" not in request
    )
    answer = at_a.demo.post("/v1/documents", content=bytes(size), params=both, headers=named("x"))
    assert problem(answer) == "store-unavailable"
    sites.b.proxy.misbehaviour.loses = lambda _: False
    assert nothing_is_left(sites, at_a)


def test_a_peer_that_fails_every_fifth_request_gets_everything_and_nothing_is_parked(
    sites: TwoSites, at_a: RunningService
) -> None:
    if not isinstance(sites.b, Gateway):
        pytest.skip("a folder does not answer 500")
    random = Random(5)
    sites.b.proxy.misbehaviour.fails = lambda _: random.random() < 0.2
    sent = {
        upload(at_a.demo, body)["id"]: body for body in map(os.urandom, [1000] * 40 + [9 * MIB])
    }
    for _ in range(12):
        settle(at_a.services)
        if backlog(at_a.services) == 0:
            break
    assert backlog(at_a.services) == parked(at_a.services) == 0
    sites.b.proxy.misbehaviour.fails = lambda _: False
    notice(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert contents(at_a.demo, sent) == sent
    assert found_incidents(at_a.services) == []


def test_sync_uploads_at_both_sites_at_once(
    sites: TwoSites, at_a: RunningService, at_b: RunningService, both: dict[str, str]
) -> None:
    for service in (at_a, at_b, at_a):
        assert upload(service.demo, os.urandom(1000), params=both)["version"]["durable_on"] == [
            "a",
            "b",
        ]
    assert agree(sites, expected(at_a.services))
    assert verify_all(at_b.services) == all_verified(at_b.services)


def test_a_sweep_does_not_wait_for_a_dead_site_once_for_every_row(
    sites: TwoSites, at_a: RunningService
) -> None:
    ids = [at_a.services.upload_rows.take() for _ in range(30)]
    for object_id in ids:
        at_a.services.stores["a"].put(object_key(object_id), b"nobody's")
        at_a.services.upload_rows.abandon(object_id)
    asked: list[str] = []
    watched = at_a.services.stores["b"]
    pending = watched.pending

    def counted(prefix: str = "") -> Iterator[PendingUpload]:
        asked.append(prefix)
        return pending(prefix)

    watched.pending = counted  # type: ignore[method-assign]
    with sites.b.away():
        notice(at_a.services)
        at_a.services.sweep.run()
        assert len(asked) < 5
    notice(at_a.services)
    assert nothing_is_left(sites, at_a)


def _reasons(service: RunningService) -> list[str]:
    return [
        row.reason
        for row in service.services.database.as_service().execute(select(journal.c.reason), {})
    ]

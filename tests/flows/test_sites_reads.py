"""Reads: the local site, then the other; wrong bytes never, an incident always, and a repair."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, update

from replication.copier import Copier
from replication.worker import ANY_SIZE
from tests.api.helpers import named, upload
from tests.flows.sites import (
    FIRST_BYTE_SECONDS,
    Gateway,
    TwoSites,
    administrator,
    agree,
    all_verified,
    backlog,
    expected,
    flipped,
    found_incidents,
    notice,
    object_of,
    settle,
    verify_all,
)
from tests.running import RunningService
from vault import clock
from vault.tables import incidents, journal

MIB = 2**20
INTEGRITY = "urn:strongroom:problem:integrity"


def stored(service: RunningService, content: bytes) -> tuple[str, UUID]:
    """A document that is at both sites; its id and its object's."""
    document = upload(service.demo, content)
    settle(service.services)
    return document["id"], object_of(service.services, document["id"])


def get(service: RunningService, document_id: str, **headers: str) -> httpx.Response:
    return service.demo.get(f"/v1/documents/{document_id}/content", headers=headers)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit in the header": lambda data: flipped(data, 5),
    "one bit in a segment": lambda data: flipped(data, 100),
    "truncated": lambda data: data[:-1],
    "cut at a segment": lambda data: data[:MIB],
    "emptied": lambda _: b"",
    "extended": lambda data: data + b"\0",
    "segments reordered": lambda data: data[MIB : 2 * MIB] + data[:MIB] + data[2 * MIB :],
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_copy_is_read_at_the_other_site_remembered_and_repaired(
    sites: TwoSites, at_a: RunningService, kind: str
) -> None:
    content = os.urandom(3 * MIB)
    document_id, object_id = stored(at_a, content)
    sites.a.damage(object_id, DAMAGES[kind])
    assert get(at_a, document_id).content == content
    # S3 cannot tell an object that ends before the range from one that is not there.
    ((found, site),) = found_incidents(at_a.services, open_only=True)
    assert (found in ("damaged", "missing"), site) == (True, "a")
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert get(at_a, document_id).content == content
    assert found_incidents(at_a.services) == [(found, "a")]


def test_a_missing_copy_is_read_at_the_other_site_and_repaired(
    sites: TwoSites, at_a: RunningService
) -> None:
    document_id, object_id = stored(at_a, b"precious")
    sites.a.lose(object_id)
    assert get(at_a, document_id).content == b"precious"
    assert found_incidents(at_a.services, open_only=True) == [("missing", "a")]
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))
    assert found_incidents(at_a.services, open_only=True) == []


def test_damage_at_the_other_site_is_found_by_verify_and_repaired(
    sites: TwoSites, at_a: RunningService
) -> None:
    _, object_id = stored(at_a, os.urandom(MIB))
    sites.b.flip(object_id)
    assert verify_all(at_a.services)["b"] == {"damaged": 1}
    assert found_incidents(at_a.services, open_only=True) == [("damaged", "b")]
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []


def test_damage_at_both_sites_is_an_integrity_problem_and_an_incident_with_the_document(
    sites: TwoSites, at_a: RunningService
) -> None:
    content = os.urandom(MIB)
    document_id, object_id = stored(at_a, content)
    for site in sites:
        site.flip(object_id)
    answer = get(at_a, document_id)
    assert (answer.status_code, answer.json()["type"]) == (500, INTEGRITY)
    assert content[:16] not in answer.content
    rows = at_a.services.database.as_service().execute(select(incidents), {})
    assert {(row.site, row.kind) for row in rows} == {("a", "damaged"), ("b", "damaged")}
    assert {(str(row.document_id), row.version) for row in rows} == {(document_id, 1)}
    for _ in range(3):
        settle(at_a.services)
    assert backlog(at_a.services) == 2, "given up, or settled with wrong bytes"
    assert len(found_incidents(at_a.services, open_only=True)) == 2


def test_a_bad_copy_never_replaces_one_that_only_seemed_bad(
    sites: TwoSites, at_a: RunningService
) -> None:
    content = os.urandom(1000)
    document_id, object_id = stored(at_a, content)
    sites.b.flip(object_id)
    assert verify_all(at_a.services)["b"] == {"damaged": 1}
    sites.b.flip(object_id)  # it was the line, or a disk that has recovered
    sites.a.flip(object_id)  # and now the source of the repair goes bad
    settle(at_a.services)
    settle(at_a.services)
    assert get(at_a, document_id).content == content
    assert verify_all(at_a.services)["b"] == {"verified": 1}
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_second_try_never_replaces_what_the_first_one_brought_over(
    sites: TwoSites, at_a: RunningService
) -> None:
    """The copy is there, its worker died before it said so, and then the source goes bad."""
    content = os.urandom(1000)
    document_id = upload(at_a.demo, content)["id"]
    object_id = object_of(at_a.services, document_id)
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY_SIZE[0])
    Copier(at_a.services.stores).copy(task, lambda _upload_id: True)
    at_a.services.journal.put_back([task], were_begun=True)
    sites.a.flip(object_id)
    settle(at_a.services)
    assert get(at_a, document_id).content == content
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_parked_copy_that_is_retried_replaces_no_good_one(
    sites: TwoSites, at_a: RunningService
) -> None:
    content = os.urandom(1000)
    document_id = upload(at_a.demo, content)["id"]
    object_id = object_of(at_a.services, document_id)
    (task,) = at_a.services.journal.claim("b", copies=True, bulk=ANY_SIZE[0])
    Copier(at_a.services.stores).copy(task, lambda _upload_id: True)
    parked = {"parked_at": clock.now(), "lease": None}
    at_a.services.database.as_service().execute(update(journal).values(parked), {})
    sites.a.flip(object_id)
    assert at_a.admin.post("/v1/sites/parked/retry").json() == {"count": 1}
    settle(at_a.services)
    assert get(at_a, document_id).content == content


def test_a_repair_replaces_no_damaged_copy_by_another_damaged_one(
    sites: TwoSites, at_a: RunningService
) -> None:
    """Together they may still be whole."""
    document_id, object_id = stored(at_a, os.urandom(1000))
    for site in (sites.a, sites.b):
        site.flip(object_id)
    before = [site.file(object_id).read_bytes() for site in (sites.a, sites.b)]
    assert get(at_a, document_id).status_code == 500
    settle(at_a.services)
    assert [site.file(object_id).read_bytes() for site in (sites.a, sites.b)] == before


def test_a_look_that_took_long_undoes_no_later_finding(
    sites: TwoSites, at_a: RunningService
) -> None:
    _, object_id = stored(at_a, b"x")
    inventory = at_a.services.sites.inventory
    since = inventory.now()
    sites.b.lose(object_id)
    inventory.lost("b", [object_id])
    inventory.verified("b", [object_id], since)
    found = at_a.services.sites.failover.outlook(administrator(at_a), "b")
    assert found.only_elsewhere == 1
    inventory.verified("b", [object_id], inventory.now())
    assert at_a.services.sites.failover.outlook(administrator(at_a), "b").only_elsewhere == 0


def test_swapped_objects_are_found_and_repaired(sites: TwoSites, at_a: RunningService) -> None:
    contents = [os.urandom(1000) for _ in range(2)]
    (one, first), (two, second) = (stored(at_a, content) for content in contents)
    bytes_of = {each: sites.a.file(each).read_bytes() for each in (first, second)}
    sites.a.damage(first, lambda _: bytes_of[second])
    sites.a.damage(second, lambda _: bytes_of[first])
    assert [get(at_a, document).content for document in (one, two)] == contents
    assert found_incidents(at_a.services, open_only=True) == [("damaged", "a")] * 2
    settle(at_a.services)
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_a_read_goes_on_at_the_other_site_in_the_middle(
    sites: TwoSites, at_a: RunningService
) -> None:
    content = os.urandom(3 * MIB)
    document_id, object_id = stored(at_a, content)
    sites.a.flip(object_id, MIB + MIB // 2)
    answer = get(at_a, document_id, Range=f"bytes=1000-{2 * MIB + 500_000}")
    assert answer.content == content[1000 : 2 * MIB + 500_001]
    assert found_incidents(at_a.services, open_only=True) == [("damaged", "a")]
    assert get(at_a, document_id).content == content


def test_a_read_survives_a_site_that_goes_away_in_the_middle(
    sites: TwoSites, at_a: RunningService
) -> None:
    if not isinstance(sites.a, Gateway):
        pytest.skip("an open file can be read to its end whatever happens to its folder")
    content = os.urandom(6 * MIB)
    document_id, _ = stored(at_a, content)
    sites.a.proxy.misbehaviour.cut_after, sites.a.proxy.misbehaviour.cuts = 3 * MIB, 1
    sites.a.stop()
    sites.a.start()  # so that the connection is a new one
    assert get(at_a, document_id).content == content
    assert sites.a.proxy.misbehaviour.cuts == 0
    assert found_incidents(at_a.services) == []


def test_a_byte_that_the_line_corrupted_reaches_nobody(
    sites: TwoSites, at_a: RunningService
) -> None:
    if not isinstance(sites.a, Gateway):
        pytest.skip("a folder has no line")
    content = os.urandom(2 * MIB)
    document_id, _ = stored(at_a, content)
    sites.a.stop()
    sites.a.start()
    sites.a.proxy.misbehaviour.corrupt_at = MIB
    assert get(at_a, document_id).content == content
    sites.a.proxy.misbehaviour.corrupt_at = None
    assert found_incidents(at_a.services, open_only=True) == [("damaged", "a")]
    settle(at_a.services)
    assert found_incidents(at_a.services, open_only=True) == []
    assert verify_all(at_a.services) == all_verified(at_a.services)


def test_reads_go_on_quickly_while_the_local_site_is_away(
    sites: TwoSites, at_a: RunningService
) -> None:
    document_id, _ = stored(at_a, b"precious")
    with sites.a.away():
        for _ in range(5):
            began = time.monotonic()
            assert get(at_a, document_id).content == b"precious"
            assert time.monotonic() - began < 2
    assert found_incidents(at_a.services) == []


def test_a_hung_site_delays_reads_once_and_not_again(sites: TwoSites, at_a: RunningService) -> None:
    if not isinstance(sites.a, Gateway):
        pytest.skip("a folder does not hang")
    document_id, _ = stored(at_a, b"precious")
    with sites.a.hung():
        began = time.monotonic()
        assert get(at_a, document_id).content == b"precious"
        assert time.monotonic() - began < FIRST_BYTE_SECONDS + 2.5
        for _ in range(5):
            began = time.monotonic()
            assert get(at_a, document_id).content == b"precious"
            assert time.monotonic() - began < FIRST_BYTE_SECONDS / 2
    assert found_incidents(at_a.services) == []


def test_both_sites_away_is_a_503_that_says_when_and_loses_nothing(
    sites: TwoSites, at_a: RunningService
) -> None:
    document_id, _ = stored(at_a, b"precious")
    with sites.a.away(), sites.b.away():
        for answer in (
            get(at_a, document_id),
            at_a.demo.post("/v1/documents", content=b"x", headers=named("x")),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:strongroom:problem:store-unavailable"
            assert int(answer.headers["Retry-After"]) > 0
    notice(at_a.services)
    assert get(at_a, document_id).content == b"precious"
    assert found_incidents(at_a.services) == []


def test_one_site_away_and_the_other_damaged_is_later_and_not_never(
    sites: TwoSites, at_a: RunningService
) -> None:
    document_id, object_id = stored(at_a, os.urandom(1000))
    sites.a.flip(object_id)
    with sites.b.away():
        assert get(at_a, document_id).status_code == 503
    notice(at_a.services)
    assert get(at_a, document_id).status_code == 200


def test_what_was_just_filed_at_one_site_is_read_at_the_other_without_an_incident(
    sites: TwoSites, at_a: RunningService, at_b: RunningService
) -> None:
    document = upload(at_b.demo, b"just filed")
    assert document["version"]["durable_on"] == ["b"]
    assert sites.a.objects() == set()
    assert get(at_a, document["id"]).content == b"just filed"
    assert found_incidents(at_a.services) == []
    with sites.b.away():
        answer = get(at_a, document["id"])
        assert answer.status_code == 503, "the only copy is away: later, not never"
    assert found_incidents(at_a.services) == []


def test_a_document_purged_during_a_read_ends_it_without_an_incident(
    sites: TwoSites, at_a: RunningService
) -> None:
    at_a.admin.post("/v1/classes", json={"name": "short", "retention_days": 0, "bin_days": 0})
    document = upload(at_a.demo, os.urandom(12 * MIB), params={"class": "short"})
    settle(at_a.services)
    received = bytearray()
    path = f"/v1/documents/{document['id']}/content"
    with at_a.demo.stream("GET", path) as answer:
        pieces = answer.iter_raw()
        received += next(pieces)
        at_a.demo.delete(f"/v1/documents/{document['id']}")
        assert at_a.services.purge.run(clock.now() + timedelta(days=1)) == 1
        settle(at_a.services)
        try:
            for piece in pieces:
                received += piece
        except httpx.RemoteProtocolError:
            pass
    assert found_incidents(at_a.services) == []


def test_a_process_starts_and_serves_while_a_site_is_away(sites: TwoSites) -> None:
    with sites.served("a") as first:
        document_id, _ = stored(first, b"precious")
    for site, local in ((sites.b, "a"), (sites.a, "a")):
        with site.away(), sites.served(local, of=first) as again:
            assert get_with(again, first, document_id).content == b"precious"


def get_with(service: RunningService, of: RunningService, document_id: str) -> httpx.Response:
    with service.client(of.demo_key) as client:
        return client.get(f"/v1/documents/{document_id}/content")

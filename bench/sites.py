"""Two sites: how fast copies are made and how soon they are proven, `sync`, resync, scrub."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Final
from uuid import UUID

from minio import Minio
from pydantic import SecretStr
from sqlalchemy import text

from api.bootstrap import build
from api.services import Services
from api.settings import DatabaseStandby, KmsSettings, Settings, SiteKind, Sites, SiteSettings
from api.worker import LANES
from bench import payload
from bench.payload import LargeBody
from bench.plan import GIB, MIB, Plan
from bench.result import Result, Target, at_least, at_most, in_turns
from bench.s3 import Bucket, put_large
from bench.small import sender
from bench.twosites import BOTH_SITES, Site, TwoSites, engine_of, peer, serving, wait_for, working
from bench.world import MeasuredService, World
from replication.merge import differences, windows
from replication.worker import ReplicationWorker
from tests.servers.s3 import Versity
from vault.database import Database
from vault.inventory import Inventory
from vault.objects.keys import object_key
from vault.objects.store import StoredObject

KIB: Final = 1024
CLIENTS: Final = 8
SIZES: Final = tuple(4 * KIB * 2**n for n in range(9))
"""4 KiB to 1 MiB, each as often as the others."""

LARGE_COPIES: Final = 16
SYNC_LARGE_BYTES: Final = 256 * MIB


# Copies: the lanes of the worker, in this process, beside plain calls of as many threads.


def copies(world: World, plan: Plan) -> Iterator[Result]:
    """Small objects, then large ones."""
    with peer(world) as server, _in_process(world, server) as (services, sites):
        yield _copy_rate(services, sites, plan.copies, 4 * KIB, plan.rounds, at_least(0.6))
        yield _copy_rate(services, sites, LARGE_COPIES, 64 * MIB, plan.rounds, at_least(0.7))


def _copy_rate(
    services: Services, sites: TwoSites, count: int, size_bytes: int, rounds: int, target: Target
) -> Result:
    object_ids = sites.fill(count, size_bytes)
    sites.analyze()
    ours, floor = in_turns(
        rounds,
        lambda: _drained(services, sites, object_ids) * size_bytes / MIB,
        lambda: _put_and_got(sites.b, count, size_bytes) * size_bytes / MIB,
    )
    sites.a.remove_objects()
    what = (
        f"copies of {size_bytes // KIB:,} KiB, read back, {len(LANES)} lanes; "
        f"floor: minio PUT + GET, {len(LANES)} threads"
    )
    return Result.of_rounds(what, "MiB/s", floor=floor, ours=ours, target=target)


def _drained(services: Services, sites: TwoSites, object_ids: list[UUID]) -> float:
    """Copies made in a second."""
    sites.enqueue(object_ids)
    lanes = [
        ReplicationWorker(services.journal, services.health, services.incidents, bulks=bulks)
        for bulks in LANES
    ]
    with ThreadPoolExecutor(len(lanes)) as pool:
        began = time.perf_counter()
        for done in [pool.submit(_run_dry, lane) for lane in lanes]:
            done.result()
        seconds = time.perf_counter() - began
    assert sites.waiting() == 0
    assert sites.ask("SELECT count(*) FROM replicas WHERE site = 'b'") == len(object_ids)
    sites.b.remove_objects()
    return len(object_ids) / seconds


def _run_dry(lane: ReplicationWorker) -> None:
    while lane.run_one():
        pass


def _put_and_got(site: Site, count: int, size_bytes: int) -> float:
    """Objects put and got in a second."""
    client, body = site.bucket.client(), os.urandom(min(size_bytes, 8 * MIB))
    put = _put_small if size_bytes <= len(body) else _put_in_parts

    def one_thread(number: int) -> None:
        for at in range(number, count, len(LANES)):
            key = f"objects/floor/{at}"
            put(client, site.bucket.name, key, body, size_bytes)
            _got(client, site.bucket.name, key)

    with ThreadPoolExecutor(len(LANES)) as pool:
        began = time.perf_counter()
        list(pool.map(one_thread, range(len(LANES))))
        seconds = time.perf_counter() - began
    site.remove_objects()
    return count / seconds


def _put_small(client: Minio, bucket: str, key: str, body: bytes, _size_bytes: int) -> None:
    client.put_object(bucket, key, io.BytesIO(body), len(body))


def _put_in_parts(client: Minio, bucket: str, key: str, _body: bytes, size_bytes: int) -> None:
    put_large(client, bucket, key, LargeBody(size_bytes), 1)


def _got(client: Minio, bucket: str, key: str) -> None:
    response = client.get_object(bucket, key)
    try:
        for _ in response.stream(MIB):
            pass
    finally:
        response.close()
        response.release_conn()


@contextmanager
def _in_process(world: World, server: Versity) -> Iterator[tuple[Services, TwoSites]]:
    """The service's own flows in this process, over two new sites."""
    urls, a, b = world.database(), world.bucket(), world.bucket(server)
    owner = engine_of(urls.owner)
    folder = world.folder / f"in-process-{a.name}"
    folder.mkdir(mode=0o700)
    key_file = folder / "root.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    settings = Settings(
        home=folder / "home",
        database_url=SecretStr(urls.service),
        database_standby=DatabaseStandby.MANAGED,
        sites=Sites(a=_site_settings(a), b=_site_settings(b)),
        kms=KmsSettings(key_file=key_file),
    )
    with build(settings) as services:
        yield services, TwoSites(Site(world.s3, a), Site(server, b), owner)
    owner.dispose()


def _site_settings(bucket: Bucket) -> SiteSettings:
    return SiteSettings(
        kind=SiteKind.S3,
        endpoint=bucket.endpoint,
        bucket=bucket.name,
        access_key=SecretStr(bucket.access_key),
        secret_key=SecretStr(bucket.secret_key),
        tls=False,
    )


# Uploads that are acknowledged when both sites hold them, beside those that need one.


def sync(world: World, plan: Plan) -> Iterator[Result]:
    """Small documents, then a large one."""
    with peer(world) as server, serving(world, server) as (service, _):
        for clients in (1, CLIENTS):
            yield _sync_small(service, plan, clients)
        yield _sync_large(service, plan)


def _sync_small(service: MeasuredService, plan: Plan, clients: int) -> Result:
    body = payload.pdf()
    sync = sender(service.client, clients, body, class_name=BOTH_SITES)
    one_site = sender(service.client, clients, body)
    for side in (sync, one_site):
        side(plan.small_seconds)
    ours, floor = in_turns(
        plan.rounds, lambda: sync(plan.small_seconds), lambda: one_site(plan.small_seconds)
    )
    what = f"16 KiB to both sites (`sync`), {clients} client(s); floor: to one (`async`)"
    return Result.of_rounds(what, "/s", floor=floor, ours=ours, target=at_least(0.6))


def _sync_large(service: MeasuredService, plan: Plan) -> Result:
    body = LargeBody(SYNC_LARGE_BYTES)

    def upload(class_name: str) -> float:
        with service.client() as client:
            began = time.perf_counter()
            client.upload(body.chunks(), body.size_bytes, class_name=class_name)
            return body.size_bytes / MIB / (time.perf_counter() - began)

    ours, floor = in_turns(plan.rounds, lambda: upload(BOTH_SITES), lambda: upload("general"))
    what = f"{SYNC_LARGE_BYTES // MIB} MiB to both sites (`sync`); floor: to one (`async`)"
    return Result.of_rounds(what, "MiB/s", floor=floor, ours=ours, target=at_least(0.5))


# From the commit of an upload to its verified copy.


def lag(world: World, plan: Plan) -> Iterator[Result]:
    """At half the rate that can be kept up; then again beside one very large copy."""
    with (
        peer(world) as server,
        serving(world, server) as (service, sites),
        working(service, sites),
    ):
        rate = _sustained(service, sites, plan.lag_seconds) / 2
        floor = _floor_of_lag(sites.b)
        alone = _lags(service, sites, rate, plan.lag_seconds)
        yield from _judged(f"at {rate:.0f} documents/s", floor, alone)
        sites.enqueue(sites.fill(1, plan.beside_bytes, is_sparse=True))
        wait_for(lambda: sites.ask("SELECT count(*) FROM journal WHERE upload_id IS NOT NULL") == 1)
        beside = _lags(service, sites, rate, plan.lag_seconds)
        under_way = sites.ask("SELECT count(*) FROM journal WHERE size_bytes > 2^30")
        what = f"at {rate:.0f}/s beside a copy of {plan.beside_bytes // GIB} GiB"
        yield from _judged(what if under_way else f"{what} that ended early", floor, beside)


def _sustained(service: MeasuredService, sites: TwoSites, seconds: float) -> float:
    """Documents that are uploaded and verified in a second, when clients never wait."""
    began = time.perf_counter()
    sent = _upload_at(service, float("inf"), seconds)
    sites.drain()
    return sent / (time.perf_counter() - began)


def _lags(service: MeasuredService, sites: TwoSites, rate: float, seconds: float) -> list[float]:
    """From commit to verified, in milliseconds, of documents sent at a steady rate."""
    began = sites.ask("SELECT clock_timestamp()")
    _upload_at(service, rate, seconds)
    wait_for(lambda: sites.ask(_UNVERIFIED, began=began) == 0)
    with sites.owner.connect() as connection:
        return list(connection.execute(text(_LAGS), {"began": began}).scalars())


def _upload_at(service: MeasuredService, rate: float, seconds: float) -> int:
    """Send documents of all sizes, `rate` in a second whether answers are slow or not; how many."""
    bodies = [os.urandom(size - 64) for size in SIZES]
    began = time.perf_counter()

    def one_client(number: int) -> int:
        sent = 0
        with service.client() as client:
            while time.perf_counter() < began + seconds:
                turn = number + CLIENTS * sent
                time.sleep(max(0.0, began + turn / rate - time.perf_counter()))
                client.upload(bodies[turn % len(bodies)])
                sent += 1
        return sent

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(one_client, range(CLIENTS)))


def _floor_of_lag(site: Site) -> float:
    """Milliseconds that a put and a get of the middle size take, one after the other."""
    client, body, taken = site.bucket.client(), os.urandom(median(SIZES)), []
    for at in range(100):
        began = time.perf_counter()
        _put_small(client, site.bucket.name, f"objects/floor/{at}", body, len(body))
        _got(client, site.bucket.name, f"objects/floor/{at}")
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


def _judged(what: str, floor: float, lags: list[float]) -> Iterator[Result]:
    line = f"commit to verified copy, 4 KiB-1 MiB {what}"
    percentiles = quantiles(lags, n=100)
    yield Result(
        f"{line}, median; floor: a PUT and a GET", "ms", floor, percentiles[49], (), at_most(150)
    )
    yield Result(f"{line}, 99th of 100", "ms", floor, percentiles[98], (), at_most(5000))


_UNVERIFIED: Final = """
SELECT count(*) FROM journal j JOIN versions v USING (object_id)
WHERE v.created_at > :began AND v.ciphertext_size_bytes < 2^21"""

_LAGS: Final = """
SELECT extract(epoch FROM r.verified_at - v.created_at)::float * 1000
FROM versions v JOIN replicas r ON r.object_id = v.object_id AND r.site = 'b'
WHERE v.created_at > :began AND v.ciphertext_size_bytes < 2^21"""


# A site that comes back empty, and a listing beside the database.


def resync(world: World, plan: Plan) -> Iterator[Result]:
    """From the first answer of an emptied site to its first verified copy."""
    with peer(world) as server, serving(world, server) as (service, sites):
        sites.have_copies(sites.fill(plan.resync, 4 * KIB))
        sites.analyze()
        with working(service, sites):
            taken = [_started_after(sites) for _ in range(plan.rounds)]
    what = (
        f"resync of {plan.resync:,} objects to an emptied site: from its answer to a verified copy"
    )
    yield Result(f"{what} (shortest; longest)", "s", min(taken), max(taken), (), at_most(5))


def _started_after(sites: TwoSites) -> float:
    sites.b.server.stop()
    sites.b.remove_objects()
    (sites.b.folder / "site" / "mark").unlink()
    time.sleep(5)
    sites.b.server.start()
    answered = sites.ask("SELECT clock_timestamp()")
    first = "SELECT min(verified_at) FROM replicas WHERE site = 'b' AND verified_at > :answered"
    wait_for(lambda: sites.ask(first, answered=answered) is not None, 60)
    taken = sites.ask(f"SELECT extract(epoch FROM ({first}) - :answered)", answered=answered)
    wait_for((sites.b.folder / "site" / "mark").exists)
    return float(taken)


def merge(world: World, plan: Plan) -> Iterator[Result]:
    """Objects that one core compares in a second: the database's rows with a recorded listing."""
    urls = world.database()
    owner = engine_of(urls.owner)
    with owner.begin() as connection:
        connection.execute(text(_MANY_VERSIONS), {"listed": plan.listed})
        connection.execute(text(_MANY_REPLICAS))
    with owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM (ANALYZE) versions, replicas"))
        found = connection.execute(text(_LISTING)).all()
    owner.dispose()
    recorded = [StoredObject(object_key(row.object_id), row.size, row.at) for row in found]
    ours, floor = in_turns(
        plan.rounds,
        lambda: _per_second(urls.service, plan.listed, lambda each: _merged(each, recorded)),
        lambda: _per_second(urls.service, plan.listed, _only_read),
    )
    what = (
        f"objects merged by a scrub, of {plan.listed:,} listed; floor: only read from the database"
    )
    yield Result(what, "/s", median(floor), median(ours), (), at_least(20_000))


def _per_second(url: str, count: int, work: Callable[[Inventory], None]) -> float:
    """By the clock: the thread is one, and PostgreSQL's core is counted as idle."""
    database = Database(url, connections=2)
    began = time.perf_counter()
    work(Inventory(database.as_service()))
    seconds = time.perf_counter() - began
    database.dispose()
    return count / seconds


def _merged(inventory: Inventory, recorded: list[StoredObject]) -> None:
    for expected, listed in windows(inventory.expected_at("b"), iter(recorded)):
        assert not list(differences(expected, listed))


def _only_read(inventory: Inventory) -> None:
    for _ in inventory.expected_at("b"):
        pass


_MANY_VERSIONS: Final = """
WITH made AS MATERIALIZED (
        SELECT gen_random_uuid() AS id, gen_random_uuid() AS object_id
        FROM generate_series(1, :listed)),
     document AS (
        INSERT INTO documents
            (id, name, class, department, state, revision, newest_version, created_by)
        SELECT id, 'document.pdf', 'general', 'demo', 'live', 1, 1, gen_random_uuid() FROM made)
INSERT INTO versions
    (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
     ciphertext_sha256, media_type, wrapped_key, key_commitment, receipt, created_by)
SELECT id, 1, gen_random_uuid(), object_id, 'a', 1, 16384, 16440, sha256(''), 'application/pdf',
       'local:v1:' || repeat('k', 80), sha256(''), gen_random_uuid(), gen_random_uuid()
FROM made"""

_MANY_REPLICAS: Final = """
INSERT INTO replicas (object_id, site, verified_at) SELECT object_id, 'b', now() FROM versions"""

_LISTING: Final = """
SELECT object_id, ciphertext_size_bytes AS size, created_at AS at FROM versions ORDER BY object_id"""

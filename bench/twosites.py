"""Two gateways in processes and folders of their own, and a service over both."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Engine, create_engine, text

from bench.plan import MIB
from bench.s3 import Bucket
from bench.world import MeasuredService, World, site_environment, versity
from tests.servers.s3 import Versity
from vault.objects.keys import PREFIX, object_key

BOTH_SITES: Final = "both-sites"
"""A class whose documents are acknowledged when both sites hold them."""

WAIT_SECONDS: Final = 1800


@dataclass(frozen=True)
class Site:
    """One site, and the folder behind its gateway."""

    server: Versity
    bucket: Bucket

    @property
    def folder(self) -> Path:
        """Where the gateway keeps the bucket."""
        return self.server.folder / "objects" / self.bucket.name

    def remove_objects(self) -> None:
        """Behind the gateway's back, at once."""
        shutil.rmtree(self.folder / PREFIX, ignore_errors=True)


@dataclass(frozen=True)
class TwoSites:
    """Sites `a` and `b` over one new database."""

    a: Site
    b: Site
    owner: Engine

    def fill(self, count: int, size_bytes: int, *, is_sparse: bool = False) -> list[UUID]:
        """Put objects at site a, with the rows of their versions; their ids.

        Behind the gateway's back, and all of them one file with many names: what is measured is how
        they are read and copied. A sparse one is read like any other.
        """
        object_ids = [uuid4() for _ in range(count)]
        first = self.a.folder.parent / str(uuid4())
        digest = _write(first, size_bytes, is_sparse=is_sparse)
        _link(first, self.a, object_ids)
        first.unlink()
        self._add_rows(object_ids, size_bytes, digest)
        return object_ids

    def enqueue(self, object_ids: Sequence[UUID]) -> None:
        """Have them copied to site b, as if nothing had been yet."""
        values = {"object_ids": list(object_ids)}
        with self.owner.begin() as connection:
            connection.execute(text("DELETE FROM replicas"))
            connection.execute(text(_ENQUEUE), values)

    def have_copies(self, object_ids: Sequence[UUID]) -> None:
        """Put the objects at site b too, verified."""
        _link(self.a.folder / object_key(object_ids[0]), self.b, object_ids)
        with self.owner.begin() as connection:
            connection.execute(text(_COUNT))

    def waiting(self) -> int:
        """How many journal rows there are."""
        return int(self.ask("SELECT count(*) FROM journal"))

    def drain(self) -> None:
        """Return once everything is copied."""
        wait_for(lambda: self.waiting() == 0)

    def ask(self, query: str, **values: object) -> Any:
        """One value, asked as the owner."""
        with self.owner.connect() as connection:
            return connection.execute(text(query), values).scalar_one()

    def analyze(self) -> None:
        """What autovacuum does within a minute."""
        with self.owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("VACUUM (ANALYZE) documents, versions, replicas, journal"))

    def _add_rows(self, object_ids: Sequence[UUID], size_bytes: int, digest: bytes) -> None:
        values = {"object_ids": list(object_ids), "size_bytes": size_bytes, "digest": digest}
        with self.owner.begin() as connection:
            connection.execute(text(_ROWS), values)


@contextmanager
def peer(world: World) -> Iterator[Versity]:
    """The gateway of site b; that of site a is the world's."""
    with versity(world.folder / f"s3-of-b-{uuid4().hex[:6]}") as server:
        yield server


@contextmanager
def serving(world: World, server: Versity) -> Iterator[tuple[MeasuredService, TwoSites]]:
    """The service over both sites; nothing is copied until something is `working`."""
    b = Site(server, world.bucket(server))
    settings = site_environment("B", b.bucket)
    with world.service(worker=False, **settings) as service:
        sites = TwoSites(Site(world.s3, service.bucket), b, service.owner)
        with service.owner.begin() as connection:
            connection.execute(text(_CLASS), {"name": BOTH_SITES})
        yield service, sites
        b.remove_objects()


@contextmanager
def working(service: MeasuredService, sites: TwoSites) -> Iterator[None]:
    """The worker, in a process of its own, once it has looked at both sites for the first time."""
    command_line = service.process.command_line
    output = command_line.folder / "worker.stderr"
    with output.open("w") as sink:
        process = command_line.popen("worker", stdout=sink, stderr=sink)
        try:
            scrubbed = "SELECT count(*) FROM jobs WHERE kind = 'scrub' AND state = 'done'"
            wait_for(lambda: sites.ask(scrubbed) == 1)
            yield
        finally:
            process.terminate()
            process.wait(60)


def wait_for(holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Ask every 20 ms whether it `holds`."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def engine_of(url: str) -> Engine:
    """An engine of the bench's own."""
    return create_engine(url)


def _link(file: Path, site: Site, object_ids: Sequence[UUID]) -> None:
    for object_id in object_ids:
        path = site.folder / object_key(object_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(file)


def _write(path: Path, size_bytes: int, *, is_sparse: bool) -> bytes:
    piece = bytes(MIB) if is_sparse else os.urandom(min(size_bytes, MIB))
    digest = sha256()
    with path.open("wb") as file:
        for at in range(0, size_bytes, MIB):
            chunk = piece[: size_bytes - at]
            digest.update(chunk)
            if not is_sparse:
                file.write(chunk)
        file.truncate(size_bytes)
    return digest.digest()


_ROWS: Final = """
WITH made AS (SELECT object_id, gen_random_uuid() AS id
              FROM unnest(CAST(:object_ids AS uuid[])) AS object_id),
     document AS (
        INSERT INTO documents
            (id, name, class, department, state, revision, newest_version, created_by)
        SELECT id, 'document.pdf', 'general', 'demo', 'live', 1, 1, gen_random_uuid() FROM made)
INSERT INTO versions
    (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
     ciphertext_sha256, media_type, wrapped_key, key_commitment, receipt, created_by)
SELECT id, 1, gen_random_uuid(), object_id, 'a', 1, :size_bytes, :size_bytes, :digest,
       'application/pdf', 'local:v1:' || repeat('k', 80), sha256(''), gen_random_uuid(),
       gen_random_uuid()
FROM made"""

_ENQUEUE: Final = """
INSERT INTO journal (object_id, site, operation, epoch, reason, size_bytes)
SELECT object_id, 'b', 'copy', 1, 'upload', ciphertext_size_bytes FROM versions
WHERE object_id = ANY(CAST(:object_ids AS uuid[]))"""

_COUNT: Final = """
INSERT INTO replicas (object_id, site, verified_at)
SELECT object_id, 'b', now() FROM versions ON CONFLICT DO NOTHING"""

_CLASS: Final = """
INSERT INTO classes (name, media_types, max_size_bytes, durability, retention_days, bin_days)
SELECT :name, media_types, max_size_bytes, 'sync', retention_days, bin_days
FROM classes WHERE name = 'general'"""

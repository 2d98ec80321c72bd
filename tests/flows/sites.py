"""Two sites as tests of replication see them: taken away, hung, emptied, damaged and brought back.

What stands behind them differs (two folders, two Versity gateways), the ways to break them do not. All of
it happens behind the service's back; objects are looked at as files, since both kinds keep them as such.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy import func, literal, select, update
from typing_extensions import override

from api.bootstrap import build
from api.services import Services
from api.settings import Settings, SiteKind, Sites, SiteSettings
from api.worker import Worker
from tests.process import wait_until
from tests.proxy import Proxy, proxied
from tests.replicating import make_all_due, work_off
from tests.running import RunningService, running
from tests.servers.s3 import S3Server
from vault.access.policy import EVERY_DEPARTMENT, Caller, Scope
from vault.accesslog.event import Actor
from vault.jobs import JobKind
from vault.objects.keys import object_id_of, object_key
from vault.tables import incidents, jobs, journal, processes, versions

FIRST_BYTE_SECONDS: Final = 1.0

ADMIN: Final = Actor(
    Caller(UUID(int=1), "a test", "none", frozenset(Scope), EVERY_DEPARTMENT), "a test"
)
"""May do everything; for calls that record no event of theirs. See `administrator`."""


class Site(ABC):
    """One site.

    Attributes:
        root: where its objects lie as files, each under its key.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root

    @property
    @abstractmethod
    def settings(self) -> SiteSettings:
        """How the service reaches it."""

    @abstractmethod
    def stop(self) -> None:
        """Take it away."""

    @abstractmethod
    def start(self) -> None:
        """Bring it back as it is. Idempotent."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Not there for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def file(self, object_id: UUID) -> Path:
        """Where an object's bytes lie."""
        return self.root / object_key(object_id)

    def objects(self) -> set[UUID]:
        """Which objects it holds."""
        keys = (str(path.relative_to(self.root)) for path in self.files())
        return {found for key in keys if (found := object_id_of(key)) is not None}

    def files(self) -> Iterator[Path]:
        """Files that are objects of some kind, nothing half-written."""
        for path in self._everything():
            inner = path.relative_to(self.root).parts
            if path.is_file() and not inner[0].startswith("."):
                yield path

    def _everything(self) -> Iterator[Path]:
        """Files, also while a gateway makes and removes folders of its own among them."""
        for folder, _, names in os.walk(self.root):  # passes over a folder that vanished
            yield from (Path(folder) / name for name in names)

    def incoming(self) -> list[Path]:
        """Files of uploads that are not finished."""
        return [
            path
            for path in self._everything()
            if path.is_file() and path.relative_to(self.root).parts[0].startswith(".")
        ]

    def empty(self) -> None:
        """Everything is gone; the folder or bucket itself is there."""
        for path in self.root.iterdir():
            if path.name == ".incoming":
                continue  # without it a folder is taken for one that is away
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def damage(self, object_id: UUID, change: Callable[[bytes], bytes]) -> None:
        """Change an object's bytes in their place."""
        path = self.file(object_id)
        path.chmod(0o600)
        path.write_bytes(change(path.read_bytes()))

    def flip(self, object_id: UUID, offset: int = 100) -> None:
        """Flip one bit of an object."""
        self.damage(object_id, lambda data: flipped(data, offset))

    def lose(self, object_id: UUID) -> None:
        """Delete one object."""
        self.file(object_id).unlink()

    @contextmanager
    def as_it_was(self, copy: Path) -> Iterator[None]:
        """At the end of the block it is again what it was at the beginning: restored from an old copy."""
        shutil.copytree(self.root, copy)
        yield
        self.stop()
        home = self._whereabouts()
        shutil.rmtree(home)
        shutil.copytree(copy, home)
        self.start()

    def _whereabouts(self) -> Path:
        """Where the root lies while the site is stopped."""
        return self.root


class Folder(Site):
    """A folder."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self._hidden = root.with_name(f"{root.name}.away")

    @property
    @override
    def settings(self) -> SiteSettings:
        return SiteSettings(path=self.root)

    @override
    def stop(self) -> None:
        self.root.rename(self._hidden)

    @override
    def start(self) -> None:
        with suppress(FileNotFoundError):
            self._hidden.rename(self.root)

    @override
    def _whereabouts(self) -> Path:
        return self._hidden


class Gateway(Site):
    """A bucket of an S3 server that is a process, with a proxy in front."""

    def __init__(self, name: str, server: S3Server, proxy: Proxy, *, object_lock: bool) -> None:
        self.bucket = f"site-{name}-{uuid4().hex[:12]}"
        super().__init__(name, server.folder / "objects" / self.bucket)
        self.server = server
        self.proxy = proxy
        self._object_lock = object_lock
        self._is_stopped = False

    @property
    @override
    def settings(self) -> SiteSettings:
        return SiteSettings(
            kind=SiteKind.S3,
            endpoint=f"127.0.0.1:{self.proxy.port}",
            bucket=self.bucket,
            access_key=SecretStr(self.server.access_key),
            secret_key=SecretStr(self.server.secret_key),
            tls=False,
            object_lock=self._object_lock,
            first_byte_seconds=FIRST_BYTE_SECONDS,
        )

    @override
    def stop(self) -> None:
        self.server.stop()
        self._is_stopped = True

    @override
    def start(self) -> None:
        if self._is_stopped:
            self.server.start()
        self._is_stopped = False

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Connections stand, and nothing answers."""
        self.server.pause()
        try:
            yield
        finally:
            self.server.go_on()


@dataclass(frozen=True)
class TwoSites:
    """A pair of sites with a database, and the processes that a test has at either of them."""

    a: Site
    b: Site
    settings: Settings

    @contextmanager
    def services(self, local: str) -> Iterator[Services]:
        """What a process at one site works with."""
        with build(self.settings.model_copy(update={"local_site": local})) as built:
            yield built

    @contextmanager
    def served(self, local: str, of: RunningService | None = None) -> Iterator[RunningService]:
        """A process at one site, without a worker of its own."""
        with self.services(local) as built, running(built, of) as service:
            yield service

    def __iter__(self) -> Iterator[Site]:
        yield from (self.a, self.b)


@contextmanager
def two_sites(
    settings: Settings,
    folder: Path,
    servers: Mapping[str, S3Server],
    *,
    object_lock: bool = False,
) -> Iterator[TwoSites]:
    """Two sites; one without a server is a folder. Whatever a test stopped is started again at the end."""
    with ExitStack() as stack:

        def site(name: str) -> Site:
            if name not in servers:
                return Folder(name, folder / f"site-{name}")
            proxy = stack.enter_context(proxied(servers[name].port))
            return Gateway(name, servers[name], proxy, object_lock=object_lock)

        a, b = site("a"), site("b")
        for each in (a, b):
            stack.callback(each.start)
        given = Sites(a=a.settings, b=b.settings)
        yield TwoSites(a, b, settings.model_copy(update={"sites": given}))


@contextmanager
def working(*processes: Services) -> Iterator[None]:
    """The real workers of these processes, for the time of the block."""
    workers = [Worker(services) for services in processes]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()


def administrator(service: RunningService) -> Actor:
    """The administrator, as routes name it in events."""
    row = next(
        each
        for each in service.admin.get("/v1/principals").json()["items"]
        if "admin" in each["scopes"]
    )
    key_id = service.admin_key.split("_")[1]
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    return Actor(
        Caller(UUID(row["id"]), row["name"], key_id, scopes, row["department"]), "test-request"
    )


def flipped(data: bytes, offset: int) -> bytes:
    """The same with one bit changed."""
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def notice(services: Services) -> None:
    """Have the process look at once which sites answer."""
    for site in services.stores:
        services.health.confirm(site)


def settle(services: Services) -> None:
    """Do all work that there is, until none is left that can be done."""
    notice(services)
    make_all_due(services)
    work_off(services)


def object_of(services: Services, document_id: str, number: int = 1) -> UUID:
    """The object of a version."""
    where = (versions.c.document_id == UUID(document_id)) & (versions.c.number == number)
    found: UUID = (
        services.database.as_service()
        .execute(select(versions.c.object_id).where(where), {})[0]
        .object_id
    )
    return found


def expected(services: Services) -> set[UUID]:
    """The objects of all versions."""
    return {
        row.object_id
        for row in services.database.as_service().execute(select(versions.c.object_id), {})
    }


def found_incidents(services: Services, *, open_only: bool = False) -> list[tuple[str, str]]:
    """Kind and site of incidents, the oldest first."""
    query = select(incidents).order_by(incidents.c.at, incidents.c.id)
    if open_only:
        query = query.where(incidents.c.resolved_at.is_(None))
    return [(row.kind, row.site) for row in services.database.as_service().execute(query, {})]


def parked(services: Services) -> int:
    """How many rows of the journal are parked."""
    count = select(func.count()).where(journal.c.parked_at.is_not(None))
    return int(services.database.as_service().execute(count, {})[0][0])


def backlog(services: Services) -> int:
    """How many rows there are in the journal."""
    query = select(func.count()).select_from(journal)
    return int(services.database.as_service().execute(query, {})[0][0])


def drained(services: Services, seconds: float = 60) -> bool:
    """Whether the journal got empty within that time, by others' work."""
    return wait_until(lambda: backlog(services) == 0, seconds)


def run_job(services: Services, kind: JobKind) -> Mapping[str, Any]:
    """Start a job, work it off here, and give its result."""
    job = services.jobs.start(None, kind)
    while services.job_runner.run_one((kind,)):
        pass
    row = services.database.as_service().execute(select(jobs).where(jobs.c.id == job.id), {})[0]
    assert row.state == "done", (row.state, row.error)
    result: Mapping[str, Any] = row.result
    return result


def verify_all(services: Services) -> Mapping[str, Any]:
    """What `verify --all` reports: counts of states by site."""
    found: Mapping[str, Any] = run_job(services, JobKind.VERIFY)["sites"]
    return found


def all_verified(services: Services) -> Mapping[str, Any]:
    """What `verify_all` should report."""
    count = len(expected(services))
    return {site: {"verified": count} if count else {} for site in services.stores}


def contents(client: Any, documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """What reading documents gives."""
    return {
        document_id: client.get(f"/v1/documents/{document_id}/content").raise_for_status().content
        for document_id in documents
    }


def age_processes(services: Services) -> None:
    """As if all processes had been silent for long."""
    long_ago = func.now() - literal(timedelta(hours=1))
    services.database.as_service().execute(update(processes).values(alive_until=long_ago), {})


def agree(sites: TwoSites, wanted: Collection[UUID]) -> bool:
    """Whether both sites hold just these objects."""
    return all(site.objects() == set(wanted) for site in sites)

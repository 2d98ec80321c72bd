"""What is measured and what it stands on: PostgreSQL, an S3 gateway, the service, the floor app."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from api.embedded import DatabaseUrls, EmbeddedPostgres
from bench import floor
from bench.client import Client
from bench.s3 import Bucket
from migrations.run import upgrade
from tests.process import LOOPBACK_DEMO, ServeProcess
from tests.servers.require import built
from tests.servers.s3 import Versity
from vault.objects.keys import object_key

_numbers = itertools.count(1)


@dataclass(frozen=True)
class MeasuredService:
    """`strongroom serve` in a process of its own, and the backs of its database and its store.

    Attributes:
        owner: an engine with the owner's rights.
    """

    process: ServeProcess
    bucket: Bucket
    owner: Engine

    @property
    def pid(self) -> int:
        """Of the one process that serves; another one after a restart."""
        return self.process.process.pid

    def client(self, key: str | None = None) -> Client:
        """A connection, by default with the key of the application `demo`."""
        return Client(self.process.url, key or self.process.demo_key)

    def object_id_of(self, document_id: str) -> UUID:
        """Under which id the document's only version is stored."""
        query = text("SELECT object_id FROM versions WHERE document_id = :id")
        with self.owner.connect() as connection:
            found: UUID = connection.execute(query, {"id": document_id}).scalar_one()
        return found

    def remove_object_of(self, document_id: str) -> None:
        """Free the disk at once, behind the service's back; the document is lost."""
        key = object_key(self.object_id_of(document_id))
        self.bucket.client().remove_object(self.bucket.name, key)


@dataclass(frozen=True)
class World:
    """Servers that last for the whole run."""

    folder: Path
    postgres: EmbeddedPostgres
    s3: Versity

    def bucket(self, server: Versity | None = None) -> Bucket:
        """A new, empty bucket, at the gateway of all or at another one."""
        server, name = server or self.s3, f"bench-{next(_numbers)}"
        made = Bucket(server.endpoint, name, server.access_key, server.secret_key)
        made.client().make_bucket(name)
        return made

    def database(self) -> DatabaseUrls:
        """A new, migrated, empty database."""
        name = f"bench_{next(_numbers)}"
        template = make_url(self.postgres.urls.owner).database
        admin = create_engine(
            make_url(self.postgres.superuser_url).set(database="postgres"),
            isolation_level="AUTOCOMMIT",
        )
        with admin.connect() as connection:
            connection.execute(
                text(f"CREATE DATABASE {name} TEMPLATE {template} OWNER strongroom_owner")
            )
        admin.dispose()
        return _renamed(self.postgres.urls, name)

    @contextmanager
    def service(self, *, worker: bool = False, **settings: str) -> Iterator[MeasuredService]:
        """The service over S3, by default without the worker, which would copy beside the measurement."""
        database, bucket = self.database(), self.bucket()
        folder = self.folder / f"service-{next(_numbers)}"
        folder.mkdir(mode=0o700)
        environment = {**_environment(folder, database, bucket), **settings}
        options = LOOPBACK_DEMO if worker else (*LOOPBACK_DEMO, "--no-worker")
        owner = create_engine(database.owner)
        with ServeProcess(folder, options=options, environment=environment) as process:
            yield MeasuredService(process, bucket, owner)
        owner.dispose()

    @contextmanager
    def floor(self) -> Iterator[str]:
        """The floor app over a database and a bucket of its own; its URL."""
        database = self.database()
        owner = create_engine(database.owner)
        with owner.begin() as connection:
            connection.execute(text(floor.TABLE))
        owner.dispose()
        config = floor.FloorConfig(database.service, self.bucket())
        with subprocess.Popen(
            [sys.executable, "-m", "bench.floor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                yield _floor_url(process, config)
            finally:
                process.kill()


@contextmanager
def open_world() -> Iterator[World]:
    """Start the servers in a temporary folder, and remove all of it in the end."""
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-bench-") as name,
        EmbeddedPostgres(Path(name) / "postgres") as postgres,
        versity(Path(name) / "s3") as s3,
    ):
        upgrade(postgres.urls.owner)
        yield World(Path(name), postgres, s3)


@contextmanager
def versity(folder: Path) -> Iterator[Versity]:
    """A gateway over a new folder."""
    binary = built("versity")
    if binary is None:
        raise SystemExit("bench: there is no Versity S3 Gateway; `make servers` builds it")
    folder.mkdir()
    server = Versity(binary, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _environment(folder: Path, database: DatabaseUrls, bucket: Bucket) -> dict[str, str]:
    key_file = folder / "root.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    return {
        "STRONGROOM_DATABASE_URL": database.service,
        "STRONGROOM_DATABASE_STANDBY": "managed",
        "STRONGROOM_KMS__KEY_FILE": str(key_file),
        **site_environment("A", bucket),
    }


def site_environment(site: str, bucket: Bucket) -> dict[str, str]:
    """The settings of one site over S3."""
    prefix = f"STRONGROOM_SITES__{site}__"
    return {
        f"{prefix}KIND": "s3",
        f"{prefix}ENDPOINT": bucket.endpoint,
        f"{prefix}BUCKET": bucket.name,
        f"{prefix}ACCESS_KEY": bucket.access_key,
        f"{prefix}SECRET_KEY": bucket.secret_key,
        f"{prefix}TLS": "false",
    }


def _renamed(urls: DatabaseUrls, database: str) -> DatabaseUrls:
    return DatabaseUrls(
        **{
            role.name: make_url(getattr(urls, role.name))
            .set(database=database)
            .render_as_string(hide_password=False)
            for role in fields(urls)
        }
    )


def _floor_url(process: subprocess.Popen[str], config: floor.FloorConfig) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(config)))
    process.stdin.close()
    return process.stdout.readline().strip()

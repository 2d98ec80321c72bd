"""What most tests stand on: one real PostgreSQL per run, a database per test, and the real service."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from api.bootstrap import build
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.services import Services
from api.settings import (
    DatabaseStandby,
    KmsKind,
    KmsRole,
    KmsRoles,
    KmsSettings,
    Settings,
    Sites,
    SiteSettings,
)
from migrations.run import upgrade
from tests.running import RunningService, running
from tests.servers.kms import VaultServer

pytest_plugins = ["tests.servers.fixtures"]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The embedded PostgreSQL of this test run."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """A migrated database that every test's own is copied from."""
    upgrade(postgres.urls.owner)
    return str(make_url(postgres.urls.owner).database)


@pytest.fixture
def database_urls(postgres: EmbeddedPostgres, template: str) -> Iterator[DatabaseUrls]:
    """A fresh database, by role."""
    with fresh_database(postgres, template) as urls:
        yield urls


@contextmanager
def fresh_database(postgres: EmbeddedPostgres, template: str) -> Iterator[DatabaseUrls]:
    """A copy of the template for as long as the block runs, by role."""
    name = f"test_{next(_numbers)}"
    admin = create_engine(
        make_url(postgres.superuser_url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} TEMPLATE {template} OWNER strongroom_owner")
        )
    yield DatabaseUrls(
        **{
            role: make_url(getattr(postgres.urls, role))
            .set(database=name)
            .render_as_string(hide_password=False)
            for role in ("owner", "service", "sequencer")
        }
    )
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def owner(database_urls: DatabaseUrls) -> Iterator[Engine]:
    """The test's database with the owner's rights, which the service never has."""
    engine = create_engine(database_urls.owner)
    yield engine
    engine.dispose()


@pytest.fixture
def keyring(tmp_path: Path) -> KmsSettings:
    """A local keyring."""
    return local_keyring(tmp_path)


def local_keyring(home: Path) -> KmsSettings:
    """A local keyring with its key in a folder beside the vault's."""
    key_file = home / "elsewhere" / "root.key"
    key_file.parent.mkdir(mode=0o700)
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    return KmsSettings(key_file=key_file)


@pytest.fixture
def transit(tmp_path: Path, vault: VaultServer) -> KmsSettings:
    """Transit of a real Vault, by an AppRole with the service's policy."""
    role_id, secret_id = vault.role("service")
    secret_id_file = tmp_path / "secret-id"
    secret_id_file.touch(mode=0o600)
    secret_id_file.write_text(secret_id)
    return KmsSettings(
        kind=KmsKind.TRANSIT,
        address=vault.address,
        key_prefix=f"strongroom-{secrets.token_hex(6)}-",
        roles=KmsRoles(service=KmsRole(role_id=role_id, secret_id_file=secret_id_file)),
    )


@pytest.fixture(params=["keyring", "transit"])
def kms(request: pytest.FixtureRequest) -> KmsSettings:
    """Both kinds of KMS: what stands on the service is tested with either."""
    found: KmsSettings = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def settings(tmp_path: Path, database_urls: DatabaseUrls, kms: KmsSettings) -> Settings:
    """Two folders as two sites, an external database."""
    return Settings(
        home=tmp_path / "home",
        listen="127.0.0.1:0",
        database_url=SecretStr(database_urls.service),
        database_standby=DatabaseStandby.MANAGED,
        sites=Sites(
            a=SiteSettings(path=tmp_path / "site-a"), b=SiteSettings(path=tmp_path / "site-b")
        ),
        kms=kms,
    )


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The flows, without HTTP."""
    with build(settings) as built:
        yield built


@pytest.fixture
def service(services: Services) -> Iterator[RunningService]:
    """The real service on a free port; no worker, so that tests say when work is done."""
    with running(services) as served:
        yield served

"""What `doctor` says of two sites: who may write, what is held or parked, and locks no store can keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.bootstrap import build
from api.doctor import _examine_running
from api.embedded import DatabaseUrls
from api.services import Services
from api.settings import KmsSettings, Settings, SiteKind, Sites, SiteSettings
from tests.api.helpers import upload
from tests.api.test_sites import park, problem
from tests.running import RunningService, running
from tests.servers.s3 import S3Server


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture
def locking_services(
    tmp_path: Path, database_urls: DatabaseUrls, kms: KmsSettings, versity: S3Server
) -> Iterator[Services]:
    """Two buckets that can lock objects."""

    def bucket() -> SiteSettings:
        return SiteSettings(
            kind=SiteKind.S3,
            endpoint=versity.endpoint,
            bucket=f"test-{uuid4().hex[:12]}",
            access_key=SecretStr(versity.access_key),
            secret_key=SecretStr(versity.secret_key),
            tls=False,
            object_lock=True,
        )

    settings = Settings(
        home=tmp_path / "home",
        listen="127.0.0.1:0",
        database_url=SecretStr(database_urls.service),
        sites=Sites(a=bucket(), b=bucket()),
        kms=kms,
    )
    with build(settings) as services:
        yield services


def words(services: Services, about: str) -> str:
    """All that is said about one thing."""
    return "; ".join(each.words for each in _examine_running(services) if each.about == about)


def wrong(services: Services) -> set[str]:
    return {finding.about for finding in _examine_running(services) if not finding.ok}


def test_two_sites_that_are_well_are_well(services: Services) -> None:
    assert wrong(services) == set()
    assert "may write" in words(services, "site-a-epoch")
    assert words(services, "sweep") == "runs"
    assert words(services, "object-lock") == "no class asks for it"


def test_a_failover_is_seen_until_it_is_undone(service: RunningService) -> None:
    service.admin.post("/v1/sites/b/failover", json={"accepted": 0})
    assert wrong(service.services) == {"site-a", "sweep"}
    assert "site admit" in words(service.services, "site-a")
    assert "fenced" in words(service.services, "site-a-epoch")
    assert "confirm-sweep" in words(service.services, "sweep")
    service.admin.post("/v1/sites/a/admit")
    service.admin.post("/v1/sites/sweep/confirm")
    assert wrong(service.services) == set()


def test_parked_work_is_wrong(service: RunningService) -> None:
    upload(service.demo, b"hard to copy")
    park(service)
    assert wrong(service.services) == {"site-b-epoch"}
    assert "retry-parked" in words(service.services, "site-b-epoch")


def test_a_class_that_locks_on_stores_that_cannot_is_wrong(services: Services) -> None:
    """As after a site was moved to another store."""
    with services.database.as_service().transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO classes (name, media_types, max_size_bytes, durability, retention_days, "
                "bin_days, worm_days) VALUES ('worm', '{}', 1000, 'async', 0, 0, 3)"
            )
        )
    assert wrong(services) == {"object-lock"}
    assert "worm" in words(services, "object-lock")


def test_stores_that_lock_get_such_a_class(locking_services: Services) -> None:
    with running(locking_services) as service:
        refused = service.admin.post("/v1/classes", json={"name": "worm", "worm_days": 0})
        assert problem(refused) == (422, "invalid-input")
        added = service.admin.post("/v1/classes", json={"name": "worm", "worm_days": 1})
        assert (added.status_code, added.json()["worm_days"]) == (201, 1)
        assert "both sites lock" in words(locking_services, "object-lock")
        lock = upload(service.demo, b"kept", params={"class": "worm"})["version"]["locked_until"]
        assert lock is not None

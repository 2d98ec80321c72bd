"""Two sites, of either kind, and processes at both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from api.embedded import DatabaseUrls
from api.settings import DatabaseStandby, KmsSettings, Settings
from tests.flows.sites import TwoSites, two_sites
from tests.running import RunningService
from tests.servers.require import built, missing
from tests.servers.s3 import S3Server, Versity


@pytest.fixture(scope="session")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, S3Server]]:
    """Two Versity gateways, each with folders of its own, that tests may stop and look into."""
    binary = built("versity")
    if binary is None:
        missing("versity", "run `make servers` (needs Go): an image cannot be looked into")
    pair = {site: Versity(binary, tmp_path_factory.mktemp(f"gateway-{site}")) for site in "ab"}
    try:
        for server in pair.values():
            server.start()
        yield dict(pair)
    finally:
        for server in pair.values():
            server.stop()


@pytest.fixture
def sites_settings(tmp_path: Path, database_urls: DatabaseUrls, keyring: KmsSettings) -> Settings:
    """For both sites' processes; the KMS is not the point here, so it is a keyring."""
    return Settings(
        home=tmp_path / "home",
        listen="127.0.0.1:0",
        database_url=SecretStr(database_urls.service),
        database_standby=DatabaseStandby.MANAGED,
        kms=keyring,
    )


@pytest.fixture(params=["folders", "versity"])
def sites(
    request: pytest.FixtureRequest, tmp_path: Path, sites_settings: Settings
) -> Iterator[TwoSites]:
    """Two folders, or two S3 servers."""
    servers = request.getfixturevalue("gateways") if request.param == "versity" else {}
    with two_sites(sites_settings, tmp_path, servers) as pair:
        yield pair


@pytest.fixture
def at_a(sites: TwoSites) -> Iterator[RunningService]:
    """A process at site a, without a worker."""
    with sites.served("a") as service:
        yield service


@pytest.fixture
def at_b(sites: TwoSites, at_a: RunningService) -> Iterator[RunningService]:
    """A process at site b, on the same database."""
    with sites.served("b", of=at_a) as service:
        yield service

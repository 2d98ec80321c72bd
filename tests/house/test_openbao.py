"""docker-compose.openbao.yml: the guide's commands set up a KMS that the service then uses.

HashiCorp Vault's program stands in for OpenBao's: same configuration, same commands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import SecretStr

from api.bootstrap import build
from api.embedded import DatabaseUrls
from api.settings import KmsSettings, Settings, Sites, SiteSettings
from keymgmt.provider import Purpose
from tests.house.compose import ROOT, run_documented
from tests.process import wait_until
from tests.servers.require import built, missing
from tests.servers.s3 import free_port, killed_with_this_run

OVERLAY: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.openbao.yml").read_text())
OPENBAO: Final[dict[str, Any]] = OVERLAY["services"]["openbao"]
SEALED: Final = 2


class Kms:
    """The service `openbao` as a plain process, in a folder that stands for the checkout."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        programs = folder / "programs"
        programs.mkdir()
        (programs / "bao").symlink_to(program)
        (folder / "docs").symlink_to(ROOT / "docs")
        (folder / "secrets").mkdir()
        self.environment = {
            "PATH": f"{programs}:{os.defpath}",
            "HOME": str(folder),
            # Vault's names for what the compose file calls BAO_….
            "VAULT_ADDR": f"https://127.0.0.1:{self.port}",
            "VAULT_CACERT": str(folder / "secrets" / "kms-certificate"),
        }

    def start(self) -> None:
        """Up, and sealed."""
        config = self.folder / "openbao.hcl"
        config.write_text(self._translated((ROOT / "docs" / "kms" / "openbao.hcl").read_text()))
        (program,), arguments = OPENBAO["entrypoint"], OPENBAO["command"]
        given = [str(part).replace("/etc/openbao.hcl", str(config)) for part in arguments]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.folder / "programs" / program), *given],
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=killed_with_this_run(),  # noqa: PLW1509 (it takes no lock)
            )
        assert wait_until(lambda: self.health() == SEALED, 30), (self.folder / "log").read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)

    def health(self) -> int:
        """What the health check exits with."""
        kind, *command = OPENBAO["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(*command).returncode

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return subprocess.run(
            [str(self.folder / "programs" / program), *arguments],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def unseal(self, shares: list[str]) -> None:
        for share in shares:
            assert self.run("bao", "operator", "unseal", share).returncode == 0
        assert wait_until(lambda: self.health() == 0, 30)

    def _translated(self, config: str) -> str:
        for inside, here in {
            "/openbao/raft": str(self.folder / "stores" / "openbao"),
            "/run/secrets": str(self.folder / "secrets"),
            "0.0.0.0:8200": f"127.0.0.1:{self.port}",
            "0.0.0.0:8201": f"127.0.0.1:{free_port()}",
            "openbao:8200": f"127.0.0.1:{self.port}",
        }.items():
            assert inside in config, inside
            config = config.replace(inside, here)
        return config


@pytest.fixture
def kms(tmp_path: Path) -> Iterator[Kms]:
    """Started, and not initialised."""
    if shutil.which("openssl") is None:
        missing("openssl", "the documented commands use it")
    program = built("vault")
    if program is None:
        missing("vault", "run `make servers` (needs Go)")
    folder = tmp_path / "checkout"
    folder.mkdir()
    server = Kms(folder, Path(str(program)))
    run_documented("### OpenBao: certificate and folder", folder)
    server.start()
    yield server
    server.stop()


def test_the_guide_s_commands_set_up_a_kms_that_the_service_uses(
    kms: Kms, tmp_path: Path, database_urls: DatabaseUrls
) -> None:
    shares, token = _initialised(kms)
    kms.unseal(shares[:3])
    kms.environment["VAULT_TOKEN"] = token
    run_documented("### OpenBao: what Strongroom needs", kms.folder, kms.environment)
    assert kms.run("bao", "token", "lookup").returncode != 0, "the root token still lives"
    with build(_settings(kms, tmp_path, database_urls)) as services:
        assert services.keys.missing_permissions(list(Purpose)) == []
        made, wrapped = services.keys.generate_data_key(Purpose.DOCUMENTS, b"context")
        opened = services.keys.unwrap(Purpose.DOCUMENTS, b"context", wrapped)
        assert opened.reveal_to_keymgmt() == made.reveal_to_keymgmt()


def test_after_a_restart_it_is_sealed_until_three_shares_are_there(kms: Kms) -> None:
    shares, _ = _initialised(kms)
    kms.unseal(shares[:3])
    kms.stop()
    kms.start()
    for share in shares[3:]:
        kms.run("bao", "operator", "unseal", share)
    assert kms.health() == SEALED
    kms.unseal(shares[:1])


def test_the_service_is_hardened_as_the_others_are() -> None:
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+", OPENBAO["image"])
    assert OPENBAO["read_only"] is True
    assert OPENBAO["cap_drop"] == ["ALL"]
    assert OPENBAO["security_opt"] == ["no-new-privileges:true"]
    assert OPENBAO["user"] == "10003:10001"
    assert "ports" not in OPENBAO
    assert OVERLAY["networks"] == {"kms": {"internal": True}}


@pytest.mark.parametrize("name", ["api", "worker", "api-b", "worker-b"])
def test_api_and_worker_wait_for_it_and_speak_tls_to_it(name: str) -> None:
    service = OVERLAY["services"][name]
    assert service["depends_on"]["openbao"] == {"condition": "service_healthy"}
    environment = service["environment"]
    assert environment["STRONGROOM_KMS__ADDRESS"].startswith("https://openbao:")
    for setting in ("CA_FILE", "ROLES__SERVICE__SECRET_ID_FILE"):
        secret = environment[f"STRONGROOM_KMS__{setting}"].removeprefix("/run/secrets/")
        assert secret in service["secrets"]
        assert secret in OVERLAY["secrets"]


def _initialised(kms: Kms) -> tuple[list[str], str]:
    """The shares and the root token."""
    found = kms.run("bao", "operator", "init", "-key-shares=5", "-key-threshold=3", "-format=json")
    assert found.returncode == 0, found.stderr
    made = json.loads(found.stdout)
    return made["unseal_keys_b64"], made["root_token"]


def _settings(kms: Kms, tmp_path: Path, urls: DatabaseUrls) -> Settings:
    """What the overlay sets for `api`, with its host, port and files."""
    prefix = "STRONGROOM_KMS__"
    given = {
        name.removeprefix(prefix).lower(): str(value)
        .replace("openbao:8200", f"127.0.0.1:{kms.port}")
        .replace("/run/secrets", str(kms.folder / "secrets"))
        for name, value in OVERLAY["services"]["api"]["environment"].items()
    }
    role = {
        name.removeprefix("roles__service__"): given.pop(name)
        for name in list(given)
        if name.startswith("roles__service__")
    }
    return Settings(
        home=tmp_path / "home",
        database_url=SecretStr(urls.service),
        sites=Sites(a=SiteSettings(path=tmp_path / "a"), b=SiteSettings(path=tmp_path / "b")),
        kms=KmsSettings.model_validate({**given, "roles": {"service": role}}),
    )

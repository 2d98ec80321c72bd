"""docker-compose.yml is what the guide says, and the same commands serve when they run without Docker."""

from __future__ import annotations

import re
import shutil
import ssl
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DataError, OperationalError

from api.embedded_server import _SETTINGS as EMBEDDED_SETTINGS
from tests.api.helpers import upload
from tests.house.compose import (
    COMPOSE,
    DOCKERFILE,
    GUIDE,
    ROOT,
    SERVICES,
    Service,
    run_documented,
    secret_file,
)
from tests.house.stack import Stack
from tests.process import wait_until
from tests.servers.docker import VERSITY_IMAGE
from tests.servers.require import built, missing

COULD_NOT_RUN = 2
COPIED_WITHIN_SECONDS = 20

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


@every_service
def test_an_image_has_an_exact_version(service: Service) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+[\w.-]*", service.image)


@every_service
def test_a_service_is_an_ordinary_user_without_privileges(service: Service) -> None:
    assert service.uid > 0
    assert service.gid > 0
    assert service.spec["read_only"] is True
    assert service.spec["cap_drop"] == ["ALL"]
    assert service.spec["security_opt"] == ["no-new-privileges:true"]
    assert not service.spec.keys() & {"privileged", "cap_add", "devices", "pid", "network_mode"}


@every_service
def test_a_service_that_stays_has_a_health_check_and_is_started_again(service: Service) -> None:
    if service.runs_once:
        assert service.name == "migrate"
    else:
        assert service.health_check
        assert service.spec["restart"] == "unless-stopped"


@every_service
def test_a_secret_is_a_file_that_the_service_names(service: Service) -> None:
    for name, value in service.environment.items():
        if re.search(r"PASS|SECRET|TOKEN|KEY|URL", name) or "/run/secrets" in value:
            assert name.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in service.secrets
    assert set(service.secrets.values()) <= COMPOSE["secrets"].keys()


def test_no_secret_is_written_down_and_none_has_a_default() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret.keys() == {"file"}
        assert secret["file"].startswith("./secrets/")
    raw = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(?<!\$)\$(?!\$)", raw), "a value from outside, perhaps with a default"
    assert not re.search(r"://[^/\s@]+:[^/\s@]+@", raw), "a password in a URL"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored, "secrets would reach the build"


def test_only_the_api_is_reachable_from_outside() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service.spec} == {
        "api",
        "api-b",
    }
    outside = {name for name, given in COMPOSE["networks"].items() if not given}
    for name, service in SERVICES.items():
        assert set(service.spec["networks"]) & outside == (
            {"edge"} if name in ("api", "api-b") else set()
        )


@pytest.mark.parametrize("name", ["api", "worker"])
def test_site_b_runs_the_same_with_that_site_as_the_local_one(name: str) -> None:
    here, there = (SERVICES[each].spec for each in (name, f"{name}-b"))
    differing = {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
    assert differing == {"environment", "volumes", "profiles"} | (
        {"ports"} if name == "api" else set()
    )
    settings = SERVICES[f"{name}-b"].environment
    assert {**SERVICES[name].environment, "STRONGROOM_LOCAL_SITE": "b"} == settings
    assert SERVICES[name].environment["STRONGROOM_LOCAL_SITE"] == "a"


def test_only_postgres_and_migrate_see_the_owner() -> None:
    seen_by = {name for name, service in SERVICES.items() if "migrate-url" in service.secrets}
    assert seen_by == {"postgres", "migrate"}


def test_images_are_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SERVICES["api"].image == f"strongroom:{project['version']}"
    assert SERVICES["site-a"].image == VERSITY_IMAGE
    go_module = (ROOT / "tests" / "servers" / "versity" / "go.mod").read_text()
    assert f"versity/versitygw {VERSITY_IMAGE.partition(':')[2]}" in go_module


def test_postgres_keeps_values_out_of_its_log_as_the_embedded_one_does() -> None:
    flags = dict(flag[2:].split("=") for flag in SERVICES["postgres"].spec["command"][1:])
    logging = {
        name: value
        for name, value in EMBEDDED_SETTINGS.items()
        if name.startswith("log_") and name != "log_timezone"
    }
    assert logging.items() <= flags.items()


def test_the_image_is_pinned_hashed_and_ends_as_an_ordinary_user() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"python:3.11.17-slim-bookworm"}
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert f"USER {SERVICES['api'].spec['user']}" in final
    assert not re.search(r"apt-get|pip install|://|ADD ", final)


def test_the_documented_commands_make_every_secret_and_folder(tmp_path: Path) -> None:
    _needs_openssl()
    run_documented("### 1. Secrets", tmp_path)
    for name in COMPOSE["secrets"]:
        assert secret_file(tmp_path, name).stat().st_size > 0
    made = [path.read_bytes() for path in (tmp_path / "secrets").iterdir()]
    assert len(set(made)) == len(made) == len(COMPOSE["secrets"])
    with pytest.raises(subprocess.CalledProcessError):
        run_documented("### 1. Secrets", tmp_path)


@pytest.mark.skipif("os.geteuid() != 0", reason="chown needs root")
def test_after_the_documented_chown_each_service_can_read_its_secrets(tmp_path: Path) -> None:
    _needs_openssl()
    run_documented("### 1. Secrets", tmp_path)
    run_documented("### 2. Owners and folders", tmp_path)
    for service in SERVICES.values():
        for secret in service.secrets.values():
            assert _may_read(service, secret_file(tmp_path, secret)), (service.name, secret)
    root_key = secret_file(tmp_path, "root-key").stat()
    assert (stat.S_IMODE(root_key.st_mode), root_key.st_uid) == (0o400, SERVICES["api"].uid)
    for site in ("site-a", "site-b"):
        for folder in ("", "objects", "versions"):
            found = (tmp_path / SERVICES[site].mounts["/site"] / folder).stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, SERVICES[site].uid)


def test_compose_itself_accepts_the_file() -> None:
    compose = [shutil.which("docker") or "false", "compose"]
    if subprocess.run([*compose, "version"], check=False, capture_output=True).returncode:
        missing("compose", "there is no Docker Compose on this machine")
    subprocess.run([*compose, "config", "--quiet"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything up and healthy."""
    _needs_openssl()
    gateway = built("versity")
    if gateway is None:
        missing("versity", "run `make servers` (needs Go)")
    with Stack(tmp_path_factory.mktemp("compose"), Path(str(gateway))) as running:
        yield running


@pytest.fixture(scope="module")
def application_key(stack: Stack) -> str:
    """The key of an application that reads and writes."""
    principal = {"name": "ledger", "scopes": ["read", "write"], "department": "loans"}
    with _client(stack, _admin_key(stack)) as admin:
        made = admin.post("/v1/principals", json=principal).raise_for_status().json()
        issued = admin.post("/v1/api-keys", json={"principal_id": made["id"]})
    return str(issued.raise_for_status().json()["token"])


def test_postgres_is_the_version_that_is_tested(stack: Stack) -> None:
    version = stack.execute("postgres", "postgres", "--version").stdout.decode()
    assert SERVICES["postgres"].image.startswith(f"postgres:{version.split()[-1]}-")


def test_a_document_reaches_both_sites_and_survives_a_restart(
    stack: Stack, application_key: str
) -> None:
    content = bytes(range(256)) * 40_000
    with _client(stack, application_key) as application:
        document = f"/v1/documents/{upload(application, content)['id']}"
        assert application.get(f"{document}/content").content == content
        assert _becomes_durable(application, document)
    for site in ("site-a", "site-b"):
        stored = (stack.folder / "stores" / site / "objects").rglob("*")
        assert any(path.is_file() and path.stat().st_size > len(content) for path in stored)
    stack.stop("api")
    stack.start("api")
    with _client(stack, application_key) as application:
        assert application.get(f"{document}/content").content == content


def test_a_worker_that_stopped_is_not_healthy_and_its_successor_goes_on(
    stack: Stack, application_key: str
) -> None:
    stack.stop("worker")
    assert not stack.is_healthy("worker")
    with _client(stack, application_key) as application:
        document = f"/v1/documents/{upload(application, b'waits')['id']}"
        assert _durable_on(application, document) == ["a"]
        stack.start("worker")
        assert _becomes_durable(application, document)


def test_the_logins_act_as_their_roles_and_nobody_gets_in_without_a_password(stack: Stack) -> None:
    owner, service = stack.secret("migrate-url"), stack.secret("api-url")
    assert _ask(owner, "SELECT current_user") == "strongroom_owner"
    assert (
        _ask(
            owner,
            "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables "
            "WHERE schemaname = 'public'",
        )
        == "strongroom_owner"
    )
    assert _ask(service, "SELECT pg_has_role('strongroom_service', 'USAGE')") is True
    assert _ask(service, "SELECT pg_has_role('strongroom_owner', 'MEMBER')") is False
    assert _ask(stack.secret("sequencer-url"), "SELECT session_user") == "strongroom_log"
    assert _ask(service, "SHOW data_checksums") == "on"
    stranger = make_url(service).set(password="guessed").render_as_string(hide_password=False)
    with pytest.raises(OperationalError, match="authentication failed"):
        _ask(stranger, "SELECT 1")


def test_values_do_not_reach_the_log_of_postgres(stack: Stack) -> None:
    with pytest.raises(DataError, match="canary"):
        _ask(stack.secret("api-url"), "SELECT CAST('canary' AS integer)")
    log = stack.printed("postgres").read_text()
    assert "ready to accept connections" in log
    assert "canary" not in log


def test_the_documented_dump_is_made(stack: Stack) -> None:
    found = re.search(r"exec -T postgres sh -c \\\n\s+'(.+)' >", GUIDE)
    assert found
    dump = stack.execute("postgres", "sh", "-c", f"export PGHOST=127.0.0.1; {found[1]}")
    assert dump.stdout.startswith(b"PGDMP"), dump.stderr


def test_a_missing_secret_stops_the_start(stack: Stack, tmp_path: Path) -> None:
    ended = stack.run("migrate", STRONGROOM_DATABASE_OWNER_URL_FILE=str(tmp_path / "none"))
    assert ended.returncode == COULD_NOT_RUN
    assert "STRONGROOM_DATABASE_OWNER_URL_FILE cannot be read" in ended.stderr


def test_nothing_serves_before_the_tables_are_migrated(stack: Stack, tmp_path: Path) -> None:
    service_url = make_url(stack.secret("api-url")).set(database="postgres")
    url_file = tmp_path / "url"
    url_file.write_text(service_url.render_as_string(hide_password=False))
    ended = stack.run("worker", STRONGROOM_DATABASE_URL_FILE=str(url_file))
    assert ended.returncode == COULD_NOT_RUN
    assert "run `strongroom migrate`" in ended.stderr


def _needs_openssl() -> None:
    if shutil.which("openssl") is None:
        missing("openssl", "the documented commands use it")


def _admin_key(stack: Stack) -> str:
    """As the first start printed it."""
    found = re.search(r"^admin key: (\S+)$", stack.printed("api").read_text(), re.MULTILINE)
    assert found
    return found[1]


def _client(stack: Stack, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"https://localhost:{stack.port('api')}",
        headers={"Authorization": f"Bearer {key}"},
        verify=ssl.create_default_context(cafile=secret_file(stack.folder, "tls-certificate")),
        timeout=30,
        trust_env=False,
    )


def _durable_on(client: httpx.Client, document: str) -> list[str]:
    return sorted(client.get(document).raise_for_status().json()["version"]["durable_on"])


def _becomes_durable(client: httpx.Client, document: str) -> bool:
    return wait_until(lambda: _durable_on(client, document) == ["a", "b"], COPIED_WITHIN_SECONDS)


def _ask(url: str, question: str) -> Any:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.scalar(text(question))
    finally:
        engine.dispose()


def _may_read(service: Service, path: Path) -> bool:
    found = path.stat()
    if found.st_uid == service.uid:
        return bool(found.st_mode & stat.S_IRUSR)
    return found.st_gid == service.gid and bool(found.st_mode & stat.S_IRGRP)

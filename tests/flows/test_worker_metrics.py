"""A worker in a process of its own shows its metrics, the lag of copies among them."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api import metrics
from api.settings import KmsSettings, Settings
from api.worker import Worker
from tests.api.helpers import upload
from tests.process import CommandLine, wait_until
from tests.running import RunningService
from tests.servers.s3 import free_port

LAG = "strongroom_replication_lag_seconds_count"


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


def worker_of(settings: Settings, folder: Path, port: int) -> CommandLine:
    """The command `worker` on a served vault."""
    assert settings.database_url is not None
    environment = {
        "STRONGROOM_DATABASE_URL": settings.database_url.get_secret_value(),
        "STRONGROOM_KMS__KEY_FILE": str(settings.kms.key_file),
        "STRONGROOM_SITES__A__PATH": str(settings.sites.a.path),
        "STRONGROOM_SITES__B__PATH": str(settings.sites.b.path),
        "STRONGROOM_WORKER_METRICS_LISTEN": f"127.0.0.1:{port}",
    }
    return CommandLine(folder, settings.home, environment)


@contextmanager
def running_worker(command: CommandLine) -> Iterator[None]:
    """Stopped, and waited for, at the end."""
    log = command.folder / "worker.log"
    with (
        log.open("w") as output,
        command.popen("worker", stdout=output, stderr=output) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, log.read_text()


def test_a_worker_process_shows_lag_and_state(service: RunningService, tmp_path: Path) -> None:
    port = free_port()
    seen = ""

    def shows(pattern: str) -> bool:
        nonlocal seen
        try:
            seen = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        except httpx.ConnectError:
            return False
        return re.search(pattern, seen, re.MULTILINE) is not None

    for number in range(3):
        upload(service.demo, b"%d" % number)
    with running_worker(worker_of(service.services.settings, tmp_path, port)):
        assert wait_until(lambda: shows(rf'^{LAG}{{site="b"}} 3.0$'), 30), seen
        assert wait_until(lambda: shows(r'^strongroom_site_up{site="b"} 1.0$'), 30), seen
        assert 'strongroom_journal_backlog{operation="copy",reason="upload",site="b"}' in seen


def test_a_port_that_is_taken_stops_the_start(service: RunningService, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = worker_of(service.services.settings, tmp_path, taken.getsockname()[1])
        with command.popen("worker", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "STRONGROOM_WORKER_METRICS_LISTEN" in err


def test_the_worker_beside_the_api_counts_in_the_same_metrics(service: RunningService) -> None:
    def count() -> float:
        return metrics.REGISTRY.get_sample_value(LAG, {"site": "b"}) or 0

    before = count()
    worker = Worker(service.services)
    worker.start()
    try:
        upload(service.demo, b"counted")
        assert wait_until(lambda: count() == before + 1, 20)
    finally:
        worker.stop()

"""The same servers from their images, where a Docker daemon answers; never instead of the real recipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import PortWaitStrategy
from typing_extensions import override

from tests.servers.s3 import S3Server

VERSITY_IMAGE = "versity/versitygw:v1.8.0"


class VersityContainer(S3Server):
    """The gateway in a container. Its folders lie inside, so nothing can be damaged from behind."""

    name = "versity"

    def __init__(self) -> None:
        super().__init__(Path("/usr/local/bin/versitygw"), Path("/tmp"))
        self._container: DockerContainer | None = None

    @override
    def command(self) -> list[str]:
        return ["--port", ":7070", "posix", "/tmp"]

    @override
    def start(self) -> None:
        container = DockerContainer(VERSITY_IMAGE).with_command(self.command())
        container.with_env("ROOT_ACCESS_KEY", self.access_key)
        container.with_env("ROOT_SECRET_KEY", self.secret_key)
        container.with_bind_ports(7070, self.port)
        self._container = container.waiting_for(PortWaitStrategy(7070))
        self._container.start()

    @override
    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._container is not None:
            self._container.stop()


@contextmanager
def versity_in_docker() -> Iterator[S3Server | None]:
    """A gateway in a container; None where no daemon answers."""
    if not _daemon_answers():
        yield None
        return
    server = VersityContainer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _daemon_answers() -> bool:
    try:
        return bool(DockerClient().client.ping())
    except Exception:  # noqa: BLE001 (the client raises whatever its transport raises)
        return False

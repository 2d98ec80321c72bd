"""The services of docker-compose.yml as plain processes on this host.

Their commands, environments, health checks and order are the file's. Translated are host names and ports (to
127.0.0.1 and free ones), volumes (to folders below one), and /run/secrets (to the files that the guide's
commands make). A path below /run/secrets that the service does not name is an error here, as it is there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tests.house.compose import (
    ROOT,
    SERVICES,
    Service,
    entry_point,
    run_documented,
    secret_file,
    start_order,
)
from tests.house.postgres_image import STOP_SIGNAL, PostgresImage
from tests.process import wait_until
from tests.servers.s3 import free_port

HEALTHY_WITHIN_SECONDS = 60
STOPPED_WITHIN_SECONDS = 60
INIT_SCRIPTS = "/docker-entrypoint-initdb.d/"


class Stack:
    """All services. As a context manager: up, and never leaked."""

    def __init__(self, folder: Path, gateway: Path) -> None:
        """Makes secrets and folders; starts nothing yet.

        Args:
            folder: stands for the checkout; empty.
            gateway: the binary of the gateway's image.
        """
        self.folder = folder
        self._ports = {service.name: free_port() for service in SERVICES.values() if service.port}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._resources = ExitStack()
        (folder / "programs").mkdir()
        (folder / "programs" / "versitygw").symlink_to(gateway)
        run_documented("### 1. Secrets", folder)
        for site in ("site-a", "site-b"):
            for part in ("objects", "versions"):
                (folder / "stores" / site / part).mkdir(parents=True)
        for url in (folder / "secrets").glob("*-url"):
            url.write_text(self._with_hosts(url.read_text()))

    def __enter__(self) -> Self:
        try:
            for service in start_order():
                self.start(service.name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what runs, last started first; one that does not stop keeps none from being stopped."""
        with self._resources:
            for name in self._processes:
                self._resources.callback(self.stop, name)

    def start(self, name: str) -> None:
        """Run to its end, or start and wait until healthy, which it was not before."""
        service = SERVICES[name]
        if service.runs_once:
            ended = self.run(name)
            assert ended.returncode == 0, ended.stderr
            return
        assert not self.is_healthy(name), f"{name} is healthy without running"
        with self.printed(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                self._command(service), stdout=output, stderr=output, **self._options(service)
            )
        process = self._processes[name]
        wait_until(
            lambda: process.poll() is not None or self.is_healthy(name), HEALTHY_WITHIN_SECONDS
        )
        assert self.is_healthy(name), self.printed(name).read_text()

    def stop(self, name: str) -> None:
        """As `docker compose stop` does: the image's signal, then a wait, then the end."""
        process = self._processes.pop(name)
        process.send_signal(STOP_SIGNAL if name == "postgres" else signal.SIGTERM)
        try:
            process.wait(STOPPED_WITHIN_SECONDS)
        finally:
            process.kill()
            process.wait()

    def run(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a service's command to its end, with changes to its environment."""
        service = SERVICES[name]
        options = self._options(service)
        options["env"] |= environment
        return subprocess.run(
            self._command(service),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[bytes]:
        """As `docker compose exec`: another command in a service's environment."""
        service = SERVICES[name]
        return subprocess.run(
            [self._translated(part, service) for part in command],
            check=False,
            capture_output=True,
            timeout=30,
            env=self._environment(service),
        )

    def is_healthy(self, name: str) -> bool:
        """What the health check says."""
        return self.execute(name, *SERVICES[name].health_check).returncode == 0

    def printed(self, name: str) -> Path:
        """Everything a service has written to its output."""
        return self.folder / f"{name}.log"

    def port(self, name: str) -> int:
        """Where a service listens on 127.0.0.1."""
        return self._ports[name]

    def secret(self, name: str) -> str:
        """A secret that is text."""
        return secret_file(self.folder, name).read_text().strip()

    @cached_property
    def _postgres(self) -> PostgresImage:
        service = SERVICES["postgres"]
        scripts = sorted(target for target in service.mounts if target.startswith(INIT_SCRIPTS))
        # Below /tmp itself: another account must reach it, and a socket's path is at most 107 bytes.
        folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))
        return PostgresImage(
            Path(folder),
            self.port("postgres"),
            self._translated_environment(service),
            [ROOT / service.mounts[script] for script in scripts],
        )

    def _command(self, service: Service) -> list[str]:
        given = [self._translated(part, service) for part in service.command]
        if service.name == "postgres":
            return self._postgres.entry(given)
        program, *arguments = entry_point(service)
        found = shutil.which(program, path=self._environment(service)["PATH"])
        assert found, f"{program} of {service.name} is not here"
        return [found, *arguments, *given]

    def _options(self, service: Service) -> dict[str, Any]:
        return {
            "cwd": "/",
            "env": self._environment(service),
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
            **(self._postgres.options if service.name == "postgres" else {}),
        }

    def _environment(self, service: Service) -> dict[str, str]:
        programs = [
            *(self.folder / "programs", Path(sys.executable).parent, self._postgres.binaries),
            *(os.defpath,),
        ]
        return {
            "PATH": os.pathsep.join(map(str, programs)),
            "HOME": "/nonexistent",
            "PGPORT": str(self.port("postgres")),
            **self._translated_environment(service),
        }

    def _translated_environment(self, service: Service) -> Mapping[str, str]:
        return {
            name: self._translated(value, service) for name, value in service.environment.items()
        }

    def _translated(self, given: str, service: Service) -> str:
        text = self._with_hosts(given.replace("$$", "$"))
        if service.port:
            text = text.replace(f":{service.port}", f":{self._ports[service.name]}")
        for target, source in service.mounts.items():
            text = text.replace(target, str(self.folder / source))
        return re.sub(
            r"/run/secrets/([\w-]+)",
            lambda found: str(secret_file(self.folder, service.secrets[found[1]])),
            text,
        )

    def _with_hosts(self, text: str) -> str:
        for name, port in self._ports.items():
            text = text.replace(f"{name}:{SERVICES[name].port}", f"127.0.0.1:{port}")
        return text

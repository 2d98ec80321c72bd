"""S3 servers as tests see them: started, stopped, killed, paused, and looked at from behind."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from typing_extensions import override

from vault.objects.s3 import S3Store


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def killed_with_this_run() -> Callable[[], None]:
    """A server must not outlive a run that is itself killed: PR_SET_PDEATHSIG, prctl(2)."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork no lock may be taken
    return lambda: prctl(1, int(signal.SIGKILL), 0, 0, 0)


class S3Server(ABC):
    """One S3 server process on loopback; the same port, folders and credentials at each start."""

    name: str

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.access_key = "test" + secrets.token_hex(6)
        self.secret_key = secrets.token_hex(16)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """What is run."""

    def environment(self) -> Mapping[str, str]:
        """What is added to an otherwise empty environment."""
        return {}

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        self._process = subprocess.Popen(
            self.command(),
            env={"PATH": os.defpath, "HOME": str(self.folder), **self.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=killed_with_this_run(),  # noqa: PLW1509 (it takes no lock)
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(200):
            assert process.poll() is None, f"{self.name} ended at once"
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not start")

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it; by default as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(20)

    def pause(self) -> None:
        """Hang: connections stand, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Until the last of its threads stands, one could still answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """End the hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def store(self, site: str = "a", bucket: str | None = None, **options: Any) -> S3Store:
        """Our adapter on a bucket of its own, prepared."""
        store = self.unprepared_store(site, bucket, **options)
        store.prepare()
        return store

    def unprepared_store(self, site: str, bucket: str | None, **options: Any) -> S3Store:
        """Our adapter, before it asked anything."""
        return S3Store(
            site,
            endpoint=self.endpoint,
            bucket=bucket or f"test-{uuid4().hex[:12]}",
            **{
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "tls": False,
                **options,
            },
        )


class Versity(S3Server):
    """The Versity S3 Gateway over a folder: versions, locks, conditional writes, real 206."""

    name = "versity"

    @override
    def command(self) -> list[str]:
        objects, versions = self.folder / "objects", self.folder / "versions"
        for folder in (objects, versions):
            folder.mkdir(exist_ok=True)
        return [
            *(str(self.binary), "--port", self.endpoint, "--keep-alive", "--quiet"),
            *("posix", "--versioning-dir", str(versions), str(objects)),
        ]

    @override
    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}


class Rclone(S3Server):
    """`rclone serve s3`: the least an S3 may offer."""

    name = "rclone"

    @override
    def command(self) -> list[str]:
        (self.folder / "objects").mkdir(exist_ok=True)
        return [
            *(str(self.binary), "serve", "s3", "--addr", self.endpoint),
            *("--auth-key", f"{self.access_key},{self.secret_key}", "--config", "/dev/null"),
            str(self.folder / "objects"),
        ]

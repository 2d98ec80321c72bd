"""The launcher of real servers leaves none behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from tests.process import wait_until
from tests.servers.s3 import S3Server


class Sleeper(S3Server):
    """A server that never takes a connection."""

    name = "sleeper"

    @override
    def command(self) -> list[str]:
        return [str(self.binary), "600"]


STARTER = """
import sys, time
from pathlib import Path
from tests.unit.test_servers import Sleeper
server = Sleeper(Path("/bin/sleep"), Path("/"))
server._wait_until_ready = lambda process: print(process.pid, flush=True)
server.start()
time.sleep(600)
"""


def test_a_server_does_not_outlive_a_run_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        run.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_a_server_that_does_not_start_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Sleeper(Path("/bin/sleep"), tmp_path)
    started: list[subprocess.Popen[bytes]] = []

    def refuse(process: subprocess.Popen[bytes]) -> None:
        started.append(process)
        raise AssertionError("sleeper did not start")

    monkeypatch.setattr(server, "_wait_until_ready", refuse)
    with pytest.raises(AssertionError):
        server.start()
    assert started[0].poll() is not None

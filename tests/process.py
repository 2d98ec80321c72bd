"""`strongroom` as a process of its own, for tests that stop it, kill it and look at what it left.

Its environment is made from nothing, so that no setting of the machine leaks in. Linux only: `/proc`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import IO, Final, Self

import httpx

READY_WITHIN_SECONDS: Final = 60
ENDED_WITHIN_SECONDS: Final = 45
"""More than the grace that running requests are given at a stop."""

PROGRAM: Final = "from api.cli import main; main()"

LOOPBACK_DEMO: Final = ("--listen", "127.0.0.1:0", "--demo")

_URL: Final = re.compile(r"^Strongroom serves (\S+) ", re.MULTILINE)


class DidNotStart(Exception):
    """The process ended, or was not ready in time; the message holds what it printed."""


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Ask every 5 ms whether it `holds`; False if it never did."""
    until = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.005)
    return held


@dataclass(frozen=True)
class LinuxProcess:
    """A process by pid and start time, which no other process shares."""

    pid: int
    started_ticks: int
    name: str

    @property
    def lives(self) -> bool:
        """Whether it still runs; one that only waits to be reaped does not."""
        return any(process == self for process, _ in _processes())

    def kill(self) -> None:
        """SIGKILL it, if it is still this process."""
        if self.lives:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def descendants(pid: int) -> list[LinuxProcess]:
    """Processes that `pid` started, and those that these started."""
    parents = dict(_processes())
    found = [process for process, parent in parents.items() if parent == pid]
    for ancestor in found:
        found += [process for process, parent in parents.items() if parent == ancestor.pid]
    return found


@dataclass(frozen=True)
class Account:
    """Whom a process runs as, and an interpreter and modules that this account can reach."""

    uid: int
    gid: int
    interpreter: str
    import_path: str


@dataclass(frozen=True)
class CommandLine:
    """`strongroom` with one home.

    Attributes:
        folder: what all of it lies in; `folder`/user is $HOME, where the root key goes.
        program: Python code that runs the command line.
    """

    folder: Path
    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    program: str = PROGRAM

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.popen(
            command, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                out, err = process.communicate(timeout=READY_WITHIN_SECONDS)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def popen(
        self, command: str, *options: str, stdout: IO[str] | int, stderr: IO[str] | int
    ) -> subprocess.Popen[str]:
        """Start a command."""
        account = self.account
        return subprocess.Popen(
            [
                account.interpreter if account else sys.executable,
                *("-c", self.program, command, "--home", str(self.home), *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            cwd=self.folder,
            env=self._environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder / "user"),
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            **({"PYTHONPATH": self.account.import_path} if self.account else {}),
            **self.environment,
        }


class ServeProcess:
    """`serve` on one home, time and again. As a context manager: started, and never leaked.

    Attributes:
        url: of the latest start.
        admin_key, demo_key: as the start that made them printed them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        options: tuple[str, ...] = LOOPBACK_DEMO,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        program: str = PROGRAM,
        verify: SSLContext | bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            folder: where home, $HOME and output lie; it exists.
            verify: how the certificate of a start with TLS is checked.
        """
        self.folder = folder
        self.home = home or folder / "home"
        self.command_line = CommandLine(
            folder, self.home, environment or {}, account=account, program=program
        )
        self.url = self.admin_key = self.demo_key = ""
        self._options = options
        self._verify = verify
        self._starts = 0
        self._process: subprocess.Popen[str] | None = None
        self._descendants: list[LinuxProcess] = []

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and everything it started, at once, and remove the folder of its socket."""
        for process in self.kill():
            process.kill()
        with suppress(FileNotFoundError):
            shutil.rmtree((self.home / "postgres" / "run").readlink(), ignore_errors=True)

    def start(self) -> Self:
        """Start, and return once it serves. Raises: DidNotStart."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start, and return at once."""
        self._starts += 1
        with self._printed("stdout").open("w") as out, self._printed("stderr").open("w") as err:
            self._process = self.command_line.popen("serve", *self._options, stdout=out, stderr=err)

    def wait_until_ready(self) -> None:
        """Return once it answers; URL and keys are known then. Raises: DidNotStart."""
        ended = wait_until(lambda: self._is_ready() or self.has_ended, READY_WITHIN_SECONDS)
        if not ended or self.has_ended:
            raise DidNotStart(self.output("stdout") + self.output("stderr"))
        self._read_keys()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; returns the exit code, negative for the signal that ended it."""
        self._note_descendants()
        self.process.send_signal(number)
        return self.process.wait(ENDED_WITHIN_SECONDS)

    def kill(self) -> list[LinuxProcess]:
        """SIGKILL it, and it alone; returns what it had started."""
        self._note_descendants()
        if self._process is not None and not self.has_ended:
            self._process.kill()
            self._process.wait(ENDED_WITHIN_SECONDS)
            self._read_keys()
        return self._descendants

    def restart(self) -> Self:
        """Stop, and serve the same home again."""
        self.stop()
        return self.start()

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with `key`, by default the demo application's."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key or self.demo_key}"},
            timeout=60,
            trust_env=False,
            verify=self._verify,
        )

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process of the latest start."""
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def has_ended(self) -> bool:
        """Whether the latest start is over."""
        return self.process.poll() is not None

    @property
    def root_key_file(self) -> Path:
        """The one root key below $HOME."""
        (found,) = (self.folder / "user").rglob("root.key")
        return found

    def postmaster(self) -> LinuxProcess:
        """The embedded PostgreSQL's first process."""
        return next(p for p in descendants(self.process.pid) if p.name == "postgres")

    def output(self, stream: str) -> str:
        """What the latest start has printed to `stdout` or `stderr`."""
        return self._printed(stream).read_text(encoding="utf-8")

    def _printed(self, stream: str) -> Path:
        return self.folder / f"start-{self._starts}.{stream}"

    def _read_keys(self) -> None:
        self.admin_key = self._key("admin key") or self.admin_key
        self.demo_key = self._key("api key") or self.demo_key

    def _key(self, label: str) -> str | None:
        found = re.search(rf"^{label}: (\S+)$", self.output("stdout"), re.MULTILINE)
        return found and found[1]

    def _is_ready(self) -> bool:
        # The keys are printed before the first request can be answered.
        found = _URL.search(self.output("stdout"))
        if found is None:
            return False
        self.url = found[1]
        with suppress(httpx.TransportError), self.client("none") as client:
            return client.get("/healthz").is_success
        return False

    def _note_descendants(self) -> None:
        if self._process is not None and not self.has_ended:
            self._descendants += descendants(self._process.pid)


def _processes() -> Iterator[tuple[LinuxProcess, int]]:
    """Every process that is not a zombie, with its parent's pid (proc_pid_stat(5))."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            start, _, rest = (folder / "stat").read_text().rpartition(")")
            state, parent, *more = rest.split()
            if state not in ("Z", "X"):
                name = start.partition("(")[2]
                yield LinuxProcess(int(folder.name), int(more[17]), name), int(parent)

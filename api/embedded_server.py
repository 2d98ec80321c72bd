"""Starting the embedded PostgreSQL server, waiting until it is ready, and stopping it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from api.embedded_child import EmbeddedDatabaseError, handed_over, path_of, start
from api.embedded_cluster import Toolbox

PORT: Final = "5432"
"""Names the socket only: nothing listens on the network."""

_SETTINGS: Final = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements hold bound values (psycopg2 puts them in), and so do messages about statements: those
    # go to the client only. `log` ranks above `error`; the server's own affairs are still written.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",  # else a crashed process's statement is written as a detail
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
"""Given on the command line, where they win over postgresql.conf and ALTER SYSTEM."""

_START_PATIENCE: Final = timedelta(minutes=5)
"""After a power cut up to 1 GB of log is replayed first (max_wal_size)."""

_STOP_PATIENCE: Final = timedelta(seconds=60)
_ABORT_PATIENCE: Final = timedelta(seconds=10)
_POLL: Final = timedelta(milliseconds=10)

_STATUS_LINE: Final = 7
"""Of postmaster.pid, counted from 0 (LOCK_FILE_LINE_PM_STATUS in PostgreSQL's pidfile.h)."""


@contextmanager
def running_server(
    data: Path, socket_folder: Path, tools: Toolbox
) -> Iterator[subprocess.Popen[bytes]]:
    """A server on the cluster `data`, ready for connections; shut down and reaped afterwards.

    The caller holds the lock in `tools`, so that no other server can be alive on `data`.

    Raises:
        EmbeddedDatabaseError: it ended, or was not ready in time.
        OSError, subprocess.SubprocessError: it cannot be started.
    """
    pid_file = data / "postmaster.pid"
    # Left by a server that was killed; its number may be some other process's by now.
    pid_file.unlink(missing_ok=True)
    process = _start(data, socket_folder, tools)
    try:
        _await_ready(process, pid_file)
        yield process
    finally:
        _stop(process)


def _start(data: Path, socket_folder: Path, tools: Toolbox) -> subprocess.Popen[bytes]:
    with handed_over(data) as cluster, handed_over(socket_folder) as socket:
        settings = {**_SETTINGS, "unix_socket_directories": path_of(socket)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return start(
            [tools.binaries / "postgres", "-D", path_of(cluster), *options],
            tools.account,
            log=tools.log,
            pass_fds=(cluster, socket, tools.lock),
        )


def _await_ready(process: subprocess.Popen[bytes], pid_file: Path) -> None:
    deadline = time.monotonic() + _START_PATIENCE.total_seconds()
    while not _is_ready(pid_file):
        if process.poll() is not None:
            raise EmbeddedDatabaseError("the embedded PostgreSQL ended while starting")
        if time.monotonic() > deadline:
            raise EmbeddedDatabaseError(
                f"the embedded PostgreSQL was not ready after {_START_PATIENCE} (h:mm:ss)"
            )
        time.sleep(_POLL.total_seconds())


def _is_ready(pid_file: Path) -> bool:
    """What pg_ctl looks at: the server's own word, without a connection."""
    try:
        lines = pid_file.read_bytes().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == b"ready"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; when that takes too long an immediate one, which costs a recovery but no data."""
    for number, patience in (
        (signal.SIGINT, _STOP_PATIENCE),
        (signal.SIGQUIT, _ABORT_PATIENCE),
        (signal.SIGKILL, _ABORT_PATIENCE),
    ):
        process.send_signal(number)
        try:
            process.wait(patience.total_seconds())
        except subprocess.TimeoutExpired:
            continue
        return

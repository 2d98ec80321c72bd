"""A process that runs the embedded PostgreSQL, for tests that kill it or run it as somebody else.

``python -m tests.flows.embedded_launcher HOME [UID WHEEL]`` prints one line of JSON when the server is
ready, and stops it when its standard input ends. It ignores Ctrl-C. With UID, it becomes that ordinary
user first and takes the programs from the folder WHEEL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.resources import files
from pathlib import Path

from api.embedded import EmbeddedPostgres


def become(uid: int, wheel: str) -> None:
    """Give root up for good. Python may lie out of the user's reach, so what it loads late comes first."""
    files("migrations").joinpath("roles.sql").read_bytes()
    sys.path.insert(0, wheel)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def serve(home: Path) -> None:
    """Run the server until standard input ends."""
    with EmbeddedPostgres(home) as postgres:
        started = {"owner_url": postgres.urls.owner, "socket_folder": str(postgres.socket_folder)}
        print(json.dumps(started), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    if len(sys.argv) > 2:
        become(int(sys.argv[2]), sys.argv[3])
    serve(Path(sys.argv[1]))

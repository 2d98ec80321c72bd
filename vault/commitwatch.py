"""Waiting for a commit: not for ever, and never taking a cancelled wait for an acknowledgement.

With a synchronous standby a commit returns when the standby has it. Cut off from its standby, PostgreSQL
waits without end: neither `statement_timeout` nor `transaction_timeout` counts there (seen with 18). And when
that wait is cancelled, the commit *succeeds* (it is on this server's disk and visible), and a warning is all
that tells that it is at no standby.

So one thread watches the commits of a `Database`. An overdue one is cancelled by SQL over a connection of its
own, and only if its backend says that it waits for a standby: a statement that merely takes long goes on. If
the server does not even answer that, the overdue connections are cut. `connection.cancel()` would not do: it
keeps all threads of the process waiting for a server that hangs.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import Any, Final

import psycopg2

from vault.errors import NotReplicated

ANSWER_SECONDS: Final = 5.0
"""For the server to carry out a cancellation, before it counts as hung."""

_CONNECT_SECONDS: Final = 3

_CANCEL: Final = """
    SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE pid = ANY(%s) AND wait_event = 'SyncRep'"""
"""A role sees what its own sessions wait for, and may cancel them."""

_ENGLISH: Final = ("WARNING:", "NOTICE:", "INFO:", "LOG:", "DEBUG:")

_log = logging.getLogger(__name__)


class Notices:
    """What the server says beside its answers, listened to for one thing.

    The driver appends to it. It is no list, since SQLAlchemy would empty a list after each statement.

    Attributes:
        cancelled: a wait for the standby was cancelled since this was last set to False.
    """

    def __init__(self) -> None:
        self.cancelled = False

    def append(self, notice: str) -> None:
        """Take one. In another language than English (lc_messages) all sound alike, so each counts."""
        is_english = notice.startswith(_ENGLISH)
        if not is_english or "synchronous replication" in notice:
            self.cancelled = True


def listen(connection: Any, *_: object) -> None:
    """Hear what the server says on a new connection of the driver's; it must tell warnings."""
    connection.notices = Notices()


class CommitWatch:
    """Watches commits; its thread starts with the first one. Safe for threads."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is what a commit may take; it is found overdue up to a tenth later."""
        self._seconds = seconds
        self._since: dict[Any, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @contextmanager
    def over(self, connection: Any) -> Iterator[None]:
        """Watch the block, which commits on the driver's `connection`, one that `listen` was called with.

        Raises:
            NotReplicated: the wait for the standby was cancelled, by this watch or by somebody else.
        """
        heard: Notices = connection.notices
        heard.cancelled = False
        with self._lock:
            self._since[connection] = monotonic()
            if self._thread is None:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                del self._since[connection]
        if heard.cancelled:
            raise NotReplicated

    def stop(self) -> None:
        """End the thread; the next commit starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, args=(self._stopping,), name="commit-watch", daemon=True
        )
        self._thread.start()

    def _watch(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._seconds / 10):
            try:
                self._look()
            except Exception:  # noqa: BLE001 (without this thread commits would wait for ever)
                _log.exception("a look at overdue commits failed")

    def _look(self) -> None:
        """Have overdue waits cancelled, and connections of servers that do not answer cut."""
        servers: dict[tuple[str, int], dict[Any, float]] = defaultdict(dict)
        for connection, since in self._overdue().items():
            with suppress(psycopg2.Error):  # closed at this moment: no longer overdue
                servers[connection.info.host, connection.info.port][connection] = since
        for overdue in servers.values():
            if not _cancelled(list(overdue)):
                self._cut(overdue)

    def _overdue(self) -> dict[Any, float]:
        limit = monotonic() - self._seconds
        with self._lock:
            return {of: since for of, since in self._since.items() if since < limit}

    def _cut(self, overdue: dict[Any, float]) -> None:
        """Wake up who waits on these connections; whether they were committed is not known."""
        _log.error("PostgreSQL does not answer: %d overdue connections are cut", len(overdue))
        # Under the lock nobody leaves `over`, so a descriptor cannot be closed and be another's by now.
        with self._lock:
            for connection, since in overdue.items():
                if self._since.get(connection) == since:
                    with suppress(psycopg2.Error, OSError):
                        _shut_down(connection.fileno())


def _cancelled(connections: Sequence[Any]) -> bool:
    """Have one server cancel what waits for its standby; False if it does not answer."""
    answered = threading.Event()
    pids = [connection.info.backend_pid for connection in connections]
    parameters = _same_server(connections[0])

    def ask() -> None:
        with suppress(psycopg2.Error), closing(psycopg2.connect(**parameters)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(_CANCEL, (pids,))
                cancelled = cursor.rowcount
            answered.set()
            if cancelled:
                _log.error(
                    "no standby has confirmed %d commits; they are not acknowledged", cancelled
                )

    # On a thread of its own: what hangs here must not keep the watch from cutting.
    threading.Thread(target=ask, name="commit-cancel", daemon=True).start()
    return answered.wait(ANSWER_SECONDS)


def _same_server(connection: Any) -> dict[str, Any]:
    """Of several hosts in a URL the one that `connection` is to, whatever it is by now."""
    info = connection.info
    return {
        **info.dsn_parameters,
        "password": info.password,
        "host": info.host,
        "port": info.port,
        "target_session_attrs": "any",
        "connect_timeout": _CONNECT_SECONDS,
    }


def _shut_down(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as of_the_connection:
        of_the_connection.shutdown(socket.SHUT_RDWR)

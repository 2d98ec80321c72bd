"""Upload rows: how an object that nobody owns yet is told from one that nobody will ever own.

An object is stored before its version row exists. Until then an *upload row* stands for it; the commit
of the version deletes the row, and a sweep may take it only by changing its state, so exactly one of the
two happens. Rows belong to a *process*, which renews one heartbeat for all of them: a slow upload is safe
as long as its process lives, however long it takes.

Rows are reserved in batches, so that an upload costs no commit of its own before its first byte.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import case, delete, func, insert, literal, update
from sqlalchemy.dialects.postgresql import insert as upsert

from vault.database import NOT_AT_STANDBY, SharedDatabase
from vault.errors import NotReplicated, VaultError
from vault.tables import processes, uploads

HEARTBEAT_EVERY: Final = timedelta(seconds=10)
DEAD_AFTER: Final = timedelta(minutes=5)
"""Silence after which a process is taken for dead. Longer than any pause a live one survives."""

BATCH: Final = 64

_log = logging.getLogger(__name__)


class UploadRows:
    """This process's upload rows. Start it before use; safe for threads."""

    def __init__(self, database: SharedDatabase, site: str) -> None:
        self._database = database
        self._site = site
        self._reserved: deque[UUID] = deque()
        self._given_up: deque[UUID] = deque()
        self._reserving = threading.Lock()
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="upload-heartbeat", daemon=True)
        self.process_id = uuid4()

    def start(self, *, alone: bool = False) -> None:
        """Register this process and keep its heartbeat going.

        Args:
            alone: no other process can be at work on this database; whatever is registered is dead.

        Raises:
            DatabaseUnavailable.
        """
        if alone:
            self._database.execute(update(processes).values(alive_until=func.now()), {})
        self._renew()
        self._heart.start()

    def stop(self) -> None:
        """Give back what was reserved and not used; what is still open is left to the sweep."""
        self._stopping.set()
        self._heart.join()
        try:
            self._abandon_again()
            self._give_back_unused()
        except VaultError:
            _log.warning("upload rows of this process are left to the sweep")

    def take(self) -> UUID:
        """A fresh object id whose upload row is committed. Raises: DatabaseUnavailable, NotReplicated."""
        while True:
            try:
                return self._reserved.popleft()
            except IndexError:
                self._reserve_batch()

    def put_back(self, object_id: UUID) -> None:
        """Return an id that was taken and under which nothing was stored."""
        self._reserved.append(object_id)

    def abandon(self, object_id: UUID) -> bool:
        """Give up an upload; True if its object is now nobody's and may be deleted.

        False when the version was committed after all (a commit whose answer was lost, or that no standby
        confirmed), or when the database cannot say. It waits for no standby; so all of it is asked again
        after the next heartbeat, which does: the row may still be open at a standby that took over, and an
        Idempotency-Key of the upload would look in use there.
        """
        self._given_up.append(object_id)
        try:
            with self._database.transaction() as connection:
                connection.execute(NOT_AT_STANDBY)
                rows = connection.execute(_ABANDON.where(uploads.c.object_id == object_id)).all()
        except VaultError:
            return False
        return bool(rows)

    def forget(self, object_id: UUID) -> None:
        """Delete the row of an abandoned upload whose object is gone. Raises: VaultError."""
        self._database.execute(delete(uploads).where(uploads.c.object_id == object_id), {})

    def _reserve_batch(self) -> None:
        with self._reserving:
            if self._reserved:
                return
            ids = [uuid4() for _ in range(BATCH)]
            rows = [
                {"object_id": i, "process_id": self.process_id, "site": self._site, "state": "open"}
                for i in ids
            ]
            try:
                self._database.execute(insert(uploads).values(rows), {})
            except NotReplicated:
                # They are there, and those who queue here must not wait again, one after the other. Should
                # the standby take over without them, their uploads are told so at the commit.
                self._reserved.extend(ids)
                raise
            self._reserved.extend(ids)

    def _beat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_EVERY.total_seconds()):
            try:
                self._renew()
                self._abandon_again()
            except VaultError:
                _log.warning("heartbeat missed: the database is away")

    def _renew(self) -> None:
        alive_until = func.now() + literal(DEAD_AFTER)
        statement = upsert(processes).values(id=self.process_id, alive_until=alive_until)
        self._database.execute(
            statement.on_conflict_do_update(
                index_elements=[processes.c.id], set_={"alive_until": alive_until}
            ),
            {},
        )

    def _abandon_again(self) -> None:
        ids = [self._given_up.popleft() for _ in range(len(self._given_up))]
        try:
            self._database.execute(_ABANDON.where(uploads.c.object_id.in_(ids)), {})
        except VaultError:
            self._given_up.extend(ids)
            raise

    def _give_back_unused(self) -> None:
        unused = [self._reserved.popleft() for _ in range(len(self._reserved))]
        with self._database.transaction() as connection:
            connection.execute(delete(uploads).where(uploads.c.object_id.in_(unused)))
            connection.execute(
                update(processes)
                .where(processes.c.id == self.process_id)
                .values(alive_until=func.now())
            )


# A row that is still there was not committed, and cannot be any more. If a COMMIT whose answer was lost is
# still running, it holds the row's lock, and this waits for how it ends.
_ABANDON = (
    update(uploads)
    .values(state=case((uploads.c.state == "open", "abandoned"), else_=uploads.c.state))
    .returning(uploads.c.object_id)
)

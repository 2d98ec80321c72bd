"""The KEKs: what there is of each, rotation, and the end of old versions.

For the KEK `documents` the table `kek_versions` names every version that rows may be wrapped under, and each
row refers to one. So an upload cannot land under a version that is gone, and none that is in use can go: the
database itself sees to both, without a lock that uploads would feel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Integer, delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert

from keymgmt.provider import KeyProvider, Purpose
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType
from vault.accesslog.writer import AccessLog
from vault.database import DanglingReference, ServiceDatabase
from vault.errors import KeyVersionInUse, VaultError
from vault.objects.store import StoreError
from vault.tables import kek_versions, versions

_log = logging.getLogger(__name__)

_ALONE: Final = 0x7374_726B
"""Advisory lock (PostgreSQL 18 manual, §13.3.5): one change of a KEK at a time."""


class KeysRolledBack(VaultError):
    """The KMS, or the keyring, is an older copy of itself."""

    def __init__(self) -> None:
        super().__init__(
            "documents are wrapped under key versions that the KMS does not have: an older keyring or "
            "KMS was put back; bring the newest one"
        )


@dataclass(frozen=True)
class KekStatus:
    """One KEK.

    Attributes:
        latest: the version that wraps.
        oldest_usable: lowest version that still unwraps.
        oldest_kept: lowest version whose key material exists.
        in_use: stored versions of documents by KEK version; empty for other purposes.
    """

    purpose: Purpose
    latest: int
    oldest_usable: int
    oldest_kept: int
    in_use: Mapping[int, int]


class Keks:
    """The KEKs of this vault."""

    def __init__(
        self,
        database: ServiceDatabase,
        keys: KeyProvider,
        move: Mapping[Purpose, Callable[[], None]],
    ) -> None:
        """`move` saves what is wrapped under the KEK of a purpose before its old versions are destroyed:
        of documents the key catalogue, for old copies of the database; all else under the newest version.
        """
        self._database = database
        self._access_log = AccessLog(database)
        self._keys = keys
        self._move = move

    def list(self, actor: Actor) -> list[KekStatus]:
        """All KEKs, one for each purpose. Raises: NotAllowed, KeyServiceUnavailable."""
        require(actor.caller, Action.KEY_LIST)
        self._access_log.write(AccessEvent(EventType.KEKS_LISTED, actor))
        return [self.status(purpose) for purpose in Purpose]

    def status(self, purpose: Purpose) -> KekStatus:
        """One KEK. Raises: KeyServiceUnavailable, DatabaseUnavailable."""
        state = self._keys.describe(purpose)
        return KekStatus(
            purpose=purpose,
            latest=state.latest,
            oldest_usable=state.oldest_usable,
            oldest_kept=state.oldest_kept,
            in_use=self._in_use() if purpose is Purpose.DOCUMENTS else {},
        )

    def rotate(self, actor: Actor | None, purpose: Purpose) -> int:
        """Add a version, which wraps from now on; returns its number.

        Args:
            actor: None when the service's own schedule, or a job, asks.

        Raises:
            NotAllowed, KeyServiceUnavailable, DatabaseUnavailable.
        """
        if actor is not None:
            require(actor.caller, Action.KEY_ROTATE)
        with self._alone():
            latest = self._keys.describe(purpose).latest
            self._note(EventType.KEK_ROTATED, actor, purpose, latest + 1)
            # Announced before it exists: an upload may be wrapped under it the moment it does.
            if purpose is Purpose.DOCUMENTS:
                self._announce(latest + 1)
            return self._keys.rotate(purpose)

    def retire(
        self,
        actor: Actor | None,
        purpose: Purpose,
        *,
        below: int | None = None,
        save: Callable[[], None] | None = None,
    ) -> int:
        """Destroy every version lower than `below`, by default the newest; returns `below`.

        Nothing wrapped under one of them opens ever again, but for old copies of the database that are
        joined to the key catalogue. Documents have to be rewrapped before; what the other purposes wrap
        is little, and moved here.

        Args:
            save: in place of `move`; called when no row is, or will be, under one of them.

        Raises:
            NotAllowed, KeyServiceUnavailable, DatabaseUnavailable, StoreError.
            KeyVersionInUse: rows are wrapped under one of them; nothing was changed.
            After any other error nothing was destroyed, or all of it: repeat it.
        """
        if actor is not None:
            require(actor.caller, Action.KEY_RETIRE)
        save = save or self._move.get(purpose)
        with self._alone():
            below = below or self._keys.describe(purpose).latest
            if purpose is Purpose.DOCUMENTS:
                self._close(below)
            if save is not None:
                save()
            self._note(EventType.KEK_RETIRED, actor, purpose, below)
            self._keys.retire(purpose, below=below)
            self._keys.trim(purpose)
        return below

    def rotate_when_due(self, every: timedelta) -> bool:
        """Rotate the KEK `documents` if its newest version is older than `every`; whether it was.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        newest = select(func.max(kek_versions.c.created_at) < func.now() - literal(every))
        if not self._database.execute(newest, {})[0][0]:
            return False
        self.rotate(None, Purpose.DOCUMENTS)
        return True

    def retire_when_due(self, after: timedelta) -> bool:
        """Retire all versions of the KEK `documents` but the newest, if that is older than `after`.

        While documents are under one of them it does nothing; whether it did.

        Raises: KeyServiceUnavailable, DatabaseUnavailable, StoreError.
        """
        query = select(
            (func.count() > 1) & (func.max(kek_versions.c.created_at) < func.now() - literal(after))
        )
        if not self._database.execute(query, {})[0][0]:
            return False
        try:
            self.retire(None, Purpose.DOCUMENTS)
        except KeyVersionInUse:
            _log.warning(
                "KEK versions are due to be retired, and in use: run `strongroom key rewrap`"
            )
            return False
        return True

    def reconcile(self) -> None:
        """At the start: see that KMS and database tell the same story.

        A version that was made at the KMS is adopted. One that was retired and is there again, after a
        crash in mid-retirement or because an older keyring was put back, is retired again.

        Raises:
            KeysRolledBack: documents are wrapped under versions that the KMS does not have.
            KeyServiceUnavailable, DatabaseUnavailable.
        """
        state = self._keys.describe(Purpose.DOCUMENTS)
        self._announce(state.latest)
        number = kek_versions.c.version
        query = select(func.min(number).label("oldest"), func.max(number).label("newest"))
        known = self._database.execute(query, {})[0]
        # One that was only announced, before a crash, is in no row; all rows are read to tell just then.
        if known.newest > state.latest and max(self._in_use(), default=0) > state.latest:
            raise KeysRolledBack
        if state.oldest_kept < known.oldest <= state.latest:
            _log.warning("KEK versions that were retired are there again; they are destroyed anew")
            try:
                self.retire(None, Purpose.DOCUMENTS, below=known.oldest)
            except StoreError:
                _log.warning(
                    "they are not yet: no site may lack the key catalogue; retire them later"
                )

    def adopt(self) -> None:
        """Announce the newest version, if it was made at the KMS and not here.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        self._announce(self._keys.describe(Purpose.DOCUMENTS).latest)

    def _announce(self, version: int) -> None:
        """Allow rows under `version`, unless a newer one is known: what was closed stays closed."""
        newest = select(func.coalesce(func.max(kek_versions.c.version), 0)).scalar_subquery()
        self._database.execute(
            insert(kek_versions)
            .from_select(["version"], select(literal(version, Integer)).where(newest < version))
            .on_conflict_do_nothing(),
            {},
        )

    def _close(self, below: int) -> None:
        try:
            self._database.execute(delete(kek_versions).where(kek_versions.c.version < below), {})
        except DanglingReference as exc:
            raise KeyVersionInUse from exc

    def _in_use(self) -> dict[int, int]:
        query = select(versions.c.kek_version, func.count().label("rows"))
        rows = self._database.execute(query.group_by(versions.c.kek_version), {})
        return {row.kek_version: row.rows for row in rows}

    def _note(self, kind: EventType, actor: Actor | None, purpose: Purpose, version: int) -> None:
        """Before the act: the KMS takes part in no transaction, and no act goes without an event."""
        detail = {"purpose": purpose.value, "version": version}
        self._access_log.write(AccessEvent(kind, actor, detail=detail))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._database.transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ALONE})
            yield

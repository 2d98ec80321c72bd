"""Notices: that something happened, told to the outside by webhook and mail.

A notice is a row, written in the transaction of what it tells of (a transactional outbox): what was rolled
back is never told, what was committed is told at least once. It holds ids only; whoever is told asks the
service for the rest, as themselves, and the service decides and records that.

A claimed row is leased: a process that was killed in the middle leaves it to the next one, which sends it
again under the same id. One that fails comes due again by `SCHEDULE` and is then *parked*, with its reason,
until a person looks; nothing is dropped. Does not handle: how a channel sends; `Sender` is what it has to do.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, func, literal, text, update
from sqlalchemy.dialects.postgresql import insert

from vault.database import SharedDatabase
from vault.tables import notifications

LEASE: Final = timedelta(minutes=2)
"""How long a claimed notice stays with a process; longer than a sender takes with a server that is well."""

SCHEDULE: Final = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Pauses after each failed try, up to a fifth longer by chance: three days and a little, as Standard Webhooks
advises. A receiver that was away over a weekend misses nothing."""

KEPT: Final = timedelta(days=30)
"""How long a delivered notice stays, so that somebody can see that it was."""

_log = logging.getLogger(__name__)


class Channel(StrEnum):
    """How notices leave the house."""

    WEBHOOK = "webhook"
    SMTP = "smtp"


class NoticeKind(StrEnum):
    """What a notice tells."""

    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_DECIDED = "approval.decided"
    APPROVAL_ESCALATED = "approval.escalated"
    APPROVAL_EXPIRED = "approval.expired"
    GRANT_REVOKED = "grant.revoked"


class Outcome(StrEnum):
    """How a try to deliver ended."""

    DELIVERED = "delivered"
    FAILED = "failed"
    PARKED = "parked"


@dataclass(frozen=True)
class Notice:
    """What is told.

    Attributes:
        id: the same at each try, so that a receiver can tell a repetition.
        at: when it happened.
        subject_id: the approval that it is about.
    """

    id: UUID
    at: datetime
    kind: NoticeKind
    subject_id: UUID


class NotDelivered(Exception):
    """The other side did not take a notice.

    Attributes:
        slug: why, in a word of ours: ``[a-z0-9-]``, at most 40. Never what the other side said.
        is_final: it never will take one; there is no point in another try.
    """

    def __init__(self, slug: str, *, is_final: bool = False) -> None:
        super().__init__(slug)
        self.slug = slug
        self.is_final = is_final


class Sender(Protocol):
    """One channel's way out."""

    def send(self, notice: Notice) -> None:
        """Hand the notice over; it returns when the other side has taken it.

        After `LEASE` another try begins elsewhere: it may be called again with the same notice, by this
        process or another.

        Raises:
            NotDelivered: not taken, or not known to be.
        """


@dataclass(frozen=True)
class Outbox:
    """What has not been delivered by one channel."""

    waiting: int
    parked: int


class Notices:
    """The notices of this vault."""

    def __init__(self, database: SharedDatabase, channels: Collection[Channel]) -> None:
        """`channels` are those that are set up: each gets every notice."""
        self._database = database
        self._channels = channels

    def announce(self, connection: Connection, kind: NoticeKind, subject_id: UUID) -> None:
        """Have it told by every channel once the caller's transaction commits; not at all if it does not."""
        rows = [
            {"id": uuid4(), "kind": kind.value, "subject_id": subject_id, "channel": channel.value}
            for channel in self._channels
        ]
        if rows:
            connection.execute(insert(notifications).values(rows))

    def deliver_due(self, channel: Channel, sender: Sender) -> Outcome | None:
        """Send one notice that is due; None: there is none. Any number of processes may.

        Raises:
            DatabaseUnavailable: what was claimed is sent again when its lease ends.
        """
        claimed = self._claim(channel)
        if claimed is None:
            return None
        try:
            sender.send(claimed.notice)
        except NotDelivered as exc:
            return self._failed(channel, claimed, exc)
        except Exception:  # noqa: BLE001 (it is logged, and comes due again like any other)
            _log.exception("the %s sender failed in a way that it should not", channel)
            return self._failed(channel, claimed, NotDelivered("defect"))
        self._delivered(claimed)
        return Outcome.DELIVERED

    def expire(self) -> None:
        """Delete what was delivered `KEPT` ago. Raises: DatabaseUnavailable."""
        past = notifications.c.delivered_at < func.now() - literal(KEPT)
        self._database.execute(delete(notifications).where(past), {})

    def outbox(self) -> dict[Channel, Outbox]:
        """What waits and what is parked, for every channel there is. Raises: DatabaseUnavailable."""
        found = {row.channel: row for row in self._database.execute(_OUTBOX, {})}
        return {
            channel: Outbox(found[channel].waiting, found[channel].parked)
            if channel in found
            else Outbox(0, 0)
            for channel in Channel
        }

    def _claim(self, channel: Channel) -> _Claimed | None:
        values = {"channel": channel.value, "lease": LEASE}
        rows = self._database.execute(_CLAIM, values)
        return _claimed(rows[0]) if rows else None

    def _delivered(self, claimed: _Claimed) -> None:
        """Whoever holds it by now: the other side has it."""
        done = update(notifications).where(notifications.c.id == claimed.notice.id)
        self._database.execute(done.values(delivered_at=func.now(), parked_at=None), {})

    def _failed(self, channel: Channel, claimed: _Claimed, why: NotDelivered) -> Outcome:
        is_last = why.is_final or claimed.attempts > len(SCHEDULE)
        if is_last:
            _log.error("a notice by %s is parked: %s", channel, why.slug)
        else:
            _log.warning("a notice by %s was not taken: %s", channel, why.slug)
        values = {
            "id": claimed.notice.id,
            "attempts": claimed.attempts,
            "slug": why.slug,
            "is_last": is_last,
            "pause": SCHEDULE[min(claimed.attempts, len(SCHEDULE)) - 1],
        }
        self._database.execute(_FAILED, values)
        return Outcome.PARKED if is_last else Outcome.FAILED


@dataclass(frozen=True)
class _Claimed:
    """A leased notice; `attempts` tells this claim from later ones."""

    notice: Notice
    attempts: int


def _claimed(row: Any) -> _Claimed:
    notice = Notice(row.id, row.at, NoticeKind(row.kind), row.subject_id)
    return _Claimed(notice, row.attempts)


_CLAIM: Final = text(
    """
    UPDATE notifications SET attempts = attempts + 1, next_at = now() + :lease
    WHERE id = (
        SELECT id FROM notifications
        WHERE channel = :channel AND delivered_at IS NULL AND parked_at IS NULL AND next_at <= now()
        ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, at, kind, subject_id, attempts"""
)

_FAILED: Final = text(
    """
    UPDATE notifications SET
        last_error = :slug,
        parked_at = CASE WHEN :is_last THEN now() END,
        next_at = CASE WHEN :is_last THEN next_at ELSE now() + :pause * (1 + random() / 5) END
    WHERE id = :id AND attempts = :attempts AND delivered_at IS NULL"""
)

_OUTBOX: Final = text(
    """
    SELECT channel, count(*) FILTER (WHERE NOT is_parked) AS waiting,
           count(*) FILTER (WHERE is_parked) AS parked
    FROM (
        SELECT channel, false AS is_parked FROM notifications
        WHERE delivered_at IS NULL AND parked_at IS NULL
        UNION ALL
        SELECT channel, true FROM notifications WHERE parked_at IS NOT NULL) AS undelivered
    GROUP BY channel"""
)

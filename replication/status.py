"""How the sites stand: what each has, owes, was found to lack, and how long ago it was looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, text

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.journal import Backlog, Journal, Operation, Reason
from vault.objects.health import SiteHealth
from vault.objects.store import Capabilities, StoreError
from vault.sweephold import SweepHold, SweepHolds

PROBE_EVERY: Final = timedelta(minutes=10)

COUNT_SHARE: Final = 0.02
"""The part of its time that counting all versions may take of a process that looks by itself."""


@dataclass(frozen=True)
class SiteStatus:
    """One site.

    Attributes:
        is_up: it answers this process.
        epoch: the site epoch that its processes have to work under.
        capabilities: what a probe saw the store do; None while it is away.
        counted: versions whose copy there counts as safe.
        verified: those of them that were read back and hashed.
        lost: copies found missing or wrong, and not repaired yet.
        backlog: what waits in the journal.
        oldest_unverified_at: since when the longest waiting copy is owed; None: none is.
        oldest_unverified_seconds: how long that is, by PostgreSQL's clock.
        oldest_read_at: when the copy that was not looked at for longest was read back.
        read_within_period: the share of counted copies that were read back within the period, 0 to 1.
        open_incidents: not resolved yet.
        mismatches: incidents so far in which a copy was missing or wrong.
        repairs: those of them that a copy from the other site ended.
    """

    name: str
    is_local: bool
    is_up: bool
    is_fenced: bool
    epoch: int
    capabilities: Capabilities | None
    counted: int
    verified: int
    lost: int
    backlog: tuple[Backlog, ...]
    oldest_unverified_at: datetime | None
    oldest_unverified_seconds: float | None
    oldest_read_at: datetime | None
    read_within_period: float
    open_incidents: int
    mismatches: int
    repairs: int

    @property
    def parked(self) -> int:
        """Rows that were given up until somebody looks."""
        return sum(row.parked for row in self.backlog)

    @property
    def debt(self) -> int:
        """Copies that a class wanted before the answer, and that are still owed."""
        return sum(row.waiting + row.parked for row in self.backlog if row.reason is Reason.DEBT)


@dataclass(frozen=True)
class _Counts:
    """What takes a walk over all versions: `Status.versions`, and by site the like-named of `SiteStatus`."""

    versions: int
    by_site: Mapping[str, Row[Any]]


@dataclass(frozen=True)
class Status:
    """All of it.

    Attributes:
        epoch: the newest site epoch.
        sweep_hold: nothing is swept since then; None: as usual.
        scrubbed_at: when the last scrub that went through ended.
        scrubbed_seconds: how long ago that was, by PostgreSQL's clock.
    """

    versions: int
    epoch: int
    sweep_hold: SweepHold | None
    scrubbed_at: datetime | None
    scrubbed_seconds: float | None
    sites: tuple[SiteStatus, ...]


class SiteStatuses:
    """The status of one vault's sites, as this process sees them."""

    def __init__(
        self,
        *,
        database: ServiceDatabase,
        health: SiteHealth,
        journal: Journal,
        sweep_holds: SweepHolds,
        local_site: str,
        period: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._health = health
        self._journal = journal
        self._sweep_holds = sweep_holds
        self._local_site = local_site
        self._period = period
        self._monotonic = monotonic
        self._probed: dict[str, tuple[float, Capabilities]] = {}
        self._counts: _Counts | None = None
        self._count_again_at = 0.0

    def view(self, actor: Actor) -> Status:
        """The status now. Raises: NotAllowed, DatabaseUnavailable."""
        require(actor.caller, Action.SITE_LIST)
        with self._database.transaction() as connection:
            record(connection, AccessEvent(EventType.SITES_VIEWED, actor))
        return self._status(self._count())

    def current(self) -> Status:
        """The status now, for the service itself; where there are many versions, their counts are older.

        Raises: DatabaseUnavailable.
        """
        counts = self._counts
        if counts is None or self._monotonic() >= self._count_again_at:
            counts = self._count()
        return self._status(counts)

    def _count(self) -> _Counts:
        began = self._monotonic()
        rows = self._database.execute(_COUNTS, {"period": self._period})
        counts = _Counts(rows[0].versions, {row.name: row for row in rows})
        ended = self._monotonic()
        self._counts, self._count_again_at = counts, ended + (ended - began) / COUNT_SHARE
        return counts

    def _status(self, counts: _Counts) -> Status:
        backlog = self._journal.backlog()
        rows = self._database.execute(_SITES, {})
        first = rows[0]
        return Status(
            versions=counts.versions,
            epoch=first.newest_epoch,
            sweep_hold=self._sweep_holds.current(),
            scrubbed_at=first.scrubbed_at,
            scrubbed_seconds=_seconds(first.scrubbed_at, first.as_of),
            sites=tuple(self._site(row, backlog, counts.by_site[row.name]) for row in rows),
        )

    def without_object_lock(self) -> list[str]:
        """Sites whose store cannot lock objects, or does not answer."""
        found = {site: self.capabilities(site) for site in sorted(self._health.stores)}
        return [site for site, each in found.items() if each is None or not each.object_lock]

    def capabilities(self, site: str) -> Capabilities | None:
        """What a probe saw the site's store do, not long ago; None while it is away."""
        if not self._health.is_up(site):
            return None
        known = self._probed.get(site)
        if known is not None and self._monotonic() - known[0] < PROBE_EVERY.total_seconds():
            return known[1]
        try:
            found = self._health.stores[site].probe()
        except StoreError:
            return None
        self._probed[site] = (self._monotonic(), found)
        return found

    def _site(self, row: Row[Any], backlog: Sequence[Backlog], counts: Row[Any]) -> SiteStatus:
        owed = tuple(each for each in backlog if each.site == row.name)
        waits = [each.oldest_at for each in owed if each.operation is Operation.COPY]
        oldest = min(waits, default=None)
        return SiteStatus(
            name=row.name,
            is_local=row.name == self._local_site,
            is_up=self._health.is_up(row.name),
            is_fenced=row.is_fenced,
            epoch=row.epoch,
            capabilities=self.capabilities(row.name),
            counted=counts.counted,
            verified=counts.verified,
            lost=row.lost,
            backlog=owed,
            oldest_unverified_at=oldest,
            oldest_unverified_seconds=_seconds(oldest, row.as_of),
            oldest_read_at=counts.oldest_read_at,
            read_within_period=counts.recently_read / counts.counted if counts.counted else 1.0,
            open_incidents=row.open_incidents,
            mismatches=row.mismatches,
            repairs=row.repairs,
        )


def _seconds(since: datetime | None, until: datetime) -> float | None:
    """The time between; a row that is younger than the look at it has waited for none."""
    return None if since is None else max(0.0, (until - since).total_seconds())


_SITES: Final = text(
    """
    SELECT s.name, s.epoch, s.is_fenced, i.*, now() AS as_of,
           (SELECT epoch FROM topology) AS newest_epoch,
           (SELECT max(finished_at) FROM jobs WHERE kind = 'scrub' AND state = 'done') AS scrubbed_at,
           (SELECT count(*) FROM replicas WHERE site = s.name AND lost_at IS NOT NULL) AS lost
    FROM sites s CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE resolved_at IS NULL) AS open_incidents,
               count(*) FILTER (WHERE kind IN ('missing', 'damaged')) AS mismatches,
               count(*) FILTER (WHERE kind IN ('missing', 'damaged') AND resolution = 'repaired')
                   AS repairs
        FROM incidents WHERE site = s.name) i
    ORDER BY s.name"""
)

_COUNTS: Final = text(
    """
    SELECT s.name, c.*
    FROM sites s CROSS JOIN LATERAL (
        SELECT count(*) AS versions,
               count(*) FILTER (WHERE is_there) AS counted,
               count(verified_at) FILTER (WHERE is_there) AS verified,
               min(verified_at) FILTER (WHERE is_there) AS oldest_read_at,
               count(*) FILTER (WHERE is_there AND verified_at > now() - :period) AS recently_read
        FROM (SELECT r.verified_at,
                     (v.site = s.name OR r.verified_at IS NOT NULL) AND r.lost_at IS NULL AS is_there
              FROM versions v
              LEFT JOIN replicas r ON r.object_id = v.object_id AND r.site = s.name) copies) c"""
)

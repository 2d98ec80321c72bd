"""How the sites stand: what each has, owes, was found to lack, and how long ago it was looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import Database
from vault.journal import Backlog, Journal, Operation, Reason
from vault.objects.health import SiteHealth
from vault.objects.store import Capabilities, StoreError
from vault.sweephold import SweepHold, SweepHolds

PROBE_EVERY: Final = timedelta(minutes=10)


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
        database: Database,
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

    def view(self, actor: Actor) -> Status:
        """The status now. Raises: NotAllowed, DatabaseUnavailable."""
        require(actor.caller, Action.SITE_LIST)
        with self._database.transaction() as connection:
            record(connection, AccessEvent(EventType.SITES_VIEWED, actor))
        return self.current()

    def current(self) -> Status:
        """The status now, for the service itself. Raises: DatabaseUnavailable."""
        backlog = self._journal.backlog()
        rows = self._database.execute(_SITES, {"period": self._period})
        first = rows[0]
        return Status(
            versions=first.versions,
            epoch=first.newest_epoch,
            sweep_hold=self._sweep_holds.current(),
            scrubbed_at=first.scrubbed_at,
            scrubbed_seconds=_seconds(first.scrubbed_at, first.as_of),
            sites=tuple(self._site(row, backlog) for row in rows),
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

    def _site(self, row: object, backlog: list[Backlog]) -> SiteStatus:
        found = row._mapping  # type: ignore[attr-defined]  # noqa: SLF001 (a row's own)
        name = found["name"]
        owed = tuple(each for each in backlog if each.site == name)
        waits = [each.oldest_at for each in owed if each.operation is Operation.COPY]
        oldest = min(waits, default=None)
        counted = found["counted"]
        return SiteStatus(
            name=name,
            is_local=name == self._local_site,
            is_up=self._health.is_up(name),
            is_fenced=found["is_fenced"],
            epoch=found["epoch"],
            capabilities=self.capabilities(name),
            counted=counted,
            verified=found["verified"],
            lost=found["lost"],
            backlog=owed,
            oldest_unverified_at=oldest,
            oldest_unverified_seconds=_seconds(oldest, found["as_of"]),
            oldest_read_at=found["oldest_read_at"],
            read_within_period=found["recently_read"] / counted if counted else 1.0,
            open_incidents=found["open_incidents"],
            mismatches=found["mismatches"],
            repairs=found["repairs"],
        )


def _seconds(since: datetime | None, until: datetime) -> float | None:
    """The time between; a row that is younger than the look at it has waited for none."""
    return None if since is None else max(0.0, (until - since).total_seconds())


_SITES: Final = text(
    """
    SELECT s.name, s.epoch, s.is_fenced, c.*, i.*, now() AS as_of,
           (SELECT epoch FROM topology) AS newest_epoch,
           (SELECT count(*) FROM versions) AS versions,
           (SELECT max(finished_at) FROM jobs WHERE kind = 'scrub' AND state = 'done') AS scrubbed_at
    FROM sites s CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE resolved_at IS NULL) AS open_incidents,
               count(*) FILTER (WHERE kind IN ('missing', 'damaged')) AS mismatches,
               count(*) FILTER (WHERE kind IN ('missing', 'damaged') AND resolution = 'repaired')
                   AS repairs
        FROM incidents WHERE site = s.name) i
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE is_there) AS counted,
               count(verified_at) FILTER (WHERE is_there) AS verified,
               count(lost_at) AS lost,
               min(verified_at) FILTER (WHERE is_there) AS oldest_read_at,
               count(*) FILTER (WHERE is_there AND verified_at > now() - :period) AS recently_read
        FROM (SELECT r.verified_at, r.lost_at,
                     (v.site = s.name OR r.verified_at IS NOT NULL) AND r.lost_at IS NULL AS is_there
              FROM versions v
              LEFT JOIN replicas r ON r.object_id = v.object_id AND r.site = s.name) copies) c
    ORDER BY s.name"""
)

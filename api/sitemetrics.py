"""The state of the sites as metrics. Every series is always there, so that an alarm can rely on it."""

from __future__ import annotations

from math import nan
from typing import Final

from api import metrics
from replication.status import SiteStatus, Status
from vault.journal import Operation, Reason, Settled

_WORK: Final = (
    (Operation.COPY, (Reason.UPLOAD, Reason.DEBT, Reason.REPAIR, Reason.RESYNC)),
    (Operation.DELETE, (Reason.PURGE, Reason.SWEEP)),
)


def publish(status: Status) -> None:
    """Set every gauge of the sites."""
    age = status.scrubbed_seconds
    metrics.SCRUB_AGE.set(nan if age is None else age)
    metrics.SWEEP_HELD.set(status.sweep_hold is not None)
    for site in status.sites:
        _publish_site(site)
        _publish_backlog(site)


def observe(settled: Settled) -> None:
    """A copy counts: how long that took, if an upload waited for it."""
    if settled.reason in (Reason.UPLOAD, Reason.DEBT):
        metrics.REPLICATION_LAG.labels(settled.site).observe(settled.seconds)


def _publish_site(site: SiteStatus) -> None:
    values = {
        metrics.SITE_UP: site.is_up,
        metrics.SITE_FENCED: site.is_fenced,
        metrics.SITE_OLDEST_UNVERIFIED: site.oldest_unverified_seconds or 0,
        metrics.SITE_PARKED: site.parked,
        metrics.SITE_DEBT: site.debt,
        metrics.SITE_LOST: site.lost,
        metrics.SITE_INCIDENTS: site.open_incidents,
        metrics.SITE_MISMATCHES: site.mismatches,
        metrics.SITE_REPAIRS: site.repairs,
        metrics.SITE_READ_WITHIN_PERIOD: site.read_within_period,
    }
    for gauge, value in values.items():
        gauge.labels(site.name).set(value)


def _publish_backlog(site: SiteStatus) -> None:
    rows = {(row.operation, row.reason): row for row in site.backlog}
    for operation, reasons in _WORK:
        for reason in reasons:
            row, labels = rows.get((operation, reason)), (site.name, operation, reason)
            metrics.BACKLOG.labels(*labels).set(row.waiting if row else 0)
            metrics.BACKLOG_BYTES.labels(*labels).set(row.size_bytes if row else 0)

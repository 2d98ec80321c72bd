"""The watch over both sites: an emptied one is filled again, a returned one is compared, all by itself."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from replication.sitemarks import MarkState, SiteMarks
from vault.errors import JobUnderWay, NotFound
from vault.incidents import Incidents
from vault.jobs import JobKind, Jobs, JobState
from vault.objects.health import SiteHealth
from vault.objects.store import StoreError

RESYNC_OF: Final = {"a": JobKind.RESYNC_A, "b": JobKind.RESYNC_B}
LEAST_BETWEEN_SCRUBS: Final = timedelta(hours=1)

_log = logging.getLogger(__name__)


def resync_of(site: str) -> JobKind:
    """The kind of job that resyncs a site. Raises: NotFound: there is no such site."""
    if site not in RESYNC_OF:
        raise NotFound("site")
    return RESYNC_OF[site]


class SiteWatch:
    """Starts the jobs that a site's state calls for."""

    def __init__(
        self,
        *,
        health: SiteHealth,
        marks: SiteMarks,
        incidents: Incidents,
        jobs: Jobs,
        scrub_every: timedelta,
    ) -> None:
        self._health = health
        self._marks = marks
        self._incidents = incidents
        self._jobs = jobs
        self._scrub_every = scrub_every
        self._has_returned = False
        health.on_return(self._note_return)

    def look(self, now: datetime) -> None:
        """One look at every site that answers. Raises: DatabaseUnavailable."""
        for site in filter(self._health.answers, self._health.stores):
            with suppress(StoreError):
                self._judge(site, self._marks.look(site))
        if self._scrub_is_due(now):
            self._start(JobKind.SCRUB)
            self._has_returned = False

    def _judge(self, site: str, mark: MarkState) -> None:
        if mark is MarkState.FOREIGN:
            self._health.shun(site)
            return
        self._health.owned(site)
        if mark is MarkState.GONE:
            self._fill(site)

    def _fill(self, site: str) -> None:
        is_news = self._incidents.site_emptied(site)
        if is_news:
            _log.error("site %s was emptied: it is filled again from the other", site)
        newest = self._jobs.newest(RESYNC_OF[site])
        # What a person stopped waits for that person; what failed, for somebody who looks why.
        if is_news or newest is None or newest.state is JobState.DONE:
            self._start(RESYNC_OF[site])

    def _start(self, kind: JobKind) -> None:
        with suppress(JobUnderWay):
            self._jobs.start(None, kind)

    def _scrub_is_due(self, now: datetime) -> bool:
        newest = self._jobs.newest(JobKind.SCRUB)
        if newest is None:
            return True
        if newest.state in (JobState.QUEUED, JobState.RUNNING):
            return False
        wanted_after = LEAST_BETWEEN_SCRUBS if self._has_returned else self._scrub_every
        return now - (newest.finished_at or newest.created_at) > wanted_after

    def _note_return(self, _site: str) -> None:
        self._has_returned = True

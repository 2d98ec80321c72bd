"""Findings: what the vault noticed about its own authority, kept until somebody has looked.

A row that does not bear its seal is remembered once for each state it was found in, with an event, and
alarmed each time it is met. Does not handle: what comes of a finding; a person decides that.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import findings

_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 60.0
"""How many findings a process takes to be written, and how long: meeting one again costs no more than any
other refusal, and one that somebody deleted is soon back."""

_ID_LENGTH: Final = 64
"""The longest id that we make has 36 characters; one that was written by SQL may have any number."""

_log = logging.getLogger(__name__)


class FindingKind(StrEnum):
    """What was found."""

    SEAL_BROKEN = "seal-broken"


class FoundBy(StrEnum):
    """What found it: the use of a row, or the worker's regular look at all of them."""

    API = "api"
    WORKER = "worker"


_EVENT_OF: Final = {
    FoundBy.API: EventType.SEAL_BROKEN_MET,
    FoundBy.WORKER: EventType.SEAL_BROKEN_SEEN,
}


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        subject, subject_id: the table and the id of the row it is about.
        state_sha256: of the row and its seal as found, so that a further change is a further finding.
    """

    id: UUID
    at: datetime
    kind: FindingKind
    subject: str
    subject_id: str
    state_sha256: bytes
    found_by: FoundBy


class SealBroken(Exception):
    """A row does not bear the seal of what it holds: somebody wrote it who did not hold the seal key.

    It goes no further than this package: a caller meets what it would meet if the row were not there.
    """

    def __init__(self, subject: str, subject_id: str, state_sha256: bytes) -> None:
        super().__init__(f"a row of {subject} does not bear its seal")
        self.subject = subject
        self.subject_id = subject_id[:_ID_LENGTH]
        self.state_sha256 = state_sha256


class Findings:
    """The findings of this vault."""

    def __init__(
        self,
        database: SharedDatabase,
        alarm: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alarm` is called each time that a broken seal is met."""
        self._database = database
        self._alarm = alarm
        self._clock = clock
        self._written: OrderedDict[bytes, float] = OrderedDict()

    def remember(self, broken: SealBroken, found_by: FoundBy = FoundBy.API) -> None:
        """Alarm, and write finding and event unless they are there. Raises: DatabaseUnavailable."""
        self._alarm()
        _log.error(
            "a row of %s with the id %r does not bear its seal: it was written behind the service's back",
            *(broken.subject, broken.subject_id),
        )
        if self._clock() >= self._written.get(broken.state_sha256, 0.0):
            self._write(broken, found_by)
            self._written[broken.state_sha256] = self._clock() + _REMEMBERED_SECONDS
            while len(self._written) > _REMEMBERED:
                self._written.popitem(last=False)

    def list(self, actor: Actor, request: PageRequest) -> Page[Finding]:
        """A page of findings, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.FINDING_LIST)
        with self._database.transaction() as connection:
            page = _FINDINGS.fetch(connection, select(findings), request)
            record(connection, AccessEvent(EventType.FINDINGS_LISTED, actor))
        return page

    def _write(self, broken: SealBroken, found_by: FoundBy) -> None:
        values = {
            "id": uuid4(),
            "kind": FindingKind.SEAL_BROKEN.value,
            "subject": broken.subject,
            "subject_id": broken.subject_id,
            "state_sha256": broken.state_sha256,
            "found_by": found_by.value,
        }
        added = insert(findings).values(values).on_conflict_do_nothing().returning(findings.c.id)
        detail = {"subject": broken.subject, "id": broken.subject_id, "finding": str(values["id"])}
        with self._database.transaction() as connection:
            if connection.execute(added).first() is not None:
                record(connection, AccessEvent(_EVENT_OF[found_by], None, detail=detail))


def _finding(row: Row[tuple[object, ...]]) -> Finding:
    return Finding(
        id=row.id,
        at=row.at,
        kind=FindingKind(row.kind),
        subject=row.subject,
        subject_id=row.subject_id,
        state_sha256=bytes(row.state_sha256),
        found_by=FoundBy(row.found_by),
    )


_FINDINGS = Listing(
    name="findings",
    sort_key=(findings.c.at, findings.c.id),
    kinds=(datetime, UUID),
    place=lambda finding: (finding.at, finding.id),
    shape=_finding,
)

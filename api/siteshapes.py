"""What JSON goes in and out of /v1/sites."""

from __future__ import annotations

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import Field

from api.shapes import Fields, Given
from replication.failover import Outlook
from replication.reading import CopyState
from vault.incidents import FoundBy, IncidentKind
from vault.journal import Operation, Reason
from vault.sweephold import HoldReason


class CapabilitiesShape(Fields):
    """What a probe saw the store do, beyond plain S3."""

    conditional_put: bool
    versioning: bool
    object_lock: bool
    partial_content: bool
    lists_pending_uploads: bool


class BacklogShape(Fields):
    """Work of one kind that waits at a site; `size_bytes` is ciphertext."""

    operation: Operation
    reason: Reason
    waiting: int
    parked: int
    size_bytes: int
    oldest_at: datetime


class SiteShape(Fields):
    """One site; `capabilities` is null while it is away, `read_within_period` a share from 0 to 1."""

    name: str
    is_local: bool
    is_up: bool
    is_fenced: bool
    epoch: int
    capabilities: CapabilitiesShape | None
    counted: int
    verified: int
    lost: int
    backlog: list[BacklogShape]
    parked: int
    debt: int
    oldest_unverified_at: datetime | None
    oldest_unverified_seconds: float | None
    oldest_read_at: datetime | None
    read_within_period: float
    open_incidents: int
    mismatches: int
    repairs: int


class SweepHoldShape(Fields):
    """Nothing is swept since then, until a person confirms."""

    since: datetime
    why: HoldReason


class SitesShape(Fields):
    """Both sites, as the process that answers sees them; `versions` each of them should have."""

    versions: int
    epoch: int
    sweep_hold: SweepHoldShape | None
    scrubbed_at: datetime | None
    scrubbed_seconds: float | None
    sites: list[SiteShape]


class IncidentShape(Fields):
    """Something that was found wrong; without a document if it is about a whole site."""

    id: UUID
    at: datetime
    kind: IncidentKind
    site: str
    object_id: UUID | None
    document_id: UUID | None
    version: int | None
    found_by: FoundBy
    resolved_at: datetime | None
    resolution: str | None


class OrphanShape(Fields):
    """An object that nothing in the database explains."""

    object_id: UUID
    site: str
    size_bytes: int
    first_seen_at: datetime


class CountShape(Fields):
    """How many it was about."""

    count: int


class VerifiedCopyShape(Fields):
    """What reading one copy back showed."""

    version: int
    site: str
    state: CopyState


class OutlookShape(Fields):
    """What a failover to `site` means; `only_elsewhere` is the number that has to be accepted."""

    site: str
    is_up: bool
    epoch: int
    only_elsewhere: int
    only_elsewhere_bytes: int
    oldest_only_elsewhere: datetime | None
    unverified: int
    parked: int
    uploaders: int

    @classmethod
    def seen(cls, outlook: Outlook, *, is_up: bool) -> Self:
        """The shape of an outlook, and whether the site answers this process."""
        return cls(**vars(outlook), is_up=is_up)


class FailoverShape(Given):
    """How many versions may be out of reach afterwards: `only_elsewhere` of the outlook, as it was read."""

    accepted: int = Field(ge=0)

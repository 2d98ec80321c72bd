"""/v1/sites: how both sites stand, what was found, and the acts of operations on them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.keyshapes import JobShape
from api.routers.paging import PageSize, PageToken
from api.shapes import PageShape
from api.sitemetrics import publish
from api.siteshapes import (
    CountShape,
    FailoverShape,
    IncidentShape,
    OrphanShape,
    OutlookShape,
    SitesShape,
    VerifiedCopyShape,
)
from replication.sitewatch import resync_of
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.jobs import JobKind
from vault.model import Page
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["sites"])

Lister = Annotated[Actor, allowed_to(Action.SITE_LIST)]
Manager = Annotated[Actor, allowed_to(Action.SITE_MANAGE)]
FailoverRunner = Annotated[Actor, allowed_to(Action.SITE_FAIL_OVER)]
OpenOnly = Annotated[bool, Query(alias="open", description="only those that are not resolved")]


@router.get("/sites")
def view_sites(services: ServicesOf, actor: Lister) -> SitesShape:
    """Both sites: what each has, owes, lacks and can do."""
    status = services.sites.statuses.view(actor)
    publish(status)
    return SitesShape.of(status)


@router.get("/sites/incidents")
def list_incidents(
    services: ServicesOf,
    actor: Lister,
    open_only: OpenOnly = False,
    document_id: UUID | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[IncidentShape]:
    """What was found wrong with copies and sites, newest first."""
    request = PageRequest(page_size, page_token)
    page = services.incidents.list(actor, request, open_only=open_only, document_id=document_id)
    return PageShape[IncidentShape].of(page, IncidentShape.of)


@router.get("/sites/orphans")
def list_orphans(
    services: ServicesOf, actor: Lister, page_size: PageSize = 100, page_token: PageToken = None
) -> PageShape[OrphanShape]:
    """Objects that nothing in the database explains, those seen last first."""
    page = services.sites.orphans.list(actor, PageRequest(page_size, page_token))
    return PageShape[OrphanShape].of(page, OrphanShape.of)


@router.post("/sites/orphans/remove")
def remove_orphans(services: ServicesOf, actor: Manager) -> CountShape:
    """Have orphans removed that were known for a day; how many. Refused while the sweep is held."""
    return CountShape(count=services.sites.orphans.remove(actor))


@router.post("/sites/sweep/confirm")
def confirm_sweep(services: ServicesOf, actor: Manager) -> SitesShape:
    """After a restore or failover: database and objects belong together, so sweep again."""
    services.sites.sweep_holds.release(actor)
    return SitesShape.of(services.sites.statuses.current())


@router.post("/sites/parked/retry")
def retry_parked(services: ServicesOf, actor: Manager) -> CountShape:
    """Have work tried again that was given up; how much there was."""
    return CountShape(count=services.journal.retry_parked(actor))


@router.post("/sites/verify", status_code=202)
def verify_all(services: ServicesOf, actor: Manager) -> JobShape:
    """Begin to read every object back at every site."""
    return JobShape.of(services.jobs.start(actor, JobKind.VERIFY))


@router.post("/sites/scrub", status_code=202)
def scrub(services: ServicesOf, actor: Manager) -> JobShape:
    """Begin a scrub now: listings against the database, and the copies not read for longest."""
    return JobShape.of(services.jobs.start(actor, JobKind.SCRUB))


@router.post("/documents/{document_id}/verify")
def verify_document(
    services: ServicesOf, actor: Manager, document_id: UUID
) -> PageShape[VerifiedCopyShape]:
    """Read every version of a document back at every site, now; always a single page."""
    copies = tuple(services.sites.verify.document(actor, document_id))
    return PageShape[VerifiedCopyShape].of(Page(copies, None), VerifiedCopyShape.of)


@router.post("/sites/{site}/resync", status_code=202)
def resync(services: ServicesOf, actor: Manager, site: str) -> JobShape:
    """Begin to bring a site up to what it should hold, the newest first."""
    return JobShape.of(services.jobs.start(actor, resync_of(site)))


@router.get("/sites/{site}/failover")
def view_outlook(services: ServicesOf, actor: Lister, site: str) -> OutlookShape:
    """What failing over to this site would mean; nothing is done."""
    outlook = services.sites.failover.outlook(actor, site)
    return OutlookShape.seen(outlook, is_up=services.health.is_up(site))


@router.post("/sites/{site}/failover")
def fail_over(
    services: ServicesOf, actor: FailoverRunner, site: str, given: FailoverShape
) -> OutlookShape:
    """Let this site go on alone and fence the other; 409 if it means more than was accepted."""
    outlook = services.sites.failover.run(actor, site, accepted=given.accepted)
    return OutlookShape.seen(outlook, is_up=services.health.is_up(site))


@router.post("/sites/{site}/admit")
def admit(services: ServicesOf, actor: Manager, site: str) -> SitesShape:
    """Let a fenced site serve again beside the other."""
    services.sites.failover.admit(actor, site)
    return SitesShape.of(services.sites.statuses.current())

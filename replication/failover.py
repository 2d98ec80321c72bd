"""Failover: one site goes on alone, and what still runs at the other can change nothing any more.

Before anything is done it is said what the site that goes on does not have, or has and was never read back;
the caller has to accept that number. Failing back is the same act the other way; `admit` lets the other
site serve again beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select, text, update

from vault.access.approvals import Owned, Target, part
from vault.access.authorise import require
from vault.access.grants import Grants
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.errors import NotFound, OutlookWorse
from vault.sweephold import HoldReason, hold
from vault.tables import sites, topology


@dataclass(frozen=True)
class Outlook:
    """What a failover to `site` would mean at this moment.

    Attributes:
        epoch: the newest site epoch.
        only_elsewhere: versions of which the site has no copy that counts: unreadable until the other site is
            back, and lost if it never is.
        only_elsewhere_bytes: their ciphertext.
        oldest_only_elsewhere: when the longest waiting of them was stored.
        unverified: versions whose copy there was never read back.
        parked: copies to the site that were given up until somebody looks.
        uploaders: processes that take uploads at the other site and were heard of within 5 minutes; what
            they have under way is refused. (Rows of uploads are reserved ahead, so those are no count.)
    """

    site: str
    epoch: int
    only_elsewhere: int
    only_elsewhere_bytes: int
    oldest_only_elsewhere: datetime | None
    unverified: int
    parked: int
    uploaders: int


class Failover:
    """Moves of this vault between its sites."""

    def __init__(self, database: ServiceDatabase, grants: Grants) -> None:
        self._database = database
        self._grants = grants

    def outlook(self, actor: Actor, site: str) -> Outlook:
        """What failing over to `site` would mean. Raises: NotAllowed, NotFound, DatabaseUnavailable."""
        require(actor.caller, Action.SITE_LIST)
        with self._database.transaction() as connection:
            found = _outlook(connection, site)
            detail = {"to": site, "only_elsewhere": found.only_elsewhere}
            record(connection, AccessEvent(EventType.OUTLOOK_VIEWED, actor, detail=detail))
        return found

    def run(self, actor: Actor, site: str, *, accepted: int) -> Outlook:
        """Let `site` go on alone, and fence the other. It takes two operators, where there are two.

        Args:
            accepted: `Outlook.only_elsewhere`, as the caller saw it.

        Returns: what it meant.

        Raises:
            NotAllowed, ApprovalNeeded, NotFound, DatabaseUnavailable.
            OutlookWorse: more documents would be out of reach than the caller accepted; nothing was done.
        """
        require(actor.caller, Action.SITE_FAIL_OVER)
        with self._database.transaction() as connection:
            epoch = _next_epoch(connection)
            found = _outlook(connection, site)
            if found.only_elsewhere > accepted:
                raise OutlookWorse(found.only_elsewhere)
            self._grants.use(connection, actor, Action.SITE_FAIL_OVER, {"site": site})
            _admit(connection, site, epoch)
            connection.execute(
                update(sites)
                .where(sites.c.name != site)
                .values(is_fenced=True, epoch=epoch, changed_at=text("now()"))
            )
            hold(connection, HoldReason.FAILOVER)
            detail = {"to": site, "epoch": epoch, "only_elsewhere": found.only_elsewhere}
            record(connection, AccessEvent(EventType.SITE_FAILED_OVER, actor, detail=detail))
        return found

    def admit(self, actor: Actor, site: str) -> None:
        """Let a fenced site serve again beside the other. Idempotent.

        Raises: NotAllowed, NotFound, DatabaseUnavailable.
        """
        require(actor.caller, Action.SITE_MANAGE)
        with self._database.transaction() as connection:
            epoch = _next_epoch(connection)
            if not _exists(connection, site):
                raise NotFound("site")
            _admit(connection, site, epoch)
            detail = {"site": site, "epoch": epoch}
            record(connection, AccessEvent(EventType.SITE_ADMITTED, actor, detail=detail))


def owned(connection: Connection, _actor: Actor, target: Target) -> Owned:
    """A site to fail over to, as the target of an approval. Raises: NotFound, InvalidValue."""
    site = part(target, "site")
    if not _exists(connection, site):
        raise NotFound("site")
    return Owned({"site": site})


def _next_epoch(connection: Connection) -> int:
    """Also keeps two moves apart: the second waits for the first."""
    raised = update(topology).values(epoch=topology.c.epoch + 1).returning(topology.c.epoch)
    return int(connection.execute(raised).scalar_one())


def _admit(connection: Connection, site: str, epoch: int) -> None:
    """Under a new epoch, if it was fenced; processes of a site that serves are not disturbed."""
    fenced = (sites.c.name == site) & sites.c.is_fenced
    connection.execute(
        update(sites).where(fenced).values(is_fenced=False, epoch=epoch, changed_at=text("now()"))
    )


def _exists(connection: Connection, site: str) -> bool:
    return connection.execute(select(sites.c.name).where(sites.c.name == site)).first() is not None


def _outlook(connection: Connection, site: str) -> Outlook:
    if not _exists(connection, site):
        raise NotFound("site")
    row = connection.execute(_OUTLOOK, {"site": site}).one()
    return Outlook(site=site, **row._mapping)  # noqa: SLF001 (a row's own)


_OUTLOOK: Final = text(
    """
    WITH copies AS (
        SELECT v.ciphertext_size_bytes AS size_bytes, v.created_at,
               (v.site = :site OR r.verified_at IS NOT NULL) AND r.lost_at IS NULL AS is_there,
               r.verified_at IS NOT NULL AS is_verified
        FROM versions v LEFT JOIN replicas r ON r.object_id = v.object_id AND r.site = :site)
    SELECT (SELECT epoch FROM topology) AS epoch,
           count(*) FILTER (WHERE NOT is_there) AS only_elsewhere,
           coalesce(sum(size_bytes) FILTER (WHERE NOT is_there), 0)::bigint AS only_elsewhere_bytes,
           min(created_at) FILTER (WHERE NOT is_there) AS oldest_only_elsewhere,
           count(*) FILTER (WHERE is_there AND NOT is_verified) AS unverified,
           (SELECT count(*) FROM journal WHERE site = :site AND operation = 'copy'
                                           AND parked_at IS NOT NULL) AS parked,
           (SELECT count(DISTINCT p.id) FROM uploads u JOIN processes p ON p.id = u.process_id
            WHERE u.state = 'open' AND u.site <> :site AND p.alive_until > now()) AS uploaders
    FROM copies"""
)

"""The site epoch: which processes may write.

Each site has an epoch, and each process works under the one that its own site had when it started. A failover
raises the epoch of the site that it gives up and fences it; admitting a site raises its epoch again. Every
commit of an upload and every claim of work names the process's epoch in its own statement, so a process
that was cut off for a while and comes back changes nothing: it is refused, once, or for as long as its site
is fenced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from vault.database import SharedDatabase
from vault.errors import SiteFenced
from vault.tables import sites

MAY_WRITE: Final = """
    SELECT FROM sites WHERE name = :local_site AND epoch = :site_epoch AND NOT is_fenced"""
"""True as EXISTS(…) while this process may write; its values come from `SiteEpoch.parameters`."""

TYPES: Final = {"local_site": "text", "site_epoch": "integer"}


@dataclass(frozen=True)
class SiteState:
    """What the database says of a site."""

    epoch: int
    is_fenced: bool


class SiteEpoch:
    """The epoch that this process works under. Safe for threads."""

    def __init__(self, database: SharedDatabase, local_site: str) -> None:
        """Asks nothing yet; see `adopt`."""
        self._database = database
        self.local_site = local_site
        self._epoch = 0

    def adopt(self) -> SiteState:
        """Work under the newest epoch from now on. Raises: DatabaseUnavailable."""
        state = self.state()
        self._epoch = state.epoch
        return state

    def state(self) -> SiteState:
        """What the database says of this process's site. Raises: DatabaseUnavailable."""
        row = self._database.execute(select(sites).where(sites.c.name == self.local_site), {})[0]
        return SiteState(row.epoch, row.is_fenced)

    def parameters(self) -> dict[str, Any]:
        """Bind values of statements that contain `MAY_WRITE`."""
        return {"local_site": self.local_site, "site_epoch": self._epoch}

    def require(self) -> None:
        """Return if this process may write.

        Raises:
            SiteFenced: it may not. If the epoch has moved on and its site serves, the next try may.
            DatabaseUnavailable.
        """
        before = self._epoch
        state = self.adopt()
        if state.is_fenced or state.epoch != before:
            raise SiteFenced

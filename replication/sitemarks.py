"""Site marks: a small object at each site that tells whose it is, so that an emptied or foreign one is known.

```
site/mark    JSON: the vault's id, the site's name, a random id that is in PostgreSQL too
```
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import select, update

from vault.database import Database
from vault.objects.health import SiteHealth
from vault.objects.reading import small_object
from vault.objects.store import ObjectMissing
from vault.tables import sites

KEY: Final = "site/mark"


class MarkState(StrEnum):
    """What a site's mark says."""

    OURS = "ours"
    NEW = "new"
    GONE = "gone"
    FOREIGN = "foreign"


class SiteMarks:
    """The marks of one vault's sites."""

    def __init__(self, database: Database, vault_id: UUID, health: SiteHealth) -> None:
        self._database = database
        self._vault_id = vault_id
        self._health = health

    def look(self, site: str) -> MarkState:
        """Whose the site is; a site that never had a mark gets one.

        Raises:
            StoreError, DatabaseUnavailable.
        """
        known = self._known(site)
        if known is None:
            self.renew(site)
            return MarkState.NEW
        try:
            found = small_object(self._health.stores[site], KEY)
        except ObjectMissing:
            return MarkState.GONE
        return MarkState.OURS if found == self._text(site, known) else MarkState.FOREIGN

    def renew(self, site: str) -> None:
        """Mark the site as ours, and complete. Raises: StoreError, DatabaseUnavailable."""
        mark = self._known(site) or self._drawn(site)
        self._health.stores[site].put(KEY, self._text(site, mark))

    def _known(self, site: str) -> UUID | None:
        found: UUID | None = self._database.execute(
            select(sites.c.marker).where(sites.c.name == site), {}
        )[0].marker
        return found

    def _drawn(self, site: str) -> UUID:
        """A new one, unless another process was first."""
        first = sites.c.marker.is_(None)
        drawn = update(sites).where(sites.c.name == site, first).values(marker=uuid4())
        self._database.execute(drawn, {})
        mark = self._known(site)
        assert mark is not None
        return mark

    def _text(self, site: str, mark: UUID) -> bytes:
        return json.dumps(
            {"vault": str(self._vault_id), "site": site, "mark": str(mark)}, sort_keys=True
        ).encode()

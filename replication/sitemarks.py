"""Site marks: a small object at each site that tells whose it is, so that an emptied or foreign one is known.

```
site/mark    JSON: the vault's id, the site's name, a random id that is in PostgreSQL too
```
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import select, update

from vault.database import ServiceDatabase, SharedDatabase
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


@dataclass(frozen=True)
class _Mark:
    """What stands in the object."""

    vault: str
    site: str
    mark: str


def marked_sites(database: SharedDatabase) -> set[str]:
    """Sites that have a mark, and so were there once. Raises: DatabaseUnavailable."""
    query = select(sites.c.name).where(sites.c.marker.is_not(None))
    return {row.name for row in database.execute(query, {})}


class SiteMarks:
    """The marks of one vault's sites."""

    def __init__(self, database: ServiceDatabase, vault_id: UUID, health: SiteHealth) -> None:
        self._database = database
        self._vault_id = vault_id
        self._health = health

    def look(self, site: str) -> MarkState:
        """Whose the site is; a site that never had a mark gets one.

        Raises:
            StoreError, DatabaseUnavailable.
        """
        known, found = self._known(site), self._found(site)
        if found is None and known is not None:
            return MarkState.GONE
        if found is not None and (found.vault, found.site) != (str(self._vault_id), site):
            return MarkState.FOREIGN
        if found is not None and known is not None:
            return MarkState.OURS if found.mark == str(known) else MarkState.FOREIGN
        # The first look, or a database from before it.
        self._adopt(site, UUID(found.mark) if found else uuid4())
        self.renew(site)
        return MarkState.NEW

    def renew(self, site: str) -> None:
        """Mark the site as ours, and complete. Raises: StoreError, DatabaseUnavailable."""
        mark = self._known(site)
        body = json.dumps({"vault": str(self._vault_id), "site": site, "mark": str(mark)})
        self._health.stores[site].put(KEY, body.encode())

    def _known(self, site: str) -> UUID | None:
        query = select(sites.c.marker).where(sites.c.name == site)
        found: UUID | None = self._database.execute(query, {})[0].marker
        return found

    def _adopt(self, site: str, mark: UUID) -> None:
        """Unless another process was first."""
        first = sites.c.marker.is_(None)
        self._database.execute(
            update(sites).where(sites.c.name == site, first).values(marker=mark), {}
        )

    def _found(self, site: str) -> _Mark | None:
        try:
            return _Mark(**json.loads(small_object(self._health.stores[site], KEY)))
        except ObjectMissing:
            return None
        except (ValueError, TypeError):
            return _Mark("", "", "")  # nobody's

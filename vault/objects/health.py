"""Which sites answer just now: known to a whole process, learnt from every call, checked once a second.

A failed call only raises a suspicion; a site counts as away once a check of its own fails too, and as back
once one succeeds. So an odd failure stops nothing, and nobody waits for a dead site more than a few times.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from vault.objects.store import (
    Bytes,
    Capabilities,
    ObjectLocked,
    ObjectMissing,
    ObjectReader,
    ObjectStore,
    PartUpload,
    PendingUpload,
    StoredObject,
    StoreError,
    UploadMissing,
)

LOOK_EVERY_SECONDS: Final = 1.0
CHECK_EVERY_SECONDS: Final = 5.0
"""A site that nobody complained of is checked that often."""

_log = logging.getLogger(__name__)


class SiteHealth:
    """The health of all sites, as this process sees it. Safe for threads.

    Attributes:
        stores: the stores given, with every failure of theirs noted here.
    """

    def __init__(self, stores: Mapping[str, ObjectStore]) -> None:
        """Every site counts as up until it is found away."""
        self._bare = dict(stores)
        self.stores: Mapping[str, ObjectStore] = {
            site: WatchedStore(store, self.suspect) for site, store in stores.items()
        }
        self._away: dict[str, float] = {}
        self._foreign: set[str] = set()
        self._suspected: set[str] = set()
        self._doubted: set[str] = set()
        self._checked = dict.fromkeys(stores, float("-inf"))
        self._returned: list[Callable[[str], None]] = []
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._checking = {site: threading.Lock() for site in stores}
        self._thread = threading.Thread(target=self._watch, name="site-health", daemon=True)

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self._changed.set()
        self._thread.join()

    def is_up(self, site: str) -> bool:
        """Whether the site answered when it was last asked, and is ours."""
        return site not in self._away and site not in self._foreign

    def answers(self, site: str) -> bool:
        """Whether it answered, be it ours or not."""
        return site not in self._away

    def shun(self, site: str) -> None:
        """It bears the mark of another vault or site: as good as away, until it is `owned`."""
        if site not in self._foreign:
            _log.error("site %s bears the mark of another vault or site; it is not used", site)
        self._foreign.add(site)

    def owned(self, site: str) -> None:
        """It is ours, after all."""
        self._foreign.discard(site)

    def is_doubted(self, site: str) -> bool:
        """Whether it is away, or a call failed and the check that has to follow is not through yet."""
        return site in self._away or site in self._doubted

    def up(self) -> list[str]:
        """The sites that are."""
        return [site for site in self._bare if self.is_up(site)]

    def suspect(self, site: str) -> None:
        """A call failed: have the site checked soon."""
        self._doubted.add(site)
        self._suspected.add(site)
        self._changed.set()

    def confirm(self, site: str) -> bool:
        """Check the site now; whether it is up. Callers that come while one checks share its answer."""
        before = self._checked[site]
        with self._checking[site]:
            if self._checked[site] == before:
                self._check(site)
        return self.is_up(site)

    def on_return(self, told: Callable[[str], None]) -> None:
        """Have `told` called with each site that comes back, on the checking thread; it must be quick."""
        self._returned.append(told)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._changed.wait(LOOK_EVERY_SECONDS)
            self._changed.clear()
            for site in self._bare:
                if self._is_due(site) and not self._stopping.is_set():
                    self._confirm_in_any_case(site)
            # At most that often, also where every call fails.
            self._stopping.wait(LOOK_EVERY_SECONDS / 4)

    def _confirm_in_any_case(self, site: str) -> None:
        try:
            self.confirm(site)
        except Exception:  # noqa: BLE001 (without this thread no site would ever be away, or back)
            _log.exception("a site could not be checked")

    def _is_due(self, site: str) -> bool:
        is_old = time.monotonic() - self._checked[site] > CHECK_EVERY_SECONDS
        return is_old or site in self._suspected or site in self._away

    def _check(self, site: str) -> None:
        self._suspected.discard(site)
        try:
            self._bare[site].check()
        except StoreError as exc:
            if site not in self._away:
                _log.warning("a site is away: %s", exc)
            self._away.setdefault(site, time.monotonic())
        else:
            if self._away.pop(site, None) is not None:
                _log.warning("site %s is back", site)
                for told in self._returned:
                    told(site)
        self._doubted.discard(site)
        self._checked[site] = time.monotonic()


class WatchedStore:
    """A store whose failures are told to somebody; otherwise the store itself."""

    def __init__(self, store: ObjectStore, failed: Callable[[str], None]) -> None:
        self.site = store.site
        self._store = store
        self._failed = failed

    def prepare(self) -> None:
        with self._noted():
            self._store.prepare()

    def put(
        self,
        key: str,
        body: Bytes,
        *,
        locked_until: datetime | None = None,
        sha256: bytes | None = None,
    ) -> None:
        with self._noted():
            self._store.put(key, body, locked_until=locked_until, sha256=sha256)

    def begin_parts(self, key: str, *, locked_until: datetime | None = None) -> PartUpload:
        with self._noted():
            return self._store.begin_parts(key, locked_until=locked_until)

    def resume_parts(self, key: str, upload_id: str) -> PartUpload:
        with self._noted():
            return self._store.resume_parts(key, upload_id)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        with self._noted():
            return self._store.open(key, offset, length)

    def size(self, key: str) -> int:
        with self._noted():
            return self._store.size(key)

    def delete(self, key: str) -> None:
        with self._noted():
            self._store.delete(key)

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        with self._noted():
            yield from self._store.list(prefix, start_after)

    def pending(self, prefix: str = "") -> Iterator[PendingUpload]:
        with self._noted():
            yield from self._store.pending(prefix)

    def abort_pending(self, key: str, upload_id: str) -> None:
        with self._noted():
            self._store.abort_pending(key, upload_id)

    def check(self) -> None:
        with self._noted():
            self._store.check()

    def probe(self) -> Capabilities:
        with self._noted():
            return self._store.probe()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except (ObjectMissing, ObjectLocked, UploadMissing):
            raise
        except StoreError:
            self._failed(self.site)
            raise

"""What lies beside the objects at every site: the key catalogue and the recovery epoch's key.

Both are ciphertext, and opaque here. A site that lost them gets them from the other; and what an epoch
destroyed, and an old copy of a site brought back, is destroyed again, or the epoch would have been in vain.

```
catalogue/<epoch>-<when>/keys, header     the newest counts, and nothing else stays
recovery/<epoch>-<id>/…                   those of epochs that the database still knows
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from vault.database import ServiceDatabase
from vault.objects.health import SiteHealth
from vault.objects.reading import parts
from vault.objects.store import PART_SIZE_BYTES, ObjectStore, StoredObject
from vault.tables import recovery_epochs, shred_epochs

CATALOGUE: Final = "catalogue/"
RECOVERY: Final = "recovery/"


@dataclass(frozen=True)
class Companions:
    """The companions of one vault's objects."""

    database: ServiceDatabase
    health: SiteHealth

    def copy_to(self, site: str) -> int:
        """Copy to `site` what it lacks and the other has; how many objects. Raises: StoreError."""
        target = self.health.stores[site]
        there = {each.key for each in _all(target)}
        copied = 0
        for peer in (store for name, store in self.health.stores.items() if name != site):
            for each in self._living(peer):
                if each.key not in there and not _has_catalogue(there, each.key):
                    _copy(peer, target, each)
                    copied += 1
        return copied

    def destroy_risen(self, site: str) -> int:
        """Delete at `site` what is over: an old copy brought it back; how many. Raises: StoreError."""
        store = self.health.stores[site]
        living = {each.key for each in self._living(store)}
        risen = [each.key for each in _all(store) if each.key not in living]
        for key in risen:
            store.delete(key)
        return len(risen)

    def _living(self, store: ObjectStore) -> Iterator[StoredObject]:
        """What is not over: header last, for without it a catalogue is none."""
        epochs = {row.number for row in self.database.execute(select(recovery_epochs.c.number), {})}
        for each in list(store.list(RECOVERY)):
            # A key that is newer than all rows is one that an epoch is just about to name.
            if _epoch(each.key) in epochs or _epoch(each.key) > max(epochs, default=0):
                yield each
        catalogues = sorted(store.list(CATALOGUE), key=lambda each: each.key.endswith("/header"))
        ended = self._last_ended_epoch()
        living = [each for each in catalogues if _epoch(each.key) >= ended]
        whole = {_folder(each.key) for each in living if each.key.endswith("/header")}
        # One without a header is older than the newest whole one, or is being written.
        yield from (each for each in living if _folder(each.key) >= max(whole, default=""))

    def _last_ended_epoch(self) -> int:
        numbers = select(func.coalesce(func.max(shred_epochs.c.number), 0))
        ended = numbers.where(shred_epochs.c.finished_at.is_not(None))
        return int(self.database.execute(ended, {})[0][0])


def _all(store: ObjectStore) -> Iterator[StoredObject]:
    yield from list(store.list(RECOVERY))
    yield from list(store.list(CATALOGUE))


def _epoch(key: str) -> int:
    digits = _folder(key).partition("/")[2].partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _has_catalogue(there: set[str], key: str) -> bool:
    """Whether a site has a catalogue that is as new: each site's is sealed for itself."""
    return key.startswith(CATALOGUE) and any(
        other.endswith("/header") and _folder(other) >= _folder(key) for other in there
    )


def _copy(source: ObjectStore, target: ObjectStore, stored: StoredObject) -> None:
    if stored.size_bytes <= PART_SIZE_BYTES:
        target.put(stored.key, b"".join(bytes(part) for part in parts(source, stored.key)))
        return
    upload = target.begin_parts(stored.key)
    try:
        for number, part in enumerate(parts(source, stored.key), start=1):
            upload.put_part(number, part)
        upload.complete()
    except BaseException:
        upload.abort()
        raise

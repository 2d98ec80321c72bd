"""Reading a version from whichever site has it whole: the local one first, the other when it must be.

A segment that is missing, cut, late or wrong at one site is read at the other, from where the read stands; a
byte that does not authenticate is never handed out. A copy that should be there and is not, or is not what
was stored, is remembered as an incident and repaired from the good one. A site that is merely away is not.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from keymgmt import stream
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from vault.errors import IntegrityFailure, NotFound, VaultError
from vault.incidents import FoundBy, IncidentKind, Incidents, Loss
from vault.model import ByteRange, Version
from vault.objects.health import SiteHealth
from vault.objects.keys import object_key
from vault.objects.store import ObjectMissing, ObjectReader, ObjectStore, StoreError

_log = logging.getLogger(__name__)

_DAMAGE: Final[dict[type[Exception], IncidentKind]] = {
    ObjectMissing: IncidentKind.MISSING,
    IntegrityFailure: IncidentKind.DAMAGED,
    DecryptionFailed: IncidentKind.DAMAGED,
}


@dataclass
class ReadCounts:
    """What this process's reads met, since it started.

    Attributes:
        failovers: reads that the other site had to help.
        damaged: copies found missing or wrong.
    """

    failovers: int = 0
    damaged: int = 0


class Replicas:
    """The copies of objects at all sites, for reads at one of them."""

    def __init__(self, health: SiteHealth, local_site: str, incidents: Incidents) -> None:
        self._health = health
        self._local_site = local_site
        self._incidents = incidents
        self.counts = ReadCounts()

    def decrypt(
        self, version: Version, data_key: DataKey, binding: bytes, chosen: ByteRange
    ) -> Generator[bytes]:
        """The plaintext of a range, one bytes object for each segment or what is left of one.

        Raises:
            IntegrityFailure: no site has it whole; nothing wrong was yielded.
            StoreError: no site that answers has it whole, and one did not answer.
            NotFound: the version was purged meanwhile.
        """
        position, failures = chosen.start, list[Exception]()
        for site in self._candidates(version):
            if failures:
                self.counts.failovers += 1
            try:
                for piece in self._decrypt_at(
                    site, version, data_key, binding, ByteRange(position, chosen.stop)
                ):
                    position += len(piece)
                    yield piece
            except (StoreError, DecryptionFailed, IntegrityFailure) as exc:
                failures.append(exc)
                self._note(site, version, exc)
            else:
                return
        worst = _worst(failures)
        raise worst from next((exc for exc in failures if exc is not worst), None)

    def _candidates(self, version: Version) -> list[str]:
        """Sites in the order of asking: sound before doubted, with a copy before without, local first."""

        def hopes(site: str) -> tuple[bool, bool, bool]:
            return (
                self._health.is_doubted(site),
                site not in version.durable_on,
                site != self._local_site,
            )

        return sorted(self._health.stores, key=hopes)

    def _decrypt_at(
        self, site: str, version: Version, data_key: DataKey, binding: bytes, chosen: ByteRange
    ) -> Generator[bytes]:
        store = self._health.stores[site]
        return stream.open_range(
            data_key,
            binding,
            ciphertext_size=version.ciphertext_size_bytes,
            fetch=lambda offset, length: _fetch(store, version, offset, length),
            start=chosen.start,
            stop=chosen.stop,
        )

    def _note(self, site: str, version: Version, exc: Exception) -> None:
        """Remember damage. Raises: NotFound: there is none, the version is gone."""
        kind = next((_DAMAGE[each] for each in type(exc).__mro__ if each in _DAMAGE), None)
        if kind is None or site not in version.durable_on:
            return
        _log.error("site %s: a copy is %s", site, kind.value)
        try:
            loss = self._incidents.replica_lost(version.object_id, site, kind, FoundBy.READ)
        except VaultError:
            _log.error("an incident could not be recorded; the next read or scrub meets it again")
            return
        if loss is Loss.GONE:
            raise NotFound("version")
        self.counts.damaged += loss is Loss.NEW


def _fetch(store: ObjectStore, version: Version, offset: int, length: int) -> ObjectReader:
    reader = store.open(object_key(version.object_id), offset, length)
    if reader.object_size_bytes != version.ciphertext_size_bytes:
        reader.close()
        raise IntegrityFailure
    return reader


def _worst(failures: list[Exception]) -> Exception:
    """A site that did not answer may have the good copy: then the answer is "later", not "never"."""
    away = [
        exc
        for exc in failures
        if isinstance(exc, StoreError) and not isinstance(exc, ObjectMissing)
    ]
    return away[0] if away else IntegrityFailure()

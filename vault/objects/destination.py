"""Where an upload's object goes: to the local site, or to both sites at once.

Both at once means: each part is sent to both while the next one fills, and what they then hold is read back
from both and hashed. Only then it counts, and only then a `sync` upload is acknowledged.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor, wait
from datetime import datetime
from typing import Protocol

from vault.objects.reading import sha256_of
from vault.objects.store import Bytes, ObjectStore, PartUpload, StoreError, StoreUnavailable

_log = logging.getLogger(__name__)


class Target(Protocol):
    """What takes an object: a store, or several."""

    def put(self, key: str, body: Bytes, *, sha256: bytes) -> None:
        """As `ObjectStore.put`."""

    def begin_parts(self, key: str) -> PartUpload:
        """As `ObjectStore.begin_parts`."""


class Destination(Target, Protocol):
    """What one upload writes to.

    Attributes:
        site: the local site.
        owed: sites that still need a copy.
        verified: sites whose copy was read back and hashed.
        is_degraded: a copy is owed that the class wanted before the answer.
    """

    site: str

    @property
    def owed(self) -> tuple[str, ...]: ...

    @property
    def verified(self) -> tuple[str, ...]: ...

    @property
    def is_degraded(self) -> bool: ...

    def secure(self, key: str, sha256: bytes) -> None:
        """Do what the class wants before the answer. Raises: StoreError: it cannot be had."""

    def delete(self, key: str) -> None:
        """Remove the object wherever it was put. Raises: StoreError: somewhere it could not be."""


class LocalSite:
    """The local site; the other one gets its copy afterwards."""

    verified: tuple[str, ...] = ()

    def __init__(
        self,
        store: ObjectStore,
        peer: str,
        *,
        is_degraded: bool = False,
        locked_until: datetime | None = None,
    ) -> None:
        self.site = store.site
        self.owed: tuple[str, ...] = (peer,)
        self.is_degraded = is_degraded
        self._store = store
        self._locked_until = locked_until

    def put(self, key: str, body: Bytes, *, sha256: bytes) -> None:
        self._store.put(key, body, locked_until=self._locked_until, sha256=sha256)

    def begin_parts(self, key: str) -> PartUpload:
        return self._store.begin_parts(key, locked_until=self._locked_until)

    def secure(self, key: str, sha256: bytes) -> None:
        """Nothing: the journal sees to it."""

    def delete(self, key: str) -> None:
        self._store.delete(key)


class BothSites:
    """Both sites at the same time, from one stream."""

    def __init__(
        self,
        local: ObjectStore,
        peer: ObjectStore,
        executor: Executor,
        *,
        may_degrade: bool,
        locked_until: datetime | None = None,
    ) -> None:
        """`may_degrade`: when the peer fails, go on with the local site alone."""
        self.site = local.site
        self.owed: tuple[str, ...] = ()
        self.verified: tuple[str, ...] = ()
        self._local = local
        self._peer = peer
        self._executor = executor
        self._may_degrade = may_degrade
        self._locked_until = locked_until

    @property
    def is_degraded(self) -> bool:
        """Whether the peer failed, and the class allows it."""
        return bool(self.owed)

    def put(self, key: str, body: Bytes, *, sha256: bytes) -> None:
        self.both(
            lambda: self._local.put(key, body, locked_until=self._locked_until, sha256=sha256),
            lambda: self._peer.put(key, body, locked_until=self._locked_until, sha256=sha256),
        )

    def begin_parts(self, key: str) -> PartUpload:
        local = self._local.begin_parts(key, locked_until=self._locked_until)
        return _Parts(
            self, local, lambda: self._peer.begin_parts(key, locked_until=self._locked_until)
        )

    def secure(self, key: str, sha256: bytes) -> None:
        self.both(
            lambda: _read_back(self._local, key, sha256),
            lambda: _read_back(self._peer, key, sha256),
        )
        self.verified = tuple({self.site, self._peer.site} - set(self.owed))

    def delete(self, key: str) -> None:
        self.both(lambda: self._local.delete(key), lambda: self._peer.delete(key))
        if self.owed:
            raise StoreUnavailable(
                self._peer.site, "it failed, and may hold the object all the same"
            )

    def both(self, local: Callable[[], None], peer: Callable[[], None]) -> None:
        """Do something at both sites; returns when both ended.

        Raises: StoreError: of the local site, or of the peer where the class does not bear it.
        """
        if self.owed:
            local()
            return
        asked = self._executor.submit(peer)
        try:
            local()
        finally:
            wait((asked,))  # it reads the caller's buffer
        try:
            asked.result()
        except StoreError as exc:
            self._lose_peer(exc)

    def _lose_peer(self, exc: StoreError) -> None:
        if not self._may_degrade:
            raise exc
        _log.warning("an upload goes on without the other site: %s", exc)
        self.owed = (self._peer.site,)


class _Parts:
    """A multipart upload at each site."""

    def __init__(
        self, sites: BothSites, local: PartUpload, begin_peer: Callable[[], PartUpload]
    ) -> None:
        self.upload_id = local.upload_id
        self.parts_done = 0
        self._sites = sites
        self._local = local
        self._peer: PartUpload | None = None
        try:
            sites.both(lambda: None, lambda: self._begin(begin_peer))
        except BaseException:
            local.abort()
            raise

    def put_part(self, number: int, body: Bytes, *, sha256: bytes | None = None) -> None:
        digest = sha256 or hashlib.sha256(body).digest()  # once, not for each site
        self._sites.both(
            lambda: self._local.put_part(number, body, sha256=digest),
            lambda: self._of_peer().put_part(number, body, sha256=digest),
        )

    def complete(self) -> None:
        self._sites.both(self._local.complete, lambda: self._of_peer().complete())

    def abort(self) -> None:
        try:
            if self._peer is not None:
                self._peer.abort()
        finally:
            self._local.abort()

    def _begin(self, begin: Callable[[], PartUpload]) -> None:
        self._peer = begin()

    def _of_peer(self) -> PartUpload:
        assert self._peer is not None
        return self._peer


def _read_back(store: ObjectStore, key: str, sha256: bytes) -> None:
    if sha256_of(store, key) != sha256:
        raise StoreUnavailable(store.site, "it did not give back what it was given")

"""One version's bytes on their way in: counted, judged, sealed and sent while they arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from keymgmt.binding import associated_data
from keymgmt.commitment import commit
from keymgmt.fingerprint import Fingerprint
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.stream import ObjectFormat, SealingStream
from vault import clock, filetype
from vault.errors import MediaTypeNotAllowed, PeerAway, StandbyAway, TooLarge
from vault.model import DocumentClass, Durability, IfPeerAway
from vault.objects.destination import BothSites, Destination, LocalSite
from vault.objects.health import SiteHealth
from vault.objects.keys import object_key
from vault.objects.pipeline import ObjectWriter
from vault.recovery.epochs import RecoveryBlob, RecoveryEpochs

FORMAT: Final = ObjectFormat.TINK_AES256_GCM_HKDF_1MB


@dataclass(frozen=True)
class SealedVersion:
    """What a version's row is made of, once its object is stored.

    Attributes:
        owed_sites: those that still need a copy.
        verified_sites: those whose copy was read back and hashed.
        is_degraded: it is taken with less than the class wanted before the answer.
        needs_standby: its commit counts only at a synchronous standby too.
        fingerprint: of the request, keyed under this version's data key; None if not asked for.
    """

    id: UUID
    object_id: UUID
    site: str
    owed_sites: tuple[str, ...]
    verified_sites: tuple[str, ...]
    is_degraded: bool
    needs_standby: bool
    locked_until: datetime | None
    size_bytes: int
    ciphertext_size_bytes: int
    ciphertext_sha256: bytes
    media_type: str
    wrapped_key: str
    key_commitment: bytes
    fingerprint: bytes | None
    recovery: RecoveryBlob


@dataclass(frozen=True)
class _Durability:
    """What the commit of a version has to be."""

    needs_standby: bool
    is_degraded: bool


@dataclass(frozen=True)
class Sealing:
    """What it takes to seal and store versions of this vault.

    Attributes:
        executor: sends and hashes parts.
        standby_streams: whether commits are at a synchronous standby too, as PostgreSQL is just now; None: it
            is not for us to check.
        peer_executor: sends and reads back at the other site. Another one, or uploads to both sites
            would wait for threads that wait for them.
    """

    vault_id: UUID
    health: SiteHealth
    local_site: str
    peer_site: str
    keys: KeyProvider
    recovery: RecoveryEpochs
    standby_streams: Callable[[], bool] | None
    executor: Executor
    peer_executor: Executor

    def body(
        self,
        *,
        document_id: UUID,
        object_id: UUID,
        rules: DocumentClass,
        fingerprint_of: bytes | None = None,
    ) -> SealedBody:
        """Start a version of a document under a data key of its own.

        Args:
            fingerprint_of: parameters of the request, to be digested together with the body.

        Raises:
            KeyManagementError: no data key to be had.
            PeerAway, StandbyAway: the class wants both sites at once.
        """
        return SealedBody(self, document_id, object_id, rules, fingerprint_of)

    def durability(self, rules: DocumentClass) -> _Durability:
        """What a document of this class needs beside its objects. Raises: StandbyAway."""
        if rules.durability is Durability.ASYNC or self.standby_streams is None:
            return _Durability(needs_standby=False, is_degraded=False)
        if self.standby_streams():
            return _Durability(needs_standby=True, is_degraded=False)
        if rules.if_peer_away is IfPeerAway.REFUSE:
            raise StandbyAway
        return _Durability(needs_standby=False, is_degraded=True)

    def destination(self, rules: DocumentClass, lock: datetime | None) -> Destination:
        """Where a document of this class goes. Raises: PeerAway."""
        local = self.health.stores[self.local_site]
        if rules.durability is Durability.ASYNC:
            return LocalSite(local, self.peer_site, locked_until=lock)
        may_degrade = rules.if_peer_away is IfPeerAway.DEGRADE
        if self.health.is_up(self.peer_site):
            peer = self.health.stores[self.peer_site]
            return BothSites(
                local, peer, self.peer_executor, may_degrade=may_degrade, locked_until=lock
            )
        if not may_degrade:
            raise PeerAway
        return LocalSite(local, self.peer_site, is_degraded=True, locked_until=lock)


class SealedBody:
    """A body being sealed. `write` …, then `finish`; on any error `abort`."""

    def __init__(
        self,
        sealing: Sealing,
        document_id: UUID,
        object_id: UUID,
        rules: DocumentClass,
        fingerprint_of: bytes | None,
    ) -> None:
        self._rules = rules
        self._locked_until = _locked_until(rules)
        self._durability = sealing.durability(rules)
        self._destination = sealing.destination(rules, self._locked_until)
        self._version_id = uuid4()
        self._object_id = object_id
        self._keys = sealing.keys
        self._recovery = sealing.recovery
        self._binding = binding = associated_data(
            vault_id=sealing.vault_id,
            document_id=document_id,
            version_id=self._version_id,
            object_id=object_id,
        )
        data_key, self._wrapped = sealing.keys.generate_data_key(Purpose.DOCUMENTS, binding)
        self._data_key = data_key
        self._commitment = commit(data_key, binding)
        self._fingerprint = Fingerprint(data_key, fingerprint_of) if fingerprint_of else None
        self._writer = ObjectWriter(self._destination, object_key(object_id), sealing.executor)
        self._stream = SealingStream(data_key, binding, self._writer)
        self._head = bytearray()
        self._media_type: str | None = None
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Take the bytes that come next.

        Raises:
            TooLarge, MediaTypeNotAllowed: the class refuses the document.
            StoreError: an earlier part could not be sent.
        """
        self._size += len(chunk)
        if self._size > self._rules.max_size_bytes:
            raise TooLarge(self._rules.max_size_bytes)
        if self._media_type is None:
            self._head += chunk[: filetype.SNIFF_BYTES - len(self._head)]
            if len(self._head) == filetype.SNIFF_BYTES:
                self._judge()
        if self._fingerprint is not None:
            self._fingerprint.update(chunk)
        self._stream.write(chunk)

    def finish(self) -> SealedVersion:
        """Store the rest; when it returns the object is as durable as its class asks.

        Raises:
            MediaTypeNotAllowed: the class refuses the document.
            StoreError: it could not be stored.
            KeyManagementError, DatabaseUnavailable: the recovery recipient cannot be had.
        """
        media_type = self._media_type or self._judge()
        self._stream.finish()
        sent = self._writer.finish()
        self._destination.secure(object_key(self._object_id), sent.sha256)
        return SealedVersion(
            id=self._version_id,
            object_id=self._object_id,
            site=self._destination.site,
            owed_sites=self._destination.owed,
            verified_sites=self._destination.verified,
            is_degraded=self._destination.is_degraded or self._durability.is_degraded,
            needs_standby=self._durability.needs_standby,
            locked_until=self._locked_until,
            size_bytes=self._size,
            ciphertext_size_bytes=sent.size_bytes,
            ciphertext_sha256=sent.sha256,
            media_type=media_type,
            wrapped_key=self._wrapped.text,
            key_commitment=self._commitment,
            fingerprint=self._fingerprint.digest() if self._fingerprint else None,
            recovery=self._recovery.seal(self._binding, self._data_key),
        )

    def rewrapped(self, sealed: SealedVersion) -> SealedVersion:
        """The same version with its data key wrapped under the newest KEK version.

        For an upload that took longer than its KEK version lived. Raises: KeyManagementError.
        """
        wrapped = self._keys.wrap(Purpose.DOCUMENTS, self._binding, self._data_key)
        return replace(sealed, wrapped_key=wrapped.text)

    def resealed(self, sealed: SealedVersion) -> SealedVersion:
        """The same version with its data key sealed for the recipient of now.

        Raises: as `RecoveryEpochs.refresh`.
        """
        self._recovery.refresh()
        return replace(sealed, recovery=self._recovery.seal(self._binding, self._data_key))

    def abort(self) -> None:
        """Drop what was sent. Raises: StoreError when the store is away."""
        self._writer.abort()

    def remove(self) -> None:
        """Remove the object that `finish` stored. Raises: StoreError: somewhere it may be left."""
        self._destination.delete(object_key(self._object_id))

    def _judge(self) -> str:
        media_type = filetype.media_type(bytes(self._head))
        if not self._rules.takes(media_type):
            raise MediaTypeNotAllowed(self._rules.media_types)
        self._media_type = media_type
        return media_type


def _locked_until(rules: DocumentClass) -> datetime | None:
    if rules.worm_days is None:
        return None
    return clock.now() + timedelta(days=rules.worm_days)

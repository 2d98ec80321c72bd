"""Reading a version's bytes: decided and recorded before, decrypted on the way, accounted for after.

```
one transaction: find → decide → choose the range → intent event   (committed before any byte moves)
check commitment → unwrap → fetch only the segments the range needs → decrypt → outcome event
                            (from the local site, or the other one: `replicas`)
```
The first segment is decrypted before anything is answered, so a damaged object is an error the caller can
read; damage found later can only cut the answer short.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Connection

from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import NOBODY, as_caller
from vault.database import Database
from vault.errors import DocumentInBin, IntegrityFailure, NotFound, VaultError
from vault.model import ByteRange, Document, DocumentState, Version
from vault.opening import DocumentKeys
from vault.records import find_document, select_versions, to_version
from vault.replicas import Replicas
from vault.tables import versions

_log = logging.getLogger(__name__)


Choose = Callable[[Document], ByteRange]
"""Picks the range once the version is known (`Document.version` is the one asked for); may raise to stop
the read, for instance because the caller has these bytes already."""


Outcome = Callable[[EventType, int], None]
"""Records how a read ended, and after how many bytes."""


class Contents:
    """The bytes of documents, from the local site or the other."""

    def __init__(self, database: Database, replicas: Replicas, keys: DocumentKeys) -> None:
        self._database = database
        self._replicas = replicas
        self._keys = keys

    def examine(self, actor: Actor, document_id: UUID, number: int | None = None) -> Document:
        """What a read would give, without the bytes.

        Raises:
            NotFound, NotAllowed, DocumentInBin.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = readable(connection, actor, Action.DOCUMENT_READ, document_id, number)
            event = AccessEvent(
                EventType.DOCUMENT_VIEWED, actor, document_id, document.version.number
            )
            record(connection, event)
        return document

    def open(
        self, actor: Actor, document_id: UUID, choose: Choose, number: int | None = None
    ) -> Content:
        """Open a version, the newest if no number is given.

        Raises:
            NotFound, NotAllowed, DocumentInBin: refused.
            IntegrityFailure: the object or its key is not what was stored; no byte is handed out.
            StoreUnavailable, KeyServiceUnavailable, DatabaseUnavailable: a dependency is away.
            Whatever `choose` raises.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = readable(connection, actor, Action.DOCUMENT_READ, document_id, number)
            chosen = choose(document)
            detail = {"start": chosen.start, "stop": chosen.stop}
            intent = AccessEvent(
                EventType.READ_INTENDED, actor, document_id, document.version.number, detail
            )
            record(connection, intent)
        plaintext = self._decrypt(document.id, document.version, chosen)
        content = Content(document, chosen, plaintext, self._outcome_of(intent))
        try:
            content.prime()
        except BaseException:
            content.close()
            raise
        return content

    def _decrypt(self, document_id: UUID, version: Version, chosen: ByteRange) -> Generator[bytes]:
        data_key, binding = self._keys.open(document_id, version)
        yield from self._replicas.decrypt(version, data_key, binding, chosen)

    def _outcome_of(self, intent: AccessEvent) -> Outcome:
        def outcome(kind: EventType, sent_bytes: int) -> None:
            # Stated by the service: a key that died during the read must not hide how it ended.
            detail = {"intent": str(intent.id), "sent_bytes": sent_bytes}
            event = AccessEvent(kind, None, intent.document_id, intent.version, detail)
            try:
                with self._database.transaction(NOBODY) as connection:
                    record(connection, event)
            except VaultError:
                # A missing outcome is a finding of its own; the read itself was as it was.
                _log.warning("the outcome of a read could not be recorded")

        return outcome


class Content:
    """An opened read: take its chunks one after the other, say what was sent, and close it in any case.

    For one caller at a time, from whatever thread.
    """

    def __init__(
        self,
        document: Document,
        chosen: ByteRange,
        plaintext: Generator[bytes],
        outcome: Outcome,
    ) -> None:
        self.document = document
        self.range = chosen
        self._plaintext = plaintext
        self._outcome: Outcome | None = outcome
        self._first: bytes | None = None
        self._sent_bytes = 0
        self._is_damaged = False

    def prime(self) -> None:
        """Decrypt the first chunk. Raises: IntegrityFailure, StoreError, KeyManagementError."""
        self._first = self._decrypt_next()

    def next_chunk(self) -> bytes | None:
        """The next chunk, None after the last. Raises: as `prime`; then the answer has to be cut."""
        first, self._first = self._first, None
        return first or self._decrypt_next()

    def sent(self, size_bytes: int) -> None:
        """That many bytes more went out to the caller."""
        self._sent_bytes += size_bytes

    def close(self) -> None:
        """Release the store's connection and record the outcome. Idempotent."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            self._plaintext.close()
            outcome(self._ended(), self._sent_bytes)

    def _ended(self) -> EventType:
        if self._is_damaged:
            return EventType.INTEGRITY_FAILED
        if self._sent_bytes == self.range.stop - self.range.start:
            return EventType.READ_COMPLETED
        return EventType.READ_BROKEN_OFF

    def _decrypt_next(self) -> bytes | None:
        try:
            return next(self._plaintext, None)
        except (DecryptionFailed, KeyVersionRetired, IntegrityFailure) as exc:
            self._is_damaged = True
            raise IntegrityFailure from exc


def readable(
    connection: Connection, actor: Actor, action: Action, document_id: UUID, number: int | None
) -> Document:
    """The document with the version asked for in `Document.version`, if `actor` may do `action`.

    Raises: NotFound, NotAllowed, DocumentInBin.
    """
    require(actor.caller, action)
    document = find_document(connection, document_id)
    require(actor.caller, action, document.department, class_name=document.class_name)
    if document.state is not DocumentState.LIVE:
        raise DocumentInBin
    if number in (None, document.version.number):
        return document
    row = connection.execute(
        select_versions(document_id).where(versions.c.number == number)
    ).one_or_none()
    if row is None:
        raise NotFound("version")
    return replace(document, version=to_version(row))

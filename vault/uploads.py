"""Uploads: a document or a new version of one, sealed while it streams in.

```
decide → take an upload row → new data key → seal, hash and send while bytes arrive → commit → answer
```
The object is stored before its row is committed, never after: a row without an object cannot exist, an
object without a row is swept. Plaintext stays in memory, a few parts of it, whatever the size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID, uuid4

from keymgmt.errors import KeyManagementError
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.classes import Classes
from vault.commit import Commits, judge_new_version
from vault.context import as_caller
from vault.database import Database
from vault.errors import (
    KekVersionGone,
    RecoveryOutdated,
    TooLarge,
    Unavailable,
    VaultError,
)
from vault.idempotency import IdempotencyKey, IdempotencyKeys
from vault.incoming import NewDocument, NewVersion
from vault.keks import Keks
from vault.model import Document, DocumentClass
from vault.objects.store import StoreError
from vault.opening import DocumentKeys
from vault.records import find_document
from vault.replay import Replay
from vault.sealing import SealedBody, SealedVersion, Sealing
from vault.upload_rows import UploadRows

KEY_CHANGES: Final = 4
"""How often an upload follows keys that change under it: a rotation and an epoch, each twice."""

_log = logging.getLogger(__name__)


class Upload(Protocol):
    """A body on its way in: `write` …, then `finish`; on any error, or when given up, `abort`."""

    def write(self, chunk: bytes) -> None:
        """Take the bytes that come next.

        Raises:
            TooLarge, MediaTypeNotAllowed: the class refuses the document.
            StoreError: an earlier part could not be sent.
        """

    def finish(self) -> Document:
        """Commit; what it returns is durable and may be acknowledged.

        Raises:
            Conflict, InvalidInput, NotFound: the state or the class refuses it.
            StoreError, DatabaseUnavailable, UploadLost: send it again.
            CredentialRevoked: the API key died meanwhile.
        """

    def abort(self) -> None:
        """Leave nothing behind, or leave it to the sweep; raises no domain error."""


class Uploads:
    """Takes documents in, at the local site."""

    def __init__(
        self,
        database: Database,
        classes: Classes,
        rows: UploadRows,
        sealing: Sealing,
        commits: Commits,
        keks: Keks,
        keys: DocumentKeys,
    ) -> None:
        self._database = database
        self._classes = classes
        self._rows = rows
        self._sealing = sealing
        self._commits = commits
        self._keks = keks
        self._keys = keys
        self._idempotency = IdempotencyKeys(database)

    def create(
        self, actor: Actor, new: NewDocument, idempotency_key: IdempotencyKey | None = None
    ) -> Upload:
        """Start a document.

        Raises:
            NotAllowed, NotFound: the policy refuses it.
            UnknownClass, TooLarge: no such class, or it refuses the declared size.
            IdempotencyInFlight: the first request with this key still runs.
            KeyManagementError, PeerAway, StandbyAway, DatabaseUnavailable: a dependency is away.
        """
        require(
            actor.caller,
            Action.DOCUMENT_CREATE,
            new.department,
            "department",
            class_name=new.class_name,
        )
        rules = self._rules(new.class_name, new.declared_size_bytes)
        document_id, object_id = uuid4(), self._rows.take()
        if idempotency_key is not None:
            try:
                first = self._idempotency.begin(actor.caller, idempotency_key, object_id)
            except Unavailable:
                # Claimed or not: with an open row the key would look in use while this process lives.
                self._rows.abandon(object_id)
                raise
            if first is not None:
                self._rows.put_back(object_id)
                return Replay(self._database, self._keys, actor, new, first)
        fingerprint_of = new.fingerprint_parameters() if idempotency_key else None
        body = self._seal(document_id, object_id, rules, fingerprint_of)

        def commit(sealed: SealedVersion) -> Document:
            return self._commits.document(actor, document_id, new, sealed, idempotency_key)

        return self._sealed(body, object_id, commit)

    def add_version(self, actor: Actor, new: NewVersion) -> Upload:
        """Start a further version of a document.

        Raises:
            NotAllowed, NotFound: the policy refuses it, or there is no such document.
            TooLarge: the class refuses the declared size.
            DocumentInBin, PreconditionFailed: judged now, and once more at the commit.
            KeyManagementError, PeerAway, StandbyAway, DatabaseUnavailable: a dependency is away.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = find_document(connection, new.document_id)
        judge_new_version(actor, document, new)
        rules = self._rules(document.class_name, new.declared_size_bytes)
        object_id = self._rows.take()
        body = self._seal(document.id, object_id, rules)

        def commit(sealed: SealedVersion) -> Document:
            return self._commits.version(actor, new, sealed)

        return self._sealed(body, object_id, commit)

    def _sealed(
        self, body: SealedBody, object_id: UUID, commit: Callable[[SealedVersion], Document]
    ) -> Upload:
        def commit_under_living_keys() -> Document:
            sealed = body.finish()
            for _ in range(KEY_CHANGES):
                try:
                    return commit(sealed)
                except KekVersionGone:
                    # It took longer than its KEK version lived, or the KEK was rotated at the KMS itself.
                    self._keks.adopt()
                    sealed = body.rewrapped(sealed)
                except RecoveryOutdated:
                    sealed = body.resealed(sealed)
            return commit(sealed)

        return _SealedUpload(body, object_id, self._rows, commit_under_living_keys)

    def _rules(self, class_name: str, declared_size_bytes: int | None) -> DocumentClass:
        rules = self._classes.get(class_name)
        if declared_size_bytes is not None and declared_size_bytes > rules.max_size_bytes:
            raise TooLarge(rules.max_size_bytes)
        return rules

    def _seal(
        self,
        document_id: UUID,
        object_id: UUID,
        rules: DocumentClass,
        fingerprint_of: bytes | None = None,
    ) -> SealedBody:
        try:
            return self._sealing.body(
                document_id=document_id,
                object_id=object_id,
                rules=rules,
                fingerprint_of=fingerprint_of,
            )
        except (KeyManagementError, Unavailable):
            self._rows.abandon(object_id)
            raise


class _SealedUpload:
    """An upload that really stores something."""

    def __init__(
        self,
        body: SealedBody,
        object_id: UUID,
        rows: UploadRows,
        finish: Callable[[], Document],
    ) -> None:
        self._body = body
        self._object_id = object_id
        self._rows = rows
        self._finish = finish

    def write(self, chunk: bytes) -> None:
        self._body.write(chunk)

    def finish(self) -> Document:
        return self._finish()

    def abort(self) -> None:
        # Only an object that no committed row names may go: an answer to COMMIT can get lost.
        is_nobodys = self._rows.abandon(self._object_id)
        try:
            self._body.abort()
            if is_nobodys:
                self._body.remove()
                self._rows.forget(self._object_id)
        except (StoreError, VaultError):
            _log.warning("what an aborted upload stored is left to the sweep")

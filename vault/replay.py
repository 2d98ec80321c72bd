"""A create that was carried out before: its body is compared, nothing is stored."""

from __future__ import annotations

import hmac
from dataclasses import replace

from sqlalchemy import Connection

from keymgmt.fingerprint import Fingerprint
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import as_caller
from vault.database import Database
from vault.errors import IdempotencyMismatch
from vault.idempotency import FirstRequest
from vault.incoming import NewDocument
from vault.model import Document
from vault.opening import DocumentKeys
from vault.records import find_document, select_versions, to_version
from vault.tables import versions


class Replay:
    """An `Upload` whose document exists; `finish` answers with it if the request is the same."""

    def __init__(
        self,
        database: Database,
        keys: DocumentKeys,
        actor: Actor,
        new: NewDocument,
        first: FirstRequest,
    ) -> None:
        """Raises: NotAllowed, NotFound: what was allowed then is not now. KeyManagementError."""
        self._database = database
        self._first = first
        self._context = as_caller(actor.caller)
        with database.transaction(self._context) as connection:
            self._document = _as_created(connection, first)
        found = self._document
        require(actor.caller, Action.DOCUMENT_CREATE, found.department, class_name=found.class_name)
        version = self._document.version
        data_key, _ = keys.open(self._document.id, version)
        self._fingerprint = Fingerprint(data_key, new.fingerprint_parameters())
        self._event = AccessEvent(
            EventType.DOCUMENT_REPLAYED, actor, self._document.id, version=version.number
        )

    def write(self, chunk: bytes) -> None:
        """Take the bytes that come next."""
        self._fingerprint.update(chunk)

    def finish(self) -> Document:
        """The document that the first request made, as it is now with its first version.

        Raises:
            IdempotencyMismatch: this request is another one.
        """
        if not hmac.compare_digest(self._fingerprint.digest(), self._first.fingerprint):
            raise IdempotencyMismatch
        with self._database.transaction(self._context) as connection:
            record(connection, self._event)
        return self._document

    def abort(self) -> None:
        """Nothing was stored."""


def _as_created(connection: Connection, first: FirstRequest) -> Document:
    document = find_document(connection, first.document_id)
    row = connection.execute(select_versions(document.id).where(versions.c.number == 1)).one()
    return replace(document, version=to_version(row))

"""Commits of uploads: the one transaction after which a version exists.

It deletes the upload row (so the sweep can no longer take the object), writes the version with its
wrapped key and recovery blob, a replica row for each verified copy or a journal row for each owed one, and
the access event; or does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text, update

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import (
    EVENT_ROW,
    EVENT_TYPES,
    LIVE_CREDENTIAL,
    AccessEvent,
    Actor,
    EventType,
    with_event,
)
from vault.context import NOBODY, as_caller
from vault.database import (
    WAITS_FOR_STANDBY,
    DanglingReference,
    Database,
    PreparedStatement,
)
from vault.errors import (
    CredentialRevoked,
    DocumentInBin,
    KekVersionGone,
    PreconditionFailed,
    RecoveryOutdated,
    SiteFenced,
    StandbyAway,
    UploadLost,
)
from vault.idempotency import NO_KEY, REMEMBER, IdempotencyKey
from vault.incoming import NewDocument, NewVersion
from vault.journal import ENQUEUE_COPIES, Reason
from vault.model import Document, DocumentState, Version
from vault.records import lock_document
from vault.sealing import FORMAT, SealedVersion
from vault.siteepoch import MAY_WRITE, SiteEpoch
from vault.siteepoch import TYPES as SITE_EPOCH_TYPES
from vault.tables import documents


class Commits:
    """Commits uploads of this vault."""

    def __init__(self, database: Database, epoch: SiteEpoch) -> None:
        self._database = database
        self._epoch = epoch

    def document(
        self,
        actor: Actor,
        document_id: UUID,
        new: NewDocument,
        sealed: SealedVersion,
        idempotency_key: IdempotencyKey | None,
    ) -> Document:
        """Commit a new document with its first version, in one statement.

        Raises: UploadLost, CredentialRevoked, KekVersionGone, RecoveryOutdated, DatabaseUnavailable.
        """
        event = AccessEvent(EventType.DOCUMENT_CREATED, actor, document_id, 1, _detail(sealed))
        values = {
            **self._version_values(actor, document_id, 1, new.claimed_media_type, sealed, event),
            **(idempotency_key.parameters() if idempotency_key else NO_KEY),
            "fingerprint": sealed.fingerprint,
            "name": new.name,
            "class": new.class_name,
            "department": new.department,
        }
        with _under_living_keys():
            context = as_caller(actor.caller).creating(document_id)
            rows = self._database.execute_prepared(context, _COMMIT_DOCUMENT, values)
        if not rows:
            raise self._why_not_committed(event, sealed)
        version = _version(values, rows[0].created_at)
        return Document(
            id=document_id,
            name=new.name,
            class_name=new.class_name,
            department=new.department,
            state=DocumentState.LIVE,
            revision=1,
            created_at=version.created_at,
            created_by=version.created_by,
            binned_at=None,
            purge_after=None,
            version=version,
        )

    def version(self, actor: Actor, new: NewVersion, sealed: SealedVersion) -> Document:
        """Commit a further version; concurrent ones wait for each other.

        Raises: as `judge_new_version`; UploadLost, CredentialRevoked, KekVersionGone,
            RecoveryOutdated, DatabaseUnavailable.
        """
        context = as_caller(actor.caller)
        with _under_living_keys(), self._database.transaction(context) as connection:
            document = lock_document(connection, new.document_id)
            judge_new_version(actor, document, new)
            number = document.version.number + 1
            event = AccessEvent(
                EventType.VERSION_ADDED, actor, new.document_id, number, _detail(sealed)
            )
            values = self._version_values(
                actor, new.document_id, number, new.claimed_media_type, sealed, event
            )
            row = connection.execute(_COMMIT_VERSION, values).one_or_none()
            if row is None:
                raise self._why_not_committed(event, sealed)
            connection.execute(
                update(documents)
                .where(documents.c.id == new.document_id)
                .values(newest_version=number)
            )
        return replace(document, version=_version(values, row.created_at))

    def _version_values(
        self,
        actor: Actor,
        document_id: UUID,
        number: int,
        claimed_media_type: str | None,
        sealed: SealedVersion,
        event: AccessEvent,
    ) -> dict[str, Any]:
        return {
            **event.parameters(),
            "document_id": document_id,
            "number": number,
            "id": sealed.id,
            "object_id": sealed.object_id,
            "site": sealed.site,
            "format": int(FORMAT),
            "size_bytes": sealed.size_bytes,
            "ciphertext_size_bytes": sealed.ciphertext_size_bytes,
            "ciphertext_sha256": sealed.ciphertext_sha256,
            "media_type": sealed.media_type,
            "claimed_media_type": claimed_media_type,
            "wrapped_key": sealed.wrapped_key,
            "key_commitment": sealed.key_commitment,
            "recovery_epoch": sealed.recovery.epoch,
            "recovery_blob": sealed.recovery.blob,
            "receipt": event.id,
            "created_by": actor.caller.principal_id,
            "locked_until": sealed.locked_until,
            "peer_sites": list(sealed.owed_sites),
            "copy_reason": (Reason.DEBT if sealed.is_degraded else Reason.UPLOAD).value,
            "verified_sites": list(sealed.verified_sites),
            "needs_standby": sealed.needs_standby,
            **self._epoch.parameters(),
        }

    def _why_not_committed(self, event: AccessEvent, sealed: SealedVersion) -> Exception:
        """Which of the conditions of `_UPLOAD_TAKEN` did not hold."""
        values = {
            **{name: event.parameters()[name] for name in ("event_api_key", "event_session")},
            "recovery_epoch": sealed.recovery.epoch,
        }
        row = self._database.execute(NOBODY, _CONDITIONS, values)[0]
        if not row.key_is_live:
            return CredentialRevoked()
        try:
            self._epoch.require()
        except SiteFenced as exc:
            return exc
        if sealed.needs_standby and not row.waits_for_standby:
            return StandbyAway()
        return UploadLost() if row.epoch_is_newest else RecoveryOutdated()


@contextmanager
def _under_living_keys() -> Iterator[None]:
    try:
        yield
    except DanglingReference as exc:
        if exc.constraint == "fk_versions_kek_version":
            raise KekVersionGone from exc
        if exc.constraint == "fk_recovery_blobs_epoch":
            raise RecoveryOutdated from exc
        raise


def judge_new_version(actor: Actor, document: Document, new: NewVersion) -> None:
    """Return if the document may get this version now.

    Raises: NotAllowed, NotFound, DocumentInBin, PreconditionFailed.
    """
    require(
        actor.caller,
        Action.DOCUMENT_UPDATE,
        document.department,
        class_name=document.class_name,
    )
    if document.state is not DocumentState.LIVE:
        raise DocumentInBin
    if new.expected is not None and document.version.id not in new.expected:
        raise PreconditionFailed


def _version(values: dict[str, Any], created_at: datetime) -> Version:
    stored = {field.name: values[field.name] for field in fields(Version) if field.name in values}
    durable_on = tuple(sorted({values["site"], *values["verified_sites"]}))
    return Version(**stored, created_at=created_at, durable_on=durable_on)


def _detail(sealed: SealedVersion) -> dict[str, Any]:
    return {"degraded": True} if sealed.is_degraded else {}


_NEWEST_EPOCH = """
    CAST(:recovery_epoch AS integer) IS NOT DISTINCT FROM (SELECT max(number) FROM recovery_epochs)"""

_UPLOAD_TAKEN = f"""
    DELETE FROM uploads
    WHERE object_id = :object_id AND state = 'open' AND {LIVE_CREDENTIAL} AND {_NEWEST_EPOCH}
      AND EXISTS ({MAY_WRITE}) AND (NOT CAST(:needs_standby AS boolean) OR {WAITS_FOR_STANDBY})
    RETURNING object_id"""  # noqa: S608 (made of constants)

_VERSION_ROW = """
    INSERT INTO versions
        (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
         ciphertext_sha256, media_type, claimed_media_type, wrapped_key, key_commitment,
         receipt, created_by, locked_until)
    SELECT :document_id, :number, :id, :object_id, :site, :format, :size_bytes,
           :ciphertext_size_bytes, :ciphertext_sha256, :media_type, :claimed_media_type,
           :wrapped_key, :key_commitment, :receipt, :created_by,
           CAST(:locked_until AS timestamptz)
    FROM upload
    RETURNING created_at"""

_RECOVERY_BLOB = """
    INSERT INTO recovery_blobs (document_id, number, epoch, blob)
    SELECT :document_id, :number, :recovery_epoch, :recovery_blob FROM upload
    WHERE CAST(:recovery_epoch AS integer) IS NOT NULL"""

_VERIFIED_REPLICAS = """
    INSERT INTO replicas (object_id, site, verified_at)
    SELECT :object_id, site, now() FROM unnest(CAST(:verified_sites AS text[])) AS site, upload"""

_COMMIT_VERSION = with_event(
    f"""
WITH upload AS ({_UPLOAD_TAKEN}),
     version AS ({_VERSION_ROW}),
     recovery AS ({_RECOVERY_BLOB}),
     copies AS ({ENQUEUE_COPIES}, upload),
     verified AS ({_VERIFIED_REPLICAS}),
     event AS ({EVENT_ROW} FROM upload)
SELECT created_at FROM version"""  # noqa: S608 (made of constants)
)

_VERSION_TYPES = {
    "document_id": "uuid",
    "number": "integer",
    "id": "uuid",
    "object_id": "uuid",
    "site": "text",
    "format": "smallint",
    "size_bytes": "bigint",
    "ciphertext_size_bytes": "bigint",
    "ciphertext_sha256": "bytea",
    "media_type": "text",
    "claimed_media_type": "text",
    "wrapped_key": "text",
    "key_commitment": "bytea",
    "recovery_epoch": "integer",
    "recovery_blob": "bytea",
    "receipt": "uuid",
    "created_by": "uuid",
    "locked_until": "timestamptz",
    "peer_sites": "text[]",
    "copy_reason": "text",
    "verified_sites": "text[]",
    "needs_standby": "boolean",
    **SITE_EPOCH_TYPES,
}

_COMMIT_DOCUMENT = PreparedStatement(
    "commit_document",
    f"""
WITH upload AS ({_UPLOAD_TAKEN}),
     document AS (
        INSERT INTO documents
            (id, name, class, department, state, revision, newest_version, created_by)
        SELECT :document_id, :name, :class, :department, 'live', 1, 1, :created_by FROM upload),
     version AS ({_VERSION_ROW}),
     recovery AS ({_RECOVERY_BLOB}),
     copies AS ({ENQUEUE_COPIES}, upload),
     verified AS ({_VERIFIED_REPLICAS}),
     remembered AS ({REMEMBER}),
     event AS ({EVENT_ROW} FROM upload)
SELECT created_at FROM version""",  # noqa: S608 (made of constants)
    {
        **_VERSION_TYPES,
        **EVENT_TYPES,
        "name": "text",
        "class": "text",
        "department": "text",
        "fingerprint": "bytea",
        "idempotency_principal": "uuid",
        "idempotency_route": "text",
        "idempotency_key": "bytea",
    },
)
"""One statement, planned once, one round trip, one commit: at 16 KiB every further trip would show."""

_CONDITIONS = text(
    f"""
    SELECT {LIVE_CREDENTIAL} AS key_is_live, {_NEWEST_EPOCH} AS epoch_is_newest,
           {WAITS_FOR_STANDBY} AS waits_for_standby"""
)

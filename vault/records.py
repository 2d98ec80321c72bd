"""How rows of documents and versions are asked for, and what they become."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    and_,
    func,
    select,
)

from vault.errors import NotFound
from vault.model import Document, DocumentState, Version
from vault.tables import classes, documents, replicas, versions

_of_version = replicas.c.object_id == versions.c.object_id


def _sites(*conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.array_agg(replicas.c.site)).where(_of_version, *conditions).scalar_subquery()


_REPLICA_SITES = (
    _sites(replicas.c.verified_at.is_not(None)).label("replica_sites"),
    _sites(replicas.c.lost_at.is_not(None)).label("lost_sites"),
)


def select_documents() -> Select[Any]:
    """Documents that still exist, each with its newest version and its class's periods."""
    return (
        select(
            documents,
            *(column.label(f"version_{column.name}") for column in versions.c),
            *_REPLICA_SITES,
            classes.c.retention_days,
            classes.c.bin_days,
        )
        .join_from(
            documents,
            versions,
            and_(
                versions.c.document_id == documents.c.id,
                versions.c.number == documents.c.newest_version,
            ),
        )
        .join(classes, classes.c.name == documents.c.class_name)
    )


def select_versions(document_id: UUID) -> Select[Any]:
    """Versions of one document."""
    return select(
        *(column.label(f"version_{column.name}") for column in versions.c), *_REPLICA_SITES
    ).where(versions.c.document_id == document_id)


def lock_document(connection: Connection, document_id: UUID) -> Document:
    """The document, locked until the transaction ends, as everybody else has left it.

    Two statements: one that locks and reads at once would, after waiting for a writer, pair the
    new document row with versions of the old snapshot (PostgreSQL 18 manual, §13.2.1).

    Raises:
        NotFound: there is none.
    """
    connection.execute(
        select(documents.c.id).where(documents.c.id == document_id).with_for_update()
    )
    return find_document(connection, document_id)


def find_document(connection: Connection, document_id: UUID) -> Document:
    """The document as it is. Raises: NotFound, also for a purged one."""
    row = connection.execute(select_documents().where(documents.c.id == document_id)).one_or_none()
    if row is None:
        raise NotFound("document")
    return to_document(row)


def to_document(row: Row[Any]) -> Document:
    """What a row of `select_documents` says."""
    version = to_version(row)
    return Document(
        id=row.id,
        name=row.name,
        class_name=row.class_name,
        department=row.department,
        state=DocumentState(row.state),
        revision=row.revision,
        created_at=row.created_at,
        created_by=row.created_by,
        binned_at=row.binned_at,
        purge_after=row.binned_at
        and max(
            row.binned_at + timedelta(days=row.bin_days),
            version.created_at + timedelta(days=row.retention_days),
        ),
        version=version,
    )


def to_version(row: Row[Any]) -> Version:
    """What a row of `select_versions` or `select_documents` says."""
    return Version(
        id=row.version_id,
        number=row.version_number,
        object_id=row.version_object_id,
        site=row.version_site,
        format=row.version_format,
        size_bytes=row.version_size_bytes,
        ciphertext_size_bytes=row.version_ciphertext_size_bytes,
        ciphertext_sha256=row.version_ciphertext_sha256,
        media_type=row.version_media_type,
        claimed_media_type=row.version_claimed_media_type,
        wrapped_key=row.version_wrapped_key,
        key_commitment=row.version_key_commitment,
        receipt=row.version_receipt,
        created_at=row.version_created_at,
        created_by=row.version_created_by,
        durable_on=tuple(
            sorted({row.version_site, *(row.replica_sites or ())} - {*(row.lost_sites or ())})
        ),
        locked_until=row.version_locked_until,
    )

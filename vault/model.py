"""What flows hand out: frozen records of documents, versions, classes and holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

Item = TypeVar("Item")


@dataclass(frozen=True)
class ByteRange:
    """Plaintext bytes `start` up to, and without, `stop`."""

    start: int
    stop: int


class DocumentState(StrEnum):
    """Where a document stands between its upload and its end."""

    LIVE = "live"
    BINNED = "binned"
    PURGED = "purged"


class Durability(StrEnum):
    """What a class asks for before an upload is acknowledged."""

    SYNC = "sync"
    ASYNC = "async"


class IfPeerAway(StrEnum):
    """What a `sync` class does when the other site is away."""

    REFUSE = "refuse"
    DEGRADE = "degrade"


@dataclass(frozen=True)
class Version:
    """One immutable version of a document.

    Attributes:
        number: from 1, without gaps.
        size_bytes: of the plaintext.
        media_type: judged by the content.
        claimed_media_type: what the uploader said, never trusted.
        receipt: id of the access event that recorded the upload.
        durable_on: sites whose copy is safe: where it was first stored, and every verified replica,
            without those that were found missing or wrong since.
        locked_until: until then the stores themselves refuse to delete it; None: no lock.
    """

    id: UUID
    number: int
    object_id: UUID
    site: str
    format: int
    size_bytes: int
    ciphertext_size_bytes: int
    ciphertext_sha256: bytes
    media_type: str
    claimed_media_type: str | None
    wrapped_key: str
    key_commitment: bytes
    receipt: UUID
    created_at: datetime
    created_by: UUID
    durable_on: tuple[str, ...]
    locked_until: datetime | None


@dataclass(frozen=True)
class Document:
    """A document's metadata with its newest version.

    Attributes:
        revision: counts changes of the metadata, from 1.
        purge_after: for a binned document, the moment before which it is kept in any case.
    """

    id: UUID
    name: str
    class_name: str
    department: str
    state: DocumentState
    revision: int
    created_at: datetime
    created_by: UUID
    binned_at: datetime | None
    purge_after: datetime | None
    version: Version


@dataclass(frozen=True)
class DocumentClass:
    """The rules for a kind of document. Immutable once added.

    Attributes:
        media_types: allowed types, ``image/*`` allowed as a pattern; empty: every type.
        retention_days: days from the newest version before which nothing is purged.
        bin_days: days in the bin before which nothing is purged.
        if_peer_away: for `sync`: refuse an upload, or take it and owe the second copy.
        worm_days: object lock at the stores; None: none.
    """

    name: str
    media_types: tuple[str, ...]
    max_size_bytes: int
    durability: Durability
    retention_days: int
    bin_days: int
    created_at: datetime
    if_peer_away: IfPeerAway
    worm_days: int | None

    def takes(self, media_type: str) -> bool:
        """Whether content of `media_type` may be filed under this class."""
        family = media_type.split("/", 1)[0] + "/*"
        return not self.media_types or not {media_type, family}.isdisjoint(self.media_types)


@dataclass(frozen=True)
class Change:
    """One change of one metadata field."""

    revision: int
    field: str
    before: str | None
    after: str | None
    changed_at: datetime
    changed_by: UUID


@dataclass(frozen=True)
class Hold:
    """A legal hold on one document."""

    id: UUID
    document_id: UUID
    reason: str
    placed_at: datetime
    placed_by: UUID
    released_at: datetime | None
    released_by: UUID | None


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page of a list, and the token of the next one, None on the last."""

    items: tuple[Item, ...]
    next_page_token: str | None

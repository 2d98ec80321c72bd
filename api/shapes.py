"""What JSON goes in and out: the published shapes of the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Generic, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vault.access.api_keys import ApiKey, IssuedKey
from vault.access.policy import Scope
from vault.access.principals import Principal, PrincipalKind
from vault.classes import NewClass
from vault.model import (
    Change,
    Document,
    DocumentClass,
    DocumentState,
    Durability,
    Hold,
    IfPeerAway,
    Page,
    Version,
)

Item = TypeVar("Item")
Found = TypeVar("Found")
_NEW_CLASS = NewClass(name="defaults")


class Given(BaseModel):
    """A body that a caller sends; unknown fields are refused, since a misspelt one would be ignored."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Fields(BaseModel):
    """A shape that publishes fields of a thing under their own names, and no others of it."""

    @classmethod
    def of(cls, found: object) -> Self:
        """The shape of `found`."""
        return cls.model_validate(found, from_attributes=True)


class PageShape(BaseModel, Generic[Item]):
    """A page of a list; ask for the next with `page_token`."""

    items: list[Item]
    next_page_token: str | None

    @classmethod
    def of(cls, page: Page[Found], shape: Callable[[Found], Item]) -> Self:
        """The shape of a page, each item shaped by `shape`."""
        return cls(items=list(map(shape, page.items)), next_page_token=page.next_page_token)


class VersionShape(BaseModel):
    """One immutable version."""

    number: int
    id: UUID
    size_bytes: int
    media_type: str
    claimed_media_type: str | None
    ciphertext_size_bytes: int
    ciphertext_sha256: str
    created_at: datetime
    created_by: UUID
    durable_on: tuple[str, ...]
    locked_until: datetime | None

    @classmethod
    def of(cls, version: Version) -> Self:
        """The shape of a version."""
        return cls(
            number=version.number,
            id=version.id,
            size_bytes=version.size_bytes,
            media_type=version.media_type,
            claimed_media_type=version.claimed_media_type,
            ciphertext_size_bytes=version.ciphertext_size_bytes,
            ciphertext_sha256=version.ciphertext_sha256.hex(),
            created_at=version.created_at,
            created_by=version.created_by,
            durable_on=version.durable_on,
            locked_until=version.locked_until,
        )


class DocumentShape(BaseModel):
    """A document's metadata with its newest version. `receipt`: the event that recorded the version."""

    model_config = ConfigDict(populate_by_name=True)

    id: UUID
    name: str
    class_name: Annotated[str, Field(alias="class")]
    department: str
    state: DocumentState
    revision: int
    created_at: datetime
    created_by: UUID
    binned_at: datetime | None
    purge_after: datetime | None
    version: VersionShape
    receipt: UUID

    @classmethod
    def of(cls, document: Document) -> Self:
        """The shape of a document."""
        return cls(
            id=document.id,
            name=document.name,
            class_name=document.class_name,
            department=document.department,
            state=document.state,
            revision=document.revision,
            created_at=document.created_at,
            created_by=document.created_by,
            binned_at=document.binned_at,
            purge_after=document.purge_after,
            version=VersionShape.of(document.version),
            receipt=document.version.receipt,
        )


class DocumentMetadata(Given):
    """The `metadata` part of a multipart upload."""

    name: str
    class_name: Annotated[str, Field(alias="class")] = "general"
    department: str | None = None


class DocumentChanges(Given):
    """New values; a field that is left out stays as it is."""

    name: str | None = None
    class_name: Annotated[str | None, Field(alias="class")] = None
    department: str | None = None


class DocumentSearch(Given):
    """A search; in the body, because names carry personal data and proxies log URLs."""

    name_contains: str | None = None
    class_name: Annotated[str | None, Field(alias="class")] = None
    department: str | None = None
    state: DocumentState = DocumentState.LIVE
    created_after: datetime | None = None
    created_before: datetime | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    page_token: str | None = None


class ChangeShape(BaseModel):
    """One change of one metadata field."""

    model_config = ConfigDict(populate_by_name=True)

    revision: int
    field: str
    before: Annotated[str | None, Field(alias="from")]
    after: Annotated[str | None, Field(alias="to")]
    changed_at: datetime
    changed_by: UUID

    @classmethod
    def of(cls, change: Change) -> Self:
        """The shape of a change."""
        return cls(
            revision=change.revision,
            field=change.field,
            before=change.before,
            after=change.after,
            changed_at=change.changed_at,
            changed_by=change.changed_by,
        )


class NewClassShape(Given):
    """A class to add."""

    name: str
    media_types: list[str] = Field(default_factory=list)
    max_size_bytes: int = _NEW_CLASS.max_size_bytes
    durability: Durability = _NEW_CLASS.durability
    retention_days: int = _NEW_CLASS.retention_days
    bin_days: int = _NEW_CLASS.bin_days
    if_peer_away: IfPeerAway = _NEW_CLASS.if_peer_away
    worm_days: int | None = None

    def to_domain(self) -> NewClass:
        """Raises: InvalidValue."""
        return NewClass(
            name=self.name,
            media_types=tuple(self.media_types),
            max_size_bytes=self.max_size_bytes,
            durability=self.durability,
            retention_days=self.retention_days,
            bin_days=self.bin_days,
            if_peer_away=self.if_peer_away,
            worm_days=self.worm_days,
        )


class ClassShape(BaseModel):
    """A class and its rules."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    media_types: list[str]
    max_size_bytes: int
    durability: Durability
    retention_days: int
    bin_days: int
    if_peer_away: IfPeerAway
    worm_days: int | None
    created_at: datetime

    @classmethod
    def of(cls, document_class: DocumentClass) -> Self:
        """The shape of a class."""
        return cls.model_validate(document_class)


class NewHoldShape(Given):
    """A hold to place."""

    document_id: UUID
    reason: str


class HoldShape(BaseModel):
    """A legal hold."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    document_id: UUID
    reason: str
    placed_at: datetime
    placed_by: UUID
    released_at: datetime | None
    released_by: UUID | None

    @classmethod
    def of(cls, hold: Hold) -> Self:
        """The shape of a hold."""
        return cls.model_validate(hold)


class NewPrincipalShape(Given):
    """An application to add. `responsible`: a principal of the person who answers for it."""

    name: str
    scopes: list[Scope]
    department: str | None = None
    responsible: UUID | None = None


class PrincipalShape(BaseModel):
    """One who acts. Principals with the same `person_id` are one natural person."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    department: str | None
    scopes: list[Scope]
    created_at: datetime
    disabled_at: datetime | None
    kind: PrincipalKind
    person_id: UUID | None
    display_name: str | None

    @classmethod
    def of(cls, principal: Principal) -> Self:
        """The shape of a principal."""
        return cls.model_validate(principal)


class NewKeyShape(Given):
    """A key to issue. `lifetime_days`: None for one that lives until it is revoked."""

    principal_id: UUID
    scopes: list[Scope] | None = None
    lifetime_days: Annotated[int | None, Field(ge=1, le=3660)] = None


class RotateKeyShape(Given):
    """How long the successor of the caller's own key lives."""

    lifetime_days: Annotated[int | None, Field(ge=1, le=3660)] = None


class KeyShape(BaseModel):
    """An API key without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    principal_id: UUID
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """The shape of a key."""
        return cls.model_validate(key)


class IssuedKeyShape(KeyShape):
    """A fresh key. `token` is shown this once and kept nowhere."""

    token: str

    @classmethod
    def of_issued(cls, issued: IssuedKey) -> Self:
        """The shape of a fresh key."""
        return cls(**KeyShape.of(issued.key).model_dump(), token=issued.token)

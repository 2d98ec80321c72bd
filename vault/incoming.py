"""What callers say of a document or a version on its way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vault.names import document_name, label


@dataclass(frozen=True)
class NewDocument:
    """What the caller says of a document to create.

    Attributes:
        declared_size_bytes: as announced before the bytes; None: not known.
    """

    name: str
    class_name: str
    department: str
    claimed_media_type: str | None = None
    declared_size_bytes: int | None = None

    @classmethod
    def checked(cls, *, name: str, department: str, **rest: Any) -> NewDocument:
        """Raises: InvalidName, InvalidValue."""
        return cls(name=document_name(name), department=label(department, "department"), **rest)

    def fingerprint_parameters(self) -> bytes:
        """What, besides the body, makes two requests the same one."""
        return repr((self.name, self.class_name, self.department, self.claimed_media_type)).encode()


@dataclass(frozen=True)
class NewVersion:
    """What the caller says of a version to add.

    Attributes:
        expected: ids of versions one of which has to be the newest (If-Match); None: any.
    """

    document_id: UUID
    claimed_media_type: str | None = None
    expected: frozenset[UUID] | None = None
    declared_size_bytes: int | None = None

"""What JSON goes out of /v1/keys and /v1/jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from api.shapes import Fields, Given
from keymgmt.provider import Purpose
from vault.jobs import JobKind, JobState
from vault.signing_keys import PublishedKey


class KekShape(Fields):
    """One KEK; `in_use` counts stored versions by KEK version (purpose documents)."""

    purpose: Purpose
    latest: int
    oldest_usable: int
    oldest_kept: int
    in_use: Mapping[int, int]


class SealKeyShape(BaseModel):
    """The key that seals principals and API keys from now on."""

    id: str


class JobShape(Fields):
    """One job; `rate` is in units a second, `seconds_left` at that rate."""

    id: UUID
    kind: JobKind
    state: JobState
    done: int
    total: int | None
    rate: float | None
    seconds_left: float | None
    result: Mapping[str, Any] | None
    error: str | None
    stop_requested: bool
    created_at: datetime
    created_by: UUID | None
    finished_at: datetime | None


class ReleasedVersionShape(Fields):
    """A purged version that waits for a shred epoch."""

    id: UUID
    document_id: UUID
    number: int
    released_at: datetime


class EpochShape(Fields):
    """One shred epoch; `certificate` is a DSSE envelope, signed with a key of /v1/keys/public."""

    number: int
    kek_version: int
    began_at: datetime
    finished_at: datetime | None
    certificate: Mapping[str, Any] | None


class NewRecoveryKeyShape(Given):
    """The public half, one line as `strongroom key new-recovery` prints it."""

    public_key: str = Field(max_length=4096)


class RecoveryKeyShape(Fields):
    """One registered recovery key; `unsealed` counts stored versions that it does not open."""

    id: str
    registered_at: datetime
    registered_by: UUID
    sealed: int
    unsealed: int


class PublicKeysShape(BaseModel):
    """A JWK Set; `retired_at` says until when a key signed."""

    keys: list[dict[str, Any]]

    @classmethod
    def of(cls, published: Sequence[PublishedKey]) -> Self:
        """The shape of all public keys."""
        return cls(
            keys=[
                {
                    **each.key.as_jwk(),
                    "created_at": each.created_at.isoformat(),
                    "retired_at": each.retired_at and each.retired_at.isoformat(),
                }
                for each in published
            ]
        )


class ExportedKeyShape(Fields):
    """Everything that opens one stored object without Strongroom (docs/exit.md)."""

    keyset: Mapping[str, Any]
    associated_data: str
    object_key: str
    ciphertext_sha256: str
    size_bytes: int

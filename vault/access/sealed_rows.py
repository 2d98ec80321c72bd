"""What is sealed of a row that gives authority, as bytes of which no two rows share any.

```
"strongroom/authority/v1"   23 bytes: the version of this encoding
field                       vault id (U)
field                       name of the table (S)
field …                     the columns below, in their order
field field …               of each later column that does not hold its default: its name (S), its value
```
A field is its kind, one ASCII letter, the length of its body, 4 bytes big-endian, and the body:

```
N   NULL; empty                        I   integer; 8 bytes, two's complement, big-endian
S   text; UTF-8                        M   moment; microseconds since 1970 UTC, as I
B   bytes                              U   UUID; 16 bytes (RFC 9562 §4)
L   array; its elements, each a field
```
Arrays count as they are stored: the same scopes in another order are another row. A column that is added to
a table joins its later ones: a row from before holds the default there, and keeps its seal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Column, Table

from vault.tables import (
    api_keys,
    approvals,
    grants,
    local_users,
    oidc_identities,
    principals,
    role_grants,
    sessions,
)

_TAG: Final = b"strongroom/authority/v1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class SealedTable:
    """A table whose rows are sealed; itself and nothing else is equal to it.

    Attributes:
        columns: the sealed ones, in the order of the encoding; the first is the row's id.
        later: columns that were added, each with its default.
        follows_principal: a row gives authority to a principal, and is sealed under its newest epoch while it
            is not revoked.
    """

    table: Table
    columns: tuple[str, ...]
    later: Mapping[str, Any] = field(default_factory=dict)
    follows_principal: bool = False

    @property
    def name(self) -> str:
        """The table's name, which is sealed too."""
        return self.table.name

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every sealed column."""
        return (*self.columns, *self.later)

    def sealed_columns(self) -> list[Column[Any]]:
        """The sealed columns, then `seal` and `seal_key_id`."""
        return [self.table.c[name] for name in (*self.all_columns, "seal", "seal_key_id")]

    def row_of(self, values: Sequence[Any]) -> SealedRow:
        """The row of what a SELECT of `sealed_columns` gave."""
        return SealedRow(self, tuple(values[:-2]), values[-2], values[-1])

    def row_from(self, found: Any) -> SealedRow:
        """The row of a SELECT of the whole table."""
        values = tuple(self.by_name(found).values())
        return SealedRow(self, values, found.seal, found.seal_key_id)

    def by_name(self, found: Any) -> dict[str, Any]:
        """The sealed columns of a SELECT of the whole table."""
        return {name: getattr(found, name) for name in self.all_columns}

    def encode(self, vault_id: UUID, row: Mapping[str, Any]) -> bytes:
        """The bytes that the seal of a row covers, given all its sealed columns. Raises: as `encode`."""
        values = [row[name] for name in self.columns]
        later = [(name, row[name]) for name, default in self.later.items() if row[name] != default]
        return encode(vault_id, self.name, [*values, *chain.from_iterable(later)])


@dataclass(frozen=True)
class SealedRow:
    """The sealed columns of one row, and the seal that it bears.

    Attributes:
        seal, seal_key_id: None on a row that bears none.
    """

    table: SealedTable
    values: tuple[Any, ...]
    seal: bytes | None
    seal_key_id: str | None

    @property
    def id(self) -> str:
        """The row's id as text."""
        return str(self.values[0])

    @property
    def epoch(self) -> int:
        """The authority epoch."""
        epoch: int = self.value("authority_epoch")
        return epoch

    def value(self, column: str) -> Any:
        """One sealed column's value."""
        return self.values[self.table.all_columns.index(column)]

    def encoded(self, vault_id: UUID) -> bytes:
        """What is sealed of it."""
        row = dict(zip(self.table.all_columns, self.values, strict=True))
        return self.table.encode(vault_id, row)


PRINCIPALS: Final = SealedTable(
    principals,
    ("id", "name", "department", "scopes", "disabled_at", "authority_epoch"),
    later={"kind": "application", "person_id": None, "display_name": None},
)
"""Not sealed: `created_at`, by which lists are sorted and nothing is decided."""

API_KEYS: Final = SealedTable(
    api_keys,
    (
        "id",
        "principal_id",
        "secret_sha256",
        "scopes",
        "expires_at",
        "revoked_at",
        "authority_epoch",
    ),
    follows_principal=True,
)
"""Not sealed: `created_at`, and `last_used_at`, which is written at each use and gives nothing."""

ROLE_GRANTS: Final = SealedTable(
    role_grants,
    (
        "id",
        "principal_id",
        "person_id",
        "role",
        "department",
        "class_name",
        "deputy_of",
        "starts_at",
        "ends_at",
        "granted_by",
        "revoked_at",
        "authority_epoch",
    ),
    follows_principal=True,
)
"""Not sealed: `granted_at`; and `duty`, which PostgreSQL computes."""

OIDC_IDENTITIES: Final = SealedTable(
    oidc_identities,
    (
        "id",
        "principal_id",
        "issuer",
        "subject",
        "linked_by",
        "revoked_at",
        "authority_epoch",
    ),
    follows_principal=True,
)
"""Not sealed: `linked_at`."""

LOCAL_USERS: Final = SealedTable(
    local_users,
    (
        "id",
        "principal_id",
        "password_hash",
        "totp_secret",
        "recovery_sha256",
        "enrolled_at",
        "enrolment_sha256",
        "enrolment_expires_at",
        "revoked_at",
        "authority_epoch",
    ),
    follows_principal=True,
)
"""Not sealed: `totp_last_step`, counted up at each use; put back, it lets a code count twice in its minute
and a half."""

SESSIONS: Final = SealedTable(
    sessions,
    (
        "id",
        "principal_id",
        "token_sha256",
        "method",
        "expires_at",
        "stepped_up_at",
        "revoked_at",
        "authority_epoch",
    ),
)
"""A session keeps the epoch it began under: with a newer one of its principal it is over. Not sealed:
`began_at`, and `last_seen_at`: SQL may keep a session awake, never past its twelve hours."""

APPROVALS: Final = SealedTable(
    approvals,
    (
        "id",
        "action",
        "target",
        "department",
        "purpose",
        "reason",
        "ticket",
        "uses",
        "lasts_seconds",
        "requested_by",
        "requested_person",
        "decide_before",
        "escalated_at",
        "state",
        "decided_by",
        "decided_person",
        "decided_for",
        "decided_at",
        "comment",
    ),
)
"""Sealed so that whoever decides reads what was asked. Not sealed: `requested_at`."""

GRANTS: Final = SealedTable(
    grants,
    (
        "id",
        "approval_id",
        "principal_id",
        "action",
        "target",
        "department",
        "expires_at",
        "max_uses",
        "remaining",
        "revoked_at",
    ),
)
"""Not sealed: `granted_at`. A row that was put back as it was before a use is not noticed by its seal."""

FOLLOWERS: Final = (API_KEYS, ROLE_GRANTS, LOCAL_USERS, OIDC_IDENTITIES)
"""What gives authority to a principal and moves with its epoch."""

SEALED: Final = (PRINCIPALS, *FOLLOWERS, SESSIONS, APPROVALS, GRANTS)
"""Every sealed table. Principals first: locks are taken in this order everywhere."""


def encode(vault_id: UUID, table: str, values: Sequence[Any]) -> bytes:
    """The bytes that a seal covers. Raises: TypeError: a value of a kind that no sealed column has."""
    return _TAG + _field(vault_id) + _field(table) + b"".join(map(_field, values))


def _field(value: Any) -> bytes:
    kind, body = _kind_and_body(value)
    return kind + len(body).to_bytes(4, "big") + body


def _kind_and_body(value: Any) -> tuple[bytes, bytes]:  # noqa: PLR0911 (one line for each kind)
    if value is None:
        return b"N", b""
    if isinstance(value, str):
        return b"S", value.encode()
    if isinstance(value, list | tuple):
        return b"L", b"".join(map(_field, value))
    if isinstance(value, UUID):
        return b"U", value.bytes
    if isinstance(value, bytes | memoryview):
        return b"B", bytes(value)
    if isinstance(value, datetime):
        return b"M", _integer((value - _EPOCH) // _MICROSECOND)
    if isinstance(value, int):
        return b"I", _integer(value)
    raise TypeError(f"no sealed column holds {type(value).__name__}")


def _integer(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)

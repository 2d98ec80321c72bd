"""Idempotency keys: a create that is sent twice happens once.

A key belongs to a principal and a route, lives for 24 hours, and is bound to the first request by a
fingerprint of its parameters and body. The fingerprint is keyed under the document's own data key, so
that it says nothing about the body to whoever reads the table, and dies with the document.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, literal, select, text

from vault.access.policy import Caller
from vault.context import SERVICE, as_caller
from vault.database import Database
from vault.errors import IdempotencyInFlight
from vault.tables import idempotency_keys

LIFETIME: Final = timedelta(hours=24)


@dataclass(frozen=True)
class IdempotencyKey:
    """The caller's key on one route."""

    principal_id: UUID
    route: str
    key_sha256: bytes

    @classmethod
    def of(cls, principal_id: UUID, route: str, key: str) -> IdempotencyKey:
        """Only a digest of the key is kept: clients put all kinds of things into it."""
        return cls(principal_id, route, hashlib.sha256(key.encode()).digest())

    def parameters(self) -> dict[str, Any]:
        """Bind values for the statements here and for `REMEMBER`."""
        return {
            "idempotency_principal": self.principal_id,
            "idempotency_route": self.route,
            "idempotency_key": self.key_sha256,
        }


@dataclass(frozen=True)
class FirstRequest:
    """What an earlier request with the same key made."""

    document_id: UUID
    fingerprint: bytes


REMEMBER = """
    UPDATE idempotency_keys SET document_id = :document_id, fingerprint = :fingerprint
    WHERE principal_id = CAST(:idempotency_principal AS uuid) AND route = :idempotency_route
      AND key_sha256 = :idempotency_key AND object_id = :object_id"""
"""Binds the key to the document, in the statement that commits it."""

NO_KEY: Final[dict[str, Any]] = {
    "idempotency_principal": None,
    "idempotency_route": None,
    "idempotency_key": None,
}

# Taken over: a key past its lifetime, and one whose request neither runs nor ever finished. Runs: its
# upload row is open and that row's process alive.
_BEGIN = text(
    """
    INSERT INTO idempotency_keys AS known (principal_id, route, key_sha256, object_id)
    VALUES (:idempotency_principal, :idempotency_route, :idempotency_key, :object_id)
    ON CONFLICT (principal_id, route, key_sha256) DO UPDATE
        SET object_id = excluded.object_id, document_id = NULL, fingerprint = NULL,
            created_at = now()
        WHERE known.created_at < now() - :lifetime
           OR known.document_id IS NULL AND NOT EXISTS (
                SELECT FROM uploads u JOIN processes p ON p.id = u.process_id
                WHERE u.object_id = known.object_id AND u.state = 'open' AND p.alive_until > now())
    RETURNING 1"""
)


class IdempotencyKeys:
    """The keys of this vault."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, caller: Caller, key: IdempotencyKey, object_id: UUID) -> FirstRequest | None:
        """Claim `key` for the upload of `object_id`; None when it is claimed.

        Otherwise what the first request made.

        Raises:
            IdempotencyInFlight: the first request still runs.
        """
        parameters = {**key.parameters(), "object_id": object_id, "lifetime": LIFETIME}
        context = as_caller(caller)
        if self._database.execute(context, _BEGIN, parameters):
            return None
        rows = self._database.execute(context, select(idempotency_keys).where(_is(key)), {})
        if not rows or rows[0].document_id is None:
            raise IdempotencyInFlight
        return FirstRequest(rows[0].document_id, rows[0].fingerprint)

    def expire(self) -> None:
        """Delete keys past their lifetime."""
        past = func.now() - literal(LIFETIME)
        self._database.execute(
            SERVICE, delete(idempotency_keys).where(idempotency_keys.c.created_at < past), {}
        )


def _is(key: IdempotencyKey) -> Any:
    table = idempotency_keys.c
    return (
        (table.principal_id == key.principal_id)
        & (table.route == key.route)
        & (table.key_sha256 == key.key_sha256)
    )

"""Signing keys: one in use, the earlier ones kept, so that what they signed can be checked for decades.

The private half lies in the table sealed under the KEK `log`; it is in memory only while it signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from keymgmt.dsse import sign_envelope
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.signing import SigningKey, VerifyingKey, seal, unseal
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, ServiceDatabase
from vault.tables import signing_keys


@dataclass(frozen=True)
class PublishedKey:
    """A public key, and when it was the one in use."""

    key: VerifyingKey
    created_at: datetime
    retired_at: datetime | None


class SigningKeys:
    """The Ed25519 keys with which this vault signs certificates, receipts and reports."""

    def __init__(self, database: ServiceDatabase, keys: KeyProvider) -> None:
        self._database = database
        self._keys = keys

    def published(self) -> list[PublishedKey]:
        """Every public key there ever was, newest first; the first call makes the first key.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        self._in_use()
        query = select(signing_keys).order_by(signing_keys.c.created_at.desc())
        rows = self._database.execute(query, {})
        return [PublishedKey(_public(row), row.created_at, row.retired_at) for row in rows]

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, Any]:
        """A DSSE envelope over `payload`, signed with the key in use.

        Raises: KeyServiceUnavailable, DatabaseUnavailable; DecryptionFailed for a swapped row.
        """
        row = self._in_use()
        return sign_envelope(
            unseal(self._keys, Purpose.LOG, row.sealed_seed, _public(row)), payload_type, payload
        )

    def rotate(self, actor: Actor) -> VerifyingKey:
        """Sign with a new key from now on; the old public ones stay published.

        Raises: NotAllowed, KeyServiceUnavailable, DatabaseUnavailable.
        """
        require(actor.caller, Action.KEY_ROTATE)
        self._in_use()
        made = SigningKey.generate()
        with self._database.transaction() as connection:
            connection.execute(
                update(signing_keys)
                .where(signing_keys.c.retired_at.is_(None))
                .values(retired_at=func.now())
            )
            connection.execute(insert(signing_keys).values(self._values(made)))
            detail = {"purpose": "signing", "key": made.public.id}
            record(connection, AccessEvent(EventType.KEK_ROTATED, actor, detail=detail))
        return made.public

    def reseal(self) -> None:
        """Seal the private half in use anew under the newest KEK version. Raises: as `sign`.

        The earlier ones sign nothing any more: they die with the version that they are sealed under.
        """
        in_use = signing_keys.c.retired_at.is_(None)
        for row in self._database.execute(select(signing_keys).where(in_use), {}):
            public = _public(row)
            key = unseal(self._keys, Purpose.LOG, row.sealed_seed, public)
            mine = (signing_keys.c.id == row.id) & (signing_keys.c.sealed_seed == row.sealed_seed)
            self._database.execute(
                update(signing_keys)
                .where(mine)
                .values(sealed_seed=seal(self._keys, Purpose.LOG, key)),
                {},
            )

    def _in_use(self) -> Row[Any]:
        query = select(signing_keys).where(signing_keys.c.retired_at.is_(None))
        rows = self._database.execute(query, {})
        if not rows:
            self._make_first()
            rows = self._database.execute(query, {})
        return rows[0]

    def _make_first(self) -> None:
        try:
            values = self._values(SigningKey.generate())
            self._database.execute(insert(signing_keys).values(values), {})
        except DuplicateRow:
            pass  # another process was first

    def _values(self, key: SigningKey) -> dict[str, Any]:
        return {
            "id": key.public.id,
            "public_key": key.public.raw,
            "sealed_seed": seal(self._keys, Purpose.LOG, key),
        }


def _public(row: Row[Any]) -> VerifyingKey:
    return VerifyingKey(bytes(row.public_key))

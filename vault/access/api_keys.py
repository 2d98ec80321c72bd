"""API keys: what an application shows to be recognised.

```
sr_<key id, 16 hex>_<secret, 43 base64url>_<checksum, 8 hex>
```
The secret has 256 random bits, so one SHA-256 at rest is enough: there is nothing to guess. The checksum
(CRC-32 of what stands before it) tells a mistyped key from a wrong one without asking the database, and
lets scanners recognise a leaked one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, literal, or_, select, text, update

from vault.access.policy import Caller, Scope
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import InvalidValue, NotFound, TooManyKeys
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import api_keys, principals

MAX_LIVE_KEYS: Final = 2
_FORM: Final = re.compile(r"sr_([0-9a-f]{16})_([A-Za-z0-9_-]{43})_([0-9a-f]{8})")


@dataclass(frozen=True)
class ApiKey:
    """One key as it is listed: everything but the secret."""

    id: str
    principal_id: UUID
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True)
class IssuedKey:
    """A fresh key; `token` is shown this once and kept nowhere."""

    key: ApiKey
    token: str = field(repr=False)


class CredentialRefused(Exception):
    """Not a key that is valid now.

    Attributes:
        reason: `malformed`, `unknown`, `wrong`, `revoked`, `expired` or `disabled`; for the log and
            the metrics. The caller is told one thing for all of them but `malformed`.
        api_key_id: the id in the token, where its form was right.
    """

    def __init__(self, reason: str, api_key_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.api_key_id = api_key_id


class ApiKeys:
    """The API keys of this vault."""

    def __init__(self, database: SharedDatabase) -> None:
        self._database = database

    def issue(
        self,
        actor: Actor,
        principal_id: UUID,
        *,
        scopes: Collection[Scope] | None = None,
        lifetime: timedelta | None = None,
    ) -> IssuedKey:
        """A fresh key for a principal.

        Args:
            scopes: a subset of the principal's; None: all of them.
            lifetime: None: until revoked.

        Raises:
            NotFound: no such principal, or it is disabled.
            TooManyKeys: two live keys exist.
            InvalidValue: scopes that the principal does not have, or a lifetime that is not positive.
        """
        with self._database.transaction() as connection:
            issued = insert_key(connection, principal_id, scopes=scopes, lifetime=lifetime)
            record(connection, _event(EventType.API_KEY_ISSUED, actor, issued.key))
        return issued

    def rotate(self, actor: Actor, *, lifetime: timedelta | None = None) -> IssuedKey:
        """A successor for the caller's own key, with its scopes; the old one stays live.

        Raises: TooManyKeys, InvalidValue.
        """
        caller = actor.caller
        with self._database.transaction() as connection:
            issued = insert_key(
                connection, caller.principal_id, scopes=caller.scopes, lifetime=lifetime
            )
            record(connection, _event(EventType.API_KEY_ROTATED, actor, issued.key))
        return issued

    def revoke(self, actor: Actor, api_key_id: str) -> ApiKey:
        """Stop a key, from now on and for good. Idempotent. Raises: NotFound."""
        with self._database.transaction() as connection:
            row = connection.execute(
                select(api_keys).where(api_keys.c.id == api_key_id).with_for_update()
            ).one_or_none()
            if row is None:
                raise NotFound("API key")
            # The event first: a key may revoke itself, and a dead key writes no events.
            record(connection, _event(EventType.API_KEY_REVOKED, actor, _key(row)))
            revoked = connection.execute(
                update(api_keys)
                .where(api_keys.c.id == api_key_id)
                .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
                .returning(api_keys)
            ).one()
        return _key(revoked)

    def list(
        self, actor: Actor, request: PageRequest, principal_id: UUID | None = None
    ) -> Page[ApiKey]:
        """A page of keys of one principal or of all, newest first. Raises: InvalidPageToken."""
        query = select(api_keys)
        if principal_id is not None:
            query = query.where(api_keys.c.principal_id == principal_id)
        with self._database.transaction() as connection:
            page = _KEYS.fetch(connection, query, request, {"principal": principal_id})
            record(connection, AccessEvent(EventType.API_KEYS_LISTED, actor))
        return page

    def authenticate(self, token: str) -> Caller:
        """Who shows this token.

        Raises:
            CredentialRefused: not a key that is valid now.
        """
        api_key_id, secret = parse(token)
        rows = self._database.execute(_AUTHENTICATE, {"id": api_key_id})
        digest = hashlib.sha256(secret.encode()).digest()
        # Compared also for an unknown id, so that both refusals cost the same.
        known = rows[0] if rows else None
        if not hmac.compare_digest(digest, known.secret_sha256 if known else bytes(32)):
            raise CredentialRefused("wrong" if known else "unknown", api_key_id)
        assert known is not None
        for reason in ("revoked", "expired", "disabled"):
            if getattr(known, reason):
                raise CredentialRefused(reason, api_key_id)
        return Caller(
            principal_id=known.principal_id,
            name=known.name,
            api_key_id=api_key_id,
            scopes=frozenset(Scope(s) for s in set(known.scopes) & set(known.principal_scopes)),
            department=known.department,
        )

    def note_use(self, last_used: dict[str, datetime]) -> None:
        """Write when keys were last used; called now and then, not at each request."""
        for api_key_id, moment in last_used.items():
            self._database.execute(
                update(api_keys).where(api_keys.c.id == api_key_id).values(last_used_at=moment), {}
            )


_AUTHENTICATE = text(
    """
    SELECT k.principal_id, k.secret_sha256, k.scopes, p.name, p.department,
           p.scopes AS principal_scopes,
           k.revoked_at IS NOT NULL AS revoked,
           coalesce(k.expires_at <= now(), false) AS expired,
           p.disabled_at IS NOT NULL AS disabled
    FROM api_keys k JOIN principals p ON p.id = k.principal_id
    WHERE k.id = :id"""
)


def parse(token: str) -> tuple[str, str]:
    """Key id and secret of a well-formed token. Raises: CredentialRefused("malformed")."""
    match = _FORM.fullmatch(token)
    if match is None or _checksum(token.rpartition("_")[0]) != match[3]:
        raise CredentialRefused("malformed")
    return match[1], match[2]


def insert_key(
    connection: Connection,
    principal_id: UUID,
    *,
    scopes: Collection[Scope] | None = None,
    lifetime: timedelta | None = None,
) -> IssuedKey:
    """Issue a key in the caller's transaction. Raises: as `ApiKeys.issue`."""
    principal = connection.execute(
        select(principals).where(principals.c.id == principal_id).with_for_update()
    ).one_or_none()
    if principal is None or principal.disabled_at is not None:
        raise NotFound("principal")
    _refuse_a_third(connection, principal_id)
    chosen = principal.scopes if scopes is None else sorted(scope.value for scope in scopes)
    if not chosen or not set(chosen) <= set(principal.scopes):
        raise InvalidValue("an API key has one or more of its principal's scopes, and no others")
    if lifetime is not None and lifetime <= timedelta(0):
        raise InvalidValue("the lifetime of a key is positive")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    row = connection.execute(
        insert(api_keys)
        .values(
            id=key_id,
            principal_id=principal_id,
            secret_sha256=hashlib.sha256(secret.encode()).digest(),
            scopes=list(chosen),
            expires_at=None if lifetime is None else func.now() + literal(lifetime),
        )
        .returning(api_keys)
    ).one()
    body = f"sr_{key_id}_{secret}"
    return IssuedKey(_key(row), f"{body}_{_checksum(body)}")


def _refuse_a_third(connection: Connection, principal_id: UUID) -> None:
    live = connection.execute(
        select(func.count())
        .select_from(api_keys)
        .where(
            api_keys.c.principal_id == principal_id,
            api_keys.c.revoked_at.is_(None),
            or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now()),
        )
    ).scalar_one()
    if live >= MAX_LIVE_KEYS:
        raise TooManyKeys


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _event(kind: EventType, actor: Actor, key: ApiKey) -> AccessEvent:
    detail = {"api_key": key.id, "principal": str(key.principal_id)}
    return AccessEvent(kind, actor, detail=detail)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        principal_id=row.principal_id,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


_KEYS = Listing(
    name="api-keys",
    sort_key=(api_keys.c.created_at, api_keys.c.id),
    kinds=(datetime, str),
    place=lambda key: (key.created_at, key.id),
    shape=_key,
)

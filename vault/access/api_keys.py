"""API keys: what an application shows to be recognised.

They are tokens (`vault.access.tokens`). Rows of keys are sealed, and checked whenever they are used
(`vault.access.seals`).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, func, insert, literal, or_, select, update

from vault.access.approvals import Owned, Target, id_part
from vault.access.authorise import require
from vault.access.credentials import CredentialRefused
from vault.access.findings import Findings, SealBroken
from vault.access.grants import Grants
from vault.access.policy import EVERY_DEPARTMENT, Action, Caller, Scope
from vault.access.sealed_rows import API_KEYS, PRINCIPALS
from vault.access.seals import Seals, looked_again, unreadable
from vault.access.tokens import TokenKind, make_token, parse_token
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import as_caller
from vault.database import Database
from vault.errors import CredentialRevoked, InvalidValue, NotAllowed, NotFound, TooManyKeys
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import api_keys, principals

MAX_LIVE_KEYS: Final = 2


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


class ApiKeys:
    """The API keys of this vault."""

    def __init__(
        self, database: Database, seals: Seals, findings: Findings, grants: Grants
    ) -> None:
        self._all = database
        self._database = database.as_shared()
        self._seals = seals
        self._findings = findings
        self._grants = grants

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
            NotAllowed.
            ApprovalNeeded: the principal reaches every department, exports keys, operates or audits.
            NotFound: no such principal, or it is disabled.
            NotAllowed: it is an administrator for set-up, and the caller is none.
            TooManyKeys: two live keys exist.
            InvalidValue: scopes that the principal does not have, or a lifetime that is not positive.
        """
        require(actor.caller, Action.API_KEY_ISSUE)
        broken = self._seals.refusing(NotFound("principal"))
        with broken, self._all.transaction(as_caller(actor.caller)) as connection:
            _refuse_to_become_administrator(connection, actor, principal_id)
            if _is_dangerous(self._seals.locked_principal(connection, principal_id)):
                target = {"principal": str(principal_id)}
                self._grants.use(connection, actor, Action.API_KEY_ISSUE, target)
            issued = insert_key(
                connection, self._seals, principal_id, scopes=scopes, lifetime=lifetime
            )
            record(connection, _event(EventType.API_KEY_ISSUED, actor, issued.key))
        return issued

    def rotate(self, actor: Actor, *, lifetime: timedelta | None = None) -> IssuedKey:
        """A successor for the caller's own key, with its scopes; the old one stays live.

        It lives no longer than the old one would: who gave that an end gave it for both.

        Raises: TooManyKeys, InvalidValue; CredentialRevoked, also if one of their rows was written by others.
        """
        caller = actor.caller
        broken = self._seals.refusing(CredentialRevoked())
        with broken, self._database.transaction() as connection:
            _, own = self._lock(connection, caller.api_key_id or "")
            issued = insert_key(
                connection,
                self._seals,
                caller.principal_id,
                scopes=caller.scopes,
                lifetime=lifetime,
                at_most_until=own.expires_at,
            )
            record(connection, _event(EventType.API_KEY_ROTATED, actor, issued.key))
        return issued

    def revoke(self, actor: Actor, api_key_id: str) -> ApiKey:
        """Stop a key, from now on and for good. Idempotent. Raises: NotFound."""
        broken = self._seals.refusing(NotFound("API key"))
        with broken, self._database.transaction() as connection:
            principal, row = self._lock(connection, api_key_id)
            # The event first: a key may revoke itself, and a dead key writes no events.
            record(connection, _event(EventType.API_KEY_REVOKED, actor, _key(row)))
            if row.revoked_at is None:
                now = connection.execute(select(func.now())).scalar_one()
                principal = self._seals.change_principal(connection, principal)
                row = self._seals.change(
                    connection,
                    API_KEYS,
                    row,
                    revoked_at=now,
                    authority_epoch=principal.authority_epoch,
                )
        return _key(row)

    def list(
        self, actor: Actor, request: PageRequest, principal_id: UUID | None = None
    ) -> Page[ApiKey]:
        """A page of keys of one principal or of all, newest first. Raises: InvalidPageToken.

        A row that does not bear its seal is left out: `Findings.list` has it.
        """
        epoch = principals.c.authority_epoch.label("principal_epoch")
        query = select(api_keys, epoch).join(principals)
        if principal_id is not None:
            query = query.where(api_keys.c.principal_id == principal_id)
        with self._database.transaction() as connection:
            page = _KEYS.fetch(connection, query, request, {"principal": principal_id})
            record(connection, AccessEvent(EventType.API_KEYS_LISTED, actor))
        return _sound(page, self._seals)

    def authenticate(self, text: str) -> Caller:
        """Who shows this token.

        Raises:
            CredentialRefused: not a key that is valid now.
        """
        token = parse_token(text, TokenKind.API_KEY)
        api_key_id = token.id
        known = self._sealed_rows(api_key_id)
        # Compared also for an unknown id, so that both refusals cost the same.
        stored = known.secret_sha256 if known else bytes(32)
        if not hmac.compare_digest(token.secret_sha256, stored):
            raise CredentialRefused("wrong" if known else "unknown", api_key_id)
        assert known is not None
        for reason in ("revoked", "expired", "disabled"):
            if getattr(known, reason):
                raise CredentialRefused(reason, api_key_id)
        return Caller(
            principal_id=known.key_principal_id,
            name=known.name,
            api_key_id=api_key_id,
            scopes=frozenset(Scope(s) for s in set(known.scopes) & set(known.principal_scopes)),
            department=known.department,
            person_id=known.person_id,
            authority_epoch=known.authority_epoch,
        )

    def _sealed_rows(self, api_key_id: str) -> Row[Any] | None:
        """A key and its principal, whose rows bear their seals; None if there is no such key.

        Raises: CredentialRefused("seal-broken").
        """
        try:
            return looked_again(lambda: self._checked_rows(api_key_id))
        except SealBroken as exc:
            raise self._refused(exc, api_key_id) from None

    def _checked_rows(self, api_key_id: str) -> Row[Any] | None:
        try:
            rows = self._database.execute(_AUTHENTICATE, {"key": api_key_id})
        except (ValueError, OverflowError):
            raise unreadable(API_KEYS, api_key_id) from None
        if not rows:
            self._seals.rehearse()
            return None
        principal = PRINCIPALS.row_of(rows[0][_KEY_WIDTH : _KEY_WIDTH + _PRINCIPAL_WIDTH])
        self._seals.check(principal)
        self._seals.check_follower(API_KEYS.row_of(rows[0][:_KEY_WIDTH]), principal.epoch)
        return rows[0]

    def _refused(self, broken: SealBroken, api_key_id: str) -> CredentialRefused:
        self._findings.remember(broken)
        return CredentialRefused("seal-broken", api_key_id)

    def _lock(self, connection: Connection, api_key_id: str) -> tuple[Row[Any], Row[Any]]:
        """A key and its principal, locked, that bear their seals. Raises: NotFound, SealBroken."""
        query = select(api_keys).where(api_keys.c.id == api_key_id)
        found = connection.execute(query).one_or_none()
        if found is None:
            raise NotFound("API key")
        # The principal first, as everywhere; what was read without a lock is read again under it.
        principal = self._seals.locked_principal(connection, found.principal_id)
        key = connection.execute(query.with_for_update()).one()
        self._seals.check_follower(API_KEYS.row_from(key), principal.authority_epoch)
        return principal, key

    def note_use(self, last_used: dict[str, datetime]) -> None:
        """Write when keys were last used; called now and then, not at each request."""
        for api_key_id, moment in last_used.items():
            self._database.execute(
                update(api_keys).where(api_keys.c.id == api_key_id).values(last_used_at=moment), {}
            )


_KEY_COLUMNS: Final = [column.label(f"key_{column.name}") for column in API_KEYS.sealed_columns()]
_KEY_WIDTH: Final = len(_KEY_COLUMNS)
_PRINCIPAL_COLUMNS: Final = [
    column.label(f"principal_{column.name}") for column in PRINCIPALS.sealed_columns()
]
_PRINCIPAL_WIDTH: Final = len(_PRINCIPAL_COLUMNS)

_AUTHENTICATE: Final = (
    select(
        *_KEY_COLUMNS,
        *_PRINCIPAL_COLUMNS,
        api_keys.c.secret_sha256,
        api_keys.c.scopes,
        principals.c.name,
        principals.c.department,
        principals.c.person_id,
        principals.c.authority_epoch,
        api_keys.c.revoked_at.is_not(None).label("revoked"),
        func.coalesce(api_keys.c.expires_at <= func.now(), literal(False)).label("expired"),
        principals.c.disabled_at.is_not(None).label("disabled"),
    )
    .join(principals)
    .where(api_keys.c.id == bindparam("key"))
)


def owned_by_vault(_connection: Connection, _actor: Actor, target: Target) -> Owned:
    """An application to issue a key for, as the target of an approval. Raises: InvalidValue."""
    return Owned({"principal": str(id_part(target, "principal"))})


def _is_dangerous(principal: Row[Any]) -> bool:
    """Whether its keys do what no clerk of one department may: two people issue them, as for such roles."""
    more = {Scope.EXPORT_KEYS, Scope.OPERATE, Scope.AUDIT, Scope.ADMIN}
    return principal.department == EVERY_DEPARTMENT or bool(more & set(principal.scopes))


def insert_key(
    connection: Connection,
    seals: Seals,
    principal_id: UUID,
    *,
    scopes: Collection[Scope] | None = None,
    lifetime: timedelta | None = None,
    at_most_until: datetime | None = None,
) -> IssuedKey:
    """Issue a key in the caller's transaction. Raises: as `ApiKeys.issue`; SealBroken."""
    principal = seals.locked_principal(connection, principal_id)
    if principal.disabled_at is not None:
        raise NotFound("principal")
    _refuse_a_third(connection, principal_id)
    chosen = principal.scopes if scopes is None else sorted(scope.value for scope in scopes)
    if not chosen or not set(chosen) <= set(principal.scopes):
        raise InvalidValue("an API key has one or more of its principal's scopes, and no others")
    if lifetime is not None and lifetime <= timedelta(0):
        raise InvalidValue("the lifetime of a key is positive")
    key_id = secrets.token_hex(8)
    token, secret_sha256 = make_token(TokenKind.API_KEY, key_id)
    now = connection.execute(select(func.now())).scalar_one()
    new = {
        "id": key_id,
        "principal_id": principal_id,
        "secret_sha256": secret_sha256,
        "scopes": list(chosen),
        "expires_at": _earlier(None if lifetime is None else now + lifetime, at_most_until),
        "revoked_at": None,
        "authority_epoch": principal.authority_epoch,
    }
    sealed = {**new, **seals.sealed(connection, API_KEYS, new)}
    row = connection.execute(insert(api_keys).values(sealed).returning(api_keys)).one()
    return IssuedKey(_key(row), token)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """The earlier of two ends; None: no end."""
    return min((end for end in (one, other) if end is not None), default=None)


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


def _refuse_to_become_administrator(
    connection: Connection, actor: Actor, principal_id: UUID
) -> None:
    """A security administrator with the key of one for set-up would ask and decide alone.

    Raises: NotAllowed.
    """
    asked = (principals.c.id == principal_id) & principals.c.scopes.contains([Scope.ADMIN.value])
    found = connection.execute(select(principals.c.id).where(asked)).one_or_none()
    if found is not None and Scope.ADMIN not in actor.caller.scopes:
        raise NotAllowed("only an administrator for set-up issues keys to one")


def _sound(page: Page[Row[Any]], seals: Seals) -> Page[ApiKey]:
    found = tuple(
        _key(row)
        for row in page.items
        if seals.is_sound(API_KEYS.row_from(row), row.principal_epoch)
    )
    return Page(found, page.next_page_token)


_KEYS = Listing[Row[Any]](
    name="api-keys",
    sort_key=(api_keys.c.created_at, api_keys.c.id),
    kinds=(datetime, str),
    place=lambda row: (row.created_at, row.id),
    shape=lambda row: row,
)

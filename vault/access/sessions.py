"""Sessions: how people act, from signing in to signing out.

A session lies here, and its token shows it; nothing of a person's authority is in the token, so that taking a
role away, or disabling somebody, works at once: a session bears the authority epoch that its principal had
when it began, and is over when that has risen. It ends after 12 hours, after half an hour without a request,
or when it is ended. Proving who one is once more (*step-up*) counts for five minutes.

Rows are sealed (`vault.access.seals`): one that was written by SQL opens nothing. Does not handle: how
somebody proved who they are (`local_users`; `oidc_sign_ins`, and `api.oidc` at the edge).
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import (
    Connection,
    Row,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy import (
    insert as insert_into,
)

from vault.access.authorise import require
from vault.access.credentials import CredentialRefused
from vault.access.findings import Findings, SealBroken
from vault.access.holders import roles_of
from vault.access.policy import Action, Caller
from vault.access.sealed_rows import PRINCIPALS, SESSIONS
from vault.access.seals import Seals, looked_again, unreadable
from vault.access.tokens import Token, TokenKind, make_token, parse_token
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import CredentialRevoked, NotFound, OtherIdentity
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import principals, sessions

LIFETIME: Final = timedelta(hours=12)
IDLE: Final = timedelta(minutes=30)
STEP_UP_LASTS: Final = timedelta(minutes=5)
NOTED_EVERY: Final = timedelta(minutes=1)
"""How exactly it is known when a session was last seen."""

KEPT: Final = timedelta(days=30)
"""How long a session that is over is listed."""


class Method(StrEnum):
    """How somebody proved who they are."""

    PASSWORD = "password"  # noqa: S105 (no password)
    OIDC = "oidc"


@dataclass(frozen=True)
class Session:
    """One session as it is listed: everything but the token."""

    id: UUID
    principal_id: UUID
    method: Method
    began_at: datetime
    expires_at: datetime
    last_seen_at: datetime
    stepped_up_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class BegunSession:
    """A fresh session; `token` is shown this once and kept nowhere."""

    session: Session
    token: str = field(repr=False)


class Sessions:
    """The sessions of this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals, findings: Findings) -> None:
        self._database = database
        self._seals = seals
        self._findings = findings

    def begin(
        self, connection: Connection, principal: Row[Any], method: Method, request_id: str
    ) -> BegunSession:
        """A fresh session for a locked and checked principal who has just proved who they are.

        Raises: NotFound: the principal is disabled, or no person.
        """
        if principal.disabled_at is not None or principal.kind != "person":
            raise NotFound("person")
        session_id = uuid4()
        token, secret_sha256 = make_token(TokenKind.SESSION, session_id.hex)
        now = connection.execute(select(func.now())).scalar_one()
        new = {
            "id": session_id,
            "principal_id": principal.id,
            "token_sha256": secret_sha256,
            "method": method.value,
            "expires_at": now + LIFETIME,
            # A provider may have believed a cookie of this morning's; it says when only for a step-up.
            "stepped_up_at": now if method is Method.PASSWORD else None,
            "revoked_at": None,
            "authority_epoch": principal.authority_epoch,
        }
        values = {**new, **self._seals.sealed(connection, SESSIONS, new)}
        row = connection.execute(insert_into(sessions).values(values).returning(sessions)).one()
        actor = Actor(_caller_of(principal, row), request_id)
        detail = {"session": str(session_id), "method": method.value}
        record(connection, AccessEvent(EventType.SESSION_BEGUN, actor, detail=detail))
        return BegunSession(_session(row), token)

    def authenticate(self, text: str) -> Caller:
        """Who shows this token, with the roles that they hold now.

        Raises:
            CredentialRefused: not a session that is open now.
        """
        token = parse_token(text, TokenKind.SESSION)
        try:
            return looked_again(lambda: self._authenticate(token))
        except SealBroken as exc:
            raise self._refused(exc, token.id) from None

    def step_up(self, actor: Actor, connection: Connection) -> BegunSession:
        """Note that the caller has just proved again who they are; the session's token is a new one.

        Raises: CredentialRevoked: the session is over.
        """
        row = self._locked_own(connection, actor)
        token, secret_sha256 = make_token(TokenKind.SESSION, row.id.hex)
        now = connection.execute(select(func.now())).scalar_one()
        record(connection, _event(EventType.SESSION_STEPPED_UP, actor, row.id))
        changed = {"stepped_up_at": now, "token_sha256": secret_sha256}
        row = self._seals.change(connection, SESSIONS, row, **changed)
        return BegunSession(_session(row), token)

    def step_up_of(
        self, connection: Connection, principal: Row[Any], session_id: UUID, request_id: str
    ) -> BegunSession:
        """As `step_up`, of a session that asked for it, for a locked and checked principal.

        Raises:
            OtherIdentity: the session is another's.
            CredentialRevoked: it is over.
        """
        row = self._locked(connection, session_id)
        if row is None:
            raise CredentialRevoked
        if row.principal_id != principal.id:
            raise OtherIdentity
        return self.step_up(Actor(_caller_of(principal, row), request_id), connection)

    def end_own(self, actor: Actor) -> None:
        """Sign out. Raises: CredentialRevoked: the session is over already."""
        broken = self._seals.refusing(CredentialRevoked())
        with broken, self._database.transaction() as connection:
            row = self._locked_own(connection, actor)
            # The event first: a session that is over writes none.
            record(connection, _event(EventType.SESSION_ENDED, actor, row.id))
            now = connection.execute(select(func.now())).scalar_one()
            self._seals.change(connection, SESSIONS, row, revoked_at=now)

    def end(self, text: str) -> None:
        """As `end_replaced`, in a transaction of its own."""
        with self._database.transaction() as connection:
            self.end_replaced(connection, text)

    def end_replaced(self, connection: Connection, text: str) -> None:
        """End the session that a browser still showed when it signed in anew; what is none is left alone."""
        try:
            token = parse_token(text, TokenKind.SESSION)
        except CredentialRefused:
            return
        with suppress(SealBroken):
            row = self._locked(connection, UUID(hex=token.id))
            if row is None or not hmac.compare_digest(bytes(row.token_sha256), token.secret_sha256):
                return
            if row.revoked_at is None:
                detail = {"session": str(row.id), "because": "replaced"}
                record(connection, AccessEvent(EventType.SESSION_ENDED, None, detail=detail))
                now = connection.execute(select(func.now())).scalar_one()
                self._seals.change(connection, SESSIONS, row, revoked_at=now)

    def revoke(self, actor: Actor, session_id: UUID) -> Session:
        """End somebody's session, from now on, and all others of theirs with it. Idempotent.

        The account's authority epoch rises: a row that SQL puts back opens nothing.

        Raises: NotAllowed, NotFound.
        """
        require(actor.caller, Action.SESSION_REVOKE)
        broken = self._seals.refusing(NotFound("session"))
        with broken, self._database.transaction() as connection:
            owner = select(sessions.c.principal_id).where(sessions.c.id == session_id)
            principal_id = connection.execute(owner).scalar_one_or_none()
            if principal_id is None:
                raise NotFound("session")
            principal = self._seals.locked_principal(connection, principal_id)
            row = self._locked(connection, session_id)
            if row is None:
                raise NotFound("session")
            # The event first: who revokes their own session is signed out by it.
            record(connection, _event(EventType.SESSION_REVOKED, actor, session_id))
            if row.revoked_at is None:
                now = connection.execute(select(func.now())).scalar_one()
                self._seals.change_principal(connection, principal)
                row = self._seals.change(connection, SESSIONS, row, revoked_at=now)
        return _session(row)

    def list(
        self, actor: Actor, request: PageRequest, principal_id: UUID | None = None
    ) -> Page[Session]:
        """A page of sessions of one person or of all, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.SESSION_LIST)
        query = select(sessions)
        if principal_id is not None:
            query = query.where(sessions.c.principal_id == principal_id)
        with self._database.transaction() as connection:
            page = _SESSIONS.fetch(connection, query, request, {"principal": principal_id})
            record(connection, AccessEvent(EventType.SESSIONS_LISTED, actor))
        sound = [row for row in page.items if self._seals.is_sound(SESSIONS.row_from(row))]
        return Page(tuple(map(_session, sound)), page.next_page_token)

    def expire(self) -> None:
        """Forget sessions that were over long ago; for the worker."""
        gone = sessions.c.expires_at < func.now() - KEPT
        self._database.execute(delete(sessions).where(gone), {})

    def _authenticate(self, token: Token) -> Caller:
        known = self._checked_row(token.id)
        # Compared also for an unknown id, so that both refusals cost the same.
        stored = bytes(known.token_sha256) if known else bytes(32)
        if not hmac.compare_digest(token.secret_sha256, stored):
            raise CredentialRefused("wrong" if known else "unknown", token.id)
        assert known is not None
        for reason in ("revoked", "expired", "disabled", "superseded"):
            if getattr(known, reason):
                raise CredentialRefused(reason, token.id)
        if known.is_stale:
            seen = sessions.c.id == known.session_id
            self._database.execute(update(sessions).where(seen).values(last_seen_at=func.now()), {})
        return Caller(
            principal_id=known.id,
            name=known.name,
            api_key_id=None,
            scopes=frozenset(),
            department=known.department,
            session_id=known.session_id,
            roles=roles_of(self._database.execute, self._seals, known.id, known.authority_epoch),
            person_id=known.person_id,
            has_stepped_up=known.has_stepped_up,
            authority_epoch=known.authority_epoch,
        )

    def _checked_row(self, session_id: str) -> Row[Any] | None:
        try:
            rows = self._database.execute(_AUTHENTICATE, {"session": UUID(hex=session_id)})
        except (ValueError, OverflowError):
            raise unreadable(SESSIONS, session_id) from None
        if not rows:
            self._seals.rehearse()
            return None
        self._seals.check(SESSIONS.row_of(rows[0][:_SESSION_WIDTH]))
        self._seals.check(
            PRINCIPALS.row_of(rows[0][_SESSION_WIDTH : _SESSION_WIDTH + _PRINCIPAL_WIDTH])
        )
        return rows[0]

    def _refused(self, broken: SealBroken, session_id: str) -> CredentialRefused:
        self._findings.remember(broken)
        return CredentialRefused("seal-broken", session_id)

    def _locked_own(self, connection: Connection, actor: Actor) -> Row[Any]:
        session_id = actor.caller.session_id
        row = None if session_id is None else self._locked(connection, session_id)
        if row is None or row.revoked_at is not None:
            raise CredentialRevoked
        return row

    def _locked(self, connection: Connection, session_id: UUID) -> Row[Any] | None:
        query = select(sessions).where(sessions.c.id == session_id).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is not None:
            self._seals.check(SESSIONS.row_from(row))
        return row


def _caller_of(principal: Row[Any], session: Row[Any]) -> Caller:
    return Caller(
        principal_id=principal.id,
        name=principal.name,
        api_key_id=None,
        scopes=frozenset(),
        department=principal.department,
        session_id=session.id,
        person_id=principal.person_id,
    )


def _event(kind: EventType, actor: Actor, session_id: UUID) -> AccessEvent:
    return AccessEvent(kind, actor, detail={"session": str(session_id)})


def _session(row: Row[Any]) -> Session:
    return Session(
        id=row.id,
        principal_id=row.principal_id,
        method=Method(row.method),
        began_at=row.began_at,
        expires_at=row.expires_at,
        last_seen_at=row.last_seen_at,
        stepped_up_at=row.stepped_up_at,
        revoked_at=row.revoked_at,
    )


_SESSION_COLUMNS: Final = [
    column.label(f"session_{column.name}") for column in SESSIONS.sealed_columns()
]
_SESSION_WIDTH: Final = len(_SESSION_COLUMNS)
_PRINCIPAL_COLUMNS: Final = [
    column.label(f"principal_{column.name}") for column in PRINCIPALS.sealed_columns()
]
_PRINCIPAL_WIDTH: Final = len(_PRINCIPAL_COLUMNS)

_AUTHENTICATE: Final = (
    select(
        *_SESSION_COLUMNS,
        *_PRINCIPAL_COLUMNS,
        sessions.c.token_sha256,
        principals,
        sessions.c.revoked_at.is_not(None).label("revoked"),
        or_(
            sessions.c.expires_at <= func.now(),
            sessions.c.last_seen_at <= func.now() - IDLE,
            sessions.c.last_seen_at > func.now() + NOTED_EVERY,  # SQL wrote that
        ).label("expired"),
        principals.c.disabled_at.is_not(None).label("disabled"),
        (sessions.c.authority_epoch != principals.c.authority_epoch).label("superseded"),
        (sessions.c.last_seen_at <= func.now() - NOTED_EVERY).label("is_stale"),
        func.coalesce(sessions.c.stepped_up_at > func.now() - STEP_UP_LASTS, literal(False)).label(
            "has_stepped_up"
        ),
    )
    .join(principals, sessions.c.principal_id == principals.c.id)
    .where(sessions.c.id == bindparam("session"))
)

_SESSIONS = Listing[Row[Any]](
    name="sessions",
    sort_key=(sessions.c.began_at, sessions.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.began_at, row.id),
    shape=lambda row: row,
)

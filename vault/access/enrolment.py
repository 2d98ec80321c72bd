"""Enrolment: how a person comes to a password, an authenticator app and recovery codes.

A security administrator gives a token that is good once, for three days. With it the person chooses a
password, gets the app's secret, and confirms with a code; only then do any of these count, and the recovery
codes are shown. Whoever had credentials before loses them at once, and is signed out.

Anew for somebody who had credentials and holds a dangerous role takes two people: whoever holds the token
becomes that person.
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from keymgmt.totp import TotpSecret
from vault.access import recovery_codes
from vault.access.attempts import Attempts, login_of
from vault.access.authorise import require
from vault.access.credentials import CredentialRefused
from vault.access.grants import Grants
from vault.access.local_users import LocalUsers
from vault.access.passwords import Passwords, require_usable
from vault.access.policy import Action
from vault.access.sealed_rows import LOCAL_USERS
from vault.access.seals import Seals
from vault.access.tokens import Token, TokenKind, make_token, parse_token
from vault.access.ways_in import judge_new_way_in
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import as_caller
from vault.database import Database
from vault.errors import EnrolmentRefused, InvalidValue, NotFound
from vault.tables import local_users

GOOD_FOR: Final = timedelta(hours=72)

_EMPTY: Final[dict[str, Any]] = {
    "password_hash": None,
    "totp_secret": None,
    "recovery_sha256": [],
    "enrolment_sha256": None,
    "enrolment_expires_at": None,
}


@dataclass(frozen=True)
class IssuedEnrolment:
    """A fresh enrolment; `token` is shown this once and kept nowhere."""

    principal_id: UUID
    expires_at: datetime
    token: str = field(repr=False)


@dataclass(frozen=True)
class AppSecret:
    """What an authenticator app takes, to read or to type; shown until it is confirmed."""

    otpauth_url: str = field(repr=False)
    secret: str = field(repr=False)


class Enrolments:
    """The enrolments of this vault."""

    def __init__(
        self,
        database: Database,
        seals: Seals,
        users: LocalUsers,
        passwords: Passwords,
        attempts: Attempts,
        grants: Grants,
    ) -> None:
        self._database = database
        self._shared = database.as_shared()
        self._seals = seals
        self._users = users
        self._passwords = passwords
        self._attempts = attempts
        self._grants = grants

    def issue(self, actor: Actor, principal_id: UUID) -> IssuedEnrolment:
        """Let a person enrol, for the first time or anew; what they had before is gone.

        Raises:
            NotAllowed, StepUpNeeded: refused; also to oneself.
            ApprovalNeeded: they had credentials and hold a dangerous role, and nobody has approved.
            NotFound: no such person, or they are disabled.
        """
        require(actor.caller, Action.CREDENTIALS_RESET)
        broken = self._seals.refusing(NotFound("person"))
        with broken, self._database.transaction(as_caller(actor.caller)) as connection:
            principal, row = self._users.locked(connection, principal_id)
            judge_new_way_in(connection, self._seals, self._grants, actor, principal)
            was_enrolled = row is not None and row.enrolled_at is not None
            detail = {"principal": str(principal_id), "first": not was_enrolled}
            record(connection, AccessEvent(EventType.CREDENTIALS_RESET, actor, detail=detail))
            return self._issued(connection, principal, row)

    def begin(self, text: str, password: str) -> AppSecret:
        """Choose a password and get the app's secret; may be repeated until it is confirmed.

        Raises: EnrolmentRefused, InvalidValue, SignInBusy, KeyServiceUnavailable.
        """
        token = _parsed(text)
        with self._seals.refusing(EnrolmentRefused()):
            with self._shared.transaction() as connection:
                principal, _ = self._open(connection, token)
            require_usable(password, principal.name, principal.display_name)
            secret = TotpSecret.generate()
            pending = {
                "password_hash": self._passwords.hash(password),
                "totp_secret": self._users.wrap(principal.id, secret),
            }
            with self._shared.transaction() as connection:
                _, row = self._open(connection, token)
                self._seals.change(connection, LOCAL_USERS, row, **pending)
        return AppSecret(secret.uri(principal.name), secret.base32)

    def confirm(self, text: str, code: str, *, at: datetime) -> list[str]:
        """Show that the app gives the right codes: from now on it counts; the recovery codes.

        Raises:
            EnrolmentRefused.
            InvalidValue: no password is chosen yet, or the code does not fit.
            SignInDelayed: too soon after wrong codes.
            KeyServiceUnavailable.
        """
        token = _parsed(text)
        with self._seals.refusing(EnrolmentRefused()):
            with self._shared.transaction() as connection:
                principal, row = self._open(connection, token)
            login = login_of("enrolment", str(principal.id))
            self._attempts.count(login)
            step = self._step(row, code, at)
            with self._shared.transaction() as connection:
                principal, now = self._open(connection, token)
                if now.totp_secret != row.totp_secret:
                    raise EnrolmentRefused
                self._attempts.clear(connection, login)
                return self._confirmed(connection, principal, now, step)

    def expire(self) -> None:
        """Forget what was typed in enrolments that nobody confirmed in time; for the worker.

        Raises: DatabaseUnavailable, KeyServiceUnavailable.
        """
        late = local_users.c.enrolment_expires_at <= func.now()
        for found in self._shared.execute(select(local_users.c.id).where(late), {}):
            broken = self._seals.refusing(NotFound("person"))
            with suppress(NotFound), broken, self._shared.transaction() as connection:
                _, row = self._users.locked(connection, found.id)
                if row is not None and _is_late(connection, row):
                    self._seals.change(connection, LOCAL_USERS, row, **_EMPTY)

    def _issued(
        self, connection: Connection, principal: Row[Any], row: Row[Any] | None
    ) -> IssuedEnrolment:
        token, secret_sha256 = make_token(TokenKind.ENROLMENT, principal.id.hex)
        now = connection.execute(select(func.now())).scalar_one()
        new = {
            **_EMPTY,
            "enrolment_sha256": secret_sha256,
            "enrolment_expires_at": now + GOOD_FOR,
        }
        if row is None:
            self._users.add(connection, principal, **new)
        else:
            self._users.replace(connection, principal, row, **new)
        return IssuedEnrolment(principal.id, now + GOOD_FOR, token)

    def _open(self, connection: Connection, token: Token) -> tuple[Row[Any], Row[Any]]:
        """The locked rows of an enrolment that is open. Raises: EnrolmentRefused, SealBroken."""
        try:
            principal, row = self._users.locked(connection, UUID(hex=token.id))
        except NotFound:
            raise EnrolmentRefused from None
        if row is None or row.enrolment_sha256 is None or _is_late(connection, row):
            raise EnrolmentRefused
        if not hmac.compare_digest(bytes(row.enrolment_sha256), token.secret_sha256):
            raise EnrolmentRefused
        return principal, row

    def _step(self, row: Row[Any], code: str, at: datetime) -> int:
        """Raises: InvalidValue, KeyServiceUnavailable."""
        secret = row.totp_secret and self._users.unwrap(row.id, row.totp_secret)
        if not secret:
            raise InvalidValue("choose a password first: POST /v1/enrolment")
        step = secret.step_of(code, at)
        if step is None:
            raise InvalidValue(
                "the code does not fit: send the app's newest one, and see that the phone's clock is right"
            )
        return int(step)

    def _confirmed(
        self, connection: Connection, principal: Row[Any], row: Row[Any], step: int
    ) -> list[str]:
        codes, digests = recovery_codes.make_codes()
        now = connection.execute(select(func.now())).scalar_one()
        detail = {"principal": str(principal.id), "how": "enrolment"}
        record(connection, AccessEvent(EventType.CREDENTIALS_CHANGED, None, detail=detail))
        self._users.take_step(connection, principal.id, step)
        self._users.replace(
            connection,
            principal,
            row,
            recovery_sha256=digests,
            enrolled_at=row.enrolled_at or now,
            enrolment_sha256=None,
            enrolment_expires_at=None,
        )
        return codes


def _parsed(text: str) -> Token:
    try:
        return parse_token(text, TokenKind.ENROLMENT)
    except CredentialRefused:
        raise EnrolmentRefused from None


def _is_late(connection: Connection, row: Row[Any]) -> bool:
    if row.enrolment_expires_at is None:
        return False
    return bool(connection.execute(select(func.now() >= row.enrolment_expires_at)).scalar_one())

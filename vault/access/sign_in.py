"""Signing in with a password and a code, proving it once more (step-up), and changing the password.

Each try is counted before it is judged (`attempts`), and each refusal is one answer and an event. A code of
the app counts once: its time step is taken by one `UPDATE … WHERE` it is newer, in the transaction that
begins the session. A recovery code counts once, and ends the person's other sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from vault.access.attempts import Attempts, login_of
from vault.access.authorise import require
from vault.access.local_users import LocalUser, LocalUsers, credentials_of
from vault.access.passwords import Passwords, require_usable
from vault.access.policy import Action
from vault.access.proofs import NotProved, Proof, Proofs, Shown
from vault.access.sealed_rows import LOCAL_USERS
from vault.access.seals import Seals
from vault.access.sessions import BegunSession, Method, Sessions
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import NotAllowed, NotFound, SignInRefused
from vault.names import is_label


class SignIn:
    """How local users begin sessions."""

    def __init__(
        self,
        database: SharedDatabase,
        seals: Seals,
        users: LocalUsers,
        passwords: Passwords,
        attempts: Attempts,
        sessions: Sessions,
    ) -> None:
        self._database = database
        self._seals = seals
        self._users = users
        self._passwords = passwords
        self._proofs = Proofs(users, passwords)
        self._attempts = attempts
        self._sessions = sessions

    def by_password(
        self, name: str, shown: Shown, *, at: datetime, request_id: str, replaces: str | None = None
    ) -> BegunSession:
        """A fresh session for whoever shows password and code.

        Args:
            replaces: a session's token that came with the request: that session ends.

        Raises:
            SignInRefused: one answer for every reason.
            SignInDelayed: too soon after wrong tries.
            SignInBusy, KeyServiceUnavailable.
        """
        login = login_of("sign-in", name if is_label(name) else "")  # strangers fill no table
        self._attempts.count(login)
        user = self._users.named(name)
        with self._refusing(user, None, request_id):
            proof = self._proofs.judge(user, shown, at)
            with self._database.transaction() as connection:
                principal, _ = self._use(connection, proof)
                begun = self._sessions.begin(connection, principal, Method.PASSWORD, request_id)
                if replaces is not None:
                    self._sessions.end_replaced(connection, replaces)
                self._attempts.clear(connection, login)
        return begun

    def step_up(self, actor: Actor, shown: Shown, *, at: datetime) -> BegunSession:
        """Prove once more who one is; the session's token is a new one.

        Raises: as `by_password`; NotAllowed: an application; CredentialRevoked: the session is over.
        """
        with self._proved(actor, shown, at) as (connection, _principal, _row):
            return self._sessions.step_up(actor, connection)

    def change_password(
        self, actor: Actor, shown: Shown, new: str, *, at: datetime
    ) -> BegunSession:
        """Change one's password; every session ends, and a fresh one begins.

        Raises: as `step_up`; InvalidValue: not a password that is taken.
        """
        user = self._own(actor)
        require_usable(new, actor.caller.name, user.display_name if user else None)
        with self._proved(actor, shown, at) as (connection, principal, row):
            hashed = self._passwords.hash(new)
            # The event first: the session that acts is over by the change.
            detail = {"principal": str(principal.id), "how": "password"}
            record(connection, AccessEvent(EventType.CREDENTIALS_CHANGED, actor, detail=detail))
            changed, _ = self._users.replace(connection, principal, row, password_hash=hashed)
            return self._sessions.begin(connection, changed, Method.PASSWORD, actor.request_id)

    @contextmanager
    def _proved(
        self, actor: Actor, shown: Shown, at: datetime
    ) -> Iterator[tuple[Connection, Row[Any], Row[Any]]]:
        """A transaction in which a caller has proved again who they are, and their locked rows.

        Their tries are counted apart from those of strangers under their name.
        """
        user = self._own(actor)
        login = login_of("step-up", str(actor.caller.principal_id))
        self._attempts.count(login)
        with self._refusing(user, actor, actor.request_id):
            proof = self._proofs.judge(user, shown, at)
            with self._database.transaction() as connection:
                yield connection, *self._use(connection, proof)
                self._attempts.clear(connection, login)

    def _own(self, actor: Actor) -> LocalUser | None:
        require(actor.caller, Action.SESSION_OWN)
        if not actor.caller.is_person:
            raise NotAllowed("only people prove who they are; an application has its API key")
        return self._users.of(actor.caller.principal_id)

    def _use(self, connection: Connection, proof: Proof) -> tuple[Row[Any], Row[Any]]:
        """Use a proof's code up; the person's locked rows. Raises: NotProved, SealBroken."""
        principal, row = self._locked(connection, proof)
        if proof.step is not None and not self._users.take_step(connection, row.id, proof.step):
            raise NotProved("code-used")
        if proof.fresh_hash is not None:
            fresh = {"password_hash": proof.fresh_hash}
            row = self._seals.change(connection, LOCAL_USERS, row, **fresh)
        if proof.recovery_sha256 is not None:
            return self._without(connection, principal, row, proof.recovery_sha256)
        return principal, row

    def _locked(self, connection: Connection, proof: Proof) -> tuple[Row[Any], Row[Any]]:
        """Both rows, if they still are what was judged. Raises: NotProved, SealBroken."""
        try:
            principal, row = self._users.locked(connection, proof.user.id)
        except NotFound:
            raise NotProved("disabled") from None
        now = None if row is None else credentials_of(row)
        before = proof.credentials
        if row is None or now is None or now.password_hash != before.password_hash:
            raise NotProved("changed")
        if now.totp_secret != before.totp_secret and proof.step is not None:
            raise NotProved("changed")
        return principal, row

    def _without(
        self, connection: Connection, principal: Row[Any], row: Row[Any], used: bytes
    ) -> tuple[Row[Any], Row[Any]]:
        left = [bytes(each) for each in row.recovery_sha256]
        if used not in left:
            raise NotProved("code-used")
        left.remove(used)
        detail = {"principal": str(row.id), "how": "recovery-code", "left": len(left)}
        record(connection, AccessEvent(EventType.CREDENTIALS_CHANGED, None, detail=detail))
        return self._users.replace(connection, principal, row, recovery_sha256=left)

    @contextmanager
    def _refusing(
        self, user: LocalUser | None, actor: Actor | None, request_id: str
    ) -> Iterator[None]:
        """Turn whatever was not right into one answer, and an event with the reason."""
        try:
            with self._seals.refusing(SignInRefused()):
                yield
        except NotProved as exc:
            known = {} if user is None else {"principal": str(user.id)}
            detail = {"reason": exc.reason, "request": request_id, **known}
            with self._database.transaction() as connection:
                event = AccessEvent(EventType.SIGN_IN_REFUSED, actor, detail=detail)
                record(connection, event)
            raise SignInRefused from None

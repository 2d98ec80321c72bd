"""Sign-ins at a provider between leaving for it and coming back, and the session that comes of one.

A pending sign-in belongs to the browser that began it: whoever brings its state needs that browser's secret
too, or a stranger could have somebody come back into the stranger's account (login CSRF). It is taken out
once, lives ten minutes, and there are only so many, since nobody who begins one is known. Rows are not
sealed: they give nothing, who comes back is still to be vouched for by the provider.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select

from vault.access.identities import Identities
from vault.access.seals import Seals
from vault.access.sessions import BegunSession, Method, Sessions
from vault.database import SharedDatabase
from vault.errors import IdentityNotLinked
from vault.tables import oidc_sign_ins

LASTS: Final = timedelta(minutes=10)

MOST: Final = 10_000
"""Of pending sign-ins, about 5 MB. When there are more, the oldest go: to keep somebody out, who takes half a
minute at the provider, a stranger has to begin hundreds in each second."""

_TRIMMING: Final = 0x6F69_6463
"""Advisory lock (PostgreSQL 18 manual, §13.3.5): one transaction at a time removes old ones."""


@dataclass(frozen=True)
class PendingSignIn:
    """What has to be remembered of one.

    Attributes:
        step_up_session: that asks for a step-up; None: a sign-in.
    """

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    step_up_session: UUID | None = None


class OidcSignIns:
    """The sign-ins at a provider of this vault."""

    def __init__(
        self, database: SharedDatabase, seals: Seals, identities: Identities, sessions: Sessions
    ) -> None:
        self._database = database
        self._seals = seals
        self._identities = identities
        self._sessions = sessions

    def begin(self, pending: PendingSignIn, browser: str) -> None:
        """Remember a sign-in; `browser` is the secret of the browser that begins it."""
        row = {
            "state_sha256": _digest(pending.state),
            "browser_sha256": _digest(browser),
            "nonce": pending.nonce,
            "code_verifier": pending.code_verifier,
            "step_up_session": pending.step_up_session,
        }
        with self._database.transaction() as connection:
            connection.execute(insert(oidc_sign_ins).values(row))
            _trim(connection)

    def claim(self, state: str, browser: str) -> PendingSignIn | None:
        """Take a sign-in out, for its one use; None: there is none of this browser, any more."""
        columns = oidc_sign_ins.c
        taken = delete(oidc_sign_ins).where(
            columns.state_sha256 == _digest(state),
            columns.browser_sha256 == _digest(browser),
            columns.began_at > func.now() - LASTS,
        )
        for row in self._database.execute(taken.returning(oidc_sign_ins), {}):
            return PendingSignIn(state, row.nonce, row.code_verifier, row.step_up_session)
        return None

    def expire(self) -> None:
        """Forget those that nobody came back from; for the worker."""
        with self._database.transaction() as connection:
            _trim(connection)

    def complete(
        self, issuer: str, subject: str, step_up_session: UUID | None, request_id: str
    ) -> BegunSession:
        """A fresh session of the person whom the provider vouches for, or the step-up of theirs that asked.

        Raises:
            IdentityNotLinked: nobody who may sign in.
            OtherIdentity, CredentialRevoked: the session that asked is another's, or over.
        """
        broken = self._seals.refusing(IdentityNotLinked())
        with broken, self._database.transaction() as connection:
            principal = self._identities.recognise(connection, issuer, subject)
            if step_up_session is None:
                return self._sessions.begin(connection, principal, Method.OIDC, request_id)
            return self._sessions.step_up_of(connection, principal, step_up_session, request_id)


def _trim(connection: Connection) -> None:
    """Whoever finds another one at it leaves it to them."""
    if not connection.execute(select(func.pg_try_advisory_xact_lock(_TRIMMING))).scalar_one():
        return
    began_at = oidc_sign_ins.c.began_at
    surplus = select(began_at).order_by(began_at.desc()).offset(MOST).limit(1).scalar_subquery()
    # greatest() passes over NULL: there is no surplus.
    last = func.greatest(surplus, func.now() - LASTS)
    connection.execute(delete(oidc_sign_ins).where(began_at <= last))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()

"""A person's way through a sign-in: to the provider, back, and into a session.

Here the protocol (`provider`) meets the vault (`vault.access.oidc_sign_ins`). What is refused is counted, and
an event once it was really this browser's: what a stranger can send for nothing fills no log.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from api import metrics
from api.oidc.errors import Fault, ProviderUnavailable, Refusal, SignInFailed, SignInRefused
from api.oidc.idtoken import VerifiedIdentity
from api.oidc.provider import STEP_UP_MAX_AGE_SECONDS, OidcProvider, Pending
from vault.access.oidc_sign_ins import OidcSignIns, PendingSignIn
from vault.access.sessions import BegunSession
from vault.accesslog.event import AccessEvent, EventType
from vault.accesslog.writer import AccessLog
from vault.errors import CredentialRevoked, IdentityNotLinked, OtherIdentity

MAX_EXCHANGES: Final = 8
"""At a time in a process: a provider that hangs keeps a thread for ten seconds, and documents need some."""

_REASONS: Final[Mapping[type[Exception], str]] = {
    IdentityNotLinked: "identity-not-linked",
    OtherIdentity: "other-identity",
    CredentialRevoked: "session-over",
}


class ProviderSignIn:
    """Sign-in and step-up at one provider. Safe for threads."""

    def __init__(self, provider: OidcProvider, sign_ins: OidcSignIns, log: AccessLog) -> None:
        self._provider = provider
        self._sign_ins = sign_ins
        self._log = log
        self._exchanges = threading.BoundedSemaphore(MAX_EXCHANGES)

    def begin(self, browser: str, step_up_session: UUID | None = None) -> str:
        """Where to send the browser.

        Args:
            browser: a secret of it, to be shown again by whoever comes back.
            step_up_session: the person behind it has to prove anew who they are.

        Raises:
            ProviderUnavailable, DatabaseUnavailable.
        """
        with self._exchange():
            url, pending = self._provider.begin(step_up=step_up_session is not None)
        sign_in = PendingSignIn(
            pending.state, pending.nonce, pending.code_verifier, step_up_session
        )
        self._sign_ins.begin(sign_in, browser)
        return url

    def finish(self, params: Mapping[str, str], browser: str, request_id: str) -> BegunSession:
        """The session of whoever came back. Not to be repeated, whatever came of it.

        Args:
            params: of the redirect; a name that stands there twice is to be refused before.

        Raises:
            SignInRefused: the answer proves nothing, or was used, or is of another browser or too old.
            IdentityNotLinked, OtherIdentity, CredentialRevoked: proven, and nothing comes of it.
            ProviderUnavailable, DatabaseUnavailable.
        """
        pending = self._sign_ins.claim(params.get("state", ""), browser)
        if pending is None:
            metrics.OIDC_SIGN_INS.labels(Refusal.STATE).inc()
            raise SignInRefused(Refusal.STATE)
        identity = self._verified(params, pending)
        begun = self._completed(identity, pending, request_id)
        outcome = "signed-in" if pending.step_up_session is None else "stepped-up"
        metrics.OIDC_SIGN_INS.labels(outcome).inc()
        return begun

    def _verified(self, params: Mapping[str, str], pending: PendingSignIn) -> VerifiedIdentity:
        is_step_up = pending.step_up_session is not None
        asked = Pending(
            state=pending.state,
            nonce=pending.nonce,
            code_verifier=pending.code_verifier,
            max_age=STEP_UP_MAX_AGE_SECONDS if is_step_up else None,
        )
        try:
            with self._exchange():
                return self._provider.finish(params, asked)
        except SignInRefused as exc:
            self._note(exc.reason.value)
            raise

    def _completed(
        self, identity: VerifiedIdentity, pending: PendingSignIn, request_id: str
    ) -> BegunSession:
        try:
            return self._sign_ins.complete(
                identity.issuer, identity.subject, pending.step_up_session, request_id
            )
        except (IdentityNotLinked, OtherIdentity, CredentialRevoked) as exc:
            metrics.OIDC_SIGN_INS.labels(_REASONS[type(exc)]).inc()
            # A digest: an administrator who looks for somebody finds them; the log holds no directory.
            digest = hashlib.sha256(identity.subject.encode()).hexdigest()
            self._note(_REASONS[type(exc)], subject_sha256=digest)
            raise

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Within it the provider may be asked. Raises: ProviderUnavailable: too many are just now."""
        if not self._exchanges.acquire(blocking=False):
            metrics.OIDC_SIGN_INS.labels(Fault.BUSY).inc()
            raise ProviderUnavailable(Fault.BUSY)
        try:
            yield
        except SignInFailed as exc:
            metrics.OIDC_SIGN_INS.labels(exc.reason).inc()
            raise
        finally:
            self._exchanges.release()

    def _note(self, reason: str, **more: str) -> None:
        detail = {"method": "oidc", "reason": reason, **more}
        self._log.write(AccessEvent(EventType.SIGN_IN_REFUSED, None, detail=detail))

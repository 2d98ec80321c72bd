"""What JSON goes in and out when people sign in and enrol; what was typed is masked in every repr."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, SecretStr

from api.peopleshapes import SessionShape
from api.shapes import Fields, Given
from vault.access.proofs import Shown
from vault.access.sessions import BegunSession

Typed = Annotated[SecretStr, Field(max_length=1024)]
"""Longer than anything that counts; a limit on strangers' input."""


class SignInShape(Given):
    """Name, password and one code: the app's as `totp`, or a `recovery_code`.

    `as_cookie`: for a browser on a page of this service; the answer then sets a cookie and has no token.
    """

    name: Annotated[str, Field(max_length=255)]
    password: Typed
    totp: Typed | None = None
    recovery_code: Typed | None = None
    as_cookie: bool = False

    def shown(self) -> Shown:
        """What they show. Raises: InvalidValue."""
        return Shown(
            self.password.get_secret_value(),
            None if self.totp is None else self.totp.get_secret_value(),
            None if self.recovery_code is None else self.recovery_code.get_secret_value(),
        )


class StepUpShape(Given):
    """Password and code once more."""

    password: Typed
    totp: Typed

    def shown(self) -> Shown:
        """What they show."""
        return Shown(self.password.get_secret_value(), self.totp.get_secret_value())


class NewPasswordShape(Given):
    """A password to change, and the code that shows who asks."""

    old: Typed
    new: Typed
    totp: Typed

    def shown(self) -> Shown:
        """What they show."""
        return Shown(self.old.get_secret_value(), self.totp.get_secret_value())


class BegunSessionShape(Fields):
    """A session, and its token unless it went into a cookie. The token is shown this once."""

    session: SessionShape
    token: str | None

    @classmethod
    def begun(cls, begun: BegunSession, *, with_token: bool) -> Self:
        """The shape of a session that began."""
        return cls(
            session=SessionShape.of(begun.session), token=begun.token if with_token else None
        )


class IssuedEnrolmentShape(Fields):
    """An enrolment to hand to the person. `token` is shown this once and kept nowhere."""

    principal_id: UUID
    expires_at: datetime
    token: str


class EnrolmentShape(Given):
    """The token that an administrator gave, and the password that the person chooses."""

    token: Typed
    password: Typed


class AppSecretShape(Fields):
    """What an authenticator app takes, as a QR code or typed."""

    otpauth_url: str
    secret: str


class ConfirmationShape(Given):
    """A code of the app, which shows that it has the secret."""

    token: Typed
    totp: Typed


class RecoveryCodesShape(Fields):
    """Codes for whoever loses the phone, each good once. Shown this once and kept nowhere."""

    recovery_codes: list[str]

"""What goes wrong in a sign-in, by whose fault it is.

Texts repeat nothing that was received. Where a cause would (tokens, codes, a provider's words), ours is
raised without it, and the reason has to do.

SignInFailed
├── SignInRefused         this answer proves nothing; `reason` says which check it failed
└── ProviderUnavailable   the provider is away, or does not do its part; `reason` says what
"""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why an answer was not believed, for logs and metrics."""

    STATE = "state"
    RESPONSE_ISSUER = "response-issuer"
    ERROR_RESPONSE = "error-response"
    CODE_MISSING = "code-missing"
    CODE_REFUSED = "code-refused"
    TOKEN_MALFORMED = "token-malformed"  # noqa: S105 (a reason, no token)
    ALGORITHM = "algorithm"
    KEY_UNKNOWN = "key-unknown"
    SIGNATURE = "signature"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    NONCE = "nonce"
    SUBJECT = "subject"
    AUTH_TIME = "auth-time"
    ACCESS_TOKEN_HASH = "access-token-hash"  # noqa: S105


class Fault(StrEnum):
    """What the provider did not do, for logs and metrics."""

    UNREACHABLE = "unreachable"
    TOO_SLOW = "too-slow"
    TOO_LARGE = "too-large"
    REDIRECTS = "redirects"
    STATUS = "status"
    MALFORMED = "malformed"
    OTHER_ISSUER = "other-issuer"
    INSECURE_ENDPOINT = "insecure-endpoint"
    CLIENT_REFUSED = "client-refused"
    BUSY = "busy"


class SignInFailed(Exception):
    """A sign-in did not succeed."""

    reason: Refusal | Fault


class SignInRefused(SignInFailed):
    """The answer proves nothing."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"the sign-in was refused ({reason.value}); begin a new one")
        self.reason = reason


class ProviderUnavailable(SignInFailed):
    """The provider is away, or does not do its part."""

    def __init__(self, reason: Fault) -> None:
        super().__init__(
            f"the sign-in provider cannot be used ({reason.value}); try again later, "
            "or sign in with a local account"
        )
        self.reason = reason

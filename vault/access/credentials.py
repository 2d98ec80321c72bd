"""Credentials: what is shown to be recognised, told apart by the token's kind, and why one is refused."""

from __future__ import annotations


class CredentialRefused(Exception):
    """Not a key or session that is valid now.

    Attributes:
        reason: `malformed`, `unknown`, `wrong`, `seal-broken`, `revoked`, `expired`, `disabled` or
            `superseded`; for the log and the metrics. The caller is told one thing for all of them but
            `malformed`.
        token_id: the id in the token, where its form was right.
    """

    def __init__(self, reason: str, token_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.token_id = token_id

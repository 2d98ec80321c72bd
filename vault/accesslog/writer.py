"""Events that stand alone, outside any flow's transaction: denials and refused credentials."""

from __future__ import annotations

from vault.accesslog.event import AccessEvent, record
from vault.database import SharedDatabase


class AccessLog:
    """Writes single events, each in a transaction of its own."""

    def __init__(self, database: SharedDatabase) -> None:
        self._database = database

    def write(self, event: AccessEvent) -> None:
        """Write `event`. Raises: DatabaseUnavailable, CredentialRevoked."""
        with self._database.transaction() as connection:
            record(connection, event)

"""Attempts to sign in: who fails waits, and is never locked out.

A lock-out would let anybody lock anybody out. Instead the first three wrong tries under a name cost nothing,
and each further one doubles the wait before the next, from 2 seconds to 5 minutes. A try is counted *before*
it is judged, so that many at once are as many failures; one that succeeds clears the count.

A name is remembered as a digest, known or not, so the table tells nobody which names there are. Does not
handle: many names tried from one place; whoever runs the proxy limits addresses.
"""

from __future__ import annotations

import hashlib
import math
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, case, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from vault.database import SharedDatabase
from vault.errors import SignInDelayed
from vault.tables import sign_in_attempts

FREE: Final = 3
LONGEST: Final = timedelta(minutes=5)
FORGOTTEN_AFTER: Final = timedelta(days=1)
_MOST_COUNTED: Final = 100
_columns = sign_in_attempts.c


class Attempts:
    """The attempts of this vault."""

    def __init__(self, database: SharedDatabase) -> None:
        self._database = database

    def count(self, login: bytes) -> None:
        """Count a try, as if it had failed. Raises: SignInDelayed: it is too soon."""
        if self._database.execute(_COUNTED, {"login": login}):
            return
        rows = self._database.execute(_WAIT.where(_columns.login_sha256 == login), {})
        left = float(rows[0].seconds) if rows else 0.0
        raise SignInDelayed(max(1, math.ceil(left)))

    def clear(self, connection: Connection, login: bytes) -> None:
        """Forget the failures of somebody who has just shown who they are."""
        connection.execute(delete(sign_in_attempts).where(_columns.login_sha256 == login))

    def expire(self) -> None:
        """Forget what is older than a day; for the worker. Raises: DatabaseUnavailable."""
        old = _columns.next_at < func.now() - FORGOTTEN_AFTER
        self._database.execute(delete(sign_in_attempts).where(old), {})


def login_of(kind: str, name: str) -> bytes:
    """Under what attempts of a kind and a name are counted."""
    return hashlib.sha256(f"strongroom/attempts/v1\0{kind}\0{name}".encode()).digest()


# The clock, not the transaction's start: of two tries at once the second waits for the first one's row.
_clock = func.clock_timestamp()
_failures = func.least(_columns.failures + 1, _MOST_COUNTED)
_seconds = case(
    (_failures <= FREE, literal(0)),
    else_=func.least(LONGEST.total_seconds(), func.power(2, func.least(_failures - FREE, 10))),
)
_delay = func.make_interval(0, 0, 0, 0, 0, 0, _seconds)
_COUNTED: Final = (
    insert(sign_in_attempts)
    .values(login_sha256=bindparam("login"), failures=1, next_at=_clock)
    .on_conflict_do_update(
        index_elements=[_columns.login_sha256],
        set_={"failures": _failures, "next_at": _clock + _delay},
        where=_columns.next_at <= _clock,
    )
    .returning(_columns.failures)
)
_WAIT: Final = select(func.extract("epoch", _columns.next_at - _clock).label("seconds"))

"""The sweep's brake: after a restore or a failover nothing is swept until a person confirms.

A database that was restored, or promoted without its last transactions, may be older than the objects: what
looks like the leavings of an upload can be the only copy of an acknowledged document. A restore or
promotion is noticed by PostgreSQL's system identifier and timeline, which differ from those seen last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, func, select, text, update

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.tables import topology


class HoldReason(StrEnum):
    """Why nothing is swept."""

    DATABASE = "database"
    FAILOVER = "failover"


@dataclass(frozen=True)
class SweepHold:
    """A brake that is on."""

    since: datetime
    why: HoldReason


class SweepHolds:
    """The brake of this vault."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def look(self) -> bool:
        """Put it on if PostgreSQL was restored or promoted since the last look; whether it did.

        For the start of every process, and from then on for its worker: PostgreSQL may be promoted while
        they run. Raises: DatabaseUnavailable.
        """
        with self._database.transaction() as connection:
            known = connection.execute(select(topology).with_for_update()).one()
            history = connection.execute(_HISTORY).one()
            if tuple(history) == (known.system_identifier, known.timeline):
                return False
            is_first = known.system_identifier is None
            connection.execute(update(topology).values(**history._mapping))  # noqa: SLF001 (a row's)
            if not is_first:
                hold(connection, HoldReason.DATABASE)
        return not is_first

    def current(self) -> SweepHold | None:
        """The brake, if it is on. Raises: DatabaseUnavailable."""
        row = self._database.execute(select(topology), {})[0]
        if row.sweep_held_since is None:
            return None
        return SweepHold(row.sweep_held_since, HoldReason(row.sweep_held_why))

    def release(self, actor: Actor) -> None:
        """A person says that database and objects belong together. Idempotent. Raises: NotAllowed."""
        require(actor.caller, Action.SITE_MANAGE)
        with self._database.transaction() as connection:
            connection.execute(update(topology).values(sweep_held_since=None, sweep_held_why=None))
            record(connection, AccessEvent(EventType.SWEEP_CONFIRMED, actor))


def hold(connection: Connection, why: HoldReason) -> None:
    """Put the brake on in the caller's transaction; one that is on keeps its first reason."""
    values = {
        "sweep_held_since": func.coalesce(topology.c.sweep_held_since, func.now()),
        "sweep_held_why": func.coalesce(topology.c.sweep_held_why, why.value),
    }
    connection.execute(update(topology).values(values))
    record(connection, AccessEvent(EventType.SWEEP_HELD, None, detail={"why": why.value}))


_IDENTIFIER: Final = "(SELECT system_identifier::text FROM pg_control_system())"
_TIMELINE: Final = """
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer"""

MAY_SWEEP: Final = f"""
    SELECT FROM topology WHERE sweep_held_since IS NULL
        AND system_identifier = {_IDENTIFIER} AND timeline = {_TIMELINE}"""
"""True as EXISTS(…) while the brake is off, and this is the PostgreSQL that was looked at last: a process
that a promotion left connected to another one has not looked yet."""

_HISTORY = text(f"SELECT {_IDENTIFIER} AS system_identifier, {_TIMELINE} AS timeline")

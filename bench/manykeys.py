"""Work on ten times as many keys at a real Vault: it takes ten times as long, and no more memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # it ships no types

from api.services import Services
from bench.keys import PREFIX, fill, job_seconds, key_services, owner_engine, vault_server
from bench.memory import peak_mib
from bench.plan import Plan
from bench.result import Result, at_most
from bench.world import World
from keymgmt.provider import Purpose
from vault.jobs import JobKind


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Rewrap and drill `plan.keys`, then `plan.many_keys`."""
    database = world.database()
    with (
        vault_server(world.folder) as vault,
        key_services(database, vault, world.folder) as services,
        owner_engine(database.owner) as owner,
    ):
        session = vault.session("service")
        fill(services.vault_id, PREFIX, owner, session, plan.keys)
        few = dict(_measured(services, plan.keys))
        fill(services.vault_id, PREFIX, owner, session, plan.many_keys - plan.keys)
        for kind, many in _measured(services, plan.many_keys):
            yield from _compared(kind, few[kind], many)


@dataclass(frozen=True)
class _Taken:
    keys: int
    seconds: float
    peak_mib: float


def _measured(services: Services, keys: int) -> Iterator[tuple[JobKind, _Taken]]:
    services.keks.rotate(None, Purpose.DOCUMENTS)
    for kind in (JobKind.REWRAP, JobKind.DRILL):
        yield kind, _job(services, kind, keys)


def _job(services: Services, kind: JobKind, keys: int) -> _Taken:
    taken: list[float] = []
    peak = peak_mib(psutil.Process(), lambda: taken.append(job_seconds(services, kind)), 1)
    return _Taken(keys, taken[0], peak)


def _compared(kind: JobKind, few: _Taken, many: _Taken) -> Iterator[Result]:
    what = f"{kind} of {many.keys:,} data keys"
    each, floor = (1e6 * taken.seconds / taken.keys for taken in (many, few))
    yield Result(
        f"{what}, per key; floor: of {few.keys:,}", "µs", floor, each, (each / floor,), at_most(1.3)
    )
    grown = many.peak_mib - few.peak_mib
    line = f"{what}, memory grown; floor: most with {few.keys:,}"
    yield Result(line, "MiB", few.peak_mib, grown, target=at_most(32))

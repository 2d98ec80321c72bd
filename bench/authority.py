"""What it costs to know who calls and what they may do: seals, the memory of keys, the policy.

Measured in one process, in turns, a thousand calls a round: over HTTP it would drown in the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Final
from uuid import uuid4

from fastapi import Request
from pydantic import SecretStr
from typing_extensions import override

from api.auth import Authenticator
from api.bootstrap import build
from api.first_start import DEMO, create_once
from api.services import Services
from api.settings import DatabaseStandby, KmsSettings, Settings, Sites, SiteSettings
from bench.plan import Plan
from bench.result import Result, at_most, in_turns
from bench.world import World
from keymgmt.rootkey import create_root_key
from vault.access.api_keys import (
    _AUTHENTICATE,
    _KEY_WIDTH,
    _PRINCIPAL_WIDTH,
    ApiKeys,
)
from vault.access.policy import Action, Caller, Scope, decide
from vault.access.roles import HeldRole, Role
from vault.access.sealed_rows import API_KEYS, PRINCIPALS, SealedRow
from vault.access.seals import Seals
from vault.access.tokens import TokenKind, parse_token

CALLS: Final = 1000
MICROSECONDS: Final = 1e6


class _Unchecked(Seals):
    """The floor: the same rows are read, and believed."""

    @override
    def check(self, row: SealedRow) -> None: ...

    @override
    def check_follower(self, row: SealedRow, principal_epoch: int) -> None: ...


def run(world: World, plan: Plan) -> Iterator[Result]:
    """The three costs, each beside what is left without it."""
    with build(_settings(world)) as services:
        shown: list[str] = []
        create_once(services.database.as_shared(), services.seals, DEMO, shown.append)
        yield from _looked_up(services, shown[0], plan)
        yield _remembered(services, shown[0], plan)
    yield from _decided(plan)


def _looked_up(services: Services, token: str, plan: Plan) -> Iterator[Result]:
    seals = services.seals
    floor = ApiKeys(
        services.database,
        _Unchecked(seals._vault_id, seals._keys, seals._findings),
        services.findings,
        services.grants,
    )
    sides = (lambda: floor.authenticate(token), lambda: services.api_keys.authenticate(token))
    unchecked, checked = in_turns(plan.rounds * 3, *map(_timed, sides))
    yield Result.of_rounds(
        "API key looked up in PostgreSQL: without seals, with",
        "µs",
        floor=unchecked,
        ours=checked,
        target=None,
    )
    rows = services.database.as_shared().execute(
        _AUTHENTICATE, {"key": parse_token(token, TokenKind.API_KEY).id}
    )[0]
    key = API_KEYS.row_of(rows[:_KEY_WIDTH])
    principal = PRINCIPALS.row_of(rows[_KEY_WIDTH : _KEY_WIDTH + _PRINCIPAL_WIDTH])
    encoded = b"".join(row.encoded(services.vault_id) for row in (key, principal))

    def check() -> None:
        seals.check(principal)
        seals.check_follower(key, principal.epoch)

    def digest() -> object:
        return hmac.digest(bytes(32), encoded, "sha256")

    floor_us, ours_us = in_turns(plan.rounds, _timed(digest), _timed(check))
    what = "both seals of an API key: one HMAC over as many bytes, and checking them"
    yield Result(what, "µs", median(floor_us), median(ours_us), target=at_most(100))


def _remembered(services: Services, token: str, plan: Plan) -> Result:
    authenticator = Authenticator(services.api_keys, services.sessions, services.access_log)
    headers = [(b"authorization", f"Bearer {token}".encode())]
    request = Request({"type": "http", "headers": headers})

    def recognise() -> float:
        return asyncio.run(_calls(authenticator, request))

    def digest() -> object:
        return hashlib.sha256(token.encode()).digest()

    floor, ours = in_turns(plan.rounds, _timed(digest), recognise)
    what = "API key remembered: its digest, and recognising it"
    return Result(what, "µs", median(floor), median(ours), target=at_most(100))


async def _calls(authenticator: Authenticator, request: Request) -> float:
    await authenticator.caller(request)
    began = time.perf_counter()
    for _ in range(CALLS):
        await authenticator.caller(request)
    return (time.perf_counter() - began) / CALLS * MICROSECONDS


def _decided(plan: Plan) -> Iterator[Result]:
    application = Caller(uuid4(), "crm", "key", frozenset({Scope.READ, Scope.WRITE}), "sales")
    roles = tuple(HeldRole(Role.STAFF, f"department-{n}") for n in range(9))
    held = (*roles, HeldRole(Role.DEPARTMENT_HEAD, "sales"))
    person = replace(application, api_key_id=None, session_id=uuid4(), roles=held)
    for who, caller in (("an application", application), ("a person with ten roles", person)):
        floor, ours = in_turns(
            plan.rounds,
            _timed(partial(_nothing, caller, Action.DOCUMENT_READ, "sales")),
            _timed(partial(decide, caller, Action.DOCUMENT_READ, "sales")),
        )
        what = f"policy decision for {who}: a call that does nothing, and deciding"
        yield Result(what, "µs", median(floor), median(ours), target=at_most(5))


def _nothing(caller: Caller, action: Action, department: str) -> None: ...


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    """Microseconds of one call, as the mean of many."""

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            work()
        return (time.perf_counter() - began) / CALLS * MICROSECONDS

    return measure


def _settings(world: World) -> Settings:
    folder = world.folder / "authority"
    folder.mkdir(mode=0o700)
    create_root_key(folder / "root.key", data_folder=folder / "home")
    return Settings(
        home=folder / "home",
        database_url=SecretStr(world.database().service),
        database_standby=DatabaseStandby.MANAGED,
        sites=Sites(a=SiteSettings(path=folder / "a"), b=SiteSettings(path=folder / "b")),
        kms=KmsSettings(key_file=folder / "root.key"),
    )

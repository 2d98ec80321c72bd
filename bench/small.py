"""Small documents, one after the other on kept-alive connections, beside the floor app's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from bench import payload
from bench.client import Client
from bench.plan import Plan
from bench.result import Result, Target, at_least, in_turns
from bench.world import MeasuredService, World

CLIENTS: Final = (1, 8)

BODIES: Final[dict[str, tuple[Callable[[], bytes], Target | None]]] = {
    "PDF": (payload.pdf, at_least(0.85)),
    "text": (payload.text, None),
    "random": (payload.noise, None),
}
"""Only the first is judged: how long recognising a type takes depends on the type."""

WARM_UP_SECONDS: Final = 1.0


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Every body with every number of clients."""
    with world.service() as service, world.floor() as floor_url:
        for name, (make, target) in BODIES.items():
            for clients in CLIENTS:
                what = f"16 KiB {name} documents, {clients} client(s)"
                yield _compare(service, floor_url, what, make(), clients, plan, target)


def _compare(
    service: MeasuredService,
    floor_url: str,
    what: str,
    body: bytes,
    clients: int,
    plan: Plan,
    target: Target | None,
) -> Result:
    with ExitStack() as stack:
        ours = [stack.enter_context(service.client()) for _ in range(clients)]
        floor = [stack.enter_context(Client(floor_url)) for _ in range(clients)]
        for side in (ours, floor):
            _rate(side, body, WARM_UP_SECONDS)
        mine, theirs = in_turns(
            plan.rounds,
            lambda: _rate(ours, body, plan.small_seconds),
            lambda: _rate(floor, body, plan.small_seconds),
        )
    return Result.of_rounds(what, "/s", floor=theirs, ours=mine, target=target)


def _rate(clients: list[Client], body: bytes, seconds: float) -> float:
    """Documents per second that all clients together get acknowledged."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        sent = sum(pool.map(lambda client: _send_until(client, body, began + seconds), clients))
    return sent / (time.perf_counter() - began)


def _send_until(client: Client, body: bytes, deadline: float) -> int:
    sent = 0
    while time.perf_counter() < deadline:
        client.upload(body)
        sent += 1
    return sent

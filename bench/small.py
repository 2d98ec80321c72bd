"""Small documents, one after the other on kept-alive connections, beside the floor app's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench import payload
from bench.client import Client
from bench.plan import Plan
from bench.result import Result, Target, at_least, in_turns
from bench.world import World

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
                ours = sender(service.client, clients, make())
                floor = sender(lambda: Client(floor_url), clients, make())
                yield _compare(what, plan, target, ours=ours, floor=floor)


def _compare(
    what: str,
    plan: Plan,
    target: Target | None,
    *,
    ours: Callable[[float], float],
    floor: Callable[[float], float],
) -> Result:
    for side in (ours, floor):
        side(WARM_UP_SECONDS)
    mine, theirs = in_turns(
        plan.rounds, lambda: ours(plan.small_seconds), lambda: floor(plan.small_seconds)
    )
    return Result.of_rounds(what, "/s", floor=theirs, ours=mine, target=target)


def sender(
    connect: Callable[[], Client], clients: int, body: bytes, *, class_name: str = "general"
) -> Callable[[float], float]:
    """Sends `body` again and again for some seconds; acknowledged documents per second, all clients."""

    def send_for(seconds: float) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            sending = [
                pool.submit(_send_until, connect, body, began + seconds, class_name)
                for _ in range(clients)
            ]
            sent = sum(future.result() for future in sending)
        return sent / (time.perf_counter() - began)

    return send_for


def _send_until(
    connect: Callable[[], Client], body: bytes, deadline: float, class_name: str
) -> int:
    sent = 0
    with connect() as client:
        while time.perf_counter() < deadline:
            client.upload(body, class_name=class_name)
            sent += 1
    return sent

"""Resident memory of the service while large documents are in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import psutil  # type: ignore[import-untyped]  # it ships no types

from bench import payload
from bench.payload import LargeBody
from bench.plan import MIB, Plan
from bench.result import Result, at_most
from bench.twosites import BOTH_SITES, peer, serving
from bench.world import MeasuredService, World

IN_FLIGHT: Final = 3
SHARES: Final = 5
"""Of several uploads at once each sends a fifth: memory is taken long before, and disks are finite."""

SAMPLE_EVERY_SECONDS: Final = 0.01
WARM_UPS: Final = 50


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Uploads whose length is not announced, then downloads; each in a fresh process."""
    whole, share = LargeBody(plan.memory_bytes), LargeBody(plan.memory_bytes // SHARES)
    documents: list[str] = []
    with world.service() as service:
        yield from _growth(
            "upload",
            service,
            one=lambda: documents.append(_upload(service, whole)),
            several=lambda: service.remove_object_of(_upload(service, share)),
        )
        service.process.restart()
        download = partial(_download, service, documents[0])
        yield from _growth("download", service, one=download, several=download)
        service.remove_object_of(documents[0])
    with peer(world) as server, serving(world, server) as (service, sites):

        def upload(body: LargeBody) -> None:
            service.remove_object_of(_upload(service, body, BOTH_SITES))
            sites.b.remove_objects()

        yield from _growth(
            "upload to both sites",
            service,
            one=lambda: upload(whole),
            several=lambda: _upload(service, share, BOTH_SITES),
            is_judged=False,
        )
        sites.a.remove_objects()


def _growth(
    what: str,
    service: MeasuredService,
    *,
    one: Callable[[], object],
    several: Callable[[], object],
    is_judged: bool = True,
) -> Iterator[Result]:
    _warm_up(service)
    process = psutil.Process(service.pid)
    idle = _resident_mib(process)
    by_one = peak_mib(process, one, 1) - idle
    by_several = peak_mib(process, several, IN_FLIGHT) - idle
    further = (by_several - by_one) / (IN_FLIGHT - 1)
    for count, grown, limit in (("one", by_one, 48), ("each further", further, 32)):
        line = f"memory grown by {count} {what} in flight; floor: idle"
        yield Result(line, "MiB", idle, grown, target=at_most(limit) if is_judged else None)


def peak_mib(process: psutil.Process, work: Callable[[], object], count: int) -> float:
    """The most that was resident at any sample while `work` ran `count` times at once."""
    done = threading.Event()
    with ThreadPoolExecutor(count + 1) as pool:
        watching = pool.submit(_watch, process, done)
        running = [pool.submit(work) for _ in range(count)]
        try:
            for future in running:
                future.result()
        finally:
            done.set()
        return watching.result()


def _watch(process: psutil.Process, done: threading.Event) -> float:
    most = _resident_mib(process)
    while not done.wait(SAMPLE_EVERY_SECONDS):
        most = max(most, _resident_mib(process))
    return most


def _resident_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / MIB


def _warm_up(service: MeasuredService) -> None:
    """Load what is loaded at the first use, with documents too small to leave large buffers behind."""
    with service.client() as client:
        for _ in range(WARM_UPS):
            document_id = client.upload(payload.pdf())["id"]
            client.download(f"/v1/documents/{document_id}/content")


def _upload(service: MeasuredService, body: LargeBody, class_name: str = "general") -> str:
    with service.client() as client:
        return str(client.upload(body.chunks(), class_name=class_name)["id"])


def _download(service: MeasuredService, document_id: str) -> None:
    with service.client() as client:
        client.download(f"/v1/documents/{document_id}/content")

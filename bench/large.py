"""One large document: up beside the raw S3 client, down beside the same stack without decryption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

from bench.client import Client
from bench.payload import LargeBody
from bench.plan import MIB, Plan
from bench.result import Result, at_least, in_turns
from bench.s3 import put_large
from bench.world import MeasuredService, World

PARALLEL_PARTS = (1, 3)


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Upload, then download."""
    body = LargeBody(plan.large_bytes)
    with world.service() as service, world.floor() as floor_url:
        yield _upload(service, world, body, plan.rounds)
        yield _download(service, floor_url, body, plan.rounds)


def _upload(service: MeasuredService, world: World, body: LargeBody, rounds: int) -> Result:
    raw = [_raw_upload(world, body, parallel) for parallel in PARALLEL_PARTS]
    ours, *floors = in_turns(rounds, lambda: _our_upload(service, body), *raw)
    best = max(floors, key=median)
    parallel = PARALLEL_PARTS[floors.index(best)]
    what = f"upload of {_size(body)}; floor: minio put_object, {parallel} part(s) at a time"
    return Result.of_rounds(what, "MiB/s", floor=best, ours=ours, target=at_least(0.9))


def _download(service: MeasuredService, floor_url: str, body: LargeBody, rounds: int) -> Result:
    with service.client() as client:
        document_id = client.upload(body.chunks(), body.size_bytes)["id"]
    path = f"/v1/documents/{document_id}/content"
    stored = f"/objects/{service.bucket.name}/{service.object_id_of(document_id)}"
    ours, floor = in_turns(
        rounds,
        lambda: _download_rate(service.client(), path),
        lambda: _download_rate(Client(floor_url), stored),
    )
    service.remove_object_of(document_id)
    what = f"download of {_size(body)}; floor: the stored ciphertext, streamed"
    return Result.of_rounds(what, "MiB/s", floor=floor, ours=ours, target=at_least(0.8))


def _our_upload(service: MeasuredService, body: LargeBody) -> float:
    with service.client() as client:
        began = time.perf_counter()
        document = client.upload(body.chunks(), body.size_bytes)
        seconds = time.perf_counter() - began
    service.remove_object_of(document["id"])
    return body.size_bytes / MIB / seconds


def _raw_upload(world: World, body: LargeBody, parallel: int) -> Callable[[], float]:
    bucket = world.bucket()
    client = bucket.client()

    def upload() -> float:
        began = time.perf_counter()
        put_large(client, bucket.name, "large", body, parallel)
        seconds = time.perf_counter() - began
        client.remove_object(bucket.name, "large")
        return body.size_bytes / MIB / seconds

    return upload


def _download_rate(client: Client, path: str) -> float:
    with client:
        began = time.perf_counter()
        size_bytes = client.download(path)
        return size_bytes / MIB / (time.perf_counter() - began)


def _size(body: LargeBody) -> str:
    return f"{body.size_bytes // MIB:,} MiB"

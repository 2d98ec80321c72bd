"""Damage behind the service's back: one problem that says integrity, never a byte of plaintext."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.api.helpers import upload
from tests.running import RunningService

MIB = 2**20


def object_file(service: RunningService, document: dict[str, object]) -> Path:
    """Where a document's newest object lies at site a."""
    size = document["version"]["ciphertext_size_bytes"]  # type: ignore[index]
    digest = document["version"]["ciphertext_sha256"]  # type: ignore[index]
    folder = service.services.settings.sites.a.path
    assert folder is not None
    same_size = [
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == size
    ]
    (found,) = [path for path in same_size if sha256(path.read_bytes()).hexdigest() == digest]
    return found


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def reorder(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[MIB : 2 * MIB] + data[:MIB] + data[2 * MIB :])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit in the header": lambda path: flip(path, 5),
    "flipped bit in the first segment": lambda path: flip(path, 100),
    "truncated": shorten,
    "extended": extend,
    "cut at a segment": lambda path: path.write_bytes(path.read_bytes()[:MIB]),
    "segments reordered": reorder,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_a_problem_that_says_integrity(service: RunningService, kind: str) -> None:
    content = os.urandom(3 * MIB)
    document = upload(service.demo, content)
    DAMAGES[kind](object_file(service, document))
    answer = service.demo.get(f"/v1/documents/{document['id']}/content")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:strongroom:problem:integrity"
    assert content[:16] not in answer.content
    assert "strongroom_integrity_failures_total 0.0" not in metrics(service)


def test_swapped_objects_are_refused(service: RunningService) -> None:
    one, two = (upload(service.demo, os.urandom(1000)) for _ in range(2))
    first, second = object_file(service, one), object_file(service, two)
    spare = first.with_suffix(".spare")
    shutil.move(first, spare)
    shutil.move(second, first)
    shutil.move(spare, second)
    for document in (one, two):
        assert service.demo.get(f"/v1/documents/{document['id']}/content").status_code == 500


def test_damage_found_late_cuts_the_answer_short(service: RunningService) -> None:
    content = os.urandom(5 * MIB)
    document = upload(service.demo, content)
    flip(object_file(service, document), 4 * MIB + 1000)
    received = bytearray()
    with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012, SIM117
        with service.demo.stream("GET", f"/v1/documents/{document['id']}/content") as answer:
            assert answer.status_code == 200
            for chunk in answer.iter_raw():
                received += chunk
    assert received == content[: len(received)]
    assert len(received) < 4 * MIB + 1000
    assert "strongroom_integrity_failures_total 0.0" not in metrics(service)


def test_ranges_before_the_damage_are_still_served(service: RunningService) -> None:
    content = os.urandom(3 * MIB)
    document = upload(service.demo, content)
    flip(object_file(service, document), 2 * MIB + 1000)
    path = f"/v1/documents/{document['id']}/content"
    assert service.demo.get(path, headers={"Range": "bytes=0-99"}).content == content[:100]
    assert service.demo.get(path, headers={"Range": "bytes=-100"}).status_code == 500


def metrics(service: RunningService) -> str:
    return httpx.get(f"{service.url}/metrics", trust_env=False).text

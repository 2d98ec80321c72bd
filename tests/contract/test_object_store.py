"""One contract for every object store; a further store is one more line in `STORES`."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minio.commonconfig import ENABLED, GOVERNANCE
from minio.error import S3Error
from minio.objectlockconfig import ObjectLockConfig
from minio.retention import Retention
from minio.versioningconfig import VersioningConfig

from tests.servers.s3 import S3Server
from vault.clock import now
from vault.objects.directory import DirectoryStore
from vault.objects.keys import object_key
from vault.objects.reading import parts
from vault.objects.store import (
    PART_SIZE_BYTES,
    ObjectLocked,
    ObjectMissing,
    ObjectReader,
    ObjectStore,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    UploadMissing,
)

KIB, MIB = 2**10, 2**20


def _directory(request: pytest.FixtureRequest) -> ObjectStore:
    store = DirectoryStore("a", request.getfixturevalue("tmp_path") / "site")
    store.prepare()
    return store


def _s3(name: str) -> Callable[[pytest.FixtureRequest], ObjectStore]:
    return lambda request: request.getfixturevalue(name).store()


STORES: dict[str, Callable[[pytest.FixtureRequest], ObjectStore]] = {
    "directory": _directory,
    "versity": _s3("versity"),
    "rclone": _s3("rclone"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return STORES[request.param](request)


@pytest.fixture(params=["directory", "versity"])
def replacing_store(request: pytest.FixtureRequest) -> ObjectStore:
    """Without rclone, which passes parts on as they come: none can be replaced by other bytes or left out."""
    return STORES[request.param](request)


def key() -> str:
    return object_key(uuid4())


def read(store: ObjectStore, name: str, offset: int = 0, length: int | None = None) -> bytes:
    buffer = memoryview(bytearray(MIB))
    with closing(store.open(name, offset, length)) as reader:
        parts = []
        while got := reader.readinto(buffer):
            parts.append(bytes(buffer[:got]))
        return b"".join(parts)


def _drain(reader: ObjectReader) -> None:
    while reader.readinto(memoryview(bytearray(MIB))):
        pass


def put_in_parts(store: ObjectStore, name: str, content: bytes) -> None:
    upload = store.begin_parts(name)
    for number, start in enumerate(range(0, max(len(content), 1), PART_SIZE_BYTES), start=1):
        upload.put_part(number, memoryview(content)[start : start + PART_SIZE_BYTES])
    upload.complete()


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, MIB, PART_SIZE_BYTES])
def test_what_is_put_comes_back(store: ObjectStore, size: int) -> None:
    name, content = key(), os.urandom(size)
    store.put(name, memoryview(bytearray(content)))
    assert read(store, name) == content
    assert store.size(name) == size


@pytest.mark.parametrize(
    "size",
    [1, PART_SIZE_BYTES, PART_SIZE_BYTES + 1, 2 * PART_SIZE_BYTES, 2 * PART_SIZE_BYTES + MIB],
)
def test_parts_make_one_object(store: ObjectStore, size: int) -> None:
    name, content = key(), os.urandom(size)
    put_in_parts(store, name, content)
    assert read(store, name) == content


def test_parts_may_come_out_of_order_from_many_threads(store: ObjectStore) -> None:
    name, parts = key(), [os.urandom(PART_SIZE_BYTES) for _ in range(3)] + [b"end"]
    upload = store.begin_parts(name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload.put_part, [4, 2, 3, 1], [parts[3], parts[1], parts[2], parts[0]]))
    upload.complete()
    assert read(store, name) == b"".join(parts)


def test_a_repeated_part_counts_once(store: ObjectStore) -> None:
    name, part = key(), os.urandom(PART_SIZE_BYTES)
    upload = store.begin_parts(name)
    for number, body in ((1, part), (2, b"end"), (1, part)):
        upload.put_part(number, body)
    upload.complete()
    assert read(store, name) == part + b"end"


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, None), (5, 10), (99_999, 1), (100, None), (50_000, 50_000)]
)
def test_a_range_is_just_these_bytes(store: ObjectStore, offset: int, length: int | None) -> None:
    name, content = key(), os.urandom(100_000)
    store.put(name, content)
    stop = None if length is None else offset + length
    assert read(store, name, offset, length) == content[offset:stop]
    with closing(store.open(name, offset, length)) as reader:
        assert reader.object_size_bytes == 100_000


def test_a_range_behind_the_end_gives_no_bytes(store: ObjectStore) -> None:
    name = key()
    store.put(name, b"short")
    with suppress(ObjectMissing):  # S3 answers 416
        assert read(store, name, 100, 10) == b""


def test_a_missing_object_is_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        store.open(key())
    with pytest.raises(ObjectMissing):
        store.size(key())


def test_delete_is_idempotent(store: ObjectStore) -> None:
    name = key()
    store.put(name, b"x")
    for _ in range(2):
        store.delete(name)
        with pytest.raises(ObjectMissing):
            store.open(name)


def test_a_put_may_be_repeated(store: ObjectStore) -> None:
    name = key()
    for _ in range(2):
        store.put(name, b"same")
    assert read(store, name) == b"same"


def test_lists_are_in_order_and_can_start_anywhere(store: ObjectStore) -> None:
    names = sorted(key() for _ in range(12))
    for name in names:
        store.put(name, b"xy")
    assert [found.key for found in store.list()] == names
    assert [found.key for found in store.list("objects/", names[4])] == names[5:]
    assert [found.key for found in store.list(names[0][:10])] == [
        name for name in names if name.startswith(names[0][:10])
    ]
    assert {found.size_bytes for found in store.list()} == {2}
    assert list(store.list("elsewhere/")) == []


def test_nothing_is_visible_before_complete(store: ObjectStore) -> None:
    name = key()
    upload = store.begin_parts(name)
    upload.put_part(1, bytes(PART_SIZE_BYTES))
    with pytest.raises(ObjectMissing):
        store.open(name)
    assert list(store.list()) == []
    upload.put_part(2, b"end")
    upload.complete()
    assert store.size(name) == PART_SIZE_BYTES + 3


def test_an_aborted_upload_leaves_no_residue(store: ObjectStore) -> None:
    name = key()
    upload = store.begin_parts(name)
    upload.put_part(1, bytes(PART_SIZE_BYTES))
    assert [found.upload_id for found in store.pending(name)] == [upload.upload_id]
    upload.abort()
    upload.abort()
    assert list(store.pending(name)) == []
    assert list(store.list()) == []


def test_another_process_can_drop_what_was_left(store: ObjectStore) -> None:
    names = [key() for _ in range(3)]
    for name in names:
        store.begin_parts(name).put_part(1, b"left")
    # By whole keys, as the sweep asks: rclone lists nothing for a shorter prefix.
    for name in names:
        (found,) = store.pending(name)
        store.abort_pending(found.key, found.upload_id)
        store.abort_pending(found.key, found.upload_id)
        assert list(store.pending(name)) == []


def test_an_upload_that_was_swept_cannot_be_completed(store: ObjectStore) -> None:
    name = key()
    upload = store.begin_parts(name)
    upload.put_part(1, b"late")
    store.abort_pending(name, upload.upload_id)
    with pytest.raises(UploadMissing):
        upload.complete()
    with pytest.raises(ObjectMissing):
        store.open(name)


def resume_and_complete(store: ObjectStore, name: str, upload_id: str, content: bytes) -> int:
    """As another process would; returns how many parts it need not send."""
    upload = store.resume_parts(name, upload_id)
    assert upload.upload_id == upload_id
    for number in range(upload.parts_done + 1, -(-len(content) // PART_SIZE_BYTES) + 1):
        stop = number * PART_SIZE_BYTES
        upload.put_part(number, memoryview(content)[stop - PART_SIZE_BYTES : stop])
    upload.complete()
    assert read(store, name) == content
    assert list(store.pending(name)) == []
    return upload.parts_done


def begin_with(store: ObjectStore, name: str, parts: Mapping[int, bytes]) -> str:
    """An upload left behind with these parts, sent in this order."""
    upload = store.begin_parts(name)
    assert upload.parts_done == 0
    for number, body in parts.items():
        upload.put_part(number, body)
    return upload.upload_id


PART = PART_SIZE_BYTES


@pytest.mark.parametrize(
    ("size", "sent", "done"),
    [
        (2 * PART + 5, [], 0),
        (2 * PART + 5, [1], 1),
        (2 * PART + 5, [1, 2], 2),
        (2 * PART + 5, [1, 2, 3], 2),
        (2 * PART + 5, [3, 1], 1),
        (2 * PART + 5, [2, 3], 0),
        (2 * PART, [1, 2], 2),
        (3 * PART, [3, 1], 1),
        (5, [1], 0),
    ],
)
def test_an_upload_is_resumed_after_the_parts_that_are_there(
    store: ObjectStore, size: int, sent: list[int], done: int
) -> None:
    name, content = key(), os.urandom(size)
    parts = {number: content[(number - 1) * PART : number * PART] for number in sent}
    upload_id = begin_with(store, name, parts)
    assert resume_and_complete(store, name, upload_id, content) == done


@pytest.mark.parametrize("wrong", [5 * MIB, PART - 4096])
def test_a_part_of_the_wrong_size_does_not_count_nor_do_those_behind_it(
    replacing_store: ObjectStore, wrong: int
) -> None:
    store, name, content = replacing_store, key(), os.urandom(3 * PART + 1)
    sent = {1: content[:PART], 2: content[PART : PART + wrong], 3: content[2 * PART : 3 * PART]}
    upload_id = begin_with(store, name, sent)
    assert resume_and_complete(store, name, upload_id, content) == 1


def test_an_object_resumed_with_fewer_parts_has_nothing_of_the_others(
    replacing_store: ObjectStore,
) -> None:
    store, name, content = replacing_store, key(), os.urandom(PART + 1)
    upload_id = begin_with(store, name, {1: content[:PART], 4: b"stray"})
    assert resume_and_complete(store, name, upload_id, content) == 1


def test_an_upload_may_be_resumed_again_and_again(store: ObjectStore) -> None:
    name, content = key(), os.urandom(2 * PART + 1)
    upload_id = store.begin_parts(name).upload_id
    for done in range(2):
        upload = store.resume_parts(name, upload_id)
        assert upload.parts_done == done
        upload.put_part(done + 1, content[done * PART : (done + 1) * PART])
    assert resume_and_complete(store, name, upload_id, content) == 2


def test_an_upload_that_is_not_there_cannot_be_resumed(store: ObjectStore) -> None:
    name, other = key(), key()
    swept, completed = begin_with(store, name, {1: b"x"}), store.begin_parts(other)
    store.abort_pending(name, swept)
    completed.put_part(1, b"x")
    completed.complete()
    unknown = f"{uuid4()}--{name.replace('/', '--')}"
    for missing in (swept, unknown, str(uuid4()), "../../etc/passwd", "x"):
        with pytest.raises(UploadMissing):
            store.resume_parts(name, missing)
    with pytest.raises(UploadMissing):
        store.resume_parts(other, completed.upload_id)
    with pytest.raises(UploadMissing):
        store.resume_parts(key(), store.begin_parts(key()).upload_id)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_an_upload_survives_the_gateway(versity: S3Server, kill: bool) -> None:
    store, name, content = versity.store(), key(), os.urandom(2 * PART + 1)
    upload_id = begin_with(store, name, {1: content[:PART], 2: content[PART : 2 * PART]})
    versity.stop(signal.SIGKILL if kill else signal.SIGTERM)
    with pytest.raises(StoreUnavailable):
        store.resume_parts(name, upload_id)
    versity.start()
    assert resume_and_complete(store, name, upload_id, content) == 2


def test_a_gateway_killed_in_mid_part_has_the_whole_ones(versity: S3Server) -> None:
    store, name, content = versity.store(), key(), os.urandom(3 * PART)
    upload_id = begin_with(store, name, {1: content[:PART]})
    upload = store.resume_parts(name, upload_id)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(upload.put_part, 2, content[PART : 2 * PART])
        time.sleep(0.005)
        versity.stop()
        with suppress(StoreUnavailable):
            sending.result()
    versity.start()
    assert resume_and_complete(store, name, upload_id, content) in (1, 2)


def test_an_upload_that_a_store_forgot_is_missing(rclone: S3Server) -> None:
    store, name = rclone.store(), key()
    upload_id = begin_with(store, name, {1: bytes(PART)})
    rclone.stop()
    rclone.start()
    with pytest.raises(UploadMissing):
        store.resume_parts(name, upload_id)


@pytest.mark.parametrize("size", [1, PART, PART + 1, 2 * PART + MIB])
def test_an_object_is_read_from_any_part_on(store: ObjectStore, size: int) -> None:
    name, content = key(), os.urandom(size)
    put_in_parts(store, name, content)
    for first in range(1, 5):
        assert (
            b"".join(map(bytes, parts(store, name, first=first))) == content[(first - 1) * PART :]
        )
    with pytest.raises(ObjectMissing):
        list(parts(store, key(), first=2))


@settings(max_examples=40, deadline=None)
@given(
    sent=st.lists(st.tuples(st.integers(1, 4), st.integers(0, PART // 4096)), max_size=6),
    count=st.integers(1, 3),
)
def test_whatever_was_sent_a_resumed_file_is_whole(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[int, int]], count: int
) -> None:
    store = DirectoryStore("a", tmp_path_factory.mktemp("site"))
    store.prepare()
    name, content = "objects/aa/x", CONTENT[: count * PART - 7]
    upload = store.begin_parts(name)
    for number, pages in sent:  # a killed writer leaves any beginning of any part
        start = (number - 1) * PART
        upload.put_part(number, CONTENT[start : start + pages * 4096])
    if (resumed := store.resume_parts(name, upload.upload_id)).parts_done < count:
        resume_and_complete(store, name, upload.upload_id, content)
    else:
        resumed.abort()


CONTENT = os.urandom(4 * PART)


def test_readers_closed_early_do_not_drain_the_pool(store: ObjectStore) -> None:
    name = key()
    put_in_parts(store, name, os.urandom(PART_SIZE_BYTES + 1))
    for _ in range(50):
        reader = store.open(name)
        reader.readinto(memoryview(bytearray(10)))
        reader.close()
        reader.close()
    assert len(read(store, name)) == PART_SIZE_BYTES + 1


@pytest.mark.parametrize(
    "name", ["../x", "objects/../../x", "/etc/x", "a//b", ".incoming/x", "A", ""]
)
def test_a_directory_refuses_keys_that_lead_out(tmp_path: Path, name: str) -> None:
    store = DirectoryStore("a", tmp_path / "site")
    store.prepare()
    with pytest.raises(StoreMisconfigured):
        store.put(name, b"x")


def test_a_directory_that_vanished_is_away_and_not_made_anew(tmp_path: Path) -> None:
    store = DirectoryStore("a", tmp_path / "site")
    store.prepare()
    store.put("objects/aa/one", b"x")
    (tmp_path / "site").rename(tmp_path / "gone")
    for attempt in (
        lambda: store.put("objects/aa/two", b"x"),
        lambda: store.open("objects/aa/one"),
        lambda: store.delete("objects/aa/one"),
        lambda: list(store.list()),
        store.check,
    ):
        with pytest.raises(StoreUnavailable):
            attempt()
    assert not (tmp_path / "site").exists()


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to let files grow further, as on a full disk (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_directory_without_room_keeps_nothing_of_the_object(tmp_path: Path) -> None:
    store = DirectoryStore("a", tmp_path / "site")
    store.prepare()
    with file_size_limit(MIB), pytest.raises(StoreUnavailable):
        store.put("objects/aa/big", bytes(2 * MIB))
    assert list(store.list()) == []
    assert list(store.pending()) == []
    store.put("objects/aa/small", b"x")


def test_wrong_credentials_are_told_from_an_absent_server(versity: S3Server) -> None:
    with pytest.raises(StoreMisconfigured):
        versity.unprepared_store("a", "some-bucket", secret_key="wrong").check()
    with pytest.raises(StoreMisconfigured):
        versity.unprepared_store("a", "no-such-bucket").put("objects/aa/x", b"x")


def test_a_stopped_server_is_away_and_comes_back(versity: S3Server) -> None:
    store = versity.store()
    store.put("objects/aa/x", b"kept")
    versity.stop()
    try:
        for attempt in (
            lambda: store.put("objects/aa/y", b"x"),
            lambda: store.open("objects/aa/x"),
            lambda: store.begin_parts("objects/aa/z"),
            lambda: list(store.list()),
            lambda: list(store.pending()),
            lambda: store.delete("objects/aa/x"),
            store.check,
        ):
            with pytest.raises(StoreUnavailable):
                attempt()
    finally:
        versity.start()
    assert read(store, "objects/aa/x") == b"kept"


def test_a_server_killed_in_mid_read_is_away(versity: S3Server) -> None:
    store, name = versity.store(), key()
    put_in_parts(store, name, os.urandom(8 * PART_SIZE_BYTES))
    with closing(store.open(name)) as reader:
        reader.readinto(memoryview(bytearray(1000)))
        versity.stop()
        try:
            with pytest.raises(StoreUnavailable):
                _drain(reader)
        finally:
            versity.start()


@pytest.mark.parametrize("how", [S3Server.stop, S3Server.pause])
def test_a_server_lost_in_mid_write_is_away_and_shows_no_object(
    versity: S3Server, how: Callable[[S3Server], None]
) -> None:
    store, name = versity.store(read_seconds=0.5), key()
    upload = store.begin_parts(name)
    upload.put_part(1, bytes(PART_SIZE_BYTES))
    how(versity)
    try:
        with pytest.raises(StoreUnavailable):
            upload.put_part(2, bytes(PART_SIZE_BYTES))
    finally:
        versity.stop()
        versity.start()
    with pytest.raises(ObjectMissing):
        store.open(name)


@contextmanager
def paused(server: S3Server) -> Iterator[None]:
    """The server hangs for the time of the block."""
    server.pause()
    try:
        yield
    finally:
        server.go_on()


WAITS: dict[str, Callable[[ObjectStore], object]] = {
    "open": lambda store: store.open("objects/aa/x"),
    "size": lambda store: store.size("objects/aa/x"),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("call", WAITS)
@pytest.mark.parametrize("is_pooled", [False, True], ids=["new", "pooled"])
def test_a_read_of_a_server_that_hangs_gives_up_soon(
    versity: S3Server, call: str, is_pooled: bool
) -> None:
    store = versity.store(first_byte_seconds=0.3)
    store.put("objects/aa/x", b"x")
    if is_pooled:
        store.check()
    with paused(versity):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            WAITS[call](store)
        assert time.monotonic() - started < 1.5
    assert read(store, "objects/aa/x") == b"x"


def test_a_write_to_a_server_that_hangs_waits_for_the_longer_time_out(versity: S3Server) -> None:
    store = versity.store(first_byte_seconds=0.1, read_seconds=0.8)
    with paused(versity):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.put("objects/aa/x", b"x")
        assert 0.8 <= time.monotonic() - started < 2.5


def test_a_body_may_pause_for_longer_than_a_head(versity: S3Server) -> None:
    store, name = versity.store(first_byte_seconds=0.2), key()
    content = os.urandom(8 * PART_SIZE_BYTES)
    put_in_parts(store, name, content)
    with closing(store.open(name)) as reader:
        with paused(versity):
            waking = threading.Timer(1, versity.go_on)
            waking.start()
            buffer = memoryview(bytearray(len(content)))
            assert reader.readinto(buffer) == len(content)
            waking.join()
        assert buffer == content


def test_prepare_may_be_repeated_and_touches_nothing(store: ObjectStore) -> None:
    name = key()
    store.put(name, b"kept")
    store.prepare()
    assert read(store, name) == b"kept"


def test_prepare_makes_a_site_that_vanished_usable_again(versity: S3Server, tmp_path: Path) -> None:
    directory = DirectoryStore("a", tmp_path / "site")
    directory.prepare()
    bucket = versity.store(bucket="vanishes")
    shutil.rmtree(tmp_path / "site")
    bucket._client.remove_bucket(bucket_name="vanishes")
    stores: tuple[ObjectStore, ...] = (directory, bucket)
    for store in stores:
        with pytest.raises(StoreError):
            store.check()
        store.prepare()
        store.put("objects/aa/x", b"x")
        assert read(store, "objects/aa/x") == b"x"


def test_a_probe_tells_full_stores_from_plain_ones(versity: S3Server, rclone: S3Server) -> None:
    full, plain = versity.store().probe(), rclone.store().probe()
    assert full.conditional_put
    assert full.partial_content
    assert full.lists_pending_uploads
    assert not plain.conditional_put
    assert not plain.lists_pending_uploads


def test_delete_removes_every_stored_version(versity: S3Server) -> None:
    store = versity.store(bucket="versioned")
    # Switched on while we run: a delete must not go by what was true at the start.
    store._client.set_bucket_versioning("versioned", VersioningConfig(ENABLED))
    for body in (b"one", b"two"):
        store.put("objects/aa/x", body)
    store.delete("objects/aa/x")
    left = list(store._client.list_objects("versioned", recursive=True, include_version=True))
    assert left == []


def test_a_delete_marker_that_somebody_set_does_not_stop_a_delete(versity: S3Server) -> None:
    store, name = versity.store(object_lock=True), key()
    for body in (b"one", b"two"):
        store.put(name, body)
        store._client.remove_object(bucket_name=store._bucket, object_name=name)
    with pytest.raises(ObjectMissing):
        store.size(name)
    assert len(list(store._versions_of(name))) == 4
    store.delete(name)
    assert list(store._versions_of(name)) == []


def soon(seconds: float = 600) -> datetime:
    return (now() + timedelta(seconds=seconds)).replace(microsecond=0)


def test_a_lock_that_has_ended_locks_nothing(store: ObjectStore) -> None:
    name, other = key(), key()
    store.put(name, b"x", locked_until=now() - timedelta(days=1))
    upload = store.begin_parts(other, locked_until=now())
    upload.put_part(1, b"x")
    upload.complete()
    for removed in (name, other):
        store.delete(removed)
        with pytest.raises(ObjectMissing):
            store.open(removed)


def test_a_store_without_locks_ignores_them(tmp_path: Path, rclone: S3Server) -> None:
    directory = DirectoryStore("a", tmp_path / "site")
    directory.prepare()
    stores: tuple[ObjectStore, ...] = (directory, rclone.store())
    for store in stores:
        name = key()
        store.put(name, b"x", locked_until=soon())
        assert not store.probe().object_lock
        store.delete(name)
        with pytest.raises(ObjectMissing):
            store.open(name)


def put_locked(store: ObjectStore, name: str, body: bytes, until: datetime) -> None:
    store.put(name, body, locked_until=until)


def put_locked_in_parts(store: ObjectStore, name: str, body: bytes, until: datetime) -> None:
    upload = store.begin_parts(name, locked_until=until)
    upload.put_part(1, body)
    upload.complete()


def put_locked_in_resumed_parts(
    store: ObjectStore, name: str, body: bytes, until: datetime
) -> None:
    upload_id = store.begin_parts(name, locked_until=until).upload_id
    upload = store.resume_parts(name, upload_id)
    upload.put_part(1, body)
    upload.complete()


WAYS = [put_locked, put_locked_in_parts, put_locked_in_resumed_parts]
PutLocked = Callable[[ObjectStore, str, bytes, datetime], None]


@pytest.mark.parametrize("put", WAYS)
def test_a_locked_object_cannot_be_removed_and_says_until_when(
    versity: S3Server, put: PutLocked
) -> None:
    store, name, until = versity.store(object_lock=True), key(), soon()
    put(store, name, b"kept", until)
    for _ in range(2):
        with pytest.raises(ObjectLocked) as raised:
            store.delete(name)
        assert raised.value.until == until
    assert read(store, name) == b"kept"


@pytest.mark.parametrize("put", WAYS)
def test_an_object_can_be_removed_when_its_lock_has_ended(
    versity: S3Server, put: PutLocked
) -> None:
    store, name = versity.store(object_lock=True), key()
    put(store, name, b"x", soon(2))
    with pytest.raises(ObjectLocked):
        store.delete(name)
    time.sleep(2.2)
    store.delete(name)
    assert list(store._versions_of(name)) == []


@pytest.mark.parametrize("order", [[0, 600], [600, 0], [0, 600, 0], [600, 0, 300], [0, 0]])
def test_a_delete_removes_the_versions_that_are_not_locked(
    versity: S3Server, order: list[int]
) -> None:
    store, name, end = versity.store(object_lock=True), key(), soon(0)
    for seconds in order:
        store.put(name, b"same", locked_until=end + timedelta(seconds=seconds))
    locked = sum(seconds > 0 for seconds in order)
    if locked:
        with pytest.raises(ObjectLocked) as raised:
            store.delete(name)
        assert raised.value.until == end + timedelta(seconds=max(order))
        assert read(store, name) == b"same"
    else:
        store.delete(name)
    assert len(list(store._versions_of(name))) == locked


def test_a_delete_that_only_hid_a_locked_object_brings_it_back(versity: S3Server) -> None:
    store, name = versity.store(object_lock=True), key()
    put_locked(store, name, b"kept", soon())
    store._client.remove_object(bucket_name=store._bucket, object_name=name)
    with pytest.raises(ObjectLocked):
        store.delete(name)
    assert read(store, name) == b"kept"


def test_a_legal_hold_of_the_store_is_a_lock_without_an_end(versity: S3Server) -> None:
    store, name = versity.store(object_lock=True), key()
    store.put(name, b"kept")
    store._client.enable_object_legal_hold(bucket_name=store._bucket, object_name=name)
    with pytest.raises(ObjectLocked) as raised:
        store.delete(name)
    assert raised.value.until is None
    store._client.disable_object_legal_hold(bucket_name=store._bucket, object_name=name)
    store.delete(name)


def test_our_own_credentials_cannot_shorten_a_lock(versity: S3Server) -> None:
    store, name, until = versity.store(object_lock=True), key(), soon()
    put_locked(store, name, b"kept", until)
    with pytest.raises(S3Error):
        store._client.set_object_retention(
            bucket_name=store._bucket,
            object_name=name,
            config=Retention(GOVERNANCE, until - timedelta(seconds=500)),
        )
    with pytest.raises(ObjectLocked) as raised:
        store.delete(name)
    assert raised.value.until == until


def test_a_locked_upload_that_was_left_can_be_dropped(versity: S3Server) -> None:
    store, name = versity.store(object_lock=True), key()
    upload = store.begin_parts(name, locked_until=soon())
    upload.put_part(1, b"x")
    store.abort_pending(name, upload.upload_id)
    assert list(store.pending(name)) == []


def test_a_bucket_is_made_with_object_lock_where_it_is_asked_for(versity: S3Server) -> None:
    assert versity.store(object_lock=True).probe().object_lock
    assert not versity.store().probe().object_lock


def test_a_bucket_without_object_lock_is_refused_where_locks_are_asked_for(
    versity: S3Server, rclone: S3Server
) -> None:
    plain = versity.store(bucket="lockless")
    with pytest.raises(StoreMisconfigured):
        plain.put(key(), b"x", locked_until=soon())
    store = versity.unprepared_store("a", "lockless", object_lock=True)
    with pytest.raises(StoreMisconfigured, match="object_lock"):
        store.prepare()
    with pytest.raises(StoreMisconfigured, match="object_lock"):
        rclone.store(object_lock=True)
    # As the message says:
    store._client.set_bucket_versioning("lockless", VersioningConfig(ENABLED))
    store._client.set_object_lock_config("lockless", ObjectLockConfig(None, None, None))
    store.prepare()
    put_locked(store, name := key(), b"kept", soon())
    with pytest.raises(ObjectLocked):
        store.delete(name)


@pytest.mark.parametrize("size", [0, 1, MIB, PART_SIZE_BYTES])
def test_a_body_may_come_with_its_digest(store: ObjectStore, size: int) -> None:
    name, other, content = key(), key(), os.urandom(size)
    digest = hashlib.sha256(content).digest()
    store.put(name, memoryview(bytearray(content)), sha256=digest)
    upload = store.begin_parts(other)
    upload.put_part(1, memoryview(bytearray(content)), sha256=digest)
    upload.complete()
    assert read(store, name) == read(store, other) == content


def test_a_full_store_refuses_a_body_that_is_not_of_its_digest(versity: S3Server) -> None:
    store, name, other = versity.store(), key(), hashlib.sha256(b"other").digest()
    with pytest.raises(StoreUnavailable):
        store.put(name, b"body", sha256=other)
    upload = store.begin_parts(name)
    with pytest.raises(StoreUnavailable):
        upload.put_part(1, b"body", sha256=other)
    with pytest.raises(ObjectMissing):
        store.open(name)

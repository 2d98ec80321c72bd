"""The embedded keyring's file: damaged, missing, changed by others, and read by hand."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import multiprocessing
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyringDamaged,
    KeyServiceUnavailable,
    KeyVersionRetired,
)
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import WrappedKey
from keymgmt.rootkey import RootKey

ROOT_KEY = RootKey(bytes(range(32)))
CONTEXT = b"context"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A keyring with the KEK `documents` at version 2."""
    made = tmp_path / "keyring"
    create_keyring(made, ROOT_KEY)
    keyring = LocalKeyring(made, ROOT_KEY)
    keyring.create_key("documents")
    keyring.rotate("documents")
    return made


def derive(key: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=info).derive(key)


def root_derived(use: bytes) -> bytes:
    return derive(ROOT_KEY.reveal_to_keymgmt(), b"strongroom/keyring/v1/" + use)


def with_mac(document: dict[str, Any]) -> bytes:
    """A keyring file that only a holder of the root key can write."""
    line = json.dumps(document).encode()
    mac = hmac.digest(root_derived(b"mac"), line, hashlib.sha256).hex().encode()
    return line + b"\n" + mac + b"\n"


def document_in(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes().splitlines()[0])
    return document


# The published format


def test_a_wrapped_key_can_be_opened_by_hand_from_the_documented_format(path: Path) -> None:
    data_key, wrapped = LocalKeyring(path, ROOT_KEY).generate_data_key("documents", CONTEXT)
    document = document_in(path)
    assert with_mac(document) == path.read_bytes()
    sealed = base64.b64decode(document["keks"]["documents"]["versions"]["2"])
    place = f"strongroom-keyring/1:{document['id']}:2:documents".encode()
    kek = AESGCM(root_derived(b"seal")).decrypt(sealed[:12], sealed[12:], place)

    scheme, version, text = wrapped.text.split(":")
    assert (scheme, version) == ("local", "v2")
    body = base64.b64decode(text)
    opened = AESGCM(derive(kek, CONTEXT)).decrypt(body[:12], body[12:], None)
    assert opened == data_key.reveal_to_keymgmt()


def test_a_wrapped_key_has_one_spelling_only(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    wrapped = keyring.wrap("documents", CONTEXT, DataKey.generate())
    for variant in (wrapped.text.upper(), wrapped.text.replace("v2", "v02"), f" {wrapped.text}"):
        with pytest.raises(DecryptionFailed):
            keyring.unwrap("documents", CONTEXT, WrappedKey(variant))


def test_the_file_is_private_and_nothing_lies_about(path: Path) -> None:
    assert path.stat().st_mode & 0o7777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["keyring", "keyring.lock"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o602, 0o777])
def test_a_keyring_that_others_may_use_is_refused_also_while_running(path: Path, mode: int) -> None:
    running = LocalKeyring(path, ROOT_KEY)
    path.chmod(mode)
    for attempt in (running.check, lambda: LocalKeyring(path, ROOT_KEY)):
        with pytest.raises(KeyServiceUnavailable, match="chmod 0600"):
            attempt()
    path.chmod(0o400)
    running.check()


def test_making_a_keyring_again_leaves_the_first_one(path: Path) -> None:
    before = path.read_bytes()
    create_keyring(path, RootKey.generate())
    assert path.read_bytes() == before


def test_creating_a_key_that_exists_does_not_touch_the_file(path: Path) -> None:
    before = path.stat()
    LocalKeyring(path, ROOT_KEY).create_key("documents")
    assert path.stat() == before


# Damage


def test_another_root_key_opens_nothing(path: Path) -> None:
    with pytest.raises(KeyringDamaged):
        LocalKeyring(path, RootKey.generate())


def test_every_truncation_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(KeyringDamaged):
            LocalKeyring(path, ROOT_KEY)


def test_every_changed_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        with pytest.raises(KeyringDamaged):
            LocalKeyring(path, ROOT_KEY)


def test_appended_bytes_are_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(KeyringDamaged):
        LocalKeyring(path, ROOT_KEY)


def test_a_retired_version_cannot_be_edited_back(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    keyring.retire("documents", below=2)
    edited = path.read_bytes().replace(b'"oldest_usable": 2', b'"oldest_usable": 1')
    assert edited != path.read_bytes()
    path.write_bytes(edited)
    with pytest.raises(KeyringDamaged):
        LocalKeyring(path, ROOT_KEY)


def test_damage_while_running_is_noticed_too(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    path.write_bytes(b"")
    with pytest.raises(KeyringDamaged):
        keyring.generate_data_key("documents", CONTEXT)
    with pytest.raises(KeyringDamaged):
        keyring.rotate("documents")


def test_a_version_put_in_the_place_of_another_is_refused_whoever_wrote_the_mac(
    path: Path,
) -> None:
    document = document_in(path)
    versions = document["keks"]["documents"]["versions"]
    versions["1"], versions["2"] = versions["2"], versions["1"]
    path.write_bytes(with_mac(document))
    with pytest.raises(KeyringDamaged, match="not in its place"):
        LocalKeyring(path, ROOT_KEY)


def test_a_version_of_another_keyring_is_refused_whoever_wrote_the_mac(path: Path) -> None:
    path.write_bytes(with_mac({**document_in(path), "id": "00" * 16}))
    with pytest.raises(KeyringDamaged, match="not in its place"):
        LocalKeyring(path, ROOT_KEY)


def test_a_later_format_is_refused(path: Path) -> None:
    path.write_bytes(with_mac({**document_in(path), "format": "strongroom-keyring/2"}))
    with pytest.raises(KeyringDamaged, match="newer release"):
        LocalKeyring(path, ROOT_KEY)


# Absence and full disks


def test_a_missing_keyring_is_not_made_silently(tmp_path: Path) -> None:
    with pytest.raises(KeyServiceUnavailable):
        LocalKeyring(tmp_path / "keyring", ROOT_KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_keyring_deleted_while_running_is_unavailable_and_comes_back(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    _, wrapped = keyring.generate_data_key("documents", CONTEXT)
    aside = path.rename(path.with_name("aside"))
    for attempt in (
        keyring.check,
        lambda: keyring.unwrap("documents", CONTEXT, wrapped),
        lambda: keyring.rotate("documents"),
        lambda: keyring.create_key("documents"),
    ):
        with pytest.raises(KeyServiceUnavailable):
            attempt()
    assert not path.exists()
    aside.rename(path)
    keyring.check()
    keyring.unwrap("documents", CONTEXT, wrapped)


def test_something_unreadable_in_its_place_is_unavailable(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyServiceUnavailable):
        keyring.check()


@contextmanager
def disk_full_after(size_bytes: int) -> Iterator[None]:
    """The kernel cuts every file that this process writes at that size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_keyring_as_it_was(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    before = path.read_bytes()
    with disk_full_after(100), pytest.raises(KeyServiceUnavailable):
        keyring.rotate("documents")
    assert path.read_bytes() == before
    assert keyring.describe("documents").latest == 2
    assert keyring.rotate("documents") == 3


def test_a_full_disk_makes_no_keyring(tmp_path: Path) -> None:
    with disk_full_after(100), pytest.raises(KeyServiceUnavailable):
        create_keyring(tmp_path / "keyring", ROOT_KEY)
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_half_written_is_overwritten(path: Path) -> None:
    half = path.with_name("keyring.new")
    half.write_bytes(path.read_bytes()[:50])
    assert LocalKeyring(path, ROOT_KEY).rotate("documents") == 3
    assert not half.exists()


# Several processes


def test_a_change_by_another_process_is_seen_at_once(path: Path) -> None:
    ours, theirs = LocalKeyring(path, ROOT_KEY), LocalKeyring(path, ROOT_KEY)
    _, wrapped = ours.generate_data_key("documents", CONTEXT)
    theirs.rotate("documents")
    assert ours.generate_data_key("documents", CONTEXT)[1].version == 3
    theirs.retire("documents", below=3)
    with pytest.raises(KeyVersionRetired):
        ours.unwrap("documents", CONTEXT, wrapped)


def rotate_many_times(path: Path, times: int, together: Barrier) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    together.wait(timeout=30)
    for _ in range(times):
        keyring.rotate("documents")


def test_no_change_is_lost_when_processes_rotate_at_the_same_time(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    processes = [
        spawn.Process(target=rotate_many_times, args=(path, 10, together)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert LocalKeyring(path, ROOT_KEY).describe("documents").latest == 32


def test_a_change_waits_for_the_lock_and_a_read_does_not(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    rotation = threading.Thread(target=keyring.rotate, args=("documents",))
    with path.with_name("keyring.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rotation.start()
        rotation.join(timeout=0.3)
        assert rotation.is_alive()
        assert keyring.describe("documents").latest == 2
    rotation.join(timeout=30)
    assert keyring.describe("documents").latest == 3


# Trimming


def test_a_trimmed_version_stays_retired_whatever_is_asked_for(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    _, wrapped = keyring.generate_data_key("documents", CONTEXT)
    keyring.rotate("documents")
    keyring.retire("documents", below=3)
    keyring.trim("documents")
    keyring.retire("documents", below=1)
    assert keyring.describe("documents").oldest_usable == 3
    with pytest.raises(KeyVersionRetired):
        keyring.unwrap("documents", CONTEXT, wrapped)


def test_trimmed_material_is_in_no_file_of_the_folder(path: Path) -> None:
    keyring = LocalKeyring(path, ROOT_KEY)
    keyring.retire("documents", below=2)
    keyring.trim("documents")
    assert list(document_in(path)["keks"]["documents"]["versions"]) == ["2"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["keyring", "keyring.lock"]

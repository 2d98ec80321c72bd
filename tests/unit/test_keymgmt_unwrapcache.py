"""The unwrap cache: bounded, short-lived, purged at once, and never laxer than the check it stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from keymgmt.commitment import commit
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyServiceUnavailable
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import Purpose, WrappedKey
from keymgmt.rootkey import RootKey
from keymgmt.unwrapcache import UnwrapCache

KEK = Purpose.DOCUMENTS
CONTEXT = b"where it belongs"
FORMAT = 1


class CountingKeyring(LocalKeyring):
    """The real keyring; counts unwraps, and can be told to be away or to do something in the middle."""

    def __init__(self, path: Path, root_key: RootKey) -> None:
        super().__init__(path, root_key)
        self.asked = 0
        self.is_away = False
        self.meanwhile: Callable[[], None] = lambda: None

    @override
    def unwrap(self, kek: str, context: bytes, wrapped: WrappedKey) -> DataKey:
        self.asked += 1
        if self.is_away:
            raise KeyServiceUnavailable("away")
        data_key = super().unwrap(kek, context, wrapped)
        self.meanwhile()
        return data_key


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keyring(tmp_path: Path) -> CountingKeyring:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = CountingKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(KEK)
    return keyring


def unwrap(
    cache: UnwrapCache,
    keyring: CountingKeyring,
    wrapped: WrappedKey,
    commitment: bytes,
    *,
    context: bytes = CONTEXT,
    object_format: int = FORMAT,
) -> bytes:
    return cache.unwrap(
        keyring, KEK, context, wrapped, object_format=object_format, commitment=commitment
    ).reveal_to_keymgmt()


def made(keyring: CountingKeyring) -> tuple[bytes, WrappedKey, bytes]:
    data_key, wrapped = keyring.generate_data_key(KEK, CONTEXT)
    return data_key.reveal_to_keymgmt(), wrapped, commit(data_key, CONTEXT)


def test_the_kms_is_asked_once_within_the_time_to_live(keyring: CountingKeyring) -> None:
    clock = Clock()
    cache = UnwrapCache(ttl_seconds=60, clock=clock)
    raw, wrapped, commitment = made(keyring)
    for _ in range(3):
        assert unwrap(cache, keyring, wrapped, commitment) == raw
    assert (keyring.asked, cache.hits, cache.misses) == (1, 2, 1)
    clock.now += 60
    unwrap(cache, keyring, wrapped, commitment)
    assert keyring.asked == 2


def test_reads_go_on_without_the_kms_until_the_time_to_live_ends(keyring: CountingKeyring) -> None:
    clock = Clock()
    cache = UnwrapCache(ttl_seconds=60, clock=clock)
    raw, wrapped, commitment = made(keyring)
    unwrap(cache, keyring, wrapped, commitment)
    keyring.is_away = True
    clock.now += 59
    assert unwrap(cache, keyring, wrapped, commitment) == raw
    clock.now += 1
    with pytest.raises(KeyServiceUnavailable):
        unwrap(cache, keyring, wrapped, commitment)


@pytest.mark.parametrize("other", ["context", "format", "commitment", "wrapped"])
def test_an_entry_serves_only_what_it_was_checked_for(keyring: CountingKeyring, other: str) -> None:
    cache = UnwrapCache()
    _, wrapped, commitment = made(keyring)
    _, foreign, _ = made(keyring)
    unwrap(cache, keyring, wrapped, commitment)
    calls: dict[str, Callable[[], bytes]] = {
        "context": lambda: unwrap(cache, keyring, wrapped, commitment, context=b"elsewhere"),
        "commitment": lambda: unwrap(cache, keyring, wrapped, bytes(32)),
        "wrapped": lambda: unwrap(cache, keyring, foreign, commitment),
        "format": lambda: unwrap(cache, keyring, wrapped, commitment, object_format=2),
    }
    changed = calls[other]
    if other == "format":
        changed()
    else:
        with pytest.raises(DecryptionFailed):
            changed()
    assert keyring.asked == 2


def test_a_key_that_fails_its_commitment_is_not_kept(keyring: CountingKeyring) -> None:
    cache = UnwrapCache()
    _, wrapped, _ = made(keyring)
    for _ in range(2):
        with pytest.raises(DecryptionFailed):
            unwrap(cache, keyring, wrapped, bytes(32))
    assert keyring.asked == 2


def test_a_purge_forgets_everything_and_also_what_is_on_its_way(keyring: CountingKeyring) -> None:
    cache = UnwrapCache()
    _, wrapped, commitment = made(keyring)
    unwrap(cache, keyring, wrapped, commitment)
    cache.purge()
    keyring.meanwhile = cache.purge
    unwrap(cache, keyring, wrapped, commitment)
    keyring.meanwhile = lambda: None
    unwrap(cache, keyring, wrapped, commitment)
    assert (keyring.asked, cache.hits) == (3, 0)


def test_the_least_recently_used_goes_first(keyring: CountingKeyring) -> None:
    cache = UnwrapCache(capacity=2)
    first, second, third = (made(keyring) for _ in range(3))
    for _, wrapped, commitment in (first, second, first, third, first):
        unwrap(cache, keyring, wrapped, commitment)
    assert keyring.asked == 3
    unwrap(cache, keyring, second[1], second[2])
    assert keyring.asked == 4


@pytest.mark.parametrize("seconds", [-1, 301])
def test_no_key_is_cached_for_longer_than_five_minutes(seconds: float) -> None:
    with pytest.raises(ValueError, match="300"):
        UnwrapCache(ttl_seconds=seconds)

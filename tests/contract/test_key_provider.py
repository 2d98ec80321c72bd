"""What every KeyProvider promises; a new one is one more parameter of `provider`."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Timer
from uuid import uuid4

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyManagementError,
    KeyNotFound,
    KeyServiceUnavailable,
    KeyVersionRetired,
)
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import BoundKey, KeyProvider, KeyState, WrappedKey
from keymgmt.rootkey import RootKey
from keymgmt.transit import TransitProvider
from tests.servers.kms import VaultServer

CONTEXT = b"context of one document"
ELSEWHERE = b"context of another document"


@pytest.fixture
def local(tmp_path: Path) -> KeyProvider:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    return LocalKeyring(tmp_path / "keyring", root_key)


@pytest.fixture
def transit(vault: VaultServer) -> KeyProvider:
    return vault.provider("service", "destroyer")


@pytest.fixture(params=["local", "transit"])
def provider(request: pytest.FixtureRequest) -> KeyProvider:
    found: KeyProvider = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def kek(provider: KeyProvider) -> str:
    """A KEK of its own for each test, since a provider may outlive a test."""
    name = f"test-{uuid4()}"
    provider.create_key(name)
    return name


def raw(data_key: DataKey) -> bytes:
    return data_key.reveal_to_keymgmt()


def wrapped_by_each_version(provider: KeyProvider, kek: str, versions: int) -> list[WrappedKey]:
    """One wrapped key for each version, which the KEK has afterwards."""
    wrapped = []
    for number in range(1, versions + 1):
        if number > 1:
            assert provider.rotate(kek) == number
        wrapped.append(provider.generate_data_key(kek, CONTEXT)[1])
    return wrapped


# Wrapping and unwrapping


def test_a_generated_key_unwraps_to_itself(provider: KeyProvider, kek: str) -> None:
    data_key, wrapped = provider.generate_data_key(kek, CONTEXT)
    assert raw(provider.unwrap(kek, CONTEXT, wrapped)) == raw(data_key)


def test_generated_keys_differ(provider: KeyProvider, kek: str) -> None:
    keys = {raw(provider.generate_data_key(kek, CONTEXT)[0]) for _ in range(10)}
    assert len(keys) == 10


def test_a_given_key_unwraps_to_itself(provider: KeyProvider, kek: str) -> None:
    data_key = DataKey.generate()
    wrapped = provider.wrap(kek, CONTEXT, data_key)
    assert raw(provider.unwrap(kek, CONTEXT, wrapped)) == raw(data_key)


def test_wrapping_one_key_twice_gives_two_texts(provider: KeyProvider, kek: str) -> None:
    data_key = DataKey.generate()
    assert provider.wrap(kek, CONTEXT, data_key) != provider.wrap(kek, CONTEXT, data_key)


def test_a_wrapped_key_is_short_ascii_text_and_names_its_version(
    provider: KeyProvider, kek: str
) -> None:
    _, second = wrapped_by_each_version(provider, kek, 2)
    assert second.text.isascii()
    assert len(second.text) <= 512
    assert second.version == 2


def test_another_context_does_not_unwrap(provider: KeyProvider, kek: str) -> None:
    _, wrapped = provider.generate_data_key(kek, CONTEXT)
    with pytest.raises(DecryptionFailed):
        provider.unwrap(kek, ELSEWHERE, wrapped)


def test_another_kek_does_not_unwrap(provider: KeyProvider, kek: str) -> None:
    other = f"{kek}-other"
    provider.create_key(other)
    _, wrapped = provider.generate_data_key(other, CONTEXT)
    with pytest.raises(DecryptionFailed):
        provider.unwrap(kek, CONTEXT, wrapped)


def test_an_altered_wrapped_key_does_not_unwrap(provider: KeyProvider, kek: str) -> None:
    _, wrapped = provider.generate_data_key(kek, CONTEXT)
    scheme_and_version, _, sealed = wrapped.text.rpartition(":")
    for position in (0, len(sealed) // 2, len(sealed) - 5):
        other = "A" if sealed[position] != "A" else "B"
        altered = f"{scheme_and_version}:{sealed[:position]}{other}{sealed[position + 1 :]}"
        with pytest.raises(DecryptionFailed):
            provider.unwrap(kek, CONTEXT, WrappedKey(altered))


def test_a_wrapped_key_that_claims_another_version_does_not_unwrap(
    provider: KeyProvider, kek: str
) -> None:
    first, _ = wrapped_by_each_version(provider, kek, 2)
    for claimed in ("v2", "v3"):
        with pytest.raises(DecryptionFailed):
            provider.unwrap(kek, CONTEXT, WrappedKey(first.text.replace(":v1:", f":{claimed}:")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "::",
        "x:v1:",
        "x:v1:AAAA",
        "x:v0:AAAA",
        "x:v-1:AAAA",
        "x:vv:AAAA",
        "钥匙:v1:A",
    ],
)
def test_malformed_text_does_not_unwrap(provider: KeyProvider, kek: str, text: str) -> None:
    with pytest.raises(DecryptionFailed):
        provider.unwrap(kek, CONTEXT, WrappedKey(text))


def test_text_cut_short_or_extended_does_not_unwrap(provider: KeyProvider, kek: str) -> None:
    _, wrapped = provider.generate_data_key(kek, CONTEXT)
    for text in (wrapped.text[:-4], wrapped.text + "AAAA", wrapped.text + "\n"):
        with pytest.raises(DecryptionFailed):
            provider.unwrap(kek, CONTEXT, WrappedKey(text))


# Batches


def test_a_batch_answers_in_order(provider: KeyProvider, kek: str) -> None:
    made = [provider.generate_data_key(kek, bytes([n])) for n in range(1, 6)]
    items = [BoundKey(wrapped, bytes([n])) for n, (_, wrapped) in enumerate(made, start=1)]
    answers = provider.unwrap_batch(kek, items)
    assert [raw(answer) for answer in answers if isinstance(answer, DataKey)] == [
        raw(data_key) for data_key, _ in made
    ]


def test_a_bad_item_spoils_only_itself(provider: KeyProvider, kek: str) -> None:
    retired, good = wrapped_by_each_version(provider, kek, 2)
    provider.retire(kek, below=2)
    items = [
        BoundKey(good, CONTEXT),
        BoundKey(good, ELSEWHERE),
        BoundKey(retired, CONTEXT),
        BoundKey(WrappedKey("nonsense"), CONTEXT),
        BoundKey(good, CONTEXT),
    ]
    expected = [DataKey, DecryptionFailed, KeyVersionRetired, DecryptionFailed, DataKey]
    assert [type(answer) for answer in provider.unwrap_batch(kek, items)] == expected
    rewrapped = [WrappedKey if kind is DataKey else kind for kind in expected]
    assert [type(answer) for answer in provider.rewrap_batch(kek, items)] == rewrapped


def test_an_empty_batch_has_no_answers(provider: KeyProvider, kek: str) -> None:
    assert provider.unwrap_batch(kek, []) == []
    assert provider.rewrap_batch(kek, []) == []


# Rotation


def test_a_new_key_is_at_version_one(provider: KeyProvider, kek: str) -> None:
    assert provider.describe(kek) == KeyState(kek, latest=1, oldest_usable=1, oldest_kept=1)


def test_creating_a_key_again_changes_nothing(provider: KeyProvider, kek: str) -> None:
    wrapped = wrapped_by_each_version(provider, kek, 2)
    provider.create_key(kek)
    assert provider.describe(kek).latest == 2
    for each in wrapped:
        provider.unwrap(kek, CONTEXT, each)


def test_after_rotation_new_keys_use_the_new_version_and_old_ones_still_unwrap(
    provider: KeyProvider, kek: str
) -> None:
    data_key, old = provider.generate_data_key(kek, CONTEXT)
    assert provider.rotate(kek) == 2
    assert provider.wrap(kek, CONTEXT, data_key).version == 2
    assert raw(provider.unwrap(kek, CONTEXT, old)) == raw(data_key)


def test_rewrapping_moves_the_same_key_to_the_newest_version(
    provider: KeyProvider, kek: str
) -> None:
    data_key, old = provider.generate_data_key(kek, CONTEXT)
    provider.rotate(kek)
    [new] = provider.rewrap_batch(kek, [BoundKey(old, CONTEXT)])
    assert isinstance(new, WrappedKey)
    assert new.version == 2
    assert raw(provider.unwrap(kek, CONTEXT, new)) == raw(data_key)
    with pytest.raises(DecryptionFailed):
        provider.unwrap(kek, ELSEWHERE, new)


# Retirement and destruction


def test_a_retired_version_says_so_and_newer_ones_go_on(provider: KeyProvider, kek: str) -> None:
    first, second, third = wrapped_by_each_version(provider, kek, 3)
    provider.retire(kek, below=3)
    for number, gone in ((1, first), (2, second)):
        with pytest.raises(KeyVersionRetired) as refused:
            provider.unwrap(kek, CONTEXT, gone)
        assert (refused.value.kek, refused.value.version) == (kek, number)
    provider.unwrap(kek, CONTEXT, third)
    assert provider.describe(kek) == KeyState(kek, latest=3, oldest_usable=3, oldest_kept=1)


def test_retirement_can_be_taken_back_before_a_trim(provider: KeyProvider, kek: str) -> None:
    first, _ = wrapped_by_each_version(provider, kek, 2)
    provider.retire(kek, below=2)
    provider.retire(kek, below=1)
    provider.unwrap(kek, CONTEXT, first)


def test_what_was_trimmed_does_not_come_back(provider: KeyProvider, kek: str) -> None:
    first, second, third = wrapped_by_each_version(provider, kek, 3)
    provider.retire(kek, below=3)
    provider.trim(kek)
    assert provider.describe(kek) == KeyState(kek, latest=3, oldest_usable=3, oldest_kept=3)
    provider.retire(kek, below=3)
    for gone in (first, second):
        with pytest.raises(KeyVersionRetired):
            provider.unwrap(kek, CONTEXT, gone)
    provider.unwrap(kek, CONTEXT, third)
    assert provider.rotate(kek) == 4


def test_a_trim_without_retired_versions_changes_nothing(provider: KeyProvider, kek: str) -> None:
    wrapped = wrapped_by_each_version(provider, kek, 2)
    provider.trim(kek)
    for each in wrapped:
        provider.unwrap(kek, CONTEXT, each)


@pytest.mark.parametrize("below", [-1, 0, 3])
def test_retiring_below_a_version_that_is_not_there_is_refused(
    provider: KeyProvider, kek: str, below: int
) -> None:
    wrapped = wrapped_by_each_version(provider, kek, 2)
    with pytest.raises(ValueError, match=str(below)):
        provider.retire(kek, below=below)
    for each in wrapped:
        provider.unwrap(kek, CONTEXT, each)


def test_a_destroyed_key_is_gone_and_a_new_one_of_its_name_opens_nothing_old(
    provider: KeyProvider, kek: str
) -> None:
    _, wrapped = provider.generate_data_key(kek, CONTEXT)
    provider.destroy_key(kek)
    with pytest.raises(KeyNotFound):
        provider.unwrap(kek, CONTEXT, wrapped)
    provider.create_key(kek)
    with pytest.raises(DecryptionFailed):
        provider.unwrap(kek, CONTEXT, wrapped)


# A KEK that is not there


@pytest.mark.parametrize(
    "operation",
    [
        lambda keys, kek: keys.describe(kek),
        lambda keys, kek: keys.generate_data_key(kek, CONTEXT),
        lambda keys, kek: keys.wrap(kek, CONTEXT, DataKey.generate()),
        lambda keys, kek: keys.unwrap(kek, CONTEXT, WrappedKey("local:v1:" + "A" * 80)),
        lambda keys, kek: keys.unwrap_batch(kek, []),
        lambda keys, kek: keys.rewrap_batch(kek, []),
        lambda keys, kek: keys.rotate(kek),
        lambda keys, kek: keys.retire(kek, below=1),
        lambda keys, kek: keys.trim(kek),
        lambda keys, kek: keys.destroy_key(kek),
    ],
    ids=[
        "describe",
        "generate",
        "wrap",
        "unwrap",
        "unwrap batch",
        "rewrap batch",
        "rotate",
        "retire",
        "trim",
        "destroy",
    ],
)
def test_every_operation_on_a_missing_key_says_so(
    provider: KeyProvider, operation: Callable[[KeyProvider, str], object]
) -> None:
    name = f"missing-{uuid4()}"
    with pytest.raises(KeyNotFound) as refused:
        operation(provider, name)
    assert refused.value.kek == name
    assert isinstance(refused.value, KeyManagementError)


# A KMS that cannot, or may not, answer


@contextmanager
def without_keyring(path: Path) -> Iterator[None]:
    aside = path.rename(path.with_name("aside"))
    yield
    aside.rename(path)


@contextmanager
def readable_by_others(path: Path) -> Iterator[None]:
    path.chmod(0o644)
    yield
    path.chmod(0o600)


@contextmanager
def sealed(vault: VaultServer) -> Iterator[None]:
    vault.seal()
    try:
        yield
    finally:
        vault.unseal()


@contextmanager
def without_a_policy(vault: VaultServer, provider: TransitProvider) -> Iterator[None]:
    vault.set_policy("nothing", 'path "sys/capabilities-self" { capabilities = ["update"] }')
    session, provider._session = provider._session, vault.session("nothing")
    yield
    provider._session = session


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process changes the keyring, for a second."""
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = Timer(1, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        timer.start()
        yield
        timer.join()


@contextmanager
def hanging(vault: VaultServer) -> Iterator[None]:
    """It answers nothing, for a second."""
    vault.hang()
    timer = Timer(1, vault.go_on)
    timer.start()
    yield
    timer.join()


@pytest.fixture
def trouble(
    request: pytest.FixtureRequest, provider: KeyProvider, tmp_path: Path
) -> Callable[[str], AbstractContextManager[None]]:
    """By name, with either kind of KMS."""
    keyring = tmp_path / "keyring"

    def named(name: str) -> AbstractContextManager[None]:
        if isinstance(provider, LocalKeyring):
            local = {"away": without_keyring, "denied": readable_by_others, "slow": locked}
            return local[name](keyring)
        assert isinstance(provider, TransitProvider)
        vault: VaultServer = request.getfixturevalue("vault")
        if name == "denied":
            return without_a_policy(vault, provider)
        return {"away": sealed, "slow": hanging}[name](vault)

    return named


@pytest.mark.parametrize("name", ["away", "denied"])
def test_a_kms_that_is_away_or_refuses_us_says_so_and_nothing_is_changed(
    provider: KeyProvider,
    kek: str,
    trouble: Callable[[str], AbstractContextManager[None]],
    name: str,
) -> None:
    data_key, wrapped = provider.generate_data_key(kek, CONTEXT)
    bound = [BoundKey(wrapped, CONTEXT)]
    operations: list[Callable[[], object]] = [
        provider.check,
        lambda: provider.create_key(f"{kek}-new"),
        lambda: provider.describe(kek),
        lambda: provider.generate_data_key(kek, CONTEXT),
        lambda: provider.wrap(kek, CONTEXT, data_key),
        lambda: provider.unwrap(kek, CONTEXT, wrapped),
        lambda: provider.unwrap_batch(kek, bound),
        lambda: provider.rewrap_batch(kek, bound),
        lambda: provider.rotate(kek),
        lambda: provider.retire(kek, below=1),
        lambda: provider.trim(kek),
        lambda: provider.destroy_key(kek),
    ]
    with trouble(name):
        for operation in operations:
            with pytest.raises(KeyServiceUnavailable):
                operation()
    assert provider.describe(kek) == KeyState(kek, latest=1, oldest_usable=1, oldest_kept=1)
    assert raw(provider.unwrap(kek, CONTEXT, wrapped)) == raw(data_key)


def test_what_a_slow_kms_is_asked_is_done_once_it_answers(
    provider: KeyProvider, kek: str, trouble: Callable[[str], AbstractContextManager[None]]
) -> None:
    with trouble("slow"):
        assert provider.rotate(kek) == 2
    assert provider.describe(kek).latest == 2


def test_a_provider_that_can_wrap_passes_its_check(provider: KeyProvider) -> None:
    provider.check()


def test_a_provider_that_may_do_all_its_work_misses_no_permission(
    provider: KeyProvider, kek: str
) -> None:
    assert provider.missing_permissions([kek]) == []

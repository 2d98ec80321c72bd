"""Keys do not show their bytes, and one kind of key does not pass for another."""

from __future__ import annotations

import copy
import pickle

import pytest

from keymgmt.datakey import DataKey
from keymgmt.kek import KekVersion
from keymgmt.rootkey import RootKey
from keymgmt.secret import SecretKey

RAW = b"0123456789abcdef0123456789ABCDEF"

every_kind = pytest.mark.parametrize("kind", [DataKey, RootKey, KekVersion])


@every_kind
def test_no_way_of_printing_shows_the_bytes(kind: type[SecretKey]) -> None:
    key = kind(RAW)
    shown = [repr(key), str(key), f"{key}", f"{key!r}", "%s" % key, repr([key]), repr({"k": key})]  # noqa: UP031  this form is under test
    masked = f"{kind.__name__}(****)"
    assert all(masked in text for text in shown)
    assert not any(secret in text for text in shown for secret in (RAW.decode(), RAW.hex()))


@every_kind
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled(kind: type[SecretKey], protocol: int) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(kind(RAW), protocol)


@every_kind
def test_a_key_is_not_copied(kind: type[SecretKey]) -> None:
    with pytest.raises(TypeError, match="never pickled or copied"):
        copy.copy(kind(RAW))
    with pytest.raises(TypeError, match="never pickled or copied"):
        copy.deepcopy([kind(RAW)])


@every_kind
def test_a_key_has_no_dictionary_for_a_serialiser_to_walk(kind: type[SecretKey]) -> None:
    with pytest.raises(TypeError):
        vars(kind(RAW))


@every_kind
@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused_without_showing_it(
    kind: type[SecretKey], size: int
) -> None:
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        kind(b"x" * size)


@every_kind
def test_generated_keys_differ_and_keep_their_kind(kind: type[SecretKey]) -> None:
    first, second = kind.generate(), kind.generate()
    assert type(first) is kind
    assert first.reveal_to_keymgmt() != second.reveal_to_keymgmt()

"""What Transit's answers mean. Whatever a server may send: these give a value of ours, None, or our error.

A refusal is worked out from the key's state, not from the words of the answer: they differ between products
and may quote plaintext. Does not handle: calls (`transit`), tokens (`transitsession`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyManagementError,
    KeyServiceUnavailable,
    KeyVersionRetired,
)
from keymgmt.provider import BoundKey, KeyState, WrappedKey
from keymgmt.transitsession import Answer

_WRAPPED: Final = re.compile(r"vault:v[1-9][0-9]{0,8}:[A-Za-z0-9+/]{1,400}={0,2}")


def require(answer: Answer) -> None:
    """Raises: KeyServiceUnavailable if the KMS did not do what was asked."""
    if not answer.ok:
        raise KeyServiceUnavailable(f"the KMS refuses (status {answer.status})")


def key_state(kek: str, found: Mapping[str, Any]) -> KeyState:
    """A key as it was read; a minimum of 0 stands for version 1. Raises: KeyServiceUnavailable."""
    kept = max(_number(found.get("min_available_version", 0)), 1)
    usable = max(_number(found.get("min_decryption_version", 0)), kept)
    latest = _number(found.get("latest_version"))
    return KeyState(kek, latest, oldest_usable=usable, oldest_kept=kept)


def capabilities_on(answer: Answer, path: str) -> Sequence[str]:
    """What a policy grants on `path`; nothing where the answer does not say."""
    granted = answer.data.get(path)
    if not isinstance(granted, list):
        return []
    return ["create", "read", "update", "delete"] if "root" in granted else granted


def results_of(answer: Answer) -> Sequence[Mapping[str, Any]]:
    """A batch's results, in order; empty where it was refused as a whole."""
    found = answer.data.get("batch_results")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        return []
    return found


def data_key_of(result: Mapping[str, Any]) -> DataKey | None:
    """The data key in a result; None if there is none of the proper size."""
    try:
        return DataKey(base64.b64decode(result["plaintext"], validate=True))
    except (KeyError, TypeError, ValueError):
        return None


def wrapped_key_of(result: Mapping[str, Any]) -> WrappedKey | None:
    """The wrapped key in a result; None if there is none of the proper form."""
    ciphertext = result.get("ciphertext")
    if not isinstance(ciphertext, str):
        return None
    wrapped = WrappedKey(ciphertext)
    return wrapped if is_sound(wrapped) else None


def is_sound(wrapped: WrappedKey) -> bool:
    """Whether it has the form that Transit gives a wrapped key."""
    return _WRAPPED.fullmatch(wrapped.text) is not None


def refusal(state: KeyState, item: BoundKey) -> KeyManagementError:
    """Why an item did not open."""
    if not is_sound(item.wrapped) or item.wrapped.version >= state.oldest_usable:
        return DecryptionFailed()
    return KeyVersionRetired(state.kek, item.wrapped.version)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise KeyServiceUnavailable("no proper answer; is this address a KMS?")
    return value

"""The Transit KeyProvider: KEKs that never leave HashiCorp Vault or OpenBao.

Keys are `derived`, so each wrap is bound to its context; never to Transit's `associated_data`, which rewrap
does not know (https://github.com/hashicorp/vault/issues/29532). What a refusal means is worked out from the
key's state, not from the words of the answer: they differ between products and may quote plaintext.
Source: HashiCorp Vault HTTP API, /secret/transit; OpenBao's is the same.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from typing_extensions import override

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyAccessDenied,
    KeyManagementError,
    KeyNotFound,
    KeyServiceUnavailable,
    KeyVersionRetired,
)
from keymgmt.provider import BoundKey, KeyProvider, KeyState, WrappedKey
from keymgmt.secret import KEY_SIZE_BYTES
from keymgmt.transitsession import Answer, Body, TransitSession

BATCH: Final = 200
"""Items per request: OpenBao takes 1,000 strings in one, keys and values together."""

_TYPE: Final = "aes256-gcm96"
_NOT_FOUND: Final = 404
_WRAPPED: Final = re.compile(r"vault:v[1-9][0-9]{0,8}:[A-Za-z0-9+/]+={0,2}")

Opened = TypeVar("Opened")


class TransitProvider(KeyProvider):
    """KEKs in one Transit mount. Beside what the protocol names, every method raises `KeyAccessDenied`."""

    def __init__(
        self, session: TransitSession, *, mount: str = "transit", prefix: str = "strongroom-"
    ) -> None:
        """Asks nothing yet.

        Args:
            prefix: of the KEKs' names at the KMS, so that several vaults can share a mount.
        """
        self._session = session
        self._mount = mount
        self._prefix = prefix

    @override
    def create_key(self, kek: str) -> None:
        """As the protocol says.

        Raises:
            KeyServiceUnavailable: a key of this name is there that is not as ours have to be.
        """
        fields = {"type": _TYPE, "derived": True, "exportable": False}
        if self._read(kek) is None:
            path = f"keys/{self._name(kek)}"
            _require(self._post(path, Body(**fields), capability="create"))
        found = self._read(kek) or {}
        expected = {**fields, "allow_plaintext_backup": False}
        if any(found.get(name) != value for name, value in expected.items()):
            raise KeyServiceUnavailable(
                f"the KMS has a key for {kek!r} that is not derived or can be exported: remove it"
            )

    @override
    def describe(self, kek: str) -> KeyState:
        found = self._read(kek)
        if found is None:
            raise KeyNotFound(kek)
        kept = max(found.get("min_available_version", 0), 1)
        usable = max(found.get("min_decryption_version", 0), kept)
        return KeyState(kek, found["latest_version"], oldest_usable=usable, oldest_kept=kept)

    @override
    def generate_data_key(self, kek: str, context: bytes) -> tuple[DataKey, WrappedKey]:
        path = f"datakey/plaintext/{self._name(kek)}"
        answer = self._post(path, Body(context=_encoded(context), bits=KEY_SIZE_BYTES * 8))
        self._require_key(kek, answer)
        data_key = _data_key(answer.data)
        if data_key is None:
            raise KeyServiceUnavailable("the KMS gave no data key")
        return data_key, WrappedKey(answer.data["ciphertext"])

    @override
    def wrap(self, kek: str, context: bytes, data_key: DataKey) -> WrappedKey:
        body = Body(context=_encoded(context), plaintext=_encoded(data_key.reveal_to_keymgmt()))
        try:
            answer = self._post(f"encrypt/{self._name(kek)}", body)
        except KeyAccessDenied:
            # To encrypt under a key that is missing would be to create it, which no policy allows.
            self.describe(kek)
            raise
        self._require_key(kek, answer)
        return WrappedKey(answer.data["ciphertext"])

    @override
    def unwrap(self, kek: str, context: bytes, wrapped: WrappedKey) -> DataKey:
        [answer] = self.unwrap_batch(kek, [BoundKey(wrapped, context)])
        if isinstance(answer, KeyManagementError):
            raise answer
        return answer

    @override
    def unwrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[DataKey | KeyManagementError]:
        # Without this code, the text of an error would hold the plaintext of the other items.
        fields = {"partial_failure_response_code": 200}
        return self._batch(kek, "decrypt", items, fields, _data_key)

    @override
    def rewrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[WrappedKey | KeyManagementError]:
        return self._batch(kek, "rewrap", items, {}, _wrapped_key)

    @override
    def rotate(self, kek: str) -> int:
        self.describe(kek)
        _require(self._post(f"keys/{self._name(kek)}/rotate", Body(), repeatable=False))
        return self.describe(kek).latest

    @override
    def retire(self, kek: str, *, below: int) -> None:
        state = self.describe(kek)
        if not 1 <= below <= state.latest:
            raise ValueError(f"key {kek!r} has versions 1 to {state.latest}, not {below}")
        oldest = max(below, state.oldest_kept)
        # Both: a trim asks for either. (hvac's own method refuses them together.)
        body = Body(min_decryption_version=oldest, min_encryption_version=oldest)
        _require(self._post(f"keys/{self._name(kek)}/config", body))

    @override
    def trim(self, kek: str) -> None:
        state = self.describe(kek)
        if state.oldest_usable > state.oldest_kept:
            body = Body(min_available_version=state.oldest_usable)
            _require(self._post(f"keys/{self._name(kek)}/trim", body))

    @override
    def destroy_key(self, kek: str) -> None:
        self.describe(kek)
        path = f"keys/{self._name(kek)}"
        _require(self._post(f"{path}/config", Body(deletion_allowed=True)))
        _require(self._session.call("delete", f"{self._mount}/{path}", capability="delete"))

    @override
    def check(self) -> None:
        path = f"{self._mount}/datakey/plaintext/{self._name('documents')}"
        if "update" not in self._capabilities([path])[path]:
            raise KeyAccessDenied(path, "update")

    @override
    def missing_permissions(self, keks: Sequence[str]) -> list[str]:
        wanted = {
            f"{self._mount}/{path}": capability
            for kek in keks
            for path, capability in _needed(self._name(kek)).items()
        }
        found = self._capabilities(list(wanted))
        return [
            f"{capability} on {path}"
            for path, capability in wanted.items()
            if capability not in found[path]
        ]

    def _capabilities(self, paths: Sequence[str]) -> dict[str, list[str]]:
        answer = self._session.call("post", "sys/capabilities-self", Body(paths=list(paths)))
        _require(answer)
        everything = ["create", "read", "update", "delete"]
        return {
            path: everything if "root" in granted else granted
            for path in paths
            for granted in [answer.data.get(path, [])]
        }

    def _batch(
        self,
        kek: str,
        operation: str,
        items: Sequence[BoundKey],
        fields: Mapping[str, Any],
        opened: Callable[[Mapping[str, Any]], Opened | None],
    ) -> list[Opened | KeyManagementError]:
        """One answer per item; `opened` takes it out of the KMS's result, None where there is none."""
        sound = [place for place, item in enumerate(items) if _WRAPPED.fullmatch(item.wrapped.text)]
        answers: list[Opened | None] = [None] * len(items)
        for start in range(0, len(sound), BATCH):
            chunk = sound[start : start + BATCH]
            sent = [items[place] for place in chunk]
            for place, answer in zip(
                chunk, self._send(kek, operation, sent, fields, opened), strict=True
            ):
                answers[place] = answer
        if answers and None not in answers:
            return [answer for answer in answers if answer is not None]
        state = self.describe(kek)
        return [
            _refusal(state, item) if answer is None else answer
            for item, answer in zip(items, answers, strict=True)
        ]

    def _send(
        self,
        kek: str,
        operation: str,
        items: Sequence[BoundKey],
        fields: Mapping[str, Any],
        opened: Callable[[Mapping[str, Any]], Opened | None],
    ) -> list[Opened | None]:
        inputs = [
            {"ciphertext": item.wrapped.text, "context": _encoded(item.context)} for item in items
        ]
        path = f"{operation}/{self._name(kek)}"
        answer = self._post(path, Body(**fields, batch_input=inputs))
        if len(_results(answer)) == len(items):
            return [opened(result) for result in _results(answer)]
        self.describe(kek)
        if len(items) == 1:
            return [None]
        # Refused as a whole: too large for this KMS.
        half = len(items) // 2
        return [
            *self._send(kek, operation, items[:half], fields, opened),
            *self._send(kek, operation, items[half:], fields, opened),
        ]

    def _read(self, kek: str) -> Mapping[str, Any] | None:
        path = f"{self._mount}/keys/{self._name(kek)}"
        answer = self._session.call("get", path, capability="read")
        if answer.status == _NOT_FOUND:
            return None
        _require(answer)
        if not isinstance(answer.data.get("latest_version"), int):
            raise KeyServiceUnavailable("no proper answer; is this address a KMS?")
        return answer.data

    def _post(self, path: str, body: Body, **options: Any) -> Answer:
        return self._session.call("post", f"{self._mount}/{path}", body, **options)

    def _require_key(self, kek: str, answer: Answer) -> None:
        if not answer.ok:
            self.describe(kek)
        _require(answer, "ciphertext")

    def _name(self, kek: str) -> str:
        return self._prefix + kek


def _needed(name: str) -> dict[str, str]:
    """Capability by path, for all that a service does with one KEK."""
    operations = ("datakey/plaintext", "encrypt", "decrypt", "rewrap")
    changes = ("rotate", "config", "trim")
    return {
        **{f"{operation}/{name}": "update" for operation in operations},
        f"keys/{name}": "read",
        **{f"keys/{name}/{change}": "update" for change in changes},
    }


def _require(answer: Answer, field: str | None = None) -> None:
    if not answer.ok or (field is not None and field not in answer.data):
        raise KeyServiceUnavailable(f"the KMS refuses (status {answer.status})")


def _results(answer: Answer) -> Sequence[Mapping[str, Any]]:
    results = answer.data.get("batch_results")
    return results if isinstance(results, list) else []


def _refusal(state: KeyState, item: BoundKey) -> KeyManagementError:
    """Why an item did not open."""
    if not _WRAPPED.fullmatch(item.wrapped.text) or item.wrapped.version >= state.oldest_usable:
        return DecryptionFailed()
    return KeyVersionRetired(state.kek, item.wrapped.version)


def _wrapped_key(result: Mapping[str, Any]) -> WrappedKey | None:
    ciphertext = result.get("ciphertext")
    return WrappedKey(ciphertext) if ciphertext else None


def _data_key(result: Mapping[str, Any]) -> DataKey | None:
    try:
        return DataKey(base64.b64decode(result["plaintext"], validate=True))
    except (binascii.Error, KeyError, TypeError, ValueError):
        return None


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

"""The Transit KeyProvider: KEKs that never leave HashiCorp Vault or OpenBao.

Keys are `derived`, so each wrap is bound to its context; never to Transit's `associated_data`, which rewrap
does not know (https://github.com/hashicorp/vault/issues/29532). What answers mean stands in
`transitanswer`. Source: HashiCorp Vault HTTP API, /secret/transit; OpenBao's is the same.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from typing_extensions import override

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    KeyAccessDenied,
    KeyManagementError,
    KeyNotFound,
    KeyServiceUnavailable,
)
from keymgmt.provider import BoundKey, KeyProvider, KeyState, Purpose, WrappedKey
from keymgmt.secret import KEY_SIZE_BYTES
from keymgmt.transitanswer import (
    capabilities_on,
    data_key_of,
    is_sound,
    key_state,
    refusal,
    require,
    results_of,
    wrapped_key_of,
)
from keymgmt.transitsession import CAPABILITIES, Answer, Body, TransitSession

BATCH: Final = 200
"""Items per request: OpenBao takes 1,000 strings in one, keys and values together."""

IN_FLIGHT: Final = 2
"""Requests of one batch at a time."""

_NOT_FOUND: Final = 404
_KIND: Final[Mapping[str, Any]] = {
    "type": "aes256-gcm96",
    "derived": True,
    "exportable": False,
    "allow_plaintext_backup": False,
}
"""What each key of ours is: it wraps only together with a context, and never comes out."""

Opened = TypeVar("Opened")
Given = TypeVar("Given")
Made = TypeVar("Made")


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
        found = self._read(kek)
        if found is None:
            require(self._post(f"keys/{self._name(kek)}", Body(**_KIND)))
            found = self._read(kek) or {}
        if any(found.get(name) != value for name, value in _KIND.items()):
            raise KeyServiceUnavailable(
                f"the KMS has a key for {kek!r} that is not derived or can be exported: remove it"
            )

    @override
    def describe(self, kek: str) -> KeyState:
        found = self._read(kek)
        if found is None:
            raise KeyNotFound(kek)
        return key_state(kek, found)

    @override
    def generate_data_key(self, kek: str, context: bytes) -> tuple[DataKey, WrappedKey]:
        path = f"datakey/plaintext/{self._name(kek)}"
        answer = self._post(path, Body(context=_encoded(context), bits=KEY_SIZE_BYTES * 8))
        wrapped, made = self._wrapped(kek, answer), data_key_of(answer.data)
        if made is None:
            raise KeyServiceUnavailable("the KMS gave no data key")
        return made, wrapped

    @override
    def wrap(self, kek: str, context: bytes, data_key: DataKey) -> WrappedKey:
        body = Body(context=_encoded(context), plaintext=_encoded(data_key.reveal_to_keymgmt()))
        try:
            answer = self._post(f"encrypt/{self._name(kek)}", body)
        except KeyAccessDenied:
            # To encrypt under a key that is missing would be to create it, which no policy allows.
            self.describe(kek)
            raise
        return self._wrapped(kek, answer)

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
        return self._batch(kek, "decrypt", items, fields, data_key_of)

    @override
    def rewrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[WrappedKey | KeyManagementError]:
        return self._batch(kek, "rewrap", items, {}, wrapped_key_of)

    @override
    def rotate(self, kek: str) -> int:
        self.describe(kek)
        require(self._post(f"keys/{self._name(kek)}/rotate", Body(), repeatable=False))
        return self.describe(kek).latest

    @override
    def retire(self, kek: str, *, below: int) -> None:
        state = self.describe(kek)
        if not 1 <= below <= state.latest:
            raise ValueError(f"key {kek!r} has versions 1 to {state.latest}, not {below}")
        oldest = max(below, state.oldest_kept)
        # Both: a trim asks for either. (hvac's own method refuses them together.)
        body = Body(min_decryption_version=oldest, min_encryption_version=oldest)
        require(self._post(f"keys/{self._name(kek)}/config", body))

    @override
    def trim(self, kek: str) -> None:
        state = self.describe(kek)
        if state.oldest_usable > state.oldest_kept:
            body = Body(min_available_version=state.oldest_usable)
            require(self._post(f"keys/{self._name(kek)}/trim", body))

    @override
    def destroy_key(self, kek: str) -> None:
        self.describe(kek)
        path = f"keys/{self._name(kek)}"
        require(self._post(f"{path}/config", Body(deletion_allowed=True)))
        require(self._session.call("delete", f"{self._mount}/{path}", capability="delete"))

    @override
    def check(self) -> None:
        path = f"{self._mount}/datakey/plaintext/{self._name(Purpose.DOCUMENTS)}"
        if "update" not in capabilities_on(self._ask([path]), path):
            raise KeyAccessDenied(path, "update")

    @override
    def missing_permissions(self, keks: Sequence[str]) -> list[str]:
        """As the protocol says; a policy's limits on parameters are not seen."""
        wanted = {
            f"{self._mount}/{path}": capability
            for kek in keks
            for path, capability in _needed(self._name(kek)).items()
        }
        answer = self._ask(list(wanted))
        return [
            f"{capability} on {path}"
            for path, capability in wanted.items()
            if capability not in capabilities_on(answer, path)
        ]

    def _ask(self, paths: Sequence[str]) -> Answer:
        answer = self._session.call("post", CAPABILITIES, Body(paths=list(paths)))
        require(answer)
        return answer

    def _batch(
        self,
        kek: str,
        operation: str,
        items: Sequence[BoundKey],
        fields: Mapping[str, Any],
        opened: Callable[[Mapping[str, Any]], Opened | None],
    ) -> list[Opened | KeyManagementError]:
        """One answer per item; `opened` takes it out of the KMS's result, None where there is none."""
        sound = [place for place, item in enumerate(items) if is_sound(item.wrapped)]
        chunks = [sound[start : start + BATCH] for start in range(0, len(sound), BATCH)]

        def send(chunk: Sequence[int]) -> list[Opened | None]:
            sent = [items[place] for place in chunk]
            return self._send(kek, operation, sent, fields, opened)

        answers: list[Opened | None] = [None] * len(items)
        for chunk, answered in zip(chunks, _side_by_side(send, chunks), strict=True):
            for place, answer in zip(chunk, answered, strict=True):
                answers[place] = answer
        if answers and None not in answers:
            return [answer for answer in answers if answer is not None]
        state = self.describe(kek)
        return [
            refusal(state, item) if answer is None else answer
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
        # By the count, not the status: a batch without one good item is answered with 400 and its results.
        if len(results_of(answer)) == len(items):
            return [opened(result) for result in results_of(answer)]
        self.describe(kek)
        if answer.ok or len(items) == 1:
            raise KeyServiceUnavailable(f"the KMS takes no batch (status {answer.status})")
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
        require(answer)
        key_state(kek, answer.data)  # raises for a page that is no key at all
        return answer.data

    def _post(self, path: str, body: Body, **options: Any) -> Answer:
        return self._session.call("post", f"{self._mount}/{path}", body, **options)

    def _wrapped(self, kek: str, answer: Answer) -> WrappedKey:
        if not answer.ok:
            self.describe(kek)
        require(answer)
        wrapped = wrapped_key_of(answer.data)
        if wrapped is None:
            raise KeyServiceUnavailable("the KMS gave no wrapped key")
        return wrapped

    def _name(self, kek: str) -> str:
        return self._prefix + kek


def _side_by_side(call: Callable[[Given], Made], given: Sequence[Given]) -> Iterable[Made]:
    """Each call's answer, in order; the KMS works on one request while we make or read another."""
    if len(given) <= 1:
        return map(call, given)
    with ThreadPoolExecutor(IN_FLIGHT, "kms") as pool:
        return list(pool.map(call, given))


def _needed(name: str) -> dict[str, str]:
    """Capability by path, for all that a service does with one KEK."""
    operations = ("datakey/plaintext", "encrypt", "decrypt", "rewrap")
    changes = ("rotate", "config", "trim")
    return {
        **{f"{operation}/{name}": "update" for operation in operations},
        f"keys/{name}": "read",
        **{f"keys/{name}/{change}": "update" for change in changes},
    }


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

"""DSSE envelopes, version 1.0.2 (https://github.com/secure-systems-lab/dsse, protocol.md, envelope.md).

What is signed is the payload's exact bytes together with their type (the "pre-authentication
encoding"), so nothing in the payload is parsed, and no canonical form is needed, before a signature was
found right.

Does not handle: thresholds of several signers (one known key is enough), limits on an envelope's size.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from keymgmt.errors import SignatureInvalid
from keymgmt.signing import SigningKey, VerifyingKey


def sign_envelope(key: SigningKey, payload_type: str, payload: bytes) -> dict[str, Any]:
    """An envelope with one signature, ready for JSON; base64 is the standard one (RFC 4648 §4)."""
    signature = key.sign(_pae(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.public.id, "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(
    envelope: Mapping[str, Any], keys: Mapping[str, VerifyingKey], payload_type: str
) -> bytes:
    """The payload, if one of `keys` (by id) signed exactly it as a `payload_type`.

    Fields that the specification does not name are ignored, as it demands.

    Raises:
        SignatureInvalid: none did, or this is no envelope.
    """
    # 1. Decode; an envelope of which any part cannot be decoded is refused as a whole.
    decoded = _Envelope.decode(envelope)

    # 2. Only the expected type: a key may sign several kinds, and one must not be read as another.
    if decoded.payload_type != payload_type:
        raise SignatureInvalid

    # 3. One signature by one known key, over the bytes that are returned.
    message = _pae(payload_type, decoded.payload)
    if not any(
        _is_valid(key, signature.raw, message)
        for signature in decoded.signatures
        for key in _narrowed(keys, signature.key_id)
    ):
        raise SignatureInvalid
    return decoded.payload


@dataclass(frozen=True)
class _Signature:
    key_id: str
    raw: bytes

    @classmethod
    def decode(cls, signature: Mapping[str, Any]) -> _Signature:
        return cls(_text(signature.get("keyid", "")), _base64(signature["sig"]))


@dataclass(frozen=True)
class _Envelope:
    payload_type: str
    payload: bytes
    signatures: list[_Signature]

    @classmethod
    def decode(cls, envelope: Mapping[str, Any]) -> _Envelope:
        """Raises: SignatureInvalid if a field is missing or is not of its kind."""
        try:
            return cls(
                payload_type=_text(envelope["payloadType"]),
                payload=_base64(envelope["payload"]),
                signatures=[_Signature.decode(each) for each in envelope["signatures"]],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise SignatureInvalid from exc


def _pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding; its lengths are in bytes, its type in UTF-8."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _narrowed(keys: Mapping[str, VerifyingKey], key_id: str) -> Collection[VerifyingKey]:
    """The keys to try. The id is a hint that nobody signed: it chooses, and the key decides."""
    if not key_id:
        return keys.values()
    return [keys[key_id]] if key_id in keys else []


def _is_valid(key: VerifyingKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except SignatureInvalid:
        return False
    return True


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _base64(value: object) -> bytes:
    """Either alphabet (RFC 4648 §4 or §5), padded. Raises: TypeError, ValueError."""
    return base64.b64decode(_text(value).replace("-", "+").replace("_", "/"), validate=True)

"""DSSE envelopes, protocol version 1.0.2 (https://github.com/secure-systems-lab/dsse).

What is signed is the payload's exact bytes together with their type (the "pre-authentication encoding"), so
nothing is parsed, and no canonical form is needed, before a signature was found right.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from keymgmt.errors import SignatureInvalid
from keymgmt.signing import SigningKey, VerifyingKey


def sign_envelope(key: SigningKey, payload_type: str, payload: bytes) -> dict[str, Any]:
    """An envelope with one signature, ready for JSON."""
    signature = key.sign(_encoding(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.public.id, "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(
    envelope: Mapping[str, Any], keys: Mapping[str, VerifyingKey], payload_type: str
) -> bytes:
    """The payload, if one of `keys` (by id) signed it as a `payload_type`.

    Raises:
        SignatureInvalid: none did, or this is no envelope.
    """
    try:
        payload = _decoded(envelope["payload"])
        signatures = [(each.get("keyid"), _decoded(each["sig"])) for each in envelope["signatures"]]
        claimed_type = envelope["payloadType"]
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise SignatureInvalid from exc
    if claimed_type != payload_type:
        raise SignatureInvalid
    for key_id, signature in signatures:
        # The id is a hint only: it chooses a key, and the key decides.
        key = keys.get(key_id) if isinstance(key_id, str) else None
        with suppress(SignatureInvalid):
            if key is not None:
                key.verify(signature, _encoding(payload_type, payload))
                return payload
    raise SignatureInvalid


def _encoding(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decoded(text: str) -> bytes:
    """Base64 of either alphabet, as the protocol asks of a verifier. Raises: ValueError, TypeError."""
    try:
        standard = text.replace("-", "+").replace("_", "/")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error as exc:
        raise ValueError("not base64") from exc

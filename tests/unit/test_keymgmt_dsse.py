"""DSSE envelopes: the published encoding, and one refusal for whatever was not signed like this."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymgmt import dsse
from keymgmt.dsse import open_envelope, sign_envelope
from keymgmt.errors import SignatureInvalid
from keymgmt.signing import SigningKey

TYPE = "application/vnd.example+json"
OTHER_TYPE = "application/vnd.other+json"
PAYLOAD = b'{"a": "xx\xfb\xef\xbf"}'  # its base64 is padded and has what only one alphabet has

KEY = SigningKey(b"0123456789abcdef0123456789ABCDEF")
OTHER = SigningKey(b"another key's seed, of 32 bytes.")
KEYS = {KEY.public.id: KEY.public}
BOTH_KEYS = KEYS | {OTHER.public.id: OTHER.public}
ENVELOPE = sign_envelope(KEY, TYPE, PAYLOAD)
[SIGNATURE] = ENVELOPE["signatures"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def signed_with(*signatures: object) -> dict[str, Any]:
    return {**ENVELOPE, "signatures": list(signatures)}


def altered_signature(**fields: object) -> dict[str, Any]:
    return signed_with({**SIGNATURE, **fields})


def refuse(envelope: Any, payload_type: str = TYPE) -> None:
    with pytest.raises(SignatureInvalid):
        open_envelope(envelope, BOTH_KEYS, payload_type)


# The published format


def test_the_encoding_is_the_published_one() -> None:
    """The example of the protocol's own text."""
    assert (
        dsse._pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_the_lengths_of_the_encoding_are_in_bytes() -> None:
    assert dsse._pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.text("/a1 ", max_size=4), st.binary(), st.text("/a1 ", max_size=4), st.binary())
def test_two_statements_never_have_one_encoding(
    kind: str, payload: bytes, other_kind: str, other_payload: bytes
) -> None:
    same = (kind, payload) == (other_kind, other_payload)
    assert (dsse._pae(kind, payload) == dsse._pae(other_kind, other_payload)) == same


def test_an_envelope_is_ready_for_json_and_names_its_key() -> None:
    assert json.loads(json.dumps(ENVELOPE)) == {
        "payload": b64(PAYLOAD),
        "payloadType": TYPE,
        "signatures": [
            {
                "keyid": KEY.public.id,
                "sig": b64(KEY.sign(b"DSSEv1 28 %b 14 %b" % (TYPE.encode(), PAYLOAD))),
            }
        ],
    }


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=200))
def test_an_envelope_gives_back_exactly_what_was_signed(payload_type: str, payload: bytes) -> None:
    envelope = json.loads(json.dumps(sign_envelope(KEY, payload_type, payload)))
    assert open_envelope(envelope, KEYS, payload_type) == payload


# What the specification has a reader tolerate


def test_base64_for_urls_is_read_too() -> None:
    envelope = altered_signature(sig=SIGNATURE["sig"].replace("+", "-").replace("/", "_"))
    envelope["payload"] = base64.urlsafe_b64encode(PAYLOAD).decode()
    assert "---_" in envelope["payload"]
    assert open_envelope(envelope, KEYS, TYPE) == PAYLOAD


def test_fields_that_nobody_knows_are_ignored() -> None:
    envelope = {**altered_signature(extension={"kind": "x"}), "comment": ["x"]}
    assert open_envelope(envelope, KEYS, TYPE) == PAYLOAD


@pytest.mark.parametrize("signature", [{"sig": SIGNATURE["sig"]}, {**SIGNATURE, "keyid": ""}])
def test_without_a_key_id_every_known_key_is_tried(signature: dict[str, str]) -> None:
    assert open_envelope(signed_with(signature), BOTH_KEYS, TYPE) == PAYLOAD
    with pytest.raises(SignatureInvalid):
        open_envelope(signed_with(signature), {OTHER.public.id: OTHER.public}, TYPE)


def test_a_later_signature_counts_where_the_earlier_ones_do_not() -> None:
    unknown = {"keyid": "unknown", "sig": SIGNATURE["sig"]}
    wrong = {**SIGNATURE, "sig": b64(bytes(64))}
    assert open_envelope(signed_with(unknown, wrong, SIGNATURE), KEYS, TYPE) == PAYLOAD


# What is refused


def test_another_payload_is_refused() -> None:
    refuse({**ENVELOPE, "payload": b64(b'{"a": "b"}')})


@given(place=st.integers(0, 19), character=st.sampled_from("AQgwz059+/-_= \né"))
def test_a_payload_with_one_character_changed_is_the_same_or_refused(
    place: int, character: str
) -> None:
    text = ENVELOPE["payload"]
    envelope = {**ENVELOPE, "payload": text[:place] + character + text[place + 1 :]}
    with contextlib.suppress(SignatureInvalid):
        assert open_envelope(envelope, KEYS, TYPE) == PAYLOAD


@given(bit=st.integers(0, 64 * 8 - 1))
def test_a_signature_with_one_bit_flipped_is_refused(bit: int) -> None:
    raw = bytearray(base64.b64decode(SIGNATURE["sig"]))
    raw[bit // 8] ^= 1 << bit % 8
    refuse(altered_signature(sig=b64(bytes(raw))))


def test_another_type_is_refused_though_the_signature_is_right() -> None:
    refuse(ENVELOPE, OTHER_TYPE)


def test_another_type_is_refused_though_the_envelope_claims_it() -> None:
    refuse({**ENVELOPE, "payloadType": OTHER_TYPE}, OTHER_TYPE)


def test_a_false_claim_of_type_is_refused_though_the_signature_is_right() -> None:
    refuse({**ENVELOPE, "payloadType": OTHER_TYPE}, TYPE)


def test_a_type_in_other_case_is_another_type() -> None:
    refuse({**ENVELOPE, "payloadType": TYPE.upper()})


def test_the_signature_of_one_key_under_the_id_of_another_is_refused() -> None:
    [others] = sign_envelope(OTHER, TYPE, PAYLOAD)["signatures"]
    refuse(altered_signature(keyid=OTHER.public.id))
    refuse(altered_signature(sig=others["sig"]))


def test_the_right_signature_under_an_unknown_id_is_refused() -> None:
    refuse(altered_signature(keyid="unknown"))


def test_the_signature_of_the_same_key_over_another_payload_is_refused() -> None:
    refuse({**sign_envelope(KEY, TYPE, b"other"), "payload": ENVELOPE["payload"]})


def test_the_signature_of_an_unknown_key_is_refused() -> None:
    refuse(sign_envelope(SigningKey.generate(), TYPE, PAYLOAD))


def test_a_signature_over_the_bare_payload_is_refused() -> None:
    refuse(altered_signature(sig=b64(KEY.sign(PAYLOAD))))


def test_without_keys_nothing_opens() -> None:
    with pytest.raises(SignatureInvalid):
        open_envelope(ENVELOPE, {}, TYPE)


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
def test_an_envelope_that_lacks_a_field_is_refused(field: str) -> None:
    refuse({name: value for name, value in ENVELOPE.items() if name != field})


def test_a_signature_object_without_a_signature_is_refused() -> None:
    refuse(signed_with({"keyid": KEY.public.id}))


def test_an_envelope_without_signatures_is_refused() -> None:
    refuse(signed_with())


@pytest.mark.parametrize("malformed", [{}, "x", None, {**SIGNATURE, "keyid": 1}])
def test_one_malformed_signature_spoils_the_envelope(malformed: object) -> None:
    refuse(signed_with(SIGNATURE, malformed))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.rstrip("="),
        lambda text: text + "=",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:4] + "%" + text[4:],
        lambda text: text[:4] + "é" + text[5:],
        lambda text: text + text,
        lambda text: text.encode(),
    ],
    ids=["unpadded", "padding", "newline", "space", "percent", "accent", "twice", "bytes"],
)
def test_what_is_not_exactly_base64_is_refused(change: Any) -> None:
    assert ENVELOPE["payload"].endswith("=")
    assert SIGNATURE["sig"].endswith("=")
    refuse({**ENVELOPE, "payload": change(ENVELOPE["payload"])})
    refuse(altered_signature(sig=change(SIGNATURE["sig"])))


@given(json_values)
def test_no_json_value_is_an_envelope_by_chance(value: object) -> None:
    refuse(value)


@given(st.sampled_from(["payload", "payloadType", "signatures"]), json_values)
def test_no_field_may_hold_something_else(field: str, value: object) -> None:
    refuse({**ENVELOPE, field: value})


@given(json_values)
def test_no_signature_may_be_something_else(value: object) -> None:
    refuse(signed_with(value))


@given(json_values.filter(bool))
def test_no_key_id_may_be_something_else(value: object) -> None:
    refuse(altered_signature(keyid=value))


@given(json_values)
def test_no_signature_text_may_be_something_else(value: object) -> None:
    refuse(altered_signature(sig=value))

"""What only a KMS over a network can do: be sealed, hang, forget us, refuse us, lie."""

from __future__ import annotations

import base64
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyAccessDenied,
    KeyManagementError,
    KeyServiceUnavailable,
)
from keymgmt.provider import BoundKey, KeyProvider, WrappedKey
from keymgmt.transit import BATCH, TransitProvider
from keymgmt.transitsession import Answer, Body, TransitSession
from tests.servers.canned import CannedServer, Request, answer, canned
from tests.servers.kms import POLICIES, VaultServer

KEK = "documents"
CONTEXT = b"context"

CALLS: dict[str, Callable[[KeyProvider, WrappedKey], object]] = {
    "describe": lambda keys, _: keys.describe(KEK),
    "generate": lambda keys, _: keys.generate_data_key(KEK, CONTEXT),
    "wrap": lambda keys, _: keys.wrap(KEK, CONTEXT, DataKey.generate()),
    "unwrap": lambda keys, wrapped: keys.unwrap(KEK, CONTEXT, wrapped),
    "unwrap batch": lambda keys, wrapped: keys.unwrap_batch(KEK, [BoundKey(wrapped, CONTEXT)]),
    "rewrap batch": lambda keys, wrapped: keys.rewrap_batch(KEK, [BoundKey(wrapped, CONTEXT)]),
    "rotate": lambda keys, _: keys.rotate(KEK),
    "check": lambda keys, _: keys.check(),
}


@pytest.fixture
def keys(vault: VaultServer) -> TransitProvider:
    made = vault.provider(read_seconds=1.0)
    made.create_key(KEK)
    return made


@pytest.fixture
def wrapped(keys: TransitProvider) -> WrappedKey:
    return keys.generate_data_key(KEK, CONTEXT)[1]


@pytest.mark.parametrize("call", CALLS)
def test_a_sealed_kms_is_unavailable_and_works_again_once_unsealed(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey, call: str
) -> None:
    vault.seal()
    try:
        with pytest.raises(KeyServiceUnavailable):
            CALLS[call](keys, wrapped)
    finally:
        vault.unseal()
    CALLS[call](keys, wrapped)


def test_a_killed_kms_is_unavailable_at_once_and_keeps_its_keys(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey
) -> None:
    vault.stop()
    began = time.monotonic()
    with pytest.raises(KeyServiceUnavailable):
        keys.unwrap(KEK, CONTEXT, wrapped)
    assert time.monotonic() - began < 5
    vault.start()
    assert isinstance(keys.unwrap(KEK, CONTEXT, wrapped), DataKey)


def test_a_kms_that_hangs_is_given_up_after_the_time_out(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey
) -> None:
    vault.hang()
    try:
        with pytest.raises(KeyServiceUnavailable, match="in time"):
            keys.unwrap(KEK, CONTEXT, wrapped)
    finally:
        vault.go_on()
    keys.unwrap(KEK, CONTEXT, wrapped)


def test_a_revoked_token_is_replaced_in_mid_flight(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey
) -> None:
    vault.revoke_all_tokens()
    keys.unwrap(KEK, CONTEXT, wrapped)


def test_a_token_is_renewed_and_then_replaced_before_it_dies(vault: VaultServer) -> None:
    role_id, secret_id = vault.short_lived_role(2)
    logins = []

    def asked() -> str:
        logins.append(time.monotonic())
        return secret_id

    session = TransitSession(vault.address, role_id=role_id, secret_id=asked)
    refused = 0
    for _ in range(30):
        asked_for = Body(paths=["transit/keys/x"])
        refused += not session.call("post", "sys/capabilities-self", asked_for).ok
        time.sleep(0.2)
    assert refused == 0
    # Six seconds with leases of two, four at most: renewals alone cannot do, a login for each would be three.
    assert 2 <= len(logins) <= 3


def test_a_wrong_secret_id_says_what_to_do_and_not_what_it_was(vault: VaultServer) -> None:
    role_id, _ = vault.role("service")
    session = TransitSession(vault.address, role_id=role_id, secret_id=lambda: "CANARY-secret")
    with pytest.raises(KeyServiceUnavailable, match="new secret id") as refused:
        session.call("get", "transit/keys/strongroom-x")
    assert "CANARY" not in everything_said(refused.value)


def test_a_replaced_secret_id_counts_at_the_next_login(vault: VaultServer) -> None:
    role_id, good = vault.role("service")
    found = ["wrong"]
    session = TransitSession(vault.address, role_id=role_id, secret_id=lambda: found[0])
    keys = TransitProvider(session, prefix="strongroom-replaced-")
    with pytest.raises(KeyServiceUnavailable):
        keys.create_key(KEK)
    found[0] = good
    keys.create_key(KEK)


def test_a_missing_permission_is_named(vault: VaultServer, keys: TransitProvider) -> None:
    rules = (POLICIES / "service.hcl").read_text(encoding="utf-8")
    without = "\n".join(line for line in rules.splitlines() if "transit/rewrap/" not in line)
    vault.set_policy("without-rewrap", without)
    poor = TransitProvider(vault.session("without-rewrap"), prefix=keys._prefix)
    _, wrapped = poor.generate_data_key(KEK, CONTEXT)
    with pytest.raises(
        KeyAccessDenied, match=r"'update' on transit/rewrap/strongroom-\w+-documents"
    ):
        poor.rewrap_batch(KEK, [BoundKey(wrapped, CONTEXT)])
    assert poor.missing_permissions([KEK]) == [f"update on transit/rewrap/{keys._prefix}{KEK}"]
    assert keys.missing_permissions([KEK]) == []


def test_a_drill_s_policy_unwraps_and_changes_nothing(vault: VaultServer) -> None:
    owner = TransitProvider(vault.session("service"))
    owner.create_key(KEK)
    _, wrapped = owner.generate_data_key(KEK, CONTEXT)
    drill = TransitProvider(vault.session("drill"))
    assert isinstance(drill.unwrap(KEK, CONTEXT, wrapped), DataKey)
    for call in ("generate", "wrap", "rewrap batch", "rotate"):
        with pytest.raises(KeyAccessDenied):
            CALLS[call](drill, wrapped)


def test_the_service_s_policy_destroys_no_key(keys: TransitProvider) -> None:
    with pytest.raises((KeyAccessDenied, KeyServiceUnavailable)):
        keys.destroy_key(KEK)
    keys.describe(KEK)


def test_a_key_that_could_be_exported_is_refused(vault: VaultServer) -> None:
    keys = vault.provider()
    vault.make_exportable_key(f"{keys._prefix}{KEK}")
    with pytest.raises(KeyServiceUnavailable, match="not derived or can be exported"):
        keys.create_key(KEK)


# Batches


def test_a_bad_item_reveals_no_neighbour(
    keys: TransitProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = [keys.generate_data_key(KEK, CONTEXT) for _ in range(3)]
    items = [BoundKey(wrapped, CONTEXT) for _, wrapped in made]
    items.insert(1, BoundKey(made[0][1], b"elsewhere"))
    opened = keys.unwrap_batch(KEK, items)
    refused = opened[1]
    assert isinstance(refused, DecryptionFailed)
    assert [type(each) for each in opened].count(DataKey) == 3
    said = everything_said(refused) + caplog.text
    assert not [key for key, _ in made if encoded(key) in said]


def test_a_batch_of_many_keeps_its_order(keys: TransitProvider) -> None:
    made = [keys.generate_data_key(KEK, bytes([n % 256])) for n in range(2 * BATCH + 50)]
    items = [BoundKey(wrapped, bytes([n % 256])) for n, (_, wrapped) in enumerate(made)]
    opened = keys.unwrap_batch(KEK, items)
    assert [encoded(each) for each in opened if isinstance(each, DataKey)] == [
        encoded(key) for key, _ in made
    ]


# A KMS that lies


LOGIN = {"auth": {"client_token": "CANARY-token", "lease_duration": 3600, "renewable": True}}


def said_as(status: int, body: object, kind: str = "application/json") -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return answer(status, text, Content_Type=kind)


@pytest.fixture
def liar() -> Iterator[Callable[[bytes], tuple[CannedServer, TransitProvider]]]:
    """A KMS that logs everybody in, and then always gives one answer."""
    with ExitStack() as stack:

        def make(lie: bytes) -> tuple[CannedServer, TransitProvider]:
            def respond(request: Request) -> bytes:
                return said_as(200, LOGIN) if request.target.endswith("login") else lie

            server = stack.enter_context(canned(respond))
            address = f"http://{server.endpoint}"
            session = TransitSession(address, role_id="r", secret_id=lambda: "s", read_seconds=1)
            return server, TransitProvider(session)

        yield make


LIES: dict[str, tuple[int, object, str]] = {
    "429": (429, {"errors": ["slow down"]}, "application/json"),
    "500": (500, {"errors": ["local node not active"]}, "application/json"),
    "412": (412, {"errors": ["stale"]}, "application/json"),
    "502 of a proxy": (502, "<html>bad gateway</html>", "text/html"),
    "a login page": (200, "<html>log in</html>", "text/html"),
    "an empty answer": (200, {}, "application/json"),
    "a list": (200, ["x"], "application/json"),
    "a redirect": (307, "", "text/html"),
    "403": (403, {"errors": ["permission denied"]}, "application/json"),
    "400": (400, {"errors": ["no"]}, "application/json"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("call", ["generate", "unwrap", "rewrap batch", "rotate"])
def test_whatever_a_kms_answers_no_foreign_exception_comes_out(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]], lie: str, call: str
) -> None:
    _, keys = liar(said_as(*LIES[lie]))
    with pytest.raises(KeyManagementError) as refused:
        CALLS[call](keys, WrappedKey("vault:v1:AAAA"))
    assert "CANARY" not in everything_said(refused.value)


def test_a_data_key_of_another_size_is_refused(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]],
) -> None:
    data = {"plaintext": "AAAA", "ciphertext": "vault:v1:AAAA", "latest_version": 1}
    _, keys = liar(said_as(200, {"data": {**data, "batch_results": [data]}}))
    with pytest.raises(KeyServiceUnavailable):
        keys.generate_data_key(KEK, CONTEXT)
    with pytest.raises(DecryptionFailed):
        keys.unwrap(KEK, CONTEXT, WrappedKey("vault:v1:AAAA"))


def test_only_what_may_be_repeated_is_repeated(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]],
) -> None:
    server, keys = liar(said_as(500, {"errors": ["x"]}))
    with pytest.raises(KeyServiceUnavailable):
        keys.generate_data_key(KEK, CONTEXT)
    assert count(server, "datakey") == 3
    with pytest.raises(KeyServiceUnavailable):
        keys._post("keys/strongroom-documents/rotate", Body(), repeatable=False)
    assert count(server, "rotate") == 1


def test_a_kms_that_takes_no_large_batch_is_sent_smaller_ones(
    vault: VaultServer, keys: TransitProvider
) -> None:
    """As OpenBao does: more than so many strings in one request are refused."""
    made = [keys.generate_data_key(KEK, CONTEXT) for _ in range(5)]
    sizes = []
    session = keys._session
    original = session.call

    def call(method: str, path: str, body: Body | None = None, **options: Any) -> Answer:
        items = body.fields.get("batch_input", []) if body else []
        sizes.extend([len(items)] if items else [])
        return Answer(400, {}) if len(items) > 2 else original(method, path, body, **options)

    session.call = call  # type: ignore[method-assign]
    opened = keys.unwrap_batch(KEK, [BoundKey(wrapped, CONTEXT) for _, wrapped in made])
    assert [encoded(each) for each in opened if isinstance(each, DataKey)] == [
        encoded(key) for key, _ in made
    ]
    assert sizes[0] == 5
    assert max(sizes[1:]) <= 3


def test_proxies_of_the_environment_are_not_asked(
    vault: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    vault_keys = vault.provider()
    vault_keys.create_key(KEK)


def test_no_token_secret_or_key_shows_in_what_went_wrong(
    vault: VaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    role_id, secret_id = vault.role("service")
    session = TransitSession(
        vault.address, role_id=role_id, secret_id=lambda: secret_id, read_seconds=1
    )
    keys = TransitProvider(session, prefix="strongroom-canary-")
    keys.create_key(KEK)
    data_key, _ = keys.generate_data_key(KEK, CONTEXT)
    token = session._token.text if session._token else ""
    assert token
    said = []
    for disturb, mend in ((vault.seal, vault.unseal), (vault.hang, vault.go_on)):
        disturb()
        try:
            with pytest.raises(KeyServiceUnavailable) as refused:
                keys.wrap(KEK, CONTEXT, data_key)
        finally:
            mend()
        said.append(everything_said(refused.value))
    text = "".join(said) + caplog.text
    for secret in (token, secret_id, encoded(data_key)):
        assert secret not in text


def everything_said(exc: BaseException) -> str:
    """The exceptions, causes and contexts too, with the locals of every frame that is not a test's."""
    said = [repr(exc), str(exc.args)]
    described: list[traceback.TracebackException | None] = [
        traceback.TracebackException.from_exception(exc, capture_locals=True)
    ]
    while (each := described.pop()) is not None:
        frames = [frame for frame in each.stack if "/tests/" not in frame.filename]
        said += [f"{frame.name} {frame.locals}" for frame in frames]
        described.append(each.__cause__ or each.__context__)
    return "\n".join(said)


def encoded(key: DataKey) -> str:
    return base64.b64encode(key.reveal_to_keymgmt()).decode()


def count(server: CannedServer, part: str) -> int:
    return sum(part in request.target for request in server.requests)

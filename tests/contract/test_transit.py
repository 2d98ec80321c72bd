"""What only a KMS over a network can do: be sealed, hang, forget us, refuse us, lie."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import (
    DecryptionFailed,
    KeyAccessDenied,
    KeyManagementError,
    KeyNotFound,
    KeyServiceUnavailable,
)
from keymgmt.provider import BoundKey, KeyProvider, WrappedKey
from keymgmt.transit import BATCH, TransitProvider
from keymgmt.transitsession import FRESH_SECONDS, Body, TransitSession
from tests.servers.canned import CannedServer, Request, answer, canned
from tests.servers.certificate import self_made_certificate
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


def test_callers_of_a_kms_that_hangs_wait_beside_each_other_not_in_a_queue(
    vault: VaultServer,
) -> None:
    """The first of them logs in. Twelve time-outs one after the other would be six seconds."""
    keys = vault.provider(connect_seconds=0.5, read_seconds=0.5)
    vault.hang()
    try:
        with ThreadPoolExecutor(12) as pool:
            took = list(pool.map(lambda _: seconds_until_unavailable(keys), range(12)))
    finally:
        vault.go_on()
    assert max(took) < 3


def seconds_until_unavailable(keys: KeyProvider) -> float:
    began = time.monotonic()
    with pytest.raises(KeyServiceUnavailable, match="in time"):
        keys.check()
    return time.monotonic() - began


def test_a_revoked_token_is_replaced_in_mid_flight(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey
) -> None:
    vault.revoke_all_tokens()
    keys.unwrap(KEK, CONTEXT, wrapped)


def test_a_token_is_renewed_and_then_replaced_before_it_dies(vault: VaultServer) -> None:
    role_id, secret_id = vault.role("service", token_ttl="2s", token_max_ttl="4s")
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


def test_a_secret_id_that_is_used_up_says_what_to_do(vault: VaultServer) -> None:
    role_id, secret_id = vault.role("service", secret_id_num_uses=1)
    session = TransitSession(vault.address, role_id=role_id, secret_id=lambda: secret_id)
    keys = TransitProvider(session)
    keys.check()
    vault.revoke_all_tokens()
    with pytest.raises(KeyServiceUnavailable, match="new secret id"):
        keys.check()


def test_a_secret_id_that_expired_is_missed_at_the_next_login_only(vault: VaultServer) -> None:
    role_id, secret_id = vault.role("service")
    keys = TransitProvider(
        TransitSession(vault.address, role_id=role_id, secret_id=lambda: secret_id)
    )
    keys.check()
    vault.expire_secret_id(secret_id)
    keys.check()
    vault.revoke_all_tokens()
    with pytest.raises(KeyServiceUnavailable, match="new secret id") as refused:
        keys.check()
    assert secret_id not in everything_said(refused.value)


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


def test_calls_that_are_denied_again_and_again_log_in_once_a_minute(vault: VaultServer) -> None:
    """Each login leaves a token at the KMS for an hour; none would miss that the role got a policy."""
    role_id, secret_id = vault.role("drill")
    logins = []

    def asked() -> str:
        logins.append(1)
        return secret_id

    session = TransitSession(vault.address, role_id=role_id, secret_id=asked)
    drill = TransitProvider(session)
    for expected in (1, 2):
        for _ in range(5):
            with pytest.raises(KeyAccessDenied):
                drill.generate_data_key(KEK, CONTEXT)
        assert len(logins) == expected
        assert session._token is not None
        session._token.since -= FRESH_SECONDS


# The policies of docs/policies


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
    with pytest.raises(KeyAccessDenied):
        keys.destroy_key(KEK)
    keys.describe(KEK)


@pytest.mark.parametrize("path", ["keys/{name}/config", "keys/{name}-another"])
@pytest.mark.parametrize("field", ["exportable", "allow_plaintext_backup", "deletion_allowed"])
def test_the_service_s_policy_gives_no_key_away(
    keys: TransitProvider, path: str, field: str
) -> None:
    with pytest.raises(KeyAccessDenied):
        keys._post(path.format(name=keys._name(KEK)), Body(**{field: True}))


def test_without_the_three_minima_in_its_policy_a_service_rotates_and_destroys_nothing(
    vault: VaultServer,
) -> None:
    rules = (POLICIES / "service.hcl").read_text(encoding="utf-8")
    without = "\n".join(line for line in rules.splitlines() if '"min_' not in line)
    vault.set_policy("without-minima", without)
    keys = vault.provider("without-minima")
    keys.create_key(KEK)
    assert keys.rotate(KEK) == 2
    with pytest.raises(KeyAccessDenied, match="/config"):
        keys.retire(KEK, below=2)
    assert keys.describe(KEK).oldest_usable == 1


def test_a_destroyer_s_policy_destroys_and_does_nothing_else(
    vault: VaultServer, keys: TransitProvider, wrapped: WrappedKey
) -> None:
    destroyer = TransitProvider(vault.session("destroyer"), prefix=keys._prefix)
    for call in ("generate", "wrap", "unwrap", "rewrap batch"):
        with pytest.raises(KeyAccessDenied):
            CALLS[call](destroyer, wrapped)
    destroyer.destroy_key(KEK)
    with pytest.raises(KeyNotFound):
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


def test_a_batch_too_large_for_the_kms_is_sent_in_parts(vault: VaultServer) -> None:
    """A listener may limit requests; OpenBao also limits the strings in one."""
    keys = vault.provider(address=vault.small_address)
    keys.create_key(KEK)
    made = [keys.generate_data_key(KEK, CONTEXT) for _ in range(60)]
    items = [BoundKey(wrapped, CONTEXT) for _, wrapped in made]
    items.insert(7, BoundKey(made[0][1], b"elsewhere"))
    opened = keys.unwrap_batch(KEK, items)
    assert isinstance(opened.pop(7), DecryptionFailed)
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


STATE = {"latest_version": 1, "min_decryption_version": 1, "min_available_version": 0}

LIES: dict[str, tuple[int, object, str]] = {
    "429": (429, {"errors": ["slow down"]}, "application/json"),
    "500": (500, {"errors": ["local node not active"]}, "application/json"),
    "412": (412, {"errors": ["stale"]}, "application/json"),
    "502 of a proxy": (502, "<html>bad gateway</html>", "text/html"),
    "a login page": (200, "<html>log in</html>", "text/html"),
    "an empty answer": (200, {}, "application/json"),
    "a list": (200, ["x"], "application/json"),
    "data that is a list": (200, {"data": ["x"]}, "application/json"),
    "versions that are no numbers": (200, {"data": dict.fromkeys(STATE, "x")}, "application/json"),
    "brackets without end": (200, "[" * 100_000, "application/json"),
    "a redirect": (307, "", "text/html"),
    "403": (403, {"errors": ["permission denied"]}, "application/json"),
    "400": (400, {"errors": ["no"]}, "application/json"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("call", CALLS)
def test_whatever_a_kms_answers_no_foreign_exception_comes_out(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]], lie: str, call: str
) -> None:
    _, keys = liar(said_as(*LIES[lie]))
    with pytest.raises(KeyManagementError) as refused:
        CALLS[call](keys, WrappedKey("vault:v1:AAAA"))
    assert "CANARY" not in everything_said(refused.value)


@pytest.mark.parametrize("results", [None, [], ["x"], [None], [{}, {}]])
@pytest.mark.parametrize("call", ["unwrap batch", "rewrap batch"])
def test_an_answer_without_results_is_not_taken_for_damaged_keys(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]], call: str, results: object
) -> None:
    _, keys = liar(said_as(200, {"data": {**STATE, "batch_results": results}}))
    with pytest.raises(KeyServiceUnavailable):
        CALLS[call](keys, WrappedKey("vault:v1:AAAA"))


@pytest.mark.parametrize("ciphertext", [5, None, "", "nonsense", "vault:v1:", "vault:v1:AAAA\n"])
@pytest.mark.parametrize("call", ["generate", "wrap"])
def test_a_wrapped_key_that_could_not_be_unwrapped_again_is_not_handed_out(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]], call: str, ciphertext: object
) -> None:
    data = {"plaintext": encoded(DataKey.generate()), "ciphertext": ciphertext}
    _, keys = liar(said_as(200, {"data": data}))
    with pytest.raises(KeyServiceUnavailable, match="no wrapped key"):
        CALLS[call](keys, WrappedKey("vault:v1:AAAA"))


def test_a_data_key_of_another_size_is_refused(
    liar: Callable[[bytes], tuple[CannedServer, TransitProvider]],
) -> None:
    data = {"plaintext": "AAAA", "ciphertext": "vault:v1:AAAA", **STATE}
    _, keys = liar(said_as(200, {"data": {**data, "batch_results": [data]}}))
    with pytest.raises(KeyServiceUnavailable):
        keys.generate_data_key(KEK, CONTEXT)
    with pytest.raises(DecryptionFailed):
        keys.unwrap(KEK, CONTEXT, WrappedKey("vault:v1:AAAA"))


def test_mount_and_namespace_are_in_every_request() -> None:
    """Only OpenBao and the enterprise edition know namespaces, so no real one can be asked here."""

    def respond(request: Request) -> bytes:
        return said_as(200, LOGIN if request.target.endswith("login") else {"data": STATE})

    with canned(respond) as server:
        session = TransitSession(
            f"http://{server.endpoint}", role_id="r", secret_id=lambda: "s", namespace="archive/b"
        )
        TransitProvider(session, mount="keys/transit").describe(KEK)
    assert [request.target for request in server.requests] == [
        "/v1/auth/approle/login",
        f"/v1/keys/transit/keys/strongroom-{KEK}",
    ]
    assert {request.headers["x-vault-namespace"] for request in server.requests} == {"archive/b"}


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


def test_only_the_named_authority_is_trusted(tmp_path: Path) -> None:
    certificate, key = self_made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def respond(request: Request) -> bytes:
        return said_as(200, LOGIN if request.target.endswith("login") else {"data": STATE})

    with listener:
        server = CannedServer(respond, listener=listener)
        address = f"https://{server.endpoint}"
        threading.Thread(target=server.serve, daemon=True).start()
        assert tls_keys(address, certificate).describe(KEK).latest == 1
        with pytest.raises(KeyServiceUnavailable, match="certificate"):
            tls_keys(address, None).describe(KEK)


def tls_keys(address: str, ca_file: Path | None) -> TransitProvider:
    return TransitProvider(
        TransitSession(address, role_id="r", secret_id=lambda: "s", ca_file=ca_file, read_seconds=1)
    )


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

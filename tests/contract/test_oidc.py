"""Sign-in at a provider: with a real one, and with one that lies in each way that the steps are against."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from pydantic import SecretStr

from api.oidc.bounded import Limits
from api.oidc.errors import Fault, ProviderUnavailable, Refusal, SignInRefused
from api.oidc.provider import OidcProvider
from api.settings import OidcSettings, SettingsError
from tests.servers.canned import CannedServer, answer, canned
from tests.servers.certificate import self_made_certificate
from tests.servers.lying import (
    ACCESS_TOKEN,
    CLIENT_ID,
    KEY,
    NOW,
    LyingProvider,
    as_json,
    lying_provider,
    public,
    signed,
    signed_with_the_public_key,
    unsigned,
)
from tests.servers.oidc import Browser, OidcServer
from vault import clock

SECOND = int(NOW.timestamp())


@pytest.fixture
def liar() -> Iterator[LyingProvider]:
    with lying_provider() as provider:
        yield provider


def half_digest(token: str, digest: str = "sha256") -> str:
    found = hashlib.new(digest, token.encode()).digest()
    return base64.urlsafe_b64encode(found[: len(found) // 2]).rstrip(b"=").decode()


@contextmanager
def refused(reason: Refusal | Fault) -> Iterator[None]:
    """The block fails, for this reason."""
    with pytest.raises((SignInRefused, ProviderUnavailable)) as info:
        yield
    assert info.value.reason is reason


# With a real provider.


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_somebody_signs_in_at_a_real_provider(oidc: OidcServer, algorithm: str) -> None:
    provider = OidcProvider(oidc.settings(algorithm))
    url, pending = provider.begin()
    identity = provider.finish(Browser("alice").visit(url), pending)
    assert (identity.issuer, identity.subject) == (oidc.issuer, "alice")


def test_two_people_are_told_apart(oidc: OidcServer) -> None:
    provider = OidcProvider(oidc.settings())
    found = []
    for account in ("alice", "bob"):
        url, pending = provider.begin()
        found.append(provider.finish(Browser(account).visit(url), pending).subject)
    assert found == ["alice", "bob"]


def test_a_step_up_has_the_person_prove_anew_who_they_are(oidc: OidcServer) -> None:
    provider, browser = OidcProvider(oidc.settings()), Browser("alice")
    url, pending = provider.begin()
    provider.finish(browser.visit(url), pending)
    before = clock.now()
    url, pending = provider.begin(step_up=True)
    identity = provider.finish(browser.visit(url), pending)
    assert identity.authenticated_at is not None
    assert identity.authenticated_at >= before.replace(microsecond=0)


def test_a_step_up_whose_demand_was_cut_out_of_the_address_is_refused_when_the_session_is_old(
    oidc: OidcServer,
) -> None:
    later = OidcProvider(oidc.settings(), now=lambda: clock.now() + timedelta(seconds=301))
    url, pending = later.begin(step_up=True)
    tampered = url.replace("&prompt=login", "").replace("&max_age=0", "&max_age=3600")
    assert tampered != url
    with refused(Refusal.AUTH_TIME):
        later.finish(Browser("alice").visit(tampered), pending)


def test_who_declines_is_not_signed_in(oidc: OidcServer) -> None:
    provider = OidcProvider(oidc.settings())
    url, pending = provider.begin()
    with refused(Refusal.ERROR_RESPONSE):
        provider.finish(Browser("nobody").visit(url), pending)


def test_a_code_is_worth_nothing_the_second_time(oidc: OidcServer) -> None:
    provider = OidcProvider(oidc.settings())
    url, pending = provider.begin()
    params = Browser("alice").visit(url)
    provider.finish(params, pending)
    with refused(Refusal.CODE_REFUSED):
        provider.finish(params, pending)


def test_a_stolen_code_is_worth_nothing_in_another_browser(oidc: OidcServer) -> None:
    provider = OidcProvider(oidc.settings())
    url, _ = provider.begin()
    stolen = Browser("alice").visit(url)
    _, pending = provider.begin()
    with refused(Refusal.STATE):
        provider.finish(stolen, pending)
    with refused(Refusal.CODE_REFUSED):  # PKCE holds also where the state was found out
        provider.finish({**stolen, "state": pending.state}, pending)


def test_a_code_of_another_client_is_worth_nothing(oidc: OidcServer) -> None:
    url, pending = OidcProvider(oidc.settings("ES256")).begin()
    params = Browser("alice").visit(url)
    with refused(Refusal.CODE_REFUSED):
        OidcProvider(oidc.settings("RS256")).finish(params, pending)


def test_a_wrong_client_secret_is_said_to_be_ours_to_mend(oidc: OidcServer) -> None:
    settings = oidc.settings().model_copy(update={"client_secret": SecretStr("canary-secret")})
    provider = OidcProvider(settings)
    url, pending = provider.begin()
    with refused(Fault.CLIENT_REFUSED):
        provider.finish(Browser("alice").visit(url), pending)


def test_a_provider_may_change_its_keys_while_we_run(oidc: OidcServer) -> None:
    provider = OidcProvider(oidc.settings())
    for _ in range(2):
        url, pending = provider.begin()
        assert provider.finish(Browser("alice").visit(url), pending).subject == "alice"
        oidc.restart()


def test_a_provider_may_want_the_secret_in_the_body(oidc: OidcServer) -> None:
    oidc.restart(["client_secret_post"])
    try:
        provider = OidcProvider(oidc.settings())
        url, pending = provider.begin()
        assert provider.finish(Browser("alice").visit(url), pending).subject == "alice"
    finally:
        oidc.restart()


# With one that lies: first that the same provider is believed as long as it is honest.


def test_an_honest_token_is_believed(liar: LyingProvider) -> None:
    identity = liar.sign_in()
    assert (identity.subject, identity.authenticated_at) == ("alice", NOW)
    assert liar.sign_in(auth_time=None).authenticated_at is None


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("algorithm", "key", "digest"),
    [
        ("RS256", KEY, "sha256"),
        ("PS256", KEY, "sha256"),
        ("ES256", ECKey.generate_key("P-256", {"kid": "ec"}), "sha256"),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "ed"}), "sha512"),
    ],
)
def test_every_algorithm_we_allow_is_believed_with_its_access_token(
    liar: LyingProvider, algorithm: str, key: Key, digest: str
) -> None:
    liar.keys = [public(KEY), public(key)] if key is not KEY else [public(KEY)]
    at_hash = half_digest(ACCESS_TOKEN, digest)
    header = {"alg": algorithm, "kid": key.kid}
    assert liar.sign_in(key=key, header=header, at_hash=at_hash).subject == "alice"


def test_begin_asks_with_fresh_secrets_and_a_hashed_verifier(liar: LyingProvider) -> None:
    asked = [liar.client().begin(step_up=step_up) for step_up in (False, True)]
    for url, pending in asked:
        query = parse_qs(urlsplit(url).query)
        digest = hashlib.sha256(pending.code_verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert query["code_challenge"] == [challenge]
        assert query["code_challenge_method"] == ["S256"]
        assert (query["state"], query["nonce"]) == ([pending.state], [pending.nonce])
        assert (query["response_type"], query["scope"]) == (["code"], ["openid"])
        assert pending.code_verifier not in url
    secrets = {s for _, p in asked for s in (p.state, p.nonce, p.code_verifier)}
    assert len(secrets) == 6
    assert min(len(secret) for secret in secrets) * 6 >= 256
    assert not any(secret in repr(asked[0][1]) for secret in secrets)


def test_only_a_step_up_asks_for_a_new_proof(liar: LyingProvider) -> None:
    ordinary, step_up = (liar.client().begin(step_up=step_up)[0] for step_up in (False, True))
    assert "prompt" not in ordinary
    assert "max_age" not in ordinary
    assert parse_qs(urlsplit(step_up).query)["max_age"] == ["0"]
    assert parse_qs(urlsplit(step_up).query)["prompt"] == ["login"]


# The redirect.


@pytest.mark.parametrize("state", ["other", "", "ü", "\ud800", None])
def test_another_state_is_refused_before_anything_is_asked(
    liar: LyingProvider, state: str | None
) -> None:
    client = liar.client()
    _, pending = client.begin()
    assert liar.server is not None
    asked = len(liar.server.requests)
    with refused(Refusal.STATE):
        client.finish(liar.params(pending, state=state), pending)
    assert len(liar.server.requests) == asked


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_of_another_issuer_is_refused(liar: LyingProvider, *, announced: bool) -> None:
    liar.metadata["authorization_response_iss_parameter_supported"] = announced
    with refused(Refusal.RESPONSE_ISSUER):
        liar.sign_in(params={"iss": "https://attacker.example"})


def test_an_answer_without_the_issuer_that_was_announced_is_refused(liar: LyingProvider) -> None:
    with refused(Refusal.RESPONSE_ISSUER):
        liar.sign_in(params={"iss": None})


def test_an_answer_without_an_issuer_is_believed_where_none_was_announced(
    liar: LyingProvider,
) -> None:
    liar.metadata["authorization_response_iss_parameter_supported"] = False
    assert liar.sign_in(params={"iss": None}).subject == "alice"


def test_an_error_response_is_refused_even_with_a_code(liar: LyingProvider) -> None:
    with refused(Refusal.ERROR_RESPONSE):
        liar.sign_in(params={"error": "access_denied"})


@pytest.mark.parametrize("code", [None, ""])
def test_an_answer_without_a_code_is_refused(liar: LyingProvider, code: str | None) -> None:
    with refused(Refusal.CODE_MISSING):
        liar.sign_in(params={"code": code})


# The token: its signature.


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256"])
def test_an_unsigned_token_is_refused(liar: LyingProvider, algorithm: str) -> None:
    with refused(Refusal.ALGORITHM):
        liar.sign_in_with(lambda claims: unsigned(claims, algorithm))


def test_an_unsigned_token_that_names_an_allowed_algorithm_is_refused(liar: LyingProvider) -> None:
    with refused(Refusal.SIGNATURE):
        liar.sign_in_with(lambda claims: unsigned(claims, "RS256"))


def test_a_token_authenticated_with_the_public_key_as_a_secret_is_refused(
    liar: LyingProvider,
) -> None:
    with refused(Refusal.ALGORITHM):
        liar.sign_in_with(signed_with_the_public_key)


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS512"])
def test_an_algorithm_that_nobody_allowed_is_refused(liar: LyingProvider, algorithm: str) -> None:
    with refused(Refusal.ALGORITHM):
        liar.sign_in(header={"alg": algorithm, "kid": KEY.kid})


def test_a_token_whose_claims_were_changed_is_refused(liar: LyingProvider) -> None:
    def forge(claims: dict[str, Any]) -> str:
        head, _, mac = signed(claims).split(".")
        return f"{head}.{signed({**claims, 'sub': 'bob'}).split('.')[1]}.{mac}"

    with refused(Refusal.SIGNATURE):
        liar.sign_in_with(forge)


def test_a_token_of_another_key_under_the_same_name_is_refused(liar: LyingProvider) -> None:
    with refused(Refusal.SIGNATURE):
        liar.sign_in(key=RSAKey.generate_key(2048, {"kid": "one"}))


def test_a_key_inside_the_token_is_not_believed(liar: LyingProvider) -> None:
    key = ECKey.generate_key("P-256", {"kid": "one"})
    liar.keys = [public(ECKey.generate_key("P-256", {"kid": "one"}))]
    with refused(Refusal.SIGNATURE):
        liar.sign_in(key=key, header={"alg": "ES256", "kid": "one", "jwk": public(key)})


def test_a_withdrawn_key_verifies_nothing_from_the_next_sign_in_on(liar: LyingProvider) -> None:
    client = liar.client()
    for keys in ([public(KEY)], [public(RSAKey.generate_key(2048, {"kid": "two"}))]):
        liar.keys = keys
        _, pending = client.begin()
        liar.token = signed(liar.claims(pending))
        if keys[0]["kid"] == KEY.kid:
            assert client.finish(liar.params(pending), pending).subject == "alice"
        else:
            with refused(Refusal.KEY_UNKNOWN):
                client.finish(liar.params(pending), pending)


def test_a_token_that_names_no_key_is_refused_where_there_are_several(liar: LyingProvider) -> None:
    liar.keys = [public(KEY), public(ECKey.generate_key("P-256", {"kid": "ec"}))]
    with refused(Refusal.KEY_UNKNOWN):
        liar.sign_in(header={"alg": "RS256"})


def test_a_token_that_names_no_key_is_believed_where_there_is_one(liar: LyingProvider) -> None:
    liar.keys.append({**public(RSAKey.generate_key(2048)), "use": "enc"})
    assert liar.sign_in(header={"alg": "RS256"}).subject == "alice"


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{**public(KEY), "use": "enc"}],
        [{**public(KEY), "alg": "RS512"}],
        [{**public(KEY), "kty": "EC"}],
        [{**public(KEY), "kty": "oct", "k": "AAAA"}],
        [{**public(KEY), "n": "!"}],
        [{**public(KEY), "n": 5}],
        [{**public(KEY), "e": None}],
        [{**public(KEY), "key_ops": 5}],
        [{"kid": "one", "kty": "RSA"}],
        [public(KEY), public(KEY)],
        [None, 1, "one", []],
    ],
)
def test_a_key_that_cannot_be_the_one_is_passed_over(liar: LyingProvider, keys: list[Any]) -> None:
    liar.keys = keys
    with refused(Refusal.KEY_UNKNOWN):
        liar.sign_in()


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_a_key_that_is_too_short_is_refused(liar: LyingProvider) -> None:
    short = RSAKey.generate_key(1024, {"kid": "short"})
    liar.keys = [public(short)]
    with refused(Refusal.KEY_UNKNOWN):
        liar.sign_in(key=short)


def test_a_symmetric_key_in_the_set_signs_nothing(liar: LyingProvider) -> None:
    key = OctKey.generate_key(256, {"kid": "one"})
    liar.keys = [key.as_dict(private=True)]
    with refused(Refusal.ALGORITHM):
        liar.sign_in(key=key, header={"alg": "HS256", "kid": "one"})


def test_a_header_that_has_to_be_understood_and_is_not_is_refused(liar: LyingProvider) -> None:
    def forge(claims: dict[str, Any]) -> str:
        return signed(claims, header={"alg": "RS256", "kid": "one", "x": 1, "crit": ["x"]})

    with refused(Refusal.SIGNATURE):
        liar.sign_in_with(forge)


# The token: its claims.


@pytest.mark.parametrize("issuer", ["https://attacker.example", 5, ["x"], None])
def test_a_token_of_another_issuer_is_refused(liar: LyingProvider, issuer: object) -> None:
    with refused(Refusal.ISSUER):
        liar.sign_in(iss=issuer)


def test_an_issuer_that_differs_by_a_slash_is_another(liar: LyingProvider) -> None:
    with refused(Refusal.ISSUER):
        liar.sign_in(iss=f"{liar.issuer}/")


@pytest.mark.parametrize("audience", ["other", ["other"], [], None, 5, {"vault": 1}, [["vault"]]])
def test_a_token_for_somebody_else_is_refused(liar: LyingProvider, audience: object) -> None:
    with refused(Refusal.AUDIENCE):
        liar.sign_in(aud=audience)


def test_a_token_for_several_without_the_one_it_was_issued_to_is_refused(
    liar: LyingProvider,
) -> None:
    with refused(Refusal.AUDIENCE):
        liar.sign_in(aud=[CLIENT_ID, "other"])


@pytest.mark.parametrize("audience", [CLIENT_ID, [CLIENT_ID, "other"]])
def test_a_token_issued_to_somebody_else_is_refused(liar: LyingProvider, audience: object) -> None:
    with refused(Refusal.AUDIENCE):
        liar.sign_in(aud=audience, azp="other")


@pytest.mark.parametrize(
    "claims", [{"aud": [CLIENT_ID]}, {"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID}]
)
def test_a_token_issued_to_us_may_be_for_others_too(
    liar: LyingProvider, claims: dict[str, Any]
) -> None:
    assert liar.sign_in(**claims).subject == "alice"


NO_MOMENTS: list[Any] = [None, True, "1", [], math.nan, math.inf, -math.inf, -1, 10**400]


@pytest.mark.parametrize("expires", [SECOND - 60, SECOND - 86400, 0, *NO_MOMENTS])
def test_an_expired_token_is_refused(liar: LyingProvider, expires: object) -> None:
    with refused(Refusal.EXPIRED):
        liar.sign_in(exp=expires)


@pytest.mark.parametrize("issued", [SECOND + 61, SECOND + 86400, *NO_MOMENTS])
def test_a_token_issued_in_the_future_is_refused(liar: LyingProvider, issued: object) -> None:
    with refused(Refusal.NOT_YET_VALID):
        liar.sign_in(iat=issued)


def test_a_token_that_is_not_valid_yet_is_refused(liar: LyingProvider) -> None:
    with refused(Refusal.NOT_YET_VALID):
        liar.sign_in(nbf=SECOND + 61)


def test_a_clock_that_differs_by_a_minute_is_borne(liar: LyingProvider) -> None:
    assert liar.sign_in(exp=SECOND - 59, iat=SECOND + 60, nbf=SECOND + 60).subject == "alice"


@pytest.mark.parametrize("nonce", ["other", "", 5, "\ud800", None])
def test_a_token_that_answers_another_question_is_refused(
    liar: LyingProvider, nonce: object
) -> None:
    with refused(Refusal.NONCE):
        liar.sign_in(nonce=nonce)


def test_a_replayed_token_is_refused(liar: LyingProvider) -> None:
    client = liar.client()
    _, first = client.begin()
    liar.token = signed(liar.claims(first))
    client.finish(liar.params(first), first)
    _, second = client.begin()
    with refused(Refusal.NONCE):
        client.finish(liar.params(second), second)


@pytest.mark.parametrize(
    "at_hash", ["", half_digest("other"), 5, [], half_digest(ACCESS_TOKEN)[1:]]
)
def test_a_token_that_came_with_another_access_token_is_refused(
    liar: LyingProvider, at_hash: object
) -> None:
    with refused(Refusal.ACCESS_TOKEN_HASH):
        liar.sign_in(at_hash=at_hash)


@pytest.mark.parametrize("subject", [None, "", 5, "a" * 256, "ü", "a\x00b", "a\nb", ["a"]])
def test_a_subject_that_identifies_nobody_is_refused(liar: LyingProvider, subject: object) -> None:
    with refused(Refusal.SUBJECT):
        liar.sign_in(sub=subject)


def test_a_subject_may_have_255_characters(liar: LyingProvider) -> None:
    assert liar.sign_in(sub="a" * 255).subject == "a" * 255


@pytest.mark.parametrize("at", [SECOND - 301, SECOND + 61, *NO_MOMENTS])
def test_a_step_up_with_an_old_proof_or_none_is_refused(liar: LyingProvider, at: object) -> None:
    with refused(Refusal.AUTH_TIME):
        liar.sign_in(step_up=True, auth_time=at)


def test_a_step_up_with_a_proof_of_five_minutes_is_believed(liar: LyingProvider) -> None:
    identity = liar.sign_in(step_up=True, auth_time=SECOND - 300)
    assert identity.authenticated_at == NOW - timedelta(seconds=300)


def test_an_ordinary_sign_in_may_rest_on_an_old_proof(liar: LyingProvider) -> None:
    identity = liar.sign_in(auth_time=SECOND - 86400)
    assert identity.authenticated_at == NOW - timedelta(days=1)


# What comes instead of a token.

NO_TOKENS: list[Any] = ["", "a", "a.b", "a.b.c", "....", "é.é.é", "\ud800", "W10.W10.W10"]


def coded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        *NO_TOKENS,
        *(None, 5, True, [], {}),
        f"{coded('[' * 300)}.e30.e30",
        f"{coded(json.dumps('alg'))}.e30.e30",
        f"{coded('{}')}.e30.e30",
        f"{coded(json.dumps({'alg': 'RS256', 'kid': 5}))}.e30.e30",
        "a" * 200_000,
    ],
)
def test_what_is_no_token_is_refused(liar: LyingProvider, token: object) -> None:
    with refused(Refusal.TOKEN_MALFORMED):
        liar.sign_in_with(lambda _: token)


def test_a_token_in_a_token_too_deep_to_read_is_refused(liar: LyingProvider) -> None:
    with refused(Refusal.AUDIENCE):
        liar.sign_in(aud=[[[[[[[]]]]]]])


PATHS = ["/.well-known/openid-configuration", "/token", "/jwks"]

ANSWERS: dict[str, tuple[bytes, Fault]] = {
    "cut at once": (b"", Fault.UNREACHABLE),
    "not HTTP": (b"220 mail.example ESMTP\r\n", Fault.UNREACHABLE),
    "cut in the body": (answer(200, "{}")[:-1], Fault.UNREACHABLE),
    "an error": (answer(500), Fault.STATUS),
    "nothing there": (answer(404), Fault.STATUS),
    "HTML": (answer(200, "<html>canary"), Fault.MALFORMED),
    "an empty body": (answer(200), Fault.MALFORMED),
    "no object": (as_json([1]), Fault.MALFORMED),
    "too deep": (answer(200, "[" * 100_000), Fault.MALFORMED),
    "a number too long": (answer(200, "1" * 5000), Fault.MALFORMED),
    "a bad charset": (
        answer(200, '"\\ud800"', Content_Type="text/x; charset=nope"),
        Fault.MALFORMED,
    ),
    "a huge body": (as_json({"x": "x" * 262_144}), Fault.TOO_LARGE),
    "a compressed body": (as_json({}, Content_Encoding="gzip"), Fault.MALFORMED),
    "a redirect": (as_json({}, 302, Location="https://attacker.example"), Fault.REDIRECTS),
    "a redirect that keeps the body": (
        as_json({}, 307, Location="https://attacker.example"),
        Fault.REDIRECTS,
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_useless_answer_ends_in_an_error_of_ours(
    liar: LyingProvider, path: str, name: str
) -> None:
    client = liar.client()
    _, pending = liar.client().begin()
    liar.token = signed(liar.claims(pending))
    liar.instead[path], fault = ANSWERS[name]
    with pytest.raises(ProviderUnavailable) as info:
        client.finish(liar.params(pending), pending)
    assert info.value.reason is fault
    told = "".join(traceback.format_exception(info.value))
    for canary in ("canary", "mail.example", pending.code_verifier, str(liar.token)):
        assert canary not in told


def test_a_redirecting_token_endpoint_never_gets_the_secret_elsewhere(liar: LyingProvider) -> None:
    with canned(as_json({})) as elsewhere:
        location = f"http://{elsewhere.endpoint}/"
        liar.instead["/token"] = as_json({"id_token": "x"}, 307, Location=location)
        with refused(Fault.REDIRECTS):
            liar.sign_in()
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", [201, 400, 401, 403])
def test_a_token_in_an_answer_that_is_no_success_is_refused(
    liar: LyingProvider, status: int
) -> None:
    client = liar.client()
    _, pending = client.begin()
    tokens = {"access_token": "x", "id_token": signed(liar.claims(pending))}
    liar.instead["/token"] = as_json(tokens, status)
    with pytest.raises(ProviderUnavailable):
        client.finish(liar.params(pending), pending)


@pytest.mark.parametrize("status", [200, 400])
def test_a_code_that_the_provider_refuses_is_refused_without_its_words(
    liar: LyingProvider, status: int
) -> None:
    said = {"error": "invalid_grant", "error_description": "canary\n"}
    liar.instead["/token"] = as_json(said, status)
    with pytest.raises(SignInRefused) as info:
        liar.sign_in()
    assert info.value.reason is Refusal.CODE_REFUSED
    assert "canary" not in "".join(traceback.format_exception(info.value))


@pytest.mark.parametrize("value", [None, "x", -1, math.inf, math.nan, [], {}, [1], {"a": 1}, True])
@pytest.mark.parametrize("name", ["expires_in", "expires_at", "error", "error_description"])
def test_an_odd_member_of_the_token_answer_ends_in_an_error_of_ours_or_is_ignored(
    liar: LyingProvider, name: str, value: object
) -> None:
    client = liar.client()
    _, pending = client.begin()
    tokens = {"access_token": "x", "id_token": signed(liar.claims(pending)), name: value}
    liar.instead["/token"] = as_json(tokens)
    try:
        assert client.finish(liar.params(pending), pending).subject == "alice"
    except (SignInRefused, ProviderUnavailable):
        assert value is not None or name == "error"


# What the provider says of itself.


def test_metadata_of_another_issuer_is_refused(liar: LyingProvider) -> None:
    liar.metadata["issuer"] = "https://attacker.example"
    with refused(Fault.OTHER_ISSUER):
        liar.client().begin()


def test_an_issuer_that_we_write_with_another_slash_is_another(liar: LyingProvider) -> None:
    with refused(Fault.OTHER_ISSUER):
        liar.client(issuer=f"{liar.issuer}/").begin()


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://provider.example/x", Fault.INSECURE_ENDPOINT),
        ("http://127.0.0.1.provider.example/x", Fault.INSECURE_ENDPOINT),
        ("javascript:alert(1)", Fault.INSECURE_ENDPOINT),
        ("file:///etc/passwd", Fault.INSECURE_ENDPOINT),
        ("/relative", Fault.INSECURE_ENDPOINT),
        ("", Fault.INSECURE_ENDPOINT),
        ("https://user@provider.example/", Fault.MALFORMED),
        ("https://provider.example/#x", Fault.MALFORMED),
        ("https://[::1", Fault.MALFORMED),
        ("https://x:y/", Fault.MALFORMED),
        ("https://x\x00/", Fault.MALFORMED),
        (5, Fault.MALFORMED),
        (None, Fault.MALFORMED),
    ],
)
def test_an_endpoint_that_others_could_read_or_that_is_none_is_refused(
    liar: LyingProvider, name: str, url: object, fault: Fault
) -> None:
    liar.metadata[name] = url
    with refused(fault):
        liar.client().begin()


@pytest.mark.parametrize("url", ["https://127.0.0.1:99999/", f"https://{'a' * 70}.invalid/"])
def test_an_address_that_cannot_be_is_an_error_of_ours(liar: LyingProvider, url: str) -> None:
    liar.metadata["jwks_uri"] = url
    with pytest.raises(ProviderUnavailable):
        liar.sign_in()


def test_metadata_is_asked_for_once_a_minute_and_keys_at_each_sign_in(
    liar: LyingProvider,
) -> None:
    client = liar.client()
    for _ in range(3):
        _, pending = client.begin()
        liar.token = signed(liar.claims(pending))
        client.finish(liar.params(pending), pending)
    assert liar.server is not None
    asked = [request.target for request in liar.server.requests]
    assert [asked.count(path) for path in PATHS] == [1, 3, 3]


# A provider that is away, or slow.


def test_a_provider_that_is_away_is_said_to_be() -> None:
    with lying_provider() as gone:
        client = gone.client()
        _, pending = client.begin()
        params, again = gone.params(pending), gone.client()
    with refused(Fault.UNREACHABLE):
        again.begin()
    with refused(Fault.UNREACHABLE):
        client.finish(params, pending)


@pytest.mark.parametrize("start", [b"", as_json({}).partition(b"\r\n\r\n")[0] + b"\r\nX: "])
def test_a_provider_that_answers_byte_by_byte_is_given_up(
    liar: LyingProvider, start: bytes
) -> None:
    def drip() -> Iterator[bytes]:
        yield start or answer(200, "").replace(b"Length: 0", b"Length: 9999")
        for _ in itertools.count():
            time.sleep(0.02)
            yield b"x"

    liar.instead["/.well-known/openid-configuration"] = drip()
    with refused(Fault.TOO_SLOW):
        liar.client(Limits(total_seconds=0.3)).begin()


@pytest.fixture
def tls_liar(tmp_path: Path) -> Iterator[tuple[LyingProvider, Path]]:
    """One that speaks TLS, and the authority of its certificate."""
    certificate, key = self_made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
    liar = LyingProvider(scheme="https")
    with listener:
        liar.server = CannedServer(liar.respond, listener=listener)
        threading.Thread(target=liar.server.serve, daemon=True).start()
        yield liar, certificate


def test_only_the_named_authority_is_trusted(tls_liar: tuple[LyingProvider, Path]) -> None:
    liar, certificate = tls_liar
    client = liar.client(ca_file=certificate)
    _, pending = client.begin()
    liar.token = signed(liar.claims(pending))
    assert client.finish(liar.params(pending), pending).subject == "alice"
    with refused(Fault.UNREACHABLE):
        liar.client().begin()


def test_a_provider_elsewhere_cannot_send_us_to_our_own_loopback(
    tls_liar: tuple[LyingProvider, Path],
) -> None:
    liar, certificate = tls_liar
    liar.metadata["jwks_uri"] = "http://127.0.0.1:8300/jwks"
    with refused(Fault.INSECURE_ENDPOINT):
        liar.client(ca_file=certificate).begin()


def test_a_certificate_authority_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no PEM")
    for path in (tmp_path / "ca.pem", tmp_path / "missing"):
        settings = OidcSettings(
            issuer="https://provider.example",
            client_id=CLIENT_ID,
            client_secret=SecretStr("secret"),
            redirect_url="https://vault.example/callback",
            ca_file=path,
        )
        with pytest.raises(SettingsError, match="CA_FILE"):
            OidcProvider(settings)

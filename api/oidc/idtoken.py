"""Whether an ID token proves what it says: the steps of OpenID Connect Core 1.0 §3.1.3.7, a helper each.

The signature is always checked, also where the code flow would let TLS stand for it. Claims are read only
after it, so that what is refused by a claim's reason was at least said by the provider.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, OctKey, RSAKey

from api.oidc.errors import Refusal, SignInRefused

LEEWAY: Final = timedelta(seconds=60)
"""By how much the provider's clock may differ from ours."""

MAX_SUBJECT_CHARACTERS: Final = 255
"""OpenID Connect Core 1.0 §2."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 §3.3."""


class _Algorithm(NamedTuple):
    key_type: str
    curve: str | None
    digest: str


_ALGORITHMS: Final = {
    "RS256": _Algorithm("RSA", None, "sha256"),
    "PS256": _Algorithm("RSA", None, "sha256"),
    "ES256": _Algorithm("EC", "P-256", "sha256"),
    "EdDSA": _Algorithm("OKP", "Ed25519", "sha512"),
}
"""Signatures only: with `none` there is nothing to check, and for HS* who can check can also sign."""


@dataclass(frozen=True)
class VerifiedIdentity:
    """Somebody whom a provider vouches for. Only the pair of issuer and subject identifies them.

    Attributes:
        authenticated_at: when they proved to the provider who they are; None: it does not say.
    """

    issuer: str
    subject: str
    authenticated_at: datetime | None


@dataclass(frozen=True)
class Expected:
    """What the token has to say.

    Attributes:
        max_age: since the person proved who they are; None: any.
    """

    issuer: str
    client_id: str
    nonce: str
    max_age: timedelta | None
    now: datetime


def verify_id_token(
    token: str, access_token: str | None, keys: Sequence[Any], expected: Expected
) -> VerifiedIdentity:
    """Who signed in.

    Args:
        keys: the provider's, as JWKs that nobody has judged yet.

    Raises:
        SignInRefused.
    """
    algorithm, kid = _header(token)  # 1. an algorithm we allow
    key = _key(keys, algorithm, kid)  # 2. one key of the provider's that fits it
    claims = _signed_claims(token, key, algorithm)  # 3. its signature
    _check_issuer(claims, expected)  # 4.
    _check_audience(claims, expected)  # 5. for us, and for nobody else
    _check_times(claims, expected)  # 6.
    _check_nonce(claims, expected)  # 7. an answer to this question, and not a replayed one
    _check_access_token(claims, access_token, algorithm)  # 8. given out together
    authenticated_at = _authenticated_at(claims, expected)  # 9. recently, where that was asked
    return VerifiedIdentity(expected.issuer, _subject(claims), authenticated_at)


def same(received: object, ours: str) -> bool:
    """Whether they are equal, in a time that does not tell how far."""
    if not isinstance(received, str):
        return False
    return hmac.compare_digest(received.encode(errors="surrogatepass"), ours.encode())


def _header(token: str) -> tuple[str, str | None]:
    try:
        header: object = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, RecursionError):
        raise SignInRefused(Refusal.TOKEN_MALFORMED) from None
    if not isinstance(header, dict):
        raise SignInRefused(Refusal.TOKEN_MALFORMED)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise SignInRefused(Refusal.ALGORITHM)
    if kid is not None and not isinstance(kid, str):
        raise SignInRefused(Refusal.TOKEN_MALFORMED)
    return algorithm, kid


def _key(keys: Sequence[Any], algorithm: str, kid: str | None) -> Key:
    """One and no choice: without a `kid` there must be only one to sign with (Core §10.1)."""
    signing = [key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"]
    if kid is None and len(signing) > 1:
        raise SignInRefused(Refusal.KEY_UNKNOWN)
    fitting = [jwk for jwk in signing if _fits(jwk, algorithm, kid)]
    key = _imported(fitting[0]) if len(fitting) == 1 else None
    if key is None:
        raise SignInRefused(Refusal.KEY_UNKNOWN)
    return key


def _fits(jwk: dict[str, Any], algorithm: str, kid: str | None) -> bool:
    wanted = _ALGORITHMS[algorithm]
    return (
        (kid is None or jwk.get("kid") == kid)
        and jwk.get("kty") == wanted.key_type
        and (wanted.curve is None or jwk.get("crv") == wanted.curve)
        and jwk.get("alg", algorithm) == algorithm
    )


def _imported(jwk: dict[str, Any]) -> Key | None:
    try:
        key = JWKRegistry.import_key(jwk)
    except Exception:  # noqa: BLE001 (joserfc passes on whatever the layers below raise)
        return None
    if isinstance(key, OctKey) or (isinstance(key, RSAKey) and _bits(jwk) < MIN_RSA_BITS):
        return None
    return key


def _bits(rsa: dict[str, Any]) -> int:
    modulus = base64.urlsafe_b64decode(f"{rsa['n']}==")
    return int.from_bytes(modulus).bit_length()


def _signed_claims(token: str, key: Key, algorithm: str) -> dict[str, Any]:
    # Unknown header parameters are to be ignored (RFC 7515 §4); those in `crit` are refused all the same.
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        return jwt.decode(token, key, algorithms=[algorithm], registry=registry).claims
    except (JoseError, ValueError, TypeError, RecursionError):
        raise SignInRefused(Refusal.SIGNATURE) from None


def _check_issuer(claims: dict[str, Any], expected: Expected) -> None:
    if claims.get("iss") != expected.issuer:
        raise SignInRefused(Refusal.ISSUER)


def _check_audience(claims: dict[str, Any], expected: Expected) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    if expected.client_id not in audiences:
        raise SignInRefused(Refusal.AUDIENCE)
    if party != expected.client_id and (party is not None or len(audiences) > 1):
        raise SignInRefused(Refusal.AUDIENCE)


def _check_times(claims: dict[str, Any], expected: Expected) -> None:
    now = expected.now.timestamp()
    if _moment(claims, "exp", Refusal.EXPIRED) + LEEWAY.total_seconds() <= now:
        raise SignInRefused(Refusal.EXPIRED)
    begins = [_moment(claims, "iat", Refusal.NOT_YET_VALID)]
    if "nbf" in claims:
        begins.append(_moment(claims, "nbf", Refusal.NOT_YET_VALID))
    if max(begins) - LEEWAY.total_seconds() > now:
        raise SignInRefused(Refusal.NOT_YET_VALID)


def _check_nonce(claims: dict[str, Any], expected: Expected) -> None:
    if not same(claims.get("nonce"), expected.nonce):
        raise SignInRefused(Refusal.NONCE)


def _check_access_token(claims: dict[str, Any], access_token: str | None, algorithm: str) -> None:
    """Core §3.1.3.6: the left half of the digest that belongs to the algorithm."""
    if "at_hash" not in claims:
        return
    token = (access_token or "").encode(errors="surrogatepass")
    digest = hashlib.new(_ALGORITHMS[algorithm].digest, token).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if access_token is None or not same(claims["at_hash"], half):
        raise SignInRefused(Refusal.ACCESS_TOKEN_HASH)


def _authenticated_at(claims: dict[str, Any], expected: Expected) -> datetime | None:
    if "auth_time" not in claims:
        if expected.max_age is not None:
            raise SignInRefused(Refusal.AUTH_TIME)
        return None
    at = _moment(claims, "auth_time", Refusal.AUTH_TIME)
    age = expected.now.timestamp() - at
    if age < -LEEWAY.total_seconds():
        raise SignInRefused(Refusal.AUTH_TIME)
    if expected.max_age is not None and age > expected.max_age.total_seconds():
        raise SignInRefused(Refusal.AUTH_TIME)
    return datetime.fromtimestamp(at, UTC)


def _subject(claims: dict[str, Any]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS:
        raise SignInRefused(Refusal.SUBJECT)
    # No control characters either: it goes into a database, a log and a console.
    if not (subject.isascii() and subject.isprintable()):
        raise SignInRefused(Refusal.SUBJECT)
    return subject


def _moment(claims: dict[str, Any], name: str, refusal: Refusal) -> float:
    """Seconds since 1970. Python's JSON has NaN, too; it lies between no bounds."""
    found = claims.get(name)
    if (
        isinstance(found, int | float)
        and not isinstance(found, bool)
        and 0 <= found <= _LAST_MOMENT
    ):
        return float(found)
    raise SignInRefused(refusal)


_LAST_MOMENT: Final = datetime.max.replace(tzinfo=UTC).timestamp() - 1

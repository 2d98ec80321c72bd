"""TOTP secrets: RFC 6238's vectors, steps that count, and a wrap bound to vault and person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from keymgmt.errors import DecryptionFailed
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import Purpose
from keymgmt.rootkey import RootKey
from keymgmt.totp import STEP_SECONDS, TotpSecret, unwrap, wrap

VAULT = UUID("0198aaaa-0000-7000-8000-000000000001")
OTHER_VAULT = UUID("0198aaaa-0000-7000-8000-000000000002")
PERSON = UUID("0198bbbb-0000-7000-8000-000000000001")
OTHER_PERSON = UUID("0198bbbb-0000-7000-8000-000000000002")
KEK = Purpose.AUTHORITY
RFC_6238 = TotpSecret(b"12345678901234567890" + bytes(12))


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = LocalKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(KEK)
    return keyring


@pytest.mark.parametrize(
    ("seconds", "code"),
    # RFC 6238 appendix B, SHA-1; of its eight digits our six are the last.
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert RFC_6238.step_of(code, at) == seconds // STEP_SECONDS
    assert RFC_6238.step_of(f"{code[:3]} {code[3:]}", at) is not None, "as apps show it"


def test_a_code_counts_one_step_early_and_late_and_no_longer() -> None:
    at = datetime.fromtimestamp(1111111109, UTC)
    step = timedelta(seconds=STEP_SECONDS)
    found = [RFC_6238.step_of("081804", at + n * step) for n in (-2, -1, 0, 1, 2)]
    assert found == [None, 37037036, 37037036, 37037036, None]


@pytest.mark.parametrize("code", ["", "28708", "2870820", "２８７０８２", "28708x", "-87082"])
def test_what_is_no_code_is_none(code: str) -> None:
    assert RFC_6238.step_of(code, datetime.fromtimestamp(59, UTC)) is None


def test_an_app_reads_the_secret_from_the_uri() -> None:
    secret = TotpSecret.generate()
    parts = urlsplit(secret.uri("chen.wei"))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert parse_qs(parts.query)["secret"] == [secret.base32]
    assert secret.base32 not in repr(secret)


def test_a_wrapped_secret_opens_for_its_own_person_and_vault_only(keyring: LocalKeyring) -> None:
    secret = TotpSecret.generate()
    wrapped = wrap(keyring, KEK, VAULT, PERSON, secret)
    assert unwrap(keyring, KEK, VAULT, PERSON, wrapped).base32 == secret.base32
    for vault, person in ((VAULT, OTHER_PERSON), (OTHER_VAULT, PERSON)):
        with pytest.raises(DecryptionFailed):
            unwrap(keyring, KEK, vault, person, wrapped)

"""The encoding that seals cover: a decoder written from its description reads every row back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.access.sealed_rows import (
    API_KEYS,
    APPROVALS,
    GRANTS,
    OIDC_IDENTITIES,
    PRINCIPALS,
    ROLE_GRANTS,
    SEALED,
    SESSIONS,
    SealedTable,
    encode,
)
from vault.tables import metadata

TAG = b"strongroom/authority/v1"
VAULT = UUID("0198aaaa-0000-7000-8000-000000000001")
PRINCIPAL = UUID("0198bbbb-0000-7000-8000-000000000002")

moments = st.datetimes(timezones=st.just(UTC))
scopes = st.lists(st.one_of(st.text(max_size=8), st.none()), max_size=4)
integers = st.integers(-(2**63), 2**63 - 1)
scalars = st.one_of(
    st.none(), st.text(max_size=8), st.binary(max_size=8), moments, integers, st.uuids()
)
values = st.lists(
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6), max_size=7
)
rows = st.tuples(st.uuids(), st.sampled_from(["principals", "api_keys"]), values)


def decode(encoded: bytes) -> tuple[Any, ...]:
    """By the description in `vault.access.sealed_rows`, not by its code. Raises: AssertionError."""
    assert encoded.startswith(TAG)
    vault_id, table, *columns = fields(encoded[len(TAG) :])
    return vault_id, table, columns


def fields(rest: bytes) -> list[Any]:
    found = []
    while rest:
        kind, length = rest[:1], int.from_bytes(rest[1:5], "big")
        body, rest = rest[5 : 5 + length], rest[5 + length :]
        assert len(body) == length
        found.append(value(kind, body))
    return found


def value(kind: bytes, body: bytes) -> Any:
    if kind == b"N":
        assert body == b""
        return None
    if kind == b"L":
        return fields(body)
    if kind in (b"I", b"M"):
        assert len(body) == 8
        number = int.from_bytes(body, "big", signed=True)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return number if kind == b"I" else epoch + timedelta(microseconds=number)
    if kind == b"U":
        return UUID(bytes=body)
    assert kind in (b"S", b"B")
    return body.decode() if kind == b"S" else body


@given(rows)
def test_every_row_can_be_read_back_from_its_encoding(row: tuple[UUID, str, list[Any]]) -> None:
    vault_id, table, columns = row
    assert decode(encode(vault_id, table, columns)) == (vault_id, table, columns)


@given(rows, rows)
def test_no_two_rows_share_an_encoding(
    one: tuple[UUID, str, list[Any]], other: tuple[UUID, str, list[Any]]
) -> None:
    # As reprs, for Python takes 0 and False, or two moments of different zones, for equal.
    assert (encode(*one) == encode(*other)) is (repr(one) == repr(other))


@given(scopes, scopes, st.text(max_size=8), st.text(max_size=8))
def test_what_moves_from_one_column_to_the_next_is_another_row(
    scopes_: list[str | None], more: list[str | None], name: str, department: str
) -> None:
    row = [PRINCIPAL, name, department, scopes_, None, 1]
    moved = [PRINCIPAL, name + department, "", scopes_, None, 1]
    merged = [PRINCIPAL, name, department, [scopes_, more], None, 1]
    assert (encode(VAULT, "principals", row) == encode(VAULT, "principals", moved)) is (
        department == ""
    )
    assert encode(VAULT, "principals", row) != encode(VAULT, "principals", merged)


def test_the_encoding_of_a_row_never_changes() -> None:
    row = (
        *("0123456789abcdef", PRINCIPAL, bytes(32), ["read", "write"], None),
        *(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), 7),
    )
    expected = (
        TAG.hex()
        + "55000000100198aaaa000070008000000000000001"
        + "5300000008"
        + b"api_keys".hex()
        + "5300000010"
        + b"0123456789abcdef".hex()
        + "55000000100198bbbb000070008000000000000002"
        + "4200000020"
        + "00" * 32
        + "4c000000135300000004"
        + b"read".hex()
        + "5300000005"
        + b"write".hex()
        + "4e00000000"
        + "4d00000008"
        + "0006475ef64cf346"
        + "4900000008"
        + "0000000000000007"
    )
    assert encode(VAULT, "api_keys", row).hex() == expected


def test_a_later_column_counts_once_it_holds_more_than_its_default() -> None:
    old = {
        "id": PRINCIPAL,
        "name": "crm",
        "department": None,
        "scopes": ["read"],
        "disabled_at": None,
        "authority_epoch": 1,
    }
    as_before = PRINCIPALS.encode(VAULT, old | dict(PRINCIPALS.later))
    assert as_before == encode(VAULT, "principals", list(old.values()))
    named = PRINCIPALS.encode(VAULT, old | dict(PRINCIPALS.later) | {"person_id": VAULT})
    assert decode(named) == (VAULT, "principals", [*old.values(), "person_id", VAULT])


@pytest.mark.parametrize(
    ("sealed", "unsealed"),
    [
        (PRINCIPALS, {"created_at"}),
        (API_KEYS, {"created_at", "last_used_at"}),
        (ROLE_GRANTS, {"granted_at", "duty"}),
        (OIDC_IDENTITIES, {"linked_at"}),
        (SESSIONS, {"began_at", "last_seen_at"}),
        (APPROVALS, {"requested_at"}),
        (GRANTS, {"granted_at"}),
    ],
    ids=lambda given: given.name if isinstance(given, SealedTable) else "",
)
def test_all_columns_are_sealed_but_those_that_give_nothing(
    sealed: SealedTable, unsealed: set[str]
) -> None:
    ours = {"seal", "seal_key_id"}
    assert set(sealed.table.c.keys()) - set(sealed.all_columns) - ours == unsealed
    assert sealed.columns[0] == "id"
    if sealed.follows_principal:
        assert {"principal_id", "revoked_at", "authority_epoch"} <= set(sealed.columns)


def test_every_table_with_a_seal_is_known() -> None:
    bearing = {table.name for table in metadata.sorted_tables if "seal" in table.c}
    assert bearing == {sealed.name for sealed in SEALED}


@pytest.mark.parametrize("wrong", [1.5, {"a": 1}, object()])
def test_what_no_column_holds_is_not_encoded(wrong: object) -> None:
    with pytest.raises(TypeError):
        encode(VAULT, "principals", [wrong])

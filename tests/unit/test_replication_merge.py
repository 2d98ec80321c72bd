"""The merge of a listing with what PostgreSQL expects, against a naive difference of sets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from replication.merge import REST, Difference, Finding, differences, windows
from vault.inventory import Expected
from vault.objects.keys import object_key
from vault.objects.store import StoredObject

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)

# Few ids, some of them neighbours, so that both sides often have the same ones.
ids = st.integers(0, 30).map(lambda n: UUID(int=(n // 3) << 120 | n))
sizes = st.integers(0, 3)
expectations = st.dictionaries(ids, st.tuples(sizes, st.booleans()), max_size=25)
listings = st.dictionaries(ids, sizes, max_size=25)
junk = st.sets(
    st.sampled_from(
        ["objects", "objects/", "objects/00/x", "objects/0a", "objects/zz/y", "site/mark"]
    )
)


def rows_of(wanted: dict[UUID, tuple[int, bool]]) -> list[Expected]:
    return [Expected(each, size, is_counted) for each, (size, is_counted) in sorted(wanted.items())]


def listed(
    found: dict[UUID, int], others: set[str] | frozenset[str] = frozenset()
) -> list[StoredObject]:
    keys = {object_key(each): size for each, size in found.items()} | dict.fromkeys(others, 9)
    return [StoredObject(key, size, MOMENT) for key, size in sorted(keys.items())]


def naive(wanted: dict[UUID, tuple[int, bool]], found: dict[UUID, int]) -> list[Finding]:
    findings = []
    for each in sorted(wanted.keys() | found.keys()):
        if each not in found:
            size, is_counted = wanted[each]
            findings.append(Finding(Difference.MISSING, each, size, is_counted))
        elif each not in wanted:
            findings.append(Finding(Difference.EXTRA, each, found[each], is_counted=False))
        elif wanted[each][0] != found[each]:
            findings.append(Finding(Difference.WRONG_SIZE, each, found[each], wanted[each][1]))
    return findings


@given(expectations, listings, junk)
def test_differences_are_those_of_the_sets(
    wanted: dict[UUID, tuple[int, bool]], found: dict[UUID, int], others: set[str]
) -> None:
    assert list(differences(rows_of(wanted), listed(found, others))) == naive(wanted, found)


@given(expectations, listings, junk, st.integers(1, 7))
def test_windows_judged_one_by_one_give_what_the_whole_gives(
    wanted: dict[UUID, tuple[int, bool]],
    found: dict[UUID, int],
    others: set[str],
    batch: int,
) -> None:
    rows = rows_of(wanted)
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    cut = list(windows(batches, iter(listed(found, others))))
    assert [row for window, _ in cut for row in window] == rows
    assert [each for _, window in cut for each in window] == listed(found, others)
    judged = [finding for window in cut for finding in differences(*window)]
    assert judged == naive(wanted, found)


def test_what_is_listed_behind_the_last_row_comes_in_windows_of_bounded_size() -> None:
    found = {UUID(int=number << 100): 1 for number in range(2 * REST + 1)}
    cut = list(windows([], iter(listed(found))))
    assert [len(window) for _, window in cut] == [REST, REST, 1]


def test_a_listing_is_read_no_further_than_the_batch_that_is_judged() -> None:
    read: list[str] = []

    def lazily() -> Iterator[StoredObject]:
        for each in listed({UUID(int=number): 1 for number in range(10)}):
            read.append(each.key)
            yield each

    rows = rows_of({UUID(int=number): (1, True) for number in range(10)})
    next(windows([rows[:3], rows[3:]], lazily()))
    assert len(read) == 4

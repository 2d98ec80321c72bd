"""The binding's bytes are pinned: a changed byte would make every stored document unreadable."""

from __future__ import annotations

from uuid import UUID

import pytest

from keymgmt.binding import associated_data

IDS = {
    "vault_id": UUID(int=1),
    "document_id": UUID(int=2),
    "version_id": UUID(int=3),
    "object_id": UUID(int=4),
}


def test_the_binding_is_a_tag_and_four_length_prefixed_ids() -> None:
    ids = b"".join(b"\x10" + bytes(15) + bytes([n]) for n in (1, 2, 3, 4))
    assert associated_data(**IDS) == b"strongroom/object/v1" + ids


@pytest.mark.parametrize("changed", IDS)
def test_each_id_changes_the_binding(changed: str) -> None:
    assert associated_data(**{**IDS, changed: UUID(int=9)}) != associated_data(**IDS)


def test_two_ids_that_changed_places_change_the_binding() -> None:
    swapped = {**IDS, "document_id": IDS["version_id"], "version_id": IDS["document_id"]}
    assert associated_data(**swapped) != associated_data(**IDS)

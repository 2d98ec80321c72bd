"""What ties a version's bytes and its wrapped key to their place in one vault.

Nothing in it ever changes, and all of it is allocated before the upload starts; a row or object moved
elsewhere therefore no longer decrypts.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

_TAG: Final = b"strongroom/object/v1"
_CATALOGUE_TAG: Final = b"strongroom/catalogue/v1"


def associated_data(
    *, vault_id: UUID, document_id: UUID, version_id: UUID, object_id: UUID
) -> bytes:
    """The associated data of an object and the KEK context of its data key, 88 bytes.

        offset   width   what
        0        20      "strongroom/object/v1"
        20       17      16 (the length), then the vault id
        37       17      16, document id
        54       17      16, version id
        71       17      16, object id

    Ids are the 16 bytes of RFC 9562 §4, big-endian.
    """
    ids = (vault_id, document_id, version_id, object_id)
    return _TAG + b"".join(_length_prefixed(each.bytes) for each in ids)


def catalogue_binding(*, vault_id: UUID, catalogue_id: UUID) -> bytes:
    """The same for a key catalogue, 57 bytes: its tag (23), 16, the vault id, 16, the catalogue's."""
    ids = (vault_id, catalogue_id)
    return _CATALOGUE_TAG + b"".join(_length_prefixed(each.bytes) for each in ids)


def _length_prefixed(field: bytes) -> bytes:
    return bytes([len(field)]) + field

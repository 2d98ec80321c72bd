"""Nobody needs us to read their data: a stored object and its data key open with the `tink` package."""

from __future__ import annotations

import os
from uuid import UUID

from keymgmt.binding import associated_data
from keymgmt.provider import Purpose, WrappedKey
from tests.api.helpers import upload
from tests.api.test_damage import object_file
from tests.running import RunningService
from tests.sealed_objects import TinkPeer
from vault.model import Document
from vault.records import find_document


def test_an_object_from_the_store_opens_with_tink_and_its_key(service: RunningService) -> None:
    content = os.urandom(3 * 2**20)
    created = upload(service.demo, content)
    document = _stored(service, UUID(created["id"]))
    binding = associated_data(
        vault_id=service.services.vault_id,
        document_id=document.id,
        version_id=document.version.id,
        object_id=document.version.object_id,
    )
    wrapped = WrappedKey(document.version.wrapped_key)
    data_key = service.services.keys.unwrap(Purpose.DOCUMENTS, binding, wrapped)
    sealed = object_file(service, created).read_bytes()
    assert TinkPeer(data_key).open(sealed, binding) == content


def _stored(service: RunningService, document_id: UUID) -> Document:
    with service.services.database.transaction() as connection:
        return find_document(connection, document_id)

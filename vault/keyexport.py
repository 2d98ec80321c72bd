"""Exporting a data key: the exit for whoever has to read a stored object without Strongroom."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from keymgmt.tinkkeyset import keyset
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.contents import readable
from vault.context import as_caller
from vault.database import Database
from vault.objects.keys import object_key
from vault.opening import DocumentKeys


@dataclass(frozen=True)
class ExportedKey:
    """A key on its way out.

    Attributes:
        keyset: a cleartext Tink keyset.
        associated_data: base64.
        object_key: where the object lies in every site's store.
        size_bytes: of the document.
    """

    keyset: Mapping[str, Any]
    associated_data: str
    object_key: str
    ciphertext_sha256: str
    size_bytes: int


class KeyExport:
    """Hands out single data keys, each with an event."""

    def __init__(self, database: Database, keys: DocumentKeys) -> None:
        self._database = database
        self._keys = keys

    def run(self, actor: Actor, document_id: UUID, number: int) -> ExportedKey:
        """The data key of one version.

        Raises:
            NotAllowed, NotFound, DocumentInBin: refused.
            DecryptionFailed, KeyVersionRetired: the row is damaged.
            KeyServiceUnavailable, DatabaseUnavailable.
        """
        require(actor.caller, Action.KEY_EXPORT)
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = readable(connection, actor, Action.KEY_EXPORT, document_id, number)
            event = AccessEvent(EventType.DATA_KEY_EXPORTED, actor, document_id, number)
            record(connection, event)
        version = document.version
        data_key, binding = self._keys.open(document_id, version)
        return ExportedKey(
            keyset=keyset(data_key),
            associated_data=base64.b64encode(binding).decode(),
            object_key=object_key(version.object_id),
            ciphertext_sha256=version.ciphertext_sha256.hex(),
            size_bytes=version.size_bytes,
        )

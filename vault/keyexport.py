"""Exporting a data key: the exit for whoever has to read a stored object without Strongroom."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from keymgmt.tinkkeyset import keyset
from vault.access.approvals import Owned, Target, id_part
from vault.access.authorise import require
from vault.access.grants import Grants
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.contents import readable
from vault.context import as_caller
from vault.database import Database
from vault.errors import InvalidValue
from vault.objects.keys import object_key
from vault.opening import DocumentKeys

_MAX_DIGITS = 10


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

    def __init__(self, database: Database, keys: DocumentKeys, grants: Grants) -> None:
        self._database = database
        self._keys = keys
        self._grants = grants

    def run(self, actor: Actor, document_id: UUID, number: int) -> ExportedKey:
        """The data key of one version. It takes a grant, which the export uses up.

        Raises:
            NotAllowed, ApprovalNeeded, NotFound, DocumentInBin: refused.
            DecryptionFailed, KeyVersionRetired: the row is damaged.
            KeyServiceUnavailable, DatabaseUnavailable.
        """
        require(actor.caller, Action.KEY_EXPORT)
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = readable(connection, actor, Action.KEY_EXPORT, document_id, number)
            target = _target(document_id, number)
            self._grants.use(connection, actor, Action.KEY_EXPORT, target, document.department)
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


def owned(connection: Connection, actor: Actor, target: Target) -> Owned:
    """A version whose key is to be exported, as the target of an approval; the newest if none is named.

    Raises: NotAllowed, NotFound, DocumentInBin, InvalidValue.
    """
    document_id = id_part(target, "document")
    number = target.get("version")
    if number is not None and not (number.isdecimal() and len(number) < _MAX_DIGITS):
        raise InvalidValue("'version' of the target is a number")
    version = int(number) if number else None
    document = readable(connection, actor, Action.KEY_EXPORT, document_id, version)
    return Owned(_target(document_id, document.version.number), document.department)


def _target(document_id: UUID, number: int) -> Target:
    return {"document": str(document_id), "version": str(number)}

"""Copies and deletes of single objects between sites. Ciphertext only; no key ever comes here.

A copy counts once its bytes were read back from the target and hashed: a store's word, or an ETag, is no
proof. Repeating any of it is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from vault.journal import Operation, Task
from vault.objects.keys import object_key
from vault.objects.reading import parts, sha256_of
from vault.objects.store import PART_SIZE_BYTES, ObjectStore, PartUpload


class CopyDiffers(Exception):
    """The bytes are not those that the version's row promises; `site` has the wrong ones."""

    def __init__(self, site: str) -> None:
        super().__init__(f"the object at site {site} is not what was uploaded")
        self.site = site


class Copier:
    """Carries out journal tasks."""

    def __init__(self, stores: Mapping[str, ObjectStore]) -> None:
        self._stores = stores

    def perform(self, task: Task) -> None:
        """Copy and verify, or delete.

        Raises:
            CopyDiffers: source or copy is damaged; nothing counts.
            StoreError: one of the sites is away.
        """
        self._drop_leftovers(task)
        if task.operation is Operation.DELETE:
            self._stores[task.site].delete(object_key(task.object_id))
        elif task.source is not None:
            self._copy(task, self._stores[task.source], self._stores[task.site])

    def _drop_leftovers(self, task: Task) -> None:
        """What a worker that was killed in mid-copy left open."""
        store = self._stores[task.site]
        for left in store.pending(object_key(task.object_id)):
            store.abort_pending(left.key, left.upload_id)

    def _copy(self, task: Task, source: ObjectStore, target: ObjectStore) -> None:
        key = object_key(task.object_id)
        if _send(source, target, key, task.size_bytes or 0) != task.sha256:
            target.delete(key)
            raise CopyDiffers(source.site)
        if sha256_of(target, key) != task.sha256:
            target.delete(key)
            raise CopyDiffers(target.site)


def _send(source: ObjectStore, target: ObjectStore, key: str, size_bytes: int) -> bytes:
    """Stream one object over; returns the digest of what was read at the source."""
    digest = hashlib.sha256()
    if size_bytes <= PART_SIZE_BYTES:
        body = b"".join(bytes(part) for part in parts(source, key))
        digest.update(body)
        target.put(key, body)
        return digest.digest()
    upload = target.begin_parts(key)
    try:
        _send_parts(upload, source, key, digest)
    except BaseException:
        upload.abort()
        raise
    return digest.digest()


def _send_parts(upload: PartUpload, source: ObjectStore, key: str, digest: hashlib._Hash) -> None:
    for number, part in enumerate(parts(source, key), start=1):
        digest.update(part)
        upload.put_part(number, part)
    upload.complete()

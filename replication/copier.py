"""Copies and deletes of single objects between sites. Ciphertext only; no key ever comes here.

A copy counts once its bytes were read back from the target and hashed: a store's word, or an ETag, is no
proof. That also proves what was read at the source, so a first copy hashes that only when something is wrong.
Any other may find something at the target: it looks at both first, and replaces nothing by worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vault.journal import Reason, Task
from vault.objects.keys import object_key
from vault.objects.reading import parts, sha256_of
from vault.objects.store import (
    PART_SIZE_BYTES,
    ObjectMissing,
    ObjectStore,
    PartUpload,
    StoreError,
    UploadMissing,
)

Renew = Callable[[str | None], bool]
"""Keeps the task while a copy takes long, and notes the multipart upload to go on with; False: it is lost."""


class TaskLost(Exception):
    """Another worker has the task by now: touch nothing any more."""


class SourceUnfit(Exception):
    """The copy that should be copied is missing or wrong itself."""

    def __init__(self, site: str, *, is_missing: bool) -> None:
        what = "missing" if is_missing else "not what was uploaded"
        super().__init__(f"the object at site {site} is {what}")
        self.site = site
        self.is_missing = is_missing


class TargetLies(Exception):
    """The target took the bytes and does not give them back."""

    def __init__(self, site: str) -> None:
        super().__init__(f"site {site} does not give back what it was given")
        self.site = site


@dataclass(frozen=True)
class Copier:
    """Carries out journal tasks."""

    stores: Mapping[str, ObjectStore]

    def source_of(self, task: Task) -> str:
        """The site that a task copies from: the other one."""
        return next(site for site in self.stores if site != task.site)

    def delete(self, task: Task) -> None:
        """Remove the object and what was left of attempts to copy it. Raises: ObjectLocked, StoreError."""
        store, key = self.stores[task.site], object_key(task.object_id)
        _drop_leftovers(store, key, kept=None)
        store.delete(key)

    def copy(self, task: Task, renew: Renew) -> str | None:
        """Copy, read back and compare.

        Returns: the site that was copied from; None: what is there is what should be.

        Raises:
            SourceUnfit, TargetLies: nothing counts.
            TaskLost: somebody else does it.
            StoreError: one of the sites failed; its `site` says which.
        """
        assert task.sha256 is not None
        key = object_key(task.object_id)
        source, target = self.stores[self.source_of(task)], self.stores[task.site]
        if task.attempts > 1:
            _drop_leftovers(target, key, kept=task.upload_id)
        found = (
            None if _is_first(task) else _digest(target, key, lambda: _keep(renew, task.upload_id))
        )
        # What is there must not be replaced if it is whole: by now it may be the last good copy.
        if found == task.sha256:
            return None
        try:
            if found is not None:
                _require_whole(task, source, renew)
            self._send(task, source, target, renew)
        except ObjectMissing as exc:
            if exc.site != source.site:
                raise
            raise SourceUnfit(source.site, is_missing=True) from exc
        if _digest(target, key, lambda: _keep(renew, None)) != task.sha256:
            self._blame(task, source, target)
        return source.site

    def _send(self, task: Task, source: ObjectStore, target: ObjectStore, renew: Renew) -> None:
        key = object_key(task.object_id)
        if task.size_bytes <= PART_SIZE_BYTES:
            body = b"".join(bytes(part) for part in parts(source, key))
            target.put(key, body, locked_until=task.locked_until)
            return
        upload = _begin(task, target)
        _keep(renew, upload.upload_id)
        for number, part in enumerate(
            parts(source, key, first=upload.parts_done + 1), start=upload.parts_done + 1
        ):
            upload.put_part(number, part)
            _keep(renew, upload.upload_id)
        upload.complete()
        _keep(renew, None)

    def _blame(self, task: Task, source: ObjectStore, target: ObjectStore) -> None:
        key = object_key(task.object_id)
        with suppress(StoreError):
            target.delete(key)
        try:
            is_whole = sha256_of(source, key) == task.sha256
        except ObjectMissing as exc:
            raise SourceUnfit(source.site, is_missing=True) from exc
        if not is_whole:
            raise SourceUnfit(source.site, is_missing=False)
        raise TargetLies(target.site)


def _is_first(task: Task) -> bool:
    """Whether nothing of the object can be at the target yet."""
    return task.attempts == 1 and task.reason in (Reason.UPLOAD, Reason.DEBT)


def _require_whole(task: Task, source: ObjectStore, renew: Renew) -> None:
    """Nothing that lies at the target is replaced by worse. Raises: SourceUnfit, ObjectMissing, TaskLost."""
    key = object_key(task.object_id)
    if sha256_of(source, key, each_part=lambda: _keep(renew, task.upload_id)) != task.sha256:
        raise SourceUnfit(source.site, is_missing=False)


def _begin(task: Task, target: ObjectStore) -> PartUpload:
    """The upload that an earlier try left open, or a new one."""
    key = object_key(task.object_id)
    if task.upload_id is not None:
        with suppress(UploadMissing):
            return target.resume_parts(key, task.upload_id)
    return target.begin_parts(key, locked_until=task.locked_until)


def _drop_leftovers(store: ObjectStore, key: str, *, kept: str | None) -> None:
    """What a worker that was killed in mid-copy left open, but for the upload to go on with."""
    for left in store.pending(key):
        if left.upload_id != kept:
            store.abort_pending(left.key, left.upload_id)


def _keep(renew: Renew, upload_id: str | None) -> None:
    if not renew(upload_id):
        raise TaskLost


def _digest(store: ObjectStore, key: str, still_ours: Callable[[], None]) -> bytes | None:
    """The digest of the object as the store gives it back; None if it is not there."""
    try:
        return sha256_of(store, key, each_part=still_ours)
    except ObjectMissing:
        return None

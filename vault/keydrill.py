"""The key fire-drill: does every data key still open, and is it the one that was committed to?

It unwraps all of them in batches and touches no object; keys stay in this process and are dropped at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyManagementError
from keymgmt.provider import KeyProvider, Purpose
from vault.jobrun import JobRun
from vault.wrapped_keys import StoredKey, WrappedKeys

MAX_NAMED: Final = 1000


class KeyDrill:
    """The work of the job `drill`."""

    def __init__(self, keys: KeyProvider, wrapped_keys: WrappedKeys) -> None:
        self._keys = keys
        self._wrapped_keys = wrapped_keys

    def run(self, run: JobRun) -> dict[str, Any]:
        """Open every key once; counts by KEK version and class, and what did not open.

        Raises: as `jobrun.Work`.
        """
        tally = _Tally(run.place)
        total = self._wrapped_keys.count()
        run.report(done=run.done, total=total, place=run.place)
        for batch in self._wrapped_keys.batches(tally.after):
            self._drill(tally, batch)
            run.report(done=tally.seen, total=total, place=tally.as_place())
        return tally.as_result()

    def _drill(self, tally: _Tally, batch: Sequence[StoredKey]) -> None:
        failed = self._open(tally, batch)
        if failed:
            # Rewrapped or purged since the batch was read? As they are now, once more.
            for key in self._open(tally, self._wrapped_keys.find(failed)):
                tally.fail(key)
        tally.after = batch[-1].place

    def _open(self, tally: _Tally, batch: Sequence[StoredKey]) -> list[StoredKey]:
        """Count those that open; return the others."""
        answers = self._keys.unwrap_batch(Purpose.DOCUMENTS, [key.bound for key in batch])
        failed = []
        for key, answer in zip(batch, answers, strict=True):
            if _is_committed(key, answer):
                tally.open(key)
            else:
                failed.append(key)
        return failed


class _Tally:
    """What was counted so far; its place in a job's row is all that outlives the process."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        after = place.get("after")
        self.after = after and (after[0], after[1])
        self._opened = Counter(
            {(version, name): count for version, name, count in place.get("opened", [])}
        )
        self._failed_count: int = place.get("failed_count", 0)
        self._failed: list[dict[str, Any]] = list(place.get("failed", []))

    @property
    def seen(self) -> int:
        return self._opened.total() + self._failed_count

    def open(self, key: StoredKey) -> None:
        self._opened[key.bound.wrapped.version, key.class_name] += 1

    def fail(self, key: StoredKey) -> None:
        self._failed_count += 1
        if len(self._failed) < MAX_NAMED:
            self._failed.append({"document": str(key.document_id), "version": key.number})

    def as_place(self) -> dict[str, Any]:
        return {
            "after": self.after,
            "opened": [[version, name, count] for (version, name), count in self._opened.items()],
            "failed_count": self._failed_count,
            "failed": self._failed,
        }

    def as_result(self) -> dict[str, Any]:
        opened = [
            {"kek_version": version, "class": name, "data_keys": count}
            for (version, name), count in sorted(self._opened.items())
        ]
        return {
            "opened": self._opened.total(),
            "by_kek_version_and_class": opened,
            "failed": self._failed_count,
            "failed_versions": self._failed,
        }


def _is_committed(key: StoredKey, answer: DataKey | KeyManagementError) -> bool:
    if not isinstance(answer, DataKey):
        return False
    try:
        verify(answer, key.bound.context, key.commitment)
    except DecryptionFailed:
        return False
    return True

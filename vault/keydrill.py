"""The key fire-drill: does every data key still open, and is it the one that was committed to?

It unwraps all of them in batches and touches no object; keys stay in this process and are dropped at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyManagementError
from keymgmt.provider import KeyProvider, Purpose
from vault.jobrun import JobRun
from vault.wrapped_keys import StoredKey, WrappedKeys

MAX_NAMED: Final = 1000

Batch = Sequence[StoredKey]
Answers = Sequence[DataKey | KeyManagementError]


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
        for batch, answers in self._answered(self._wrapped_keys.batches(tally.after)):
            self._drill(tally, batch, answers)
            run.report(done=tally.seen, total=total, place=tally.as_place())
        return tally.as_result()

    def _answered(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Answers]]:
        """Each batch with what came of it; the KMS works on the next one meanwhile."""
        with ThreadPoolExecutor(1, "unwraps-ahead") as ahead:
            before: tuple[Batch, Future[Answers]] | None = None
            for batch in batches:
                asked = ahead.submit(self._unwrap, batch)
                if before is not None:
                    yield before[0], before[1].result()
                before = batch, asked
            if before is not None:
                yield before[0], before[1].result()

    def _unwrap(self, batch: Batch) -> Answers:
        return self._keys.unwrap_batch(Purpose.DOCUMENTS, [key.bound for key in batch])

    def _drill(self, tally: _Tally, batch: Batch, answers: Answers) -> None:
        failed = self._opened(tally, batch, answers)
        if failed:
            # Rewrapped or purged since the batch was read? As they are now, once more.
            again = self._wrapped_keys.find(failed)
            for key in self._opened(tally, again, self._unwrap(again)):
                tally.fail(key)
        tally.after = batch[-1].place

    def _opened(self, tally: _Tally, batch: Batch, answers: Answers) -> list[StoredKey]:
        """Count those that open; return the others."""
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

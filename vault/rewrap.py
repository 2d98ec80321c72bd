"""Rewrapping: every data key moves under the newest KEK version. No object is touched.

Each batch is one call to the KMS and one statement that replaces only what is still as it was read, so
uploads, purges and a second run beside it do no harm. Between batches it pauses, so that uploads keep most
of the database and of the KMS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from vault.jobrun import JobFailed, JobRun
from vault.walk import Place
from vault.wrapped_keys import StoredKey, WrappedKeys

PAUSE_RATIO: Final = 0.1
"""Rest after a batch, as a share of the time it took."""

MAX_NAMED: Final = 100


@dataclass
class Progress:
    """How far a rewrap is; what a job keeps as its place.

    Attributes:
        target: KEK version to reach.
        total: keys that were under older versions when it began.
        failed: those that the KMS could not open, the first `MAX_NAMED` by id.
    """

    target: int
    total: int
    after: Place | None = None
    rewrapped: int = 0
    failed_count: int = 0
    failed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, place: Mapping[str, Any]) -> Self:
        """Out of a job's place."""
        after = place.get("after")
        return cls(**{**place, "after": after and (after[0], after[1])})

    def as_place(self) -> dict[str, Any]:
        """For a job's place."""
        return dict(vars(self))

    def as_result(self) -> dict[str, Any]:
        """For people."""
        return {
            "kek_version": self.target,
            "rewrapped": self.rewrapped,
            "failed": self.failed_count,
            "failed_versions": self.failed,
        }


class Rewrap:
    """The work of the job `rewrap`, and a part of that of `shred`."""

    def __init__(
        self,
        keys: KeyProvider,
        wrapped_keys: WrappedKeys,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._keys = keys
        self._wrapped_keys = wrapped_keys
        self._pause = pause

    def run(self, run: JobRun) -> dict[str, Any]:
        """Move every key under the version that was newest when the job began.

        Raises:
            JobFailed: some keys could not be opened; all others have moved.
            As `jobrun.Work`.
        """
        progress = Progress.of(run.place) if run.place else self.begin()
        self.move(progress, lambda: run.report(**_report(progress)))
        if progress.failed_count:
            raise JobFailed(
                f"{progress.failed_count} data keys could not be rewrapped, such as "
                f"{progress.failed[0]}; `strongroom key drill` names them all"
            )
        return progress.as_result()

    def begin(self) -> Progress:
        """A rewrap to the newest version."""
        target = self._keys.describe(Purpose.DOCUMENTS).latest
        return Progress(target, self._wrapped_keys.count(below=target))

    def move(self, progress: Progress, report: Callable[[], None]) -> None:
        """Go on from where `progress` is to the end. Raises: what `report` raises."""
        report()
        for batch in self._wrapped_keys.batches(progress.after, below=progress.target):
            began = time.monotonic()
            self._move_batch(progress, batch)
            progress.after = batch[-1].place
            report()
            self._pause((time.monotonic() - began) * PAUSE_RATIO)

    def _move_batch(self, progress: Progress, batch: Sequence[StoredKey]) -> None:
        answers = self._keys.rewrap_batch(Purpose.DOCUMENTS, [key.bound for key in batch])
        moved = []
        for key, answer in zip(batch, answers, strict=True):
            if isinstance(answer, WrappedKey):
                moved.append((key, answer))
            else:
                progress.failed_count += 1
                progress.failed = [*progress.failed, str(key.version_id)][:MAX_NAMED]
        progress.rewrapped += self._wrapped_keys.replace(moved)


def _report(progress: Progress) -> dict[str, Any]:
    done = progress.rewrapped + progress.failed_count
    return {"done": done, "total": progress.total, "place": progress.as_place()}

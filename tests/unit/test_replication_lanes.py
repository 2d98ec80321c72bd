"""How very large copies give way to small work."""

from __future__ import annotations

import time

from replication.worker import RECENT_SECONDS, SmallWork


def _pause(small_work: SmallWork) -> float:
    began = time.monotonic()
    small_work.give_way(0.05)
    return time.monotonic() - began


def test_a_very_large_copy_pauses_after_small_work_only() -> None:
    assert _pause(SmallWork()) < 0.05
    assert _pause(SmallWork(done_at=time.monotonic() - RECENT_SECONDS)) < 0.05
    assert _pause(SmallWork(done_at=time.monotonic())) >= 0.05

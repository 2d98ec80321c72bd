"""What PostgreSQL says during a commit, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from vault.commitwatch import Notices

CANCELLED = """WARNING:  canceling wait for synchronous replication due to user request
DETAIL:  The transaction has already committed locally, but might not have been replicated to the standby.
"""


@pytest.mark.parametrize(
    "notice",
    [
        CANCELLED,
        "WARNING:  canceling the wait for synchronous replication and terminating connection\n",
        "警告:  由于用户请求而取消同步复制等待\n",
        "WARNUNG:  storniere Warten auf synchrone Replikation\n",
    ],
)
def test_a_cancelled_wait_is_heard_in_any_language(notice: str) -> None:
    notices = Notices()
    notices.append(notice)
    assert notices.cancelled


def test_other_warnings_do_not_fail_a_commit() -> None:
    notices = Notices()
    notices.append('WARNING:  database "strongroom" has a collation version mismatch\n')
    notices.append("NOTICE:  identifier will be truncated\n")
    assert not notices.cancelled


def test_a_list_that_sqlalchemy_would_empty_is_not_what_notices_are() -> None:
    assert not isinstance(Notices(), Iterable)

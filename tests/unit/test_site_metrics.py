"""Metrics of the sites: every series is always there, lag is of uploads only, and a worker can show them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import httpx
import pytest
from prometheus_client import generate_latest

from api import metrics, sitemetrics
from api.settings import Settings, SettingsError, load
from replication.status import SiteStatus, Status
from tests.servers.s3 import free_port
from vault.journal import Backlog, Operation, Reason, Settled

LONG_AGO: Final = datetime(2026, 1, 1, tzinfo=UTC)

QUIET: Final = SiteStatus(
    name="b",
    is_local=False,
    is_up=True,
    is_fenced=False,
    epoch=1,
    capabilities=None,
    counted=0,
    verified=0,
    lost=0,
    backlog=(),
    oldest_unverified_at=None,
    oldest_unverified_seconds=None,
    oldest_read_at=None,
    read_within_period=1.0,
    open_incidents=0,
    mismatches=0,
    repairs=0,
)
BUSY: Final = replace(
    QUIET,
    is_up=False,
    is_fenced=True,
    lost=3,
    backlog=(
        Backlog("b", Operation.COPY, Reason.DEBT, 4, 1, 1000, LONG_AGO),
        Backlog("b", Operation.DELETE, Reason.PURGE, 2, 0, 0, LONG_AGO),
    ),
    oldest_unverified_seconds=77.0,
    read_within_period=0.25,
    open_incidents=5,
    mismatches=9,
    repairs=6,
)


def status(site: SiteStatus, scrubbed_seconds: float | None = None) -> Status:
    return Status(
        versions=0,
        epoch=1,
        sweep_hold=None,
        scrubbed_at=None,
        scrubbed_seconds=scrubbed_seconds,
        sites=(site,),
    )


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_everything_a_status_says_is_published() -> None:
    sitemetrics.publish(status(BUSY, 12.0))
    expected = {
        "up": 0,
        "fenced": 1,
        "oldest_unverified_seconds": 77,
        "parked": 1,
        "debt": 5,
        "lost_replicas": 3,
        "open_incidents": 5,
        "mismatches": 9,
        "repairs": 6,
        "read_within_period": 0.25,
    }
    assert {name: value(f"strongroom_site_{name}", site="b") for name in expected} == expected
    assert value("strongroom_scrub_age_seconds") == 12
    debt = {"site": "b", "operation": "copy", "reason": "debt"}
    assert value("strongroom_journal_backlog", **debt) == 4
    assert value("strongroom_journal_backlog_bytes", **debt) == 1000


def test_what_is_over_goes_back_to_zero_and_stays_a_series() -> None:
    sitemetrics.publish(status(BUSY))
    sitemetrics.publish(status(QUIET))
    for operation, reason in (("copy", "debt"), ("copy", "resync"), ("delete", "purge")):
        labels = {"site": "b", "operation": operation, "reason": reason}
        assert value("strongroom_journal_backlog", **labels) == 0
    assert value("strongroom_site_debt", site="b") == 0


@pytest.mark.parametrize("reason", list(Reason))
def test_only_uploads_count_for_the_lag(reason: Reason) -> None:
    def count() -> float:
        return value("strongroom_replication_lag_seconds_count", site="b") or 0

    before = count()
    sitemetrics.observe(Settled("b", reason, 0.2))
    assert count() - before == (reason in (Reason.UPLOAD, Reason.DEBT))


def test_a_worker_shows_the_metrics_where_it_is_told_to() -> None:
    listen = f"127.0.0.1:{free_port()}"
    with metrics.served(listen):
        shown = httpx.get(f"http://{listen}/metrics", trust_env=False)
    assert shown.status_code == 200
    assert shown.text.splitlines()[0] == generate_latest(metrics.REGISTRY).decode().splitlines()[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{listen}/metrics", trust_env=False)


def test_it_shows_them_nowhere_unless_it_is_told_to() -> None:
    assert Settings().worker_metrics_listen is None
    with metrics.served(None):
        pass


def test_where_to_show_them_is_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_WORKER_METRICS_LISTEN", "9100")
    with pytest.raises(SettingsError, match="STRONGROOM_WORKER_METRICS_LISTEN"):
        load()

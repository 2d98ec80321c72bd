"""Prometheus metrics: numbers only, never a name, an id or a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

REQUESTS: Final = Counter(
    "strongroom_requests",
    "Requests by route and status",
    ["method", "route", "status"],
    registry=REGISTRY,
)
SECONDS: Final = Histogram(
    "strongroom_request_seconds",
    "Time from the request's head to the answer's last byte",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
    registry=REGISTRY,
)
RECEIVED_BYTES: Final = Counter(
    "strongroom_received_bytes", "Document bytes taken in", registry=REGISTRY
)
SENT_BYTES: Final = Counter("strongroom_sent_bytes", "Document bytes handed out", registry=REGISTRY)
INTEGRITY_FAILURES: Final = Counter(
    "strongroom_integrity_failures",
    "Objects or keys found to differ from their records; alarm on any increase",
    registry=REGISTRY,
)
REFUSED_CREDENTIALS: Final = Counter(
    "strongroom_refused_credentials", "API keys refused, by reason", ["reason"], registry=REGISTRY
)
SEAL_FAILURES: Final = Counter(
    "strongroom_authority_seal_failures",
    "Principals or API keys met that do not bear their seals; alarm on any increase",
    registry=REGISTRY,
)
APPROVALS_OPEN: Final = Gauge(
    "strongroom_approvals_open",
    "Requests for an approval that wait to be decided, by action",
    ["action"],
    registry=REGISTRY,
)
BACKLOG: Final = Gauge(
    "strongroom_journal_backlog",
    "Work that waits, by site, operation and reason",
    ["site", "operation", "reason"],
    registry=REGISTRY,
)
DEPENDENCY_UP: Final = Gauge(
    "strongroom_dependency_up", "1 if the last check found it usable", ["name"], registry=REGISTRY
)
UNWRAP_CACHE: Final = Gauge(
    "strongroom_unwrap_cache",
    "Data keys that reads found in the cache, and those they asked the KMS for, since the start",
    ["found"],
    registry=REGISTRY,
)
BACKLOG_BYTES: Final = Gauge(
    "strongroom_journal_backlog_bytes",
    "Ciphertext of the work that waits or is parked",
    ["site", "operation", "reason"],
    registry=REGISTRY,
)
SITE_UP: Final = Gauge(
    "strongroom_site_up", "1 if the site answers this process", ["site"], registry=REGISTRY
)
SITE_FENCED: Final = Gauge(
    "strongroom_site_fenced", "1 if the site was failed over", ["site"], registry=REGISTRY
)
SITE_OLDEST_UNVERIFIED: Final = Gauge(
    "strongroom_site_oldest_unverified_seconds",
    "How long the longest waiting copy is owed to the site; 0: none is",
    ["site"],
    registry=REGISTRY,
)
SITE_PARKED: Final = Gauge(
    "strongroom_site_parked",
    "Work given up until somebody looks; alarm on any",
    ["site"],
    registry=REGISTRY,
)
SITE_DEBT: Final = Gauge(
    "strongroom_site_debt",
    "Copies that a class wanted before the answer and that are still owed",
    ["site"],
    registry=REGISTRY,
)
SITE_LOST: Final = Gauge(
    "strongroom_site_lost_replicas",
    "Copies found missing or wrong and not repaired yet",
    ["site"],
    registry=REGISTRY,
)
SITE_INCIDENTS: Final = Gauge(
    "strongroom_site_open_incidents", "Incidents that are not resolved", ["site"], registry=REGISTRY
)
SITE_MISMATCHES: Final = Gauge(
    "strongroom_site_mismatches",
    "Copies found missing or wrong, ever: as PostgreSQL counts them, it only grows",
    ["site"],
    registry=REGISTRY,
)
SITE_REPAIRS: Final = Gauge(
    "strongroom_site_repairs",
    "Those of them that were copied anew from the other site; it only grows",
    ["site"],
    registry=REGISTRY,
)
SITE_READ_WITHIN_PERIOD: Final = Gauge(
    "strongroom_site_read_within_period",
    "The share of copies that were read back and hashed within the scrub's period, 0 to 1",
    ["site"],
    registry=REGISTRY,
)
SCRUB_AGE: Final = Gauge(
    "strongroom_scrub_age_seconds",
    "Since the last scrub that went through; NaN before the first",
    registry=REGISTRY,
)
SWEEP_HELD: Final = Gauge(
    "strongroom_sweep_held", "1 while the sweep waits for a person", registry=REGISTRY
)
FAILOVER_READS: Final = Gauge(
    "strongroom_failover_reads",
    "Reads that the other site had to help, since this process started",
    registry=REGISTRY,
)
REPLICATION_LAG: Final = Histogram(
    "strongroom_replication_lag_seconds",
    "From an upload's commit to the copy that was read back",
    ["site"],
    buckets=(0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400),
    registry=REGISTRY,
)
OIDC_SIGN_INS: Final = Counter(
    "strongroom_oidc_sign_ins",
    "Sign-ins and step-ups at the provider, by how they ended",
    ["outcome"],
    registry=REGISTRY,
)
NOTIFICATIONS: Final = Counter(
    "strongroom_notifications",
    "Tries to deliver a notice, by how they ended",
    ["channel", "outcome"],
    registry=REGISTRY,
)
NOTIFICATIONS_WAITING: Final = Gauge(
    "strongroom_notifications_waiting",
    "Notices that are still to be delivered",
    ["channel"],
    registry=REGISTRY,
)
NOTIFICATIONS_PARKED: Final = Gauge(
    "strongroom_notifications_parked",
    "Notices given up until somebody looks; alarm on any",
    ["channel"],
    registry=REGISTRY,
)


@contextmanager
def served(listen: str | None) -> Iterator[None]:
    """Show the metrics at ``HOST:PORT``, for a process without the API. Raises: OSError: it is taken."""
    if listen is None:
        yield
        return
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"), REGISTRY)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""Prometheus metrics: numbers only, never a name, an id or a key."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

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

"""Object lock as S3 says it: asked for in headers of a write, told in XML.

COMPLIANCE only: a GOVERNANCE lock can be lifted by whoever holds the right credentials, thus by ours.
Source: Amazon S3 API Reference, PutObject, GetObjectRetention and GetObjectLegalHold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from xml.etree.ElementTree import Element

from minio.helpers import DictType

_MODE: Final = "x-amz-object-lock-mode"
_UNTIL: Final = "x-amz-object-lock-retain-until-date"


@dataclass(frozen=True)
class Lock:
    """What keeps one version from being removed.

    Attributes:
        until: when it ends; None: nobody knows (a legal hold, or a date that we cannot read).
    """

    until: datetime | None


def lock_headers(until: datetime | None) -> DictType:
    """What locks a new object; whole seconds, rounded up, as not every store keeps fractions."""
    if until is None:
        return {}
    whole = (until.astimezone(UTC) + timedelta(microseconds=999_999)).replace(microsecond=0)
    return {_MODE: "COMPLIANCE", _UNTIL: f"{whole:%Y-%m-%dT%H:%M:%SZ}"}


def lock_in(told: Element | None, at: datetime) -> Lock | None:
    """The lock that a version had at that moment, by its retention or its legal hold."""
    if told is None:
        return None
    if told.findtext("{*}Status") == "ON":
        return Lock(None)
    if (text := told.findtext("{*}RetainUntilDate")) is None:
        return None
    until = _moment(text)
    return None if until is not None and until <= at else Lock(until)


def last_end(locks: list[Lock]) -> datetime | None:
    """When none of them holds any more."""
    ends = [lock.until for lock in locks if lock.until is not None]
    return max(ends) if len(ends) == len(locks) else None


def time_at_store(headers: Mapping[str, str], otherwise: datetime) -> datetime:
    """When the store gave an answer, by its own clock: that one says when a lock ends."""
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return otherwise


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)  # unlike minio's parser also with RGW's nanoseconds
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

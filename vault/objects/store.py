"""The ObjectStore protocol: what the vault asks of any place that keeps ciphertext.

The vault needs plain S3 only: PUT, multipart, ranged GET, HEAD, LIST, DELETE. An object is immutable
and its key is unique for ever (a random UUID in it), so no store needs conditional writes to be safe.

    StoreError
    ├── ObjectMissing        no such object: permanent until somebody repairs the site
    ├── ObjectLocked         the store keeps the object until a moment, whoever asks
    ├── UploadMissing        no such multipart upload: begin another
    ├── StoreUnavailable     refused, timed out, cut, full: trying again later may help
    └── StoreMisconfigured   wrong credentials, no such bucket: an operator has to act
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Bytes = bytes | bytearray | memoryview

PART_SIZE_BYTES = 8 * 2**20
"""Size of every part but the last. Eight whole 1 MiB segments; S3's 10,000 parts then hold 78 GiB."""

MAX_OBJECT_BYTES = 10_000 * PART_SIZE_BYTES


class StoreError(Exception):
    """Base of every error a store raises; foreign exceptions never leave an adapter."""

    def __init__(self, site: str, what: str) -> None:
        super().__init__(f"site {site}: {what}")
        self.site = site


class ObjectMissing(StoreError):
    """The store answers, and has no such object."""


class ObjectLocked(StoreError):
    """The store may not remove the object yet: permanent until then.

    Attributes:
        until: when the last lock on it ends; None: nobody knows (a legal hold at the store).
    """

    def __init__(self, site: str, until: datetime | None) -> None:
        end = "somebody lifts the lock" if until is None else until.isoformat()
        super().__init__(site, f"the object is locked until {end}")
        self.until = until


class UploadMissing(StoreError):
    """The store answers, and has no such multipart upload: completed, aborted, swept or forgotten."""


class StoreUnavailable(StoreError):
    """The store cannot do it now: away, timed out, connection cut, disk full."""


class StoreMisconfigured(StoreError):
    """The store refuses our credentials or has no such bucket."""


@dataclass(frozen=True)
class StoredObject:
    """One line of a listing."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class PendingUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True)
class Capabilities:
    """What a probe saw the store really do, beyond the plain S3 that every store offers.

    Attributes:
        object_lock: as the bucket's configuration says; trying it would leave what cannot be removed.
    """

    conditional_put: bool
    versioning: bool
    object_lock: bool
    partial_content: bool
    lists_pending_uploads: bool


class ObjectReader(Protocol):
    """Bytes of one object, in order. Closing early drops the connection; close twice is safe.

    Attributes:
        object_size_bytes: size of the whole object as the store reports it with this answer, so
            that a caller who knows the true size notices truncation and extension at once.
    """

    object_size_bytes: int

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the bytes go; less than its length only at the end.

        Raises: StoreUnavailable when the connection is cut before the promised length.
        """

    def close(self) -> None: ...


class PartUpload(Protocol):
    """One multipart upload. Parts may be sent from several threads; nothing is visible before
    `complete` returns, and the object then is there whole and durable.

    Attributes:
        upload_id: names it for `resume_parts` and `abort_pending`, in any process.
        parts_done: parts 1 to this one lay whole in the store when the upload was begun (0) or resumed;
            they need not be sent again. Whatever lay behind them is forgotten.
    """

    upload_id: str
    parts_done: int

    def put_part(self, number: int, body: Bytes, *, sha256: bytes | None = None) -> None:
        """Send part `number` (from 1; all but the last of `PART_SIZE_BYTES`).

        Repeatable with the same bytes. The buffer may be reused once the call returned. `sha256` as in
        `ObjectStore.put`, of this part.
        Raises: UploadMissing (at the latest `complete` does), StoreUnavailable, StoreMisconfigured.
        """

    def complete(self) -> None:
        """Make the object of parts 1..n visible.

        When its answer is lost the object may be there all the same, and the upload be gone.
        Raises: UploadMissing, StoreUnavailable, StoreMisconfigured.
        """

    def abort(self) -> None:
        """Drop what was sent. Idempotent; raises StoreUnavailable when the store is away."""


class ObjectStore(Protocol):
    """Keeps immutable objects under unique keys for one site.

    A site that hangs makes every method raise within a bounded time; `open`, `size` and `check` within
    seconds, so that a reader can turn to the other site.

    Methods block and may be called from any thread. Reads (`open`, `size`, `list`, `pending`) retry
    once on a broken pooled connection; writes never retry by themselves. Every method raises
    `StoreUnavailable` or `StoreMisconfigured`; only the named ones raise `ObjectMissing`.
    Keys are ASCII, ``a-z 0-9 / - .``, without ``..`` parts, at most 200 characters.
    """

    site: str
    """The site's name, ``a`` or ``b``."""

    def prepare(self) -> None:
        """Make the bucket or folder if it is missing. Idempotent.

        Raises: StoreMisconfigured also when locks were asked for and the bucket cannot lock.

        For the start, and when an operator says that an emptied site shall be filled again; nothing
        else makes one anew, or a site that vanished would be taken for an empty one.
        """

    def put(
        self,
        key: str,
        body: Bytes,
        *,
        locked_until: datetime | None = None,
        sha256: bytes | None = None,
    ) -> None:
        """Store a small object (at most `PART_SIZE_BYTES`) in one go; durable when it returns.

        Repeating it with the same bytes is harmless; the vault never sends others under one key.

        Args:
            locked_until: nobody, we included, can remove the object before this moment, rounded up to a
                second (S3: COMPLIANCE retention, in the same request). One that has passed locks nothing.
                A store without locks ignores it, or refuses (StoreMisconfigured): see `probe`.
            sha256: of the body, from a caller who knows it: it is not hashed again for the way to the
                store. A store that looks refuses other bytes (StoreUnavailable); not every one does.
        """

    def begin_parts(self, key: str, *, locked_until: datetime | None = None) -> PartUpload:
        """Start a multipart upload of an object of any size; `locked_until` as in `put`."""

    def resume_parts(self, key: str, upload_id: str) -> PartUpload:
        """Go on with a multipart upload that this or another process began, after its `parts_done`.

        The store is asked what it has, not what was sent: its parts are those of the size that all but
        the last must have. Only whoever may send to the upload may resume it, one at a time.
        Raises: UploadMissing.
        """

    def open(self, key: str, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Bytes from `offset`, `length` of them or to the end. Raises: ObjectMissing."""

    def size(self, key: str) -> int:
        """Size in bytes. Raises: ObjectMissing."""

    def delete(self, key: str) -> None:
        """Remove the object, every stored version of it. Idempotent: a missing one is fine.

        Raises: ObjectLocked, once every version that is not locked is gone.
        """

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix` and sorts after `start_after`, in key order,
        fetched page by page."""

    def pending(self, prefix: str = "") -> Iterator[PendingUpload]:
        """Multipart uploads left open. A plain store may show them for a whole key only."""

    def abort_pending(self, key: str, upload_id: str) -> None:
        """Drop a multipart upload that another process left behind. Idempotent."""

    def check(self) -> None:
        """Return if the store answers and knows us; one cheap round trip."""

    def probe(self) -> Capabilities:
        """Try out on scratch objects what this store can do; removes them again."""

"""The KeyProvider protocol: what every source of key-encryption keys offers.

Shaped on the operations of HashiCorp Vault's and OpenBao's Transit engine with `derived` keys, so
that an adapter for them adds no meaning of its own. A *KEK* is named by its purpose and has numbered
versions from 1; wrapping always uses the newest version. Every wrap is bound to a *context*: the KEK
version is never used directly, only a key derived from it and the context, so a wrapped key moved to
another row cannot be unwrapped there.

Does not handle: data encryption (`stream`), key commitments (`commitment`), caching, rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from keymgmt.datakey import DataKey
from keymgmt.errors import KeyManagementError


class Purpose(StrEnum):
    """The KEKs by purpose; the value is the KEK's name at the provider."""

    DOCUMENTS = "documents"
    FIELDS = "fields"
    PREVIEWS = "previews"
    INDEXES = "indexes"
    BACKUPS = "backups"
    LOG = "log"
    AUTHORITY = "authority"


@dataclass(frozen=True)
class WrappedKey:
    """A data key sealed under one version of a KEK.

    Attributes:
        text: ``<scheme>:v<version>:<base64>``, ASCII, at most 512 characters; safe to store.
    """

    text: str

    @property
    def version(self) -> int:
        """The KEK version that wrapped this key.

        Raises:
            ValueError: the text has no ``vN`` part.
        """
        return int(self.text.split(":", 2)[1].removeprefix("v"))


@dataclass(frozen=True)
class KeyState:
    """One KEK as the provider sees it.

    Attributes:
        latest: newest version, the one that wraps.
        oldest_usable: lowest version that still unwraps; below it, `KeyVersionRetired`.
        oldest_kept: lowest version whose key material still exists.
    """

    kek: str
    latest: int
    oldest_usable: int
    oldest_kept: int


@dataclass(frozen=True)
class BoundKey:
    """One item of a batch: a wrapped key and the context it was bound to."""

    wrapped: WrappedKey
    context: bytes


class KeyProvider(Protocol):
    """Wraps and unwraps data keys under versioned KEKs.

    All methods block, may be called from any thread, and raise only `KeyManagementError`:
    `KeyServiceUnavailable` from every one of them. An adapter repeats harmless calls at most; a caller
    may repeat any call that raised `KeyServiceUnavailable`.
    """

    def create_key(self, kek: str) -> None:
        """Create the KEK at version 1 if it does not exist (idempotent)."""

    def describe(self, kek: str) -> KeyState:
        """Raises: KeyNotFound."""

    def generate_data_key(self, kek: str, context: bytes) -> tuple[DataKey, WrappedKey]:
        """A fresh 256-bit data key and its wrapped form under the newest version.

        Raises: KeyNotFound.
        """

    def wrap(self, kek: str, context: bytes, data_key: DataKey) -> WrappedKey:
        """Wrap an existing data key under the newest version. Raises: KeyNotFound."""

    def unwrap(self, kek: str, context: bytes, wrapped: WrappedKey) -> DataKey:
        """Raises: KeyNotFound, KeyVersionRetired, DecryptionFailed (also for a wrong context)."""

    def unwrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[DataKey | KeyManagementError]:
        """One answer per item, in order; a bad item never spoils or reveals its neighbours.

        Raises: KeyNotFound.
        """

    def rewrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[WrappedKey | KeyManagementError]:
        """Each item wrapped under the newest version, context kept. Raises: KeyNotFound."""

    def rotate(self, kek: str) -> int:
        """Add a version, which wraps from now on; returns its number. Raises: KeyNotFound."""

    def retire(self, kek: str, *, below: int) -> None:
        """Refuse to unwrap versions lower than `below` (reversible until `trim`).

        Raises: KeyNotFound; ValueError if `below` is above the newest version or below 1.
        """

    def trim(self, kek: str) -> None:
        """Destroy the key material of every retired version, for good. Raises: KeyNotFound."""

    def destroy_key(self, kek: str) -> None:
        """Destroy the KEK with all versions, for good. Raises: KeyNotFound."""

    def check(self) -> None:
        """Return if the provider can wrap now; otherwise raise `KeyServiceUnavailable`."""

    def missing_permissions(self, keks: Sequence[str]) -> list[str]:
        """What our rights at the provider lack for a service's work with `keks`, in words."""

"""Epoch keys at the sites: the one thing beside the recovery key that a recovery needs, and that dies.

```
recovery/<epoch, 8 digits>-<id>/sealed                  for the offline recovery key
recovery/<epoch, 8 digits>-<id>/wrapped-<KEK version>   for the running service, under the KEK `backups`
```
They are in no database, no backup and no KMS. Once their objects are gone from every site, the recovery
blobs of their epoch open for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from keymgmt.recovery import (
    EpochKey,
    EpochSealer,
    open_epoch_key,
    seal_epoch_key,
    unwrap_epoch_key,
    wrap_epoch_key,
)
from keymgmt.recoverykey import RecoveryPrivateKey, RecoveryPublicKey
from vault.errors import IntegrityFailure
from vault.objects.reading import small_object
from vault.objects.store import ObjectMissing, ObjectStore, StoreError

PREFIX: Final = "recovery/"


@dataclass(frozen=True)
class EpochKeyName:
    """Names one epoch key; tells nothing of it."""

    epoch: int
    id: UUID

    @property
    def folder(self) -> str:
        """Where its objects lie at every site, with a slash at the end."""
        return f"{PREFIX}{self.epoch:08d}-{self.id}/"

    @property
    def sealed(self) -> str:
        """The object that is for the recovery key."""
        return f"{self.folder}sealed"


class EpochKeys:
    """The epoch keys of one vault."""

    def __init__(
        self, vault_id: UUID, keys: KeyProvider, stores: Mapping[str, ObjectStore]
    ) -> None:
        self._vault_id = vault_id
        self._keys = keys
        self._stores = stores

    def make(self, epoch: int, public: RecoveryPublicKey) -> tuple[EpochKeyName, EpochSealer]:
        """A new epoch key, stored at every site and read back.

        Raises:
            StoreError, KeyServiceUnavailable: nothing refers to what was stored so far.
            IntegrityFailure: a site gave back other bytes than it was given.
        """
        for store in self._stores.values():
            store.check()
        name, key = EpochKeyName(epoch, uuid4()), EpochKey.generate()
        sealed = seal_epoch_key(public, key, vault_id=self._vault_id, epoch=epoch)
        self._store_everywhere(name.sealed, sealed)
        self._wrap(name, key)
        return name, EpochSealer(key, epoch)

    def open(self, name: EpochKeyName) -> EpochSealer:
        """The sealer of an epoch, from any site that has its key.

        Raises:
            ObjectMissing: no site that answers has it.
            DecryptionFailed, KeyVersionRetired: it is damaged, or what wraps it is gone.
            StoreError, KeyServiceUnavailable.
        """
        return EpochSealer(self._unwrap(name), name.epoch)

    def rewrap(self, name: EpochKeyName) -> None:
        """Wrap the key under the newest KEK version, and drop older forms. Raises: as `open`, `make`."""
        self.wrap_anew(name, self._unwrap(name))

    def wrap_anew(self, name: EpochKeyName, key: EpochKey) -> None:
        """The same, with the key in hand. Raises: as `make`."""
        kept = self._wrap(name, key)
        for store in self._stores.values():
            _delete(store, [key for key in _wrapped_forms(store, name) if key != kept])

    def missing_at(self, name: EpochKeyName) -> list[str]:
        """The sites without this key. Raises: StoreError."""
        return [site for site, store in self._stores.items() if not _holds(store, name)]

    def destroy_before(self, epoch: int) -> None:
        """Delete every key of an earlier epoch at every site, and see that it is gone.

        Raises:
            StoreError: a site is away; repeat it.
            IntegrityFailure: a site still lists what was deleted.
        """
        for store in self._stores.values():
            _delete(store, _older(store, epoch))
            if _older(store, epoch):
                raise IntegrityFailure

    def _wrap(self, name: EpochKeyName, key: EpochKey) -> str:
        wrapped = wrap_epoch_key(
            self._keys, Purpose.BACKUPS, key, vault_id=self._vault_id, epoch=name.epoch
        )
        place = f"{name.folder}wrapped-{wrapped.version}"
        # Under one version the key may be wrapped twice, to other bytes: either form is as good.
        self._store_everywhere(place, wrapped.text.encode())
        return place

    def _unwrap(self, name: EpochKeyName) -> EpochKey:
        wrapped = WrappedKey(self._newest_wrapped_form(name).decode())
        return unwrap_epoch_key(
            self._keys, Purpose.BACKUPS, wrapped, vault_id=self._vault_id, epoch=name.epoch
        )

    def _newest_wrapped_form(self, name: EpochKeyName) -> bytes:
        failures: list[StoreError] = []
        for store in self._stores.values():
            try:
                forms = _wrapped_forms(store, name)
                if forms:
                    return small_object(store, max(forms, key=_kek_version))
                failures.append(ObjectMissing(store.site, "the epoch key is missing"))
            except StoreError as exc:
                failures.append(exc)
        # A site that is away may still have it.
        raise min(failures, key=lambda each: isinstance(each, ObjectMissing))

    def _store_everywhere(self, key: str, body: bytes) -> None:
        for store in self._stores.values():
            store.put(key, body)
            if small_object(store, key) != body:
                raise IntegrityFailure


def open_offline(
    store: ObjectStore, name: EpochKeyName, private: RecoveryPrivateKey, vault_id: UUID
) -> EpochKey:
    """An epoch key with the recovery key in hand, from one site.

    Raises:
        ObjectMissing: the site has it no more: its epoch is over.
        DecryptionFailed: it is for another recovery key, or damaged.
        StoreError.
    """
    sealed = small_object(store, name.sealed)
    return open_epoch_key(private, sealed, vault_id=vault_id, epoch=name.epoch)


def _epoch(key: str) -> int:
    return int(key.removeprefix(PREFIX).partition("-")[0])


def _holds(store: ObjectStore, name: EpochKeyName) -> bool:
    keys = {each.key for each in store.list(name.folder)}
    return name.sealed in keys and len(keys) > 1


def _wrapped_forms(store: ObjectStore, name: EpochKeyName) -> list[str]:
    return [each.key for each in store.list(f"{name.folder}wrapped-")]


def _kek_version(key: str) -> int:
    return int(key.rpartition("-")[2])


def _older(store: ObjectStore, epoch: int) -> list[str]:
    return [each.key for each in store.list(PREFIX) if _epoch(each.key) < epoch]


def _delete(store: ObjectStore, keys: list[str]) -> None:
    for key in keys:
        store.delete(key)

"""The embedded KeyProvider: KEKs in one sealed file, for the processes of one host.

Same operations and version semantics as Transit. Each operation looks whether the file changed and
reads it again if so; each change is made under a lock that other processes respect (flock, which needs
a local file system), and is durable when the call returns.

Does not handle: access rights (who can read file and root key can do everything), replication,
secure erasure of blocks that the file system has freed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from keymgmt import durable
from keymgmt.datakey import DataKey
from keymgmt.errors import KeyManagementError, KeyNotFound, KeyServiceUnavailable
from keymgmt.kek import Kek
from keymgmt.keyring import Keyring, seal, unseal
from keymgmt.provider import BoundKey, KeyProvider, KeyState, WrappedKey
from keymgmt.rootkey import RootKey

Answer = TypeVar("Answer")


def create_keyring(path: Path, root_key: RootKey) -> None:
    """Make an empty keyring; one that is there already is left as it is. For set-up only.

    Raises:
        KeyServiceUnavailable: it cannot be written.
    """
    with _translated(path), suppress(FileExistsError):
        durable.create(path, seal(Keyring(), root_key))


class LocalKeyring(KeyProvider):
    """KEKs from the keyring file at `path`, which is never made here: see `create_keyring`.

    Beside what the protocol names, every method raises `KeyringDamaged` once the file is not what the
    root key sealed, and `KeyServiceUnavailable` while anybody but its owner may use it.
    """

    def __init__(self, path: Path, root_key: RootKey) -> None:
        """Raises: KeyringDamaged; KeyServiceUnavailable if there is no such file, or not a private one."""
        self._file = _KeyringFile(path, root_key)
        self._file.read()

    @override
    def create_key(self, kek: str) -> None:
        with self._file.updating() as keks:
            keks.setdefault(kek, Kek.generate(kek))

    @override
    def describe(self, kek: str) -> KeyState:
        return self._find(kek).state

    @override
    def generate_data_key(self, kek: str, context: bytes) -> tuple[DataKey, WrappedKey]:
        data_key = DataKey.generate()
        return data_key, self.wrap(kek, context, data_key)

    @override
    def wrap(self, kek: str, context: bytes, data_key: DataKey) -> WrappedKey:
        return self._find(kek).wrap(context, data_key)

    @override
    def unwrap(self, kek: str, context: bytes, wrapped: WrappedKey) -> DataKey:
        return self._find(kek).unwrap(context, wrapped)

    @override
    def unwrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[DataKey | KeyManagementError]:
        found = self._find(kek)
        return [_answer(found.unwrap, item) for item in items]

    @override
    def rewrap_batch(
        self, kek: str, items: Sequence[BoundKey]
    ) -> list[WrappedKey | KeyManagementError]:
        found = self._find(kek)
        return [_answer(found.rewrap, item) for item in items]

    @override
    def rotate(self, kek: str) -> int:
        with self._file.updating() as keks:
            keks[kek] = rotated = _of(keks, kek).rotated()
        return rotated.state.latest

    @override
    def retire(self, kek: str, *, below: int) -> None:
        with self._file.updating() as keks:
            keks[kek] = _of(keks, kek).retired(below)

    @override
    def trim(self, kek: str) -> None:
        with self._file.updating() as keks:
            keks[kek] = _of(keks, kek).trimmed()

    @override
    def destroy_key(self, kek: str) -> None:
        with self._file.updating() as keks:
            _of(keks, kek)
            del keks[kek]

    @override
    def check(self) -> None:
        self._file.read()

    @override
    def missing_permissions(self, keks: Sequence[str]) -> list[str]:
        return []  # whoever can read the keyring may do everything

    def _find(self, kek: str) -> Kek:
        return _of(self._file.read().keks, kek)


class _KeyringFile:
    """The file and the keyring last read from it."""

    def __init__(self, path: Path, root_key: RootKey) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._root_key = root_key
        self._last_read: tuple[_Stamp, Keyring] | None = None

    def read(self) -> Keyring:
        """The keyring as it is on disk now. Raises: KeyServiceUnavailable, KeyringDamaged."""
        with _translated(self._path):
            stamp = _Stamp.of(self._path.stat())
        last_read = self._last_read
        if last_read is None or last_read[0] != stamp:
            # Threads may do this twice, which is harmless: each stores a pair that belongs together.
            self._last_read = last_read = self._load()
        return last_read[1]

    @contextmanager
    def updating(self) -> Iterator[dict[str, Kek]]:
        """The KEKs by name, to be changed while all other changes wait; stored if they differ.

        Raises:
            KeyServiceUnavailable: nothing was stored, the file is as it was.
            KeyringDamaged: likewise.
        """
        with self._locked():
            keyring = self.read()
            keks = dict(keyring.keks)
            yield keks
            if keks != keyring.keks:
                content = seal(replace(keyring, keks=keks), self._root_key)
                with _translated(self._path):
                    durable.replace(self._path, content)

    def _load(self) -> tuple[_Stamp, Keyring]:
        with _translated(self._path), self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            _refuse_if_shared(self._path, status)
            stamp = _Stamp.of(status)
            content = file.read()
        return stamp, unseal(content, self._root_key)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _translated(self._path):
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _translated(self._path):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Stamp:
    """Differs between any two files that were put in one place one after the other."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Stamp:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise KeyServiceUnavailable(f"keyring {path} cannot be used: {exc.strerror}") from exc


def _refuse_if_shared(path: Path, status: os.stat_result) -> None:
    """Sealed or not: who can write it puts an older copy back, and copies outlive what is destroyed in it."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyServiceUnavailable(
            f"keyring {path} has mode {mode:04o}, so others can use it: run `chmod 0600` on it"
        )


def _of(keks: Mapping[str, Kek], name: str) -> Kek:
    if name not in keks:
        raise KeyNotFound(name)
    return keks[name]


def _answer(
    operation: Callable[[bytes, WrappedKey], Answer], item: BoundKey
) -> Answer | KeyManagementError:
    try:
        return operation(item.context, item.wrapped)
    except KeyManagementError as exc:
        return exc

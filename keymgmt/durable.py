"""Small secret files that are either whole on disk or not there, also after a power cut.

Both functions leave mode 0600, flush the file and then its folder, and raise OSError only.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Write a new file.

    Raises:
        FileExistsError: there is one, which is left as it is.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        _write(descriptor, content)
        # A hard link, because unlike a rename it never replaces what is there.
        path.hardlink_to(name)
    finally:
        Path(name).unlink()
    _flush_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Put a new content in place of the old one. For one caller at a time.

    The new file has a fixed name until it is whole, so the remains of a crash do not outlive the
    next call: they may hold keys that are meant to be gone.
    """
    new = path.with_name(path.name + ".new")
    _write(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), content)
    new.replace(path)
    _flush_folder(path.parent)


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

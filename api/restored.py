"""The folder that `strongroom recover` fills.

```
FOLDER/<document id>/<version number>   the bytes of one version
FOLDER/documents.jsonl                  one line for each: what it is called, where it belongs, its file
```
A file appears under its name once it is whole and flushed; a run that was broken off goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from vault.recovery.restore import StoredVersion

MANIFEST: Final = "documents.jsonl"


class RestoredFolder:
    """Restored documents as files, readable by this user only."""

    def __init__(self, folder: Path) -> None:
        """Raises: OSError: the folder cannot be made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._lines: list[str] = []

    def has(self, version: StoredVersion) -> bool:
        """Whether an earlier run wrote it."""
        try:
            return self._path(version).stat().st_size == version.size_bytes
        except FileNotFoundError:
            return False

    def write(self, version: StoredVersion, chunks: Iterable[bytes]) -> None:
        """Write one version. Raises: OSError, and what `chunks` raises; then there is no file."""
        path = self._path(version)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _write_whole(path, chunks)

    def note(self, version: StoredVersion) -> None:
        """Take a version that is here into the manifest."""
        self._lines.append(json.dumps(self._described(version), ensure_ascii=False))

    def finish(self) -> None:
        """Write the manifest. Raises: OSError."""
        lines = "".join(f"{line}\n" for line in self._lines)
        _write_whole(self._folder / MANIFEST, [lines.encode()])

    def _path(self, version: StoredVersion) -> Path:
        return self._folder / str(version.document_id) / str(version.number)

    def _described(self, version: StoredVersion) -> dict[str, Any]:
        return {
            "document_id": str(version.document_id),
            "version": version.number,
            "name": version.name,
            "class": version.class_name,
            "department": version.department,
            "state": version.state,
            "media_type": version.media_type,
            "size_bytes": version.size_bytes,
            "created_at": version.created_at.isoformat(),
            "file": str(self._path(version).relative_to(self._folder)),
        }


def _write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)

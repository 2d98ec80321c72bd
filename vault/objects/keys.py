"""Where an object lies in every store: one grammar, one layout.

```
objects/<first two hex digits of the id>/<object id>
```
The fan-out keeps folders of a directory store, and prefixes of an S3 one, small and even. Keys sort as ids
do.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

PREFIX: Final = "objects/"

_KEY: Final = re.compile(
    r"objects/([0-9a-f]{2})/(\1[0-9a-f]{6}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)


def object_key(object_id: UUID) -> str:
    """The key of a version's ciphertext at every site."""
    return f"{PREFIX}{object_id.hex[:2]}/{object_id}"


def object_id_of(key: str) -> UUID | None:
    """The other way round; None for a key that is no object's."""
    found = _KEY.fullmatch(key)
    return UUID(found[2]) if found else None

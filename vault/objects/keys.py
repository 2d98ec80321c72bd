"""Where an object lies in every store: one grammar, one layout.

```
objects/<first two hex digits of the id>/<object id>
```
The fan-out keeps folders of a directory store, and prefixes of an S3 one, small and even.
"""

from __future__ import annotations

from uuid import UUID


def object_key(object_id: UUID) -> str:
    """The key of a version's ciphertext at every site."""
    return f"objects/{object_id.hex[:2]}/{object_id}"

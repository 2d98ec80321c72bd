"""DataKey: the key of one version's bytes."""

from __future__ import annotations

from keymgmt.secret import SecretKey


class DataKey(SecretKey):
    """A 256-bit data-encryption key (DEK). Serves one version of one document, never another."""

    __slots__ = ()

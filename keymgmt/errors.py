"""What can go wrong with keys, by whose fault it is.

KeyManagementError
├── DecryptionFailed          the bytes, the key or the context is wrong (one error, no reason)
├── SignatureInvalid          no key that counts signed exactly this
├── KeyServiceUnavailable     the KMS or keyring cannot answer now; trying again later may help
│   └── KeyAccessDenied       the KMS refuses us; says which permission is missing
├── KeyNotFound               no KEK of that name
├── KeyVersionRetired         the KEK version that wrapped this is retired or gone
├── UnsafeKeyFile             the root key must not be used as it lies on disk
├── RecoveryKeyInvalid        the text is no recovery key, or a damaged one
└── KeyringDamaged            the keyring file is not what this root key sealed
"""

from __future__ import annotations


class KeyManagementError(Exception):
    """Base of every error this room raises."""


class DecryptionFailed(KeyManagementError):
    """Wrong key, wrong context, altered, truncated, extended or reordered bytes.

    Deliberately says no more: a reason would help whoever is probing.
    """

    def __init__(self) -> None:
        super().__init__("decryption failed")


class SignatureInvalid(KeyManagementError):
    """No key that counts signed exactly these bytes as this type."""

    def __init__(self) -> None:
        super().__init__("the signature is not valid")


class KeyServiceUnavailable(KeyManagementError):
    """The KMS or keyring cannot be reached or refuses for now."""


class KeyAccessDenied(KeyServiceUnavailable):
    """The KMS knows us and refuses: a policy lacks a permission."""

    def __init__(self, path: str, capability: str) -> None:
        super().__init__(f"the KMS refuses access: the policy lacks {capability!r} on {path}")
        self.path = path
        self.capability = capability


class KeyNotFound(KeyManagementError):
    """There is no KEK of this name."""

    def __init__(self, kek: str) -> None:
        super().__init__(f"no key-encryption key named {kek!r}")
        self.kek = kek


class KeyVersionRetired(KeyManagementError):
    """The KEK version is below the oldest one that still unwraps."""

    def __init__(self, kek: str, version: int) -> None:
        super().__init__(f"version {version} of key {kek!r} is retired")
        self.kek = kek
        self.version = version


class UnsafeKeyFile(KeyManagementError):
    """The root key file is readable by others, foreign-owned, missing or misplaced."""


class KeyringDamaged(KeyManagementError):
    """The keyring file is truncated, altered or sealed under another root key."""


class RecoveryKeyInvalid(KeyManagementError):
    """What was given as the public half of a recovery key is none, or came damaged."""

    def __init__(self) -> None:
        super().__init__("this is no recovery key, or a damaged one: copy the whole line again")

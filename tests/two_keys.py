"""One object that decrypts under two data keys: what a key commitment is there to refuse.

In a segment of one ciphertext block C the tag is C·H² ⊕ L·H ⊕ E, with H and E known to who knows the
key, and L the length block (NIST SP 800-38D §6.4, §7.1). Two keys give the same tag for

    C = (L·H₁ ⊕ E₁ ⊕ L·H₂ ⊕ E₂) / (H₁² ⊕ H₂²)        in GF(2^128)
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey

_LENGTHS = 128  # no associated data, 128 bits of ciphertext


def object_for_two_keys(
    first: DataKey, second: DataKey, *, salt: bytes, nonce_prefix: bytes, binding: bytes
) -> bytes:
    """72 bytes: header, one block, tag."""
    nonce = nonce_prefix + bytes(4) + b"\x01"
    hash1, mask1 = _hash_key_and_mask(first, salt, nonce, binding)
    hash2, mask2 = _hash_key_and_mask(second, salt, nonce, binding)
    difference = _times(_LENGTHS, hash1) ^ mask1 ^ _times(_LENGTHS, hash2) ^ mask2
    block = _times(difference, _inverse(_times(hash1, hash1) ^ _times(hash2, hash2)))
    tag = _times(_times(block, hash1) ^ _LENGTHS, hash1) ^ mask1
    return b"\x28" + salt + nonce_prefix + block.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _hash_key_and_mask(
    data_key: DataKey, salt: bytes, nonce: bytes, binding: bytes
) -> tuple[int, int]:
    key = HKDF(SHA256(), 32, salt=salt, info=binding).derive(data_key.reveal_to_keymgmt())
    blocks = Cipher(AES(key), ECB()).encryptor().update(bytes(16) + nonce + b"\x00\x00\x00\x01")
    return int.from_bytes(blocks[:16], "big"), int.from_bytes(blocks[16:], "big")


def _times(x: int, y: int) -> int:
    """Product in GCM's field; the most significant bit stands for x^0."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def _inverse(x: int) -> int:
    """x^(2^128 - 2)."""
    power = x
    for _ in range(126):
        power = _times(_times(power, power), x)
    return _times(power, power)

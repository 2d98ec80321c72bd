"""Objects in memory: sealed by us, by Tink, and fetched with an account of what was fetched."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2
from typing_extensions import override

from keymgmt.datakey import DataKey
from keymgmt.stream import SEGMENT_SIZE_BYTES, SealingStream, open_range

BINDING = b"strongroom/object/v1 of the tests"
FIRST_SEGMENT = SEGMENT_SIZE_BYTES - 40 - 16
FULL_SEGMENT = SEGMENT_SIZE_BYTES - 16

SIZES_AT_BOUNDARIES = [
    0,
    1,
    *(FIRST_SEGMENT + step for step in (-1, 0, 1)),
    *(FIRST_SEGMENT + FULL_SEGMENT + step for step in (-1, 0, 1)),
    FIRST_SEGMENT + 3 * FULL_SEGMENT,
    FIRST_SEGMENT + 3 * FULL_SEGMENT + 12_345,
]


class MemorySink:
    """Gathers segments; hands out one and the same buffer, as a part buffer does."""

    def __init__(self) -> None:
        self._buffer = bytearray(SEGMENT_SIZE_BYTES)
        self.ciphertext = bytearray()

    def space(self) -> memoryview:
        return memoryview(self._buffer)

    def filled(self, size_bytes: int) -> None:
        self.ciphertext += memoryview(self._buffer)[:size_bytes]


class MemoryReader:
    """Part of an object."""

    def __init__(self, ciphertext: bytes) -> None:
        self._rest = memoryview(ciphertext)
        self.closed = False

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self.closed = True


@dataclass
class MemoryObject:
    """An object that remembers every (offset, length) fetched and every reader handed out."""

    ciphertext: bytes
    fetched: list[tuple[int, int]] = field(default_factory=list)
    readers: list[MemoryReader] = field(default_factory=list)

    def fetch(self, offset: int, length: int) -> MemoryReader:
        self.fetched.append((offset, length))
        self.readers.append(MemoryReader(self.ciphertext[offset : offset + length]))
        return self.readers[-1]


def pattern(size: int) -> bytes:
    """Plaintext in which no two places nearby look alike."""
    return b"".join(n.to_bytes(4, "big") for n in range(size // 4 + 1))[:size]


def seal(data_key: DataKey, plaintext: bytes, binding: bytes = BINDING) -> bytes:
    sink = MemorySink()
    stream = SealingStream(data_key, binding, sink)
    stream.write(plaintext)
    stream.finish()
    return bytes(sink.ciphertext)


def open_whole(
    data_key: DataKey, ciphertext: bytes, size: int, binding: bytes = BINDING
) -> list[bytes]:
    """The pieces of an object of `size` bytes of plaintext; it may have been tampered with."""
    pieces = open_range(
        data_key,
        binding,
        ciphertext_size=len(ciphertext),
        fetch=MemoryObject(ciphertext).fetch,
        start=0,
        stop=size,
    )
    return list(pieces)


class TinkPeer:
    """Tink's own implementation of the format, under one of our data keys."""

    def __init__(self, data_key: DataKey) -> None:
        self._primitive = _keyset(data_key).primitive(streaming_aead.StreamingAead)

    def seal(self, plaintext: bytes, binding: bytes = BINDING) -> bytes:
        target = _KeptBytes()
        with self._primitive.new_encrypting_stream(target, binding) as stream:
            stream.write(plaintext)
        return target.kept

    def open(self, ciphertext: bytes, binding: bytes = BINDING) -> bytes:
        source = io.BytesIO(ciphertext)
        with self._primitive.new_decrypting_stream(source, binding) as stream:
            return bytes(stream.read())


def open_with_keyset(keyset: Mapping[str, Any], ciphertext: bytes, binding: bytes) -> bytes:
    """What Tink makes of an object with a keyset in its own JSON form."""
    streaming_aead.register()
    handle = tink.json_proto_keyset_format.parse(json.dumps(keyset), secret_key_access.TOKEN)
    primitive = handle.primitive(streaming_aead.StreamingAead)
    with primitive.new_decrypting_stream(io.BytesIO(ciphertext), binding) as stream:
        return bytes(stream.read())


class _KeptBytes(io.BytesIO):
    """Tink closes what it writes to."""

    kept = b""

    @override
    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


def _keyset(data_key: DataKey) -> tink.KeysetHandle:
    streaming_aead.register()
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        version=0,
        key_value=data_key.reveal_to_keymgmt(),
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=SEGMENT_SIZE_BYTES,
            derived_key_size=32,
            hkdf_hash_type=common_pb2.SHA256,
        ),
    )
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_id=1,
        status=tink_pb2.ENABLED,
        output_prefix_type=tink_pb2.RAW,
        key_data=tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
    )
    return tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)

"""Damage to bytes, texts, PNGs and zips, drawn from a generator: (draw, bytes) -> other bytes."""

import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

Draw = random.Random
Mutation = Callable[[Draw, bytes], bytes]
PNG_HEADER = ">IIBBBBB"
PNG_FIELDS = ("width", "height", "depth", "colour", "compression", "filter", "interlace")


def cut(rng: Draw, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(rng: Draw, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def noise(rng: Draw, data: bytes) -> bytes:
    return b"\xfe" + rng.randbytes(rng.choice([1, 7, 100, 5000]))  # never a text, not even a blank one


def keep_head(rng: Draw, data: bytes) -> bytes:
    return data[:16] + rng.randbytes(200)


def replace(*pairs: tuple[str, str]) -> Mutation:
    """Return the mutation of a text that puts one text, drawn of `pairs`, in another's place, once."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        old, new = rng.choice(pairs)
        assert old.encode() in data, old
        return data.replace(old.encode(), new.encode(), 1)

    return mutate


def append(*texts: str) -> Mutation:
    return lambda rng, data: data + rng.choice(texts).encode()


def become(*texts: str | bytes) -> Mutation:
    def mutate(rng: Draw, data: bytes) -> bytes:
        text = rng.choice(texts)
        return text if isinstance(text, bytes) else text.encode()

    return mutate


def split_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def join_chunks(chunks: list[tuple[bytes, bytes]], wrong_crc: int = -1) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for number, (kind, content) in enumerate(chunks):
        crc = zlib.crc32(kind + content) ^ (number == wrong_crc)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc))
    return b"".join(parts)


def set_header(**changes: int) -> Mutation:
    """Return the mutation of a PNG that claims another width, height, depth or colour type, its checksum right."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        (kind, header), *rest = split_chunks(data)
        values = dict(zip(PNG_FIELDS, struct.unpack(PNG_HEADER, header), strict=True)) | changes
        return join_chunks([(kind, struct.pack(PNG_HEADER, *values.values())), *rest])

    return mutate


def lose_chunk(kind: bytes) -> Mutation:
    return lambda rng, data: join_chunks([chunk for chunk in split_chunks(data) if chunk[0] != kind])


def shorten_pixels(rng: Draw, data: bytes) -> bytes:
    """Leave out the last rows, with all checksums right."""
    raw = b"".join(content for kind, content in split_chunks(data) if kind == b"IDAT")
    fewer = zlib.compress(zlib.decompress(raw)[: -rng.randint(1, 500)])
    rest = [chunk for chunk in split_chunks(data) if chunk[0] != b"IDAT"]
    return join_chunks([rest[0], (b"IDAT", fewer), *rest[1:]])


def add_chunk(rng: Draw, data: bytes) -> bytes:
    header, *rest = split_chunks(data)
    return join_chunks([header, (b"tEXt", b"Comment\0" + rng.randbytes(20).hex().encode()), *rest])


def zip_entries(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the zip of some entries, whatever their names, the same bytes each time."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as file:  # of a name that comes twice
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            file.writestr(info, content)
    return buffer.getvalue()


def set_in_zip(offset: int, value: bytes) -> Mutation:
    """Return the mutation that puts bytes at an offset of both headers of one entry; counted as in the directory's."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
        at = rng.choice(entries)
        (local,) = struct.unpack("<I", data[at + 42 : at + 46])
        changed = bytearray(data)
        changed[at + offset : at + offset + len(value)] = value
        changed[local + offset - 2 : local + offset - 2 + len(value)] = value
        return bytes(changed)

    return mutate

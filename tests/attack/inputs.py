"""Broken inputs of every format that is read: each is used as the whole one would be, or refused by its name."""

import csv
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image
from small_project import SMALL

from attack.case import Case, Place
from attack.damage import (
    PNG_HEADER,
    Draw,
    Mutation,
    add_chunk,
    append,
    become,
    cut,
    flip,
    join_chunks,
    keep_head,
    lose_chunk,
    noise,
    replace,
    set_header,
    set_in_zip,
    shorten_pixels,
    split_chunks,
    zip_entries,
)
from attack.formats import ANYTHING, DEEP, EITHER, REFUSED, SAME, Format, Mutations, as_text
from attack.learned import LEARNED
from nuclei.config.load import load_config
from nuclei.data.archives import open_archive, prepare_image
from nuclei.data.axes import View
from nuclei.data.fold_table import read_folds
from nuclei.data.images import decode_image, decode_mask
from nuclei.data.label_folder import LabelFolder
from nuclei.data.microscope import count_times, list_series, read_picture
from nuclei.evaluation.submission import read_solution
from nuclei.runs.cache import read_meta

SHAPE = (24, 31)
BOMB_BYTES = 1 << 16  # what a file of an archive may unpack to here


def draw_pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def draw_labels() -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 4:12] = 255
    return labels


def encode_png(pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def decode(data: bytes) -> NDArray[Any]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


# Of images and masks alike, whose checksums and sizes tell any damage.
PNG: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "a bit flipped": (EITHER, flip),
    "only a head": (REFUSED, keep_head),
    "wrong checksum": (
        EITHER,
        lambda rng, data: join_chunks(split_chunks(data), rng.randrange(len(split_chunks(data)))),
    ),
    "huge": (REFUSED, set_header(width=2**31 - 1, height=2**31 - 1)),
    "wide": (REFUSED, set_header(width=2**31 - 1)),
    "large": (REFUSED, set_header(width=16000, height=16000)),
    "no width": (REFUSED, set_header(width=0)),
    "no height": (REFUSED, set_header(height=0)),
    "more rows": (REFUSED, set_header(height=SHAPE[0] + 1)),
    "depth 3": (REFUSED, set_header(depth=3)),
    "colour type 5": (REFUSED, set_header(colour=5)),
    "rows missing": (REFUSED, shorten_pixels),
    "no pixels": (REFUSED, lose_chunk(b"IDAT")),
    "no end": (EITHER, lose_chunk(b"IEND")),
    "no header": (REFUSED, lose_chunk(b"IHDR")),
    "a comment": (SAME, add_chunk),
    "JPEG": (REFUSED, lambda rng, data: cv2.imencode(".jpg", draw_pixels())[1].tobytes()),
    "more behind": (EITHER, lambda rng, data: data + rng.randbytes(50)),
    "16 bits": (SAME, lambda rng, data: encode_png(decode(data).astype(np.uint16) * 257)),
}


def add_alpha(rng: Draw, data: bytes) -> bytes:
    return encode_png(np.dstack([decode(data), np.full(SHAPE, rng.choice([0, 7, 255]), np.uint8)]))


def pack_png(rows: NDArray[np.uint8], depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return the PNG of rows of packed bytes [H, B]."""
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(PNG_HEADER, SHAPE[1], SHAPE[0], depth, colour, 0, 0, 0)
    return join_chunks([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def as_palette(rng: Draw, data: bytes) -> bytes:
    return pack_png((draw_labels() > 0).astype(np.uint8), 8, 3, (b"PLTE", bytes([0, 0, 0, 255, 255, 255])))


IMAGE = PNG | {"transparent": (SAME, add_alpha)}
MASK = PNG | {
    "one bit": (SAME, lambda rng, data: pack_png(np.packbits(draw_labels() > 0, axis=1), 1, 0)),
    "palette": (SAME, as_palette),
    "colours": (SAME, lambda rng, data: encode_png(np.dstack([draw_labels()] * 3))),
}


Entries = list[tuple[str, bytes]]


def draw_entries() -> Entries:
    masks = (draw_labels(), np.roll(draw_labels(), 12, axis=1))
    files = [
        ("images/{}.png", encode_png(draw_pixels())),
        *((f"masks/{n}.png", encode_png(m)) for n, m in enumerate(masks)),
    ]
    return [(f"{image}/{name.format(image)}", content) for image in ("a", "b") for name, content in files]


def read_zip(path: Path) -> Any:
    with patch("nuclei.data.archives.MAX_FILE_BYTES", BOMB_BYTES):
        archive = open_archive(path, "train")
        read = [prepare_image(archive, image_id) for image_id in archive.image_ids]
    return [(as_text(image), as_text(labels), row) for image, labels, row in read if labels is not None]


def change_entries(change: Callable[[Draw, Entries], object]) -> Mutation:
    """Return the mutation of a zip that is made of other entries."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        entries = draw_entries()
        change(rng, entries)
        return zip_entries(entries)

    return mutate


def add_entry(*entries: tuple[str, bytes]) -> Mutation:
    return change_entries(lambda rng, own: own.insert(rng.randrange(len(own)), rng.choice(entries)))


BOMB = b"\x89PNG\r\n\x1a\n" + bytes(40 * BOMB_BYTES)
ZIP: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "a bit flipped": (EITHER, flip),
    "bits flipped": (EITHER, lambda rng, data: flip(rng, flip(rng, data))),
    "the directory only": (REFUSED, lambda rng, data: data[data.index(b"PK\1\2") :]),
    "bzip2": (REFUSED, lambda rng, data: zip_entries(draw_entries(), zipfile.ZIP_BZIP2)),
    "stored": (SAME, lambda rng, data: zip_entries(draw_entries(), zipfile.ZIP_STORED)),
    "another method": (REFUSED, set_in_zip(10, b"\x63\0")),
    "encrypted": (REFUSED, set_in_zip(8, b"\1\0")),
    "patched": (REFUSED, set_in_zip(8, b"\x20\0")),
    "wrong checksum": (REFUSED, set_in_zip(16, b"\1\2\3\4")),
    "a smaller size": (REFUSED, set_in_zip(24, b"\5\0\0\0")),
    "a huge size": (REFUSED, set_in_zip(24, b"\xff\xff\xff\x7e")),
    "bomb": (REFUSED, change_entries(lambda rng, own: own.__setitem__(0, (own[0][0], BOMB)))),
    "bomb that lies": (
        REFUSED,
        lambda rng, data: set_in_zip(24, b"\xff\0\0\0")(rng, zip_entries([(name, BOMB) for name, _ in draw_entries()])),
    ),
    "climbing": (
        REFUSED,
        add_entry(("../x.png", b""), ("/x/images/x.png", b""), ("a/../../x", b""), ("..\\x", b""), ("C:x", b"")),
    ),
    "an entry twice": (REFUSED, change_entries(lambda rng, own: own.append((own[0][0], own[3][1])))),
    "a mask twice": (REFUSED, change_entries(lambda rng, own: own.append((own[1][0], own[2][1])))),
    "an image lost": (REFUSED, change_entries(lambda rng, own: own.pop(0))),
    "masks lost": (REFUSED, change_entries(lambda rng, own: own.__delitem__(slice(1, 3)))),
    "no images": (REFUSED, change_entries(lambda rng, own: own.clear())),
    "an image broken": (REFUSED, change_entries(lambda rng, own: own.__setitem__(0, (own[0][0], cut(rng, own[0][1]))))),
    "a mask broken": (REFUSED, change_entries(lambda rng, own: own.__setitem__(1, (own[1][0], noise(rng, b""))))),
    "a long id": (REFUSED, add_entry((f"{'x' * 300}/images/{'x' * 300}.png", b""))),
    "an id that cannot be shown": (REFUSED, add_entry(("a\nb/images/a\nb.png", b""))),
    "a name that is not the id's": (REFUSED, add_entry(("c/images/d.png", b""))),
    "a folder for a file": (REFUSED, add_entry(("c/images/c.png/", b""))),
    "clutter": (
        SAME,
        add_entry(
            ("__MACOSX/a/images/._a.png", b"x"), ("a/.DS_Store", b"x"), ("Thumbs.db", b"x"), ("readme.txt", b"x")
        ),
    ),
    "another order": (SAME, change_entries(lambda rng, own: rng.shuffle(own))),
    "a comment": (SAME, lambda rng, data: data[:-2] + b"\7\0comment"),
    "bytes before": (SAME, lambda rng, data: rng.randbytes(30) + data),
}


FOLD_ROWS = ["image_id,group,cluster,n_nuclei,fold,weight"] + [
    f"{i:02d},{i // 2:02d},{'gray' if i < 5 else 'color'},{i},{i // 2 % 2},{1 + i / 8}" for i in range(8)
]


def check_fold_text(text: str) -> list[tuple[Any, ...]]:
    """Return the rows that a fold table's text says by a reader of its own; raise an error if it breaks a rule."""
    rows = list(csv.DictReader(io.StringIO(text), delimiter="," if "," in text else ";"))
    groups = {row["group"]: row["fold"] for row in rows}
    assert rows
    assert all(groups[row["group"]] == row["fold"] for row in rows)
    assert len({row["image_id"] for row in rows}) == len(rows)
    read = [(row["image_id"], row["group"], int(row["fold"]), float(row["weight"])) for row in rows]
    assert all(name and group and fold >= 0 and 0 < weight < 1e6 for name, group, fold, weight in read)
    return sorted(read)


def read_fold_table(path: Path) -> Any:
    table = read_folds(path)
    columns = (table[name].tolist() for name in ("image_id", "group", "fold", "weight"))
    found = sorted(zip(*columns, strict=True))
    # A text has no checksum: what is read must be what it says now.
    assert found == check_fold_text(path.read_text("utf-8-sig")), "other rows than the file holds"
    return found


def turn_lines(change: Callable[[Draw, list[str]], object]) -> Mutation:
    """Return the mutation of the lines of a text."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        lines = data.decode().splitlines()
        change(rng, lines)
        return ("\n".join(lines) + "\n").encode()

    return mutate


def set_cell(column: int, *values: str) -> Mutation:
    """Return the mutation of one cell of a row that is not the header."""

    def change(rng: Draw, lines: list[str]) -> None:
        at = rng.randrange(1, len(lines))
        cells = lines[at].split(",")
        cells[column] = rng.choice(values)
        lines[at] = ",".join(cells)

    return turn_lines(change)


NO_NUMBER = ("", "x", "nan", "inf", "-1", "1e400", "0x1", "9" * 400)
TABLE: Mutations = {
    **ANYTHING,
    "no rows": (REFUSED, turn_lines(lambda rng, lines: lines.__delitem__(slice(1, None)))),
    "no header": (REFUSED, turn_lines(lambda rng, lines: lines.pop(0))),
    "not UTF-8": (REFUSED, lambda rng, data: data + b"\xff\xfe,\n"),
    "UTF-16": (REFUSED, lambda rng, data: data.decode().encode("utf-16")),
    "NUL": (REFUSED, lambda rng, data: data[:-9] + b"\0" + data[-9:]),
    "a quotation mark": (REFUSED, lambda rng, data: data[:-9] + b'\n"' + data[-9:]),
    "a column less": (REFUSED, lambda rng, data: b"\n".join(line.rpartition(b",")[0] for line in data.split(b"\n"))),
    "a cell more": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(3, lines[3] + ",1"))),
    "a cell less": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(3, lines[3].rpartition(",")[0]))),
    "line ends of Windows": (SAME, lambda rng, data: data.replace(b"\n", b"\r\n")),
    "byte order mark": (SAME, lambda rng, data: b"\xef\xbb\xbf" + data),
    "no last line end": (SAME, lambda rng, data: data.rstrip(b"\n")),
}
FOLDS = TABLE | {
    "a bit flipped": (EITHER, flip),
    "cut off": (EITHER, cut),
    "semicolons": (SAME, lambda rng, data: data.replace(b",", b";")),
    "another fold": (REFUSED, set_cell(4, "1.5", "2", *NO_NUMBER)),
    "another weight": (REFUSED, set_cell(5, "0", "1,5", *NO_NUMBER)),
    "no id": (REFUSED, set_cell(0, "", "   ")),
    "no group": (REFUSED, set_cell(1, "", "   ")),
    "an image twice": (REFUSED, turn_lines(lambda rng, lines: lines.append(rng.choice(lines[1:])))),
    "a header twice": (REFUSED, turn_lines(lambda rng, lines: lines.insert(4, lines[0]))),
    "a column twice": (REFUSED, lambda rng, data: data.replace(b"cluster", b"fold")),
    "another order": (SAME, turn_lines(lambda rng, lines: lines.__setitem__(slice(1, None), lines[:0:-1]))),
}
SOLUTION_ROWS = [
    "ImageId,EncodedPixels,Height,Width,Usage",
    "a,1 3 9 2,5,7,Public",
    "a,20 4,5,7,Public",
    "b,2 2,4,4,Private",
    "c,1 1,2,2,Ignored",
]
SOLUTION = TABLE | {
    "another height": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(2, "a,20 4,6,7,Public"))),
    "no height": (
        REFUSED,
        turn_lines(lambda rng, lines: lines.__setitem__(1, f"a,1 3,{rng.choice(NO_NUMBER)},7,Public")),
    ),
    "no image": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(1, ",1 3,5,7,Public"))),
    "another usage": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(1, "a,1 3,5,7,public"))),
    "broken masks": (
        REFUSED,
        turn_lines(
            lambda rng, lines: lines.__setitem__(
                1, f"a,{rng.choice(['1', '0 1', '1 0', '3 99', '9 1 2 1', '1  2', 'x 1', '1 2 2 1'])},5,7,Public"
            )
        ),
    ),
    "all ignored": (REFUSED, turn_lines(lambda rng, lines: lines.__setitem__(slice(1, 4), []))),
    "semicolons": (SAME, lambda rng, data: data.replace(b",", b";")),
    "blank rows": (SAME, turn_lines(lambda rng, lines: lines.insert(2, ",,,,"))),
}


CONFIG: Mutations = {
    **{name: mutation for name, mutation in ANYTHING.items() if name != "empty"},
    "a list": (REFUSED, become("- 1\n", "text", "3", "[]", "!!set {a}")),
    "not YAML": (REFUSED, append("a: [\n", "a: 'x\n", "\ta: 1\n", "a: b: c\n", "&a\n", "x: *y\n", "? [a]: {\n", "%\n")),
    "a tag of Python": (
        REFUSED,
        append("hypothesis: !!python/object/apply:os.getcwd []\n", "hypothesis: !!python/name:os.sep\n", "x: !y 1\n"),
    ),
    "a key twice": (REFUSED, append("data: {n_folds: 2}\n", "scorer: {}\n", "scorer: null\n")),
    "a key twice below": (
        REFUSED,
        replace(("n_folds: 2", "n_folds: 2\n  n_folds: 3"), ("tta: none", "tta: none\n  tta: flips")),
    ),
    "an unknown key": (
        REFUSED,
        append("unknown: 1\n", "1: 2\n", "null: 3\n", "'': 1\n", "[1, 2]: 3\n", "{a: 1}: 2\n", "1.5: 2\n"),
    ),
    "an unknown key below": (REFUSED, replace(("rounds:", "roundz:"), ("steps:", "step:"), ("n_folds: 2", "3: 2"))),
    "a wrong type": (
        REFUSED,
        replace(
            ("steps: 24", "steps: many"),
            ("steps: 24", "steps: 1.5"),
            ("steps: 24", "steps: [24]"),
            ("steps: 24", "steps: null"),
            ("n_folds: 2", "n_folds: {}"),
            ("dataset: demo", "dataset: [demo]"),
            ("dataset: demo", "dataset: 5"),
            ("tta: none", "tta: 2020-01-01"),
        ),
    ),
    "a value out of range": (
        REFUSED,
        replace(
            ("steps: 24", "steps: 0"),
            ("steps: 24", "steps: -1"),
            ("n_folds: 2", "n_folds: 1"),
            ("batch_size: 2", "batch_size: .inf"),
            ("rounds: 3", "rounds: .nan"),
            ("tta: none", "tta: some"),
            ("dataset: demo", "dataset: ../demo"),
            ("dataset: demo", "dataset: ''"),
            ("mask_thresholds:\n", "mask_thresholds:\n  - 1.5\n"),
            ("mask_thresholds:\n", "mask_thresholds:\n  - 0.5\n"),
        ),
    ),
    "nested deeply": (REFUSED, lambda rng, data: data + b"x: " + b"[" * DEEP + b"]" * DEEP),
    "nested deeply below": (REFUSED, lambda rng, data: data + b"classical: " + b"{a: " * DEEP + b"1" + b"}" * DEEP),
    "a thousand laughs": (
        REFUSED,
        append(
            "a: &a [x, x]\n"
            + "".join(f"{n}: &{n} [*{p}, *{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
        ),
    ),
    "an alias of itself": (REFUSED, append("x: &x [*x]\n", "members: &m {a: *m}\n", "classical: &c {settings: *c}\n")),
    "its own base": (REFUSED, append("base: config.yaml\n", "base: ./config.yaml\n")),
    "no base": (
        REFUSED,
        append("base: nothing.yaml\n", "base: .\n", "base: 5\n", "base: [a]\n", 'base: "a\\0b"\n', "base: ''\n"),
    ),
    "not UTF-8": (REFUSED, lambda rng, data: data + b"hypothesis: \xff\n"),
    "a byte that is no text": (REFUSED, lambda rng, data: data + rng.choice([b"\0", b"\x07", b"\x1b"])),
    "a huge number": (REFUSED, replace(("steps: 24", f"steps: {'9' * 5000}"), ("steps: 24", "steps: 1e999"))),
    "a comment": (SAME, append("# a comment\n", "---\n" * 0 + "...\n", "\n\n")),
    "line ends of Windows": (SAME, lambda rng, data: data.replace(b"\n", b"\r\n")),
    "byte order mark": (SAME, lambda rng, data: b"\xef\xbb\xbf" + data),
    "JSON": (SAME, lambda rng, data: json.dumps(yaml.safe_load(data)).encode()),
}
META_CONTENT = {"fingerprint": "abc", "settings": {"a": 1}, "inputs": {}, "stage": "plain", "seconds": 1.5}
META: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, lambda rng, data: cut(rng, data.rstrip())),
    "not a mapping": (REFUSED, become("[]", "1", "null", '"text"', "true", "[[]]")),
    "a key lost": (REFUSED, replace(('"fingerprint"', '"f"'), ('"settings"', '"s"'), ('"inputs"', '"i"'))),
    "settings of another type": (
        REFUSED,
        replace(('{"a": 1}', "[]"), ('{"a": 1}', "3"), ('"inputs": {}', '"inputs": []')),
    ),
    "nested deeply": (REFUSED, become("[" * 100000 + "]" * 100000)),
    "not UTF-8": (REFUSED, lambda rng, data: b"\xff\xfe" + data),
    "UTF-16": (REFUSED, lambda rng, data: data.decode().encode("utf-16")),
    "more behind": (REFUSED, append("x", "{}", "\0")),
    "a huge number": (REFUSED, replace(('"abc"', "9" * 5000))),
    "line ends": (SAME, lambda rng, data: data + b"\n\n"),
}


def read_label_image(path: Path) -> Any:
    return as_text(LabelFolder(str(path.parent)).read("a", SHAPE))


def draw_instances() -> NDArray[np.uint16]:
    labels = np.zeros(SHAPE, np.uint16)
    labels[3:9, 4:12], labels[12:20, 15:30] = 1, 2
    return labels


def encode_tiff(values: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def values_of(
    change: Callable[[NDArray[np.uint16]], NDArray[Any]], encode: Callable[[NDArray[Any]], bytes]
) -> Mutation:
    return lambda rng, data: encode(change(draw_instances()))


def label_mutations(encode: Callable[[NDArray[Any]], bytes]) -> Mutations:
    """Return what is done to the values of a label image, whatever the format."""
    return {
        "another size": (REFUSED, values_of(lambda labels: labels[1:], encode)),
        "turned": (REFUSED, values_of(lambda labels: labels.T, encode)),
        "a mask": (REFUSED, values_of(lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8), encode)),
        "several channels": (REFUSED, values_of(lambda labels: np.dstack([labels] * 3), encode)),
        "numbers with gaps": (SAME, values_of(lambda labels: labels * np.uint16(1000), encode)),
    }


LABELS_PNG = {name: PNG[name] for name in PNG if name not in ("16 bits", "JPEG")} | label_mutations(encode_png)
LABELS_TIFF = {
    **ANYTHING,
    # A TIFF has no checksum: some damage cannot be told, and then only has to be read without another error.
    "cut off": (EITHER, cut),
    "the head damaged": (EITHER, lambda rng, data: flip(rng, data[:200]) + data[200:]),
    "the head's noise": (EITHER, lambda rng, data: data[:8] + rng.randbytes(60) + data[68:]),
    "only a head": (REFUSED, keep_head),
    "compressed": (SAME, values_of(lambda labels: labels, lambda v: encode_tiff(v, compression="zlib"))),
    "compressed and cut off": (
        REFUSED,
        lambda rng, data: cut(rng, encode_tiff(draw_instances(), compression="zlib")),
    ),
    "fractions": (REFUSED, values_of(lambda labels: labels / 2, encode_tiff)),
    "infinite": (REFUSED, values_of(lambda labels: np.where(labels > 1, np.inf, labels), encode_tiff)),
    "no number": (REFUSED, values_of(lambda labels: np.where(labels > 1, np.nan, labels), encode_tiff)),
    "negative": (REFUSED, values_of(lambda labels: labels.astype(np.int16) - 1, encode_tiff)),
    "complex": (REFUSED, values_of(lambda labels: labels.astype(np.complex64), encode_tiff)),
    "floats": (SAME, values_of(lambda labels: labels.astype(np.float32), encode_tiff)),
    **label_mutations(encode_tiff),
}


def read_view(path: Path) -> Any:
    """Read a picture as predict-images does, all of it."""
    view = View(channel="0", series=0)
    return list_series(path, view), count_times(path, view), as_text(read_picture(path, view).pixels)


def encode_by_pillow(kind: str, frames: int = 1, **options: Any) -> bytes:
    """Encode pixels as JPEG, BMP, WebP or APNG, of several frames where there are to be some."""
    first, *more = (Image.fromarray(np.roll(draw_pixels(), frame, axis=0)) for frame in range(frames))
    buffer = io.BytesIO()
    first.save(buffer, kind, **({"save_all": True, "append_images": more} if more else {}), **options)
    return buffer.getvalue()


def encode_stack(**claims: str) -> bytes:
    """Encode an OME-TIFF of two channels, whose XML makes other claims of it."""
    stack = np.stack([draw_pixels()[..., 0], draw_labels()])
    data = encode_tiff(stack, ome=True, metadata={"axes": "CYX"})
    if not claims:
        return data
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        text = str(file.ome_metadata)
    for name, value in claims.items():
        text = re.sub(rf' {name}="[^"]*"', "", text).replace("<Pixels ", f'<Pixels {name}="{value}" ')
    return encode_tiff(stack, description=text.encode(), metadata=None, photometric="minisblack")


def claim(name: str, *values: str) -> Mutation:
    return lambda rng, data: encode_stack(**{name: rng.choice(values)})


def set_tag(*codes: int) -> Mutation:
    """Return the mutation of one tag of a little-endian TIFF's first picture: another type, count or value of it."""

    def mutate(rng: Draw, data: bytes) -> bytes:
        changed = bytearray(data)
        (start,) = struct.unpack("<I", data[4:8])
        (n,) = struct.unpack("<H", data[start : start + 2])
        entries = [start + 2 + 12 * i for i in range(n)]
        wanted = [at for at in entries if struct.unpack("<H", data[at : at + 2])[0] in codes] or entries
        at, (offset, size) = rng.choice(wanted), rng.choice([(2, 2), (4, 4), (8, 4), (8, 2)])
        value = rng.choice([0, 1, 7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]) % 256**size
        changed[at + offset : at + offset + size] = value.to_bytes(size, "little")
        return bytes(changed)

    return mutate


LAUGHS = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
HUGE_CLAIMS = ("2000000", "2147483647", "99999999999999999999")
FLAT: Mutations = {
    **ANYTHING,
    "only a head": (REFUSED, keep_head),
    "cut in half": (REFUSED, lambda rng, data: data[: rng.randrange(4, len(data) // 2)]),
    # Neither has a checksum of its pixels.
    "a bit flipped": (EITHER, flip),
    "text": (REFUSED, become("<html>404</html>", "<svg/>", "%PDF-1.4", "%!PS-Adobe", "GIF89a", "icns", "P6 9 9 255\n")),
}
STACK: Mutations = {
    **ANYTHING,
    "cut off": (REFUSED, cut),
    "the head damaged": (EITHER, lambda rng, data: flip(rng, data[:400]) + data[400:]),
    "a tag of the size": (EITHER, set_tag(256, 257, 258, 277, 278)),
    "a tag of the data": (EITHER, set_tag(259, 262, 273, 279, 284, 339)),
    "any tag": (EITHER, set_tag()),
    "pictures in a circle": (EITHER, lambda rng, data: data[:4] + struct.pack("<I", rng.choice([4, 8, 12])) + data[8:]),
    "too many channels": (REFUSED, claim("SizeC", *HUGE_CLAIMS)),
    "too many planes": (REFUSED, claim("SizeZ", *HUGE_CLAIMS)),
    "too many times": (REFUSED, claim("SizeT", *HUGE_CLAIMS)),
    "another number": (EITHER, claim("SizeC", "0", "-1", "x", "", "3", "1.5", "\u0661")),
    "another size": (EITHER, claim("SizeX", "0", "-1", "x", "5", "5000000", "1e9")),
    "another order": (EITHER, claim("DimensionOrder", "", "ABCDE", "XYXYXY", "XY")),
    "another type": (EITHER, claim("Type", "double", "complex", "", "x")),
    "a pixel of another size": (EITHER, claim("PhysicalSizeX", "inf", "nan", "-1", "wide", "1e999", "0")),
    "a thousand laughs": (
        REFUSED,
        lambda rng, data: encode_tiff(
            draw_labels(), description=f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "ha">{LAUGHS}]><OME>&i;</OME>'
        ),
    ),
}
WEBP = FLAT | {"an animation": (REFUSED, lambda rng, data: encode_by_pillow("WEBP", rng.randint(2, 5)))}
# The content decides which format it is, and values are the file's own.
PICTURE_PNG = {name: PNG[name] for name in PNG if name not in ("16 bits", "JPEG")} | {
    "an animation": (REFUSED, lambda rng, data: encode_by_pillow("PNG", rng.randint(2, 5))),
}


NO_CHECKSUM = ("a.tif", "a.ome.tif", "a.jpg", "a.bmp", "a.webp", "a.safetensors", "a.pth")
FORMATS = {
    "zip": Format("archive.zip", lambda: zip_entries(draw_entries()), read_zip, ZIP),
    "image": Format(
        "image.png", lambda: encode_png(draw_pixels()), lambda p: as_text(decode_image(p.read_bytes(), str(p))), IMAGE
    ),
    "mask": Format(
        "mask.png", lambda: encode_png(draw_labels()), lambda p: as_text(decode_mask(p.read_bytes(), str(p))), MASK
    ),
    "folds": Format("folds.csv", lambda: ("\n".join(FOLD_ROWS) + "\n").encode(), read_fold_table, FOLDS),
    "solution": Format(
        "solution.csv",
        lambda: ("\n".join(SOLUTION_ROWS) + "\n").encode(),
        lambda p: read_solution(p).to_csv(index=False),
        SOLUTION,
    ),
    "config": Format(
        "config.yaml", lambda: yaml.safe_dump(SMALL).encode(), lambda p: load_config(p).model_dump(), CONFIG
    ),
    "meta": Format("plain.json", lambda: json.dumps(META_CONTENT).encode(), read_meta, META),
    "picture PNG": Format("a.png", lambda: encode_png(draw_pixels()), read_view, PICTURE_PNG),
    "picture JPEG": Format("a.jpg", lambda: encode_by_pillow("JPEG"), read_view, FLAT),
    "picture BMP": Format("a.bmp", lambda: encode_by_pillow("BMP"), read_view, FLAT),
    "picture WebP": Format("a.webp", lambda: encode_by_pillow("WEBP", lossless=True), read_view, WEBP),
    "picture stack": Format("a.ome.tif", encode_stack, read_view, STACK),
    **LEARNED,
    "label PNG": Format("a.png", lambda: encode_png(draw_instances()), read_label_image, LABELS_PNG),
    "label TIFF": Format("a.tif", lambda: encode_tiff(draw_instances()), read_label_image, LABELS_TIFF),
}
KINDS = [f"{name}: {mutation}" for name, form in FORMATS.items() for mutation in form.mutations]


def run(case: Case, place: Place) -> str | None:
    """Break one input and read it."""
    name, _, mutation = case.kind.partition(": ")
    form = FORMATS[name]
    wanted, mutate = form.mutations[mutation]
    path = place.fresh() / form.file
    path.write_bytes(form.whole())
    whole = repr(form.read(path))
    data = mutate(case.draw(), form.whole())
    path.write_bytes(data)
    try:
        found = repr(form.read(path))
    except ValueError as error:
        if form.file not in str(error):
            return f"an error that does not name {form.file}: {error!r}"
        return f"refused: {error}" if wanted == SAME else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if left := sorted(other.name for other in path.parent.rglob("*") if other != path):
        return f"left {left}"
    if wanted == REFUSED and data != form.whole():
        return f"used: {data[:300]!r}"
    silent = found != whole and form.file not in NO_CHECKSUM and name != "folds"
    return f"used, but not as the whole one: {data[:300]!r}" if silent else None

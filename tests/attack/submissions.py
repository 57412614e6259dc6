"""Mutated submissions against a slow, obvious checker of its own, which shares no code with the one that it judges."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

from attack.case import Case, Place
from nuclei.evaluation.submission import read_solution, read_submission, score_submission, validate_submission

Shapes = dict[str, tuple[int, int]]
Rows = list[list[str]]  # header first
Draw = random.Random
SPACES = [" ", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x0c", "\x1c", "\x85"]
HUGE = ["99999999999999999999", "9" * 5000, str(2**63), str(2**63 - 1), str(2**31), "1" + "0" * 18]
NUMBERS = ["0", "-1", "-0", "+3", "1.0", "1e3", "0x1", "٣", "²", "007", "", "nan", "1_0", "None", *HUGE]


def is_valid(data: bytes, gzipped: bool, shapes: Shapes) -> bool:
    """Say whether a file keeps every rule of the competition. Of nuclei it knows nothing."""
    try:
        text = (gzip.decompress(data) if gzipped else data).decode("utf-8")
        rows = split_csv(text.removeprefix("\ufeff"))
    except Exception:
        return False
    if "\0" in text or not rows or rows[0] != ["ImageId", "EncodedPixels"]:
        return False
    masks: dict[str, list[set[int]]] = {image: [] for image in shapes}
    for row in rows[1:]:
        if len(row) != 2 or row[0] not in shapes:
            return False
        height, width = shapes[row[0]]
        pixels = read_mask(row[1], height * width)
        if pixels is None:
            return False
        masks[row[0]].append(pixels)
    for of_image in masks.values():
        union = set().union(*of_image)
        without_pixels = sum(not mask for mask in of_image)
        if not of_image or sum(map(len, of_image)) != len(union) or (without_pixels and len(of_image) > 1):
            return False
    return True


def read_mask(text: str, size: int) -> set[int] | None:
    """Return the pixels of an RLE string, counted from 1; None if it breaks a rule."""
    if text == "":
        return set()
    words = text.split(" ")
    if len(words) % 2 or any(not word or set(word) - set("0123456789") for word in words):
        return None
    pixels: set[int] = set()
    last = 0
    for start_word, length_word in zip(words[::2], words[1::2], strict=True):
        if len(start_word.lstrip("0")) > 9 or len(length_word.lstrip("0")) > 9:
            return None
        start, length = int(start_word), int(length_word)
        if start <= last or length < 1 or start + length - 1 > size:
            return None
        pixels |= set(range(start, start + length))
        last = start + length - 1
    return pixels


def split_csv(text: str) -> Rows:
    """Split a text into rows of cells by the rules of CSV, character by character; ValueError where it breaks them."""
    rows: Rows = []
    cells: list[str] = []
    at = 0
    while at < len(text):
        cell = ""
        if text[at] == '"':
            at += 1
            while True:
                if at == len(text):
                    raise ValueError("a quotation mark is not closed")
                if text[at] != '"':
                    cell += text[at]
                elif text[at + 1 : at + 2] == '"':
                    cell += '"'
                    at += 1
                else:
                    break
                at += 1
            at += 1
            if at < len(text) and text[at] not in ",\r\n":
                raise ValueError("text after a quotation mark")
        else:
            while at < len(text) and text[at] not in ",\r\n":
                cell += text[at]
                at += 1
        cells.append(cell)
        if at < len(text) and text[at] == ",":
            at += 1
            if at == len(text) or text[at] in "\r\n":
                cells.append("")
            else:
                continue
        if text[at : at + 2] == "\r\n":
            at += 1
        at += 1
        rows.append([] if cells == [""] and text[at - 2 : at - 1] != '"' else cells)
        cells = []
    return rows


def draw_submission(rng: Draw) -> tuple[Shapes, Rows]:
    """Draw a valid submission: images of rectangles that do not overlap, some images without any."""
    shapes: Shapes = {}
    rows: Rows = [["ImageId", "EncodedPixels"]]
    for number in range(rng.randint(1, 4)):
        image = f"{rng.getrandbits(32):08x}{number}"
        height, width = rng.randint(1, 14), rng.randint(1, 14)
        shapes[image] = height, width
        owner: dict[int, int] = {}
        for nucleus in range(rng.choice([0, 1, 2, 5])):
            top, left = rng.randrange(height), rng.randrange(width)
            for row in range(top, min(height, top + rng.randint(1, 6))):
                for column in range(left, min(width, left + rng.randint(1, 6))):
                    owner.setdefault(1 + column * height + row, nucleus)
        masks = [sorted(p for p in owner if owner[p] == nucleus) for nucleus in sorted(set(owner.values()))]
        rows += [[image, write_runs(pixels, rng)] for pixels in masks] or [[image, ""]]
    return shapes, rows


def write_runs(pixels: list[int], rng: Draw) -> str:
    """Write pixels as runs, now and then cut where they need not be, which is allowed."""
    words: list[int] = []
    for pixel in pixels:
        if words and words[-2] + words[-1] == pixel and rng.random() < 0.97:
            words[-1] += 1
        else:
            words += [pixel, 1]
    return " ".join(map(str, words))


def any_row(rng: Draw, rows: Rows) -> int:
    return rng.randrange(1, len(rows))


def change_words(change: Callable[[Draw, list[str]], object]) -> Callable[[Draw, Rows], None]:
    """Return the mutation that changes the words of one mask."""

    def mutate(rng: Draw, rows: Rows) -> None:
        row = rows[any_row(rng, rows)]
        words = row[1].split()
        if words:
            change(rng, words)
        row[1] = " ".join(words)

    return mutate


def set_word(which: int, values: list[str]) -> Callable[[Draw, Rows], None]:
    """Return the mutation that puts one of some texts where a start (0) or a length (1) was."""
    return change_words(
        lambda rng, words: words.__setitem__(2 * rng.randrange(len(words) // 2) + which, rng.choice(values))
    )


def swap_pairs(rng: Draw, words: list[str]) -> None:
    at = 2 * rng.randrange(len(words) // 2)
    words[:] = words[at:] + words[:at]


def set_cell(rng: Draw, rows: Rows, column: int, text: str) -> None:
    rows[any_row(rng, rows)][column] = text


def change_all(rows: Rows, change: Callable[[list[str]], object]) -> None:
    for row in rows:
        change(row)


def put_space(rng: Draw, rows: Rows, column: int) -> None:
    row = rows[rng.randrange(len(rows))]
    at = rng.randint(0, len(row[column]))
    row[column] = row[column][:at] + rng.choice(SPACES) + row[column][at:]


# What is done to the rows, the header being the first.
OF_ROWS: dict[str, Callable[[Draw, Rows], object]] = {
    "nothing": lambda rng, rows: None,
    "rows in another order": lambda rng, rows: rows.__setitem__(slice(1, None), rng.sample(rows[1:], len(rows) - 1)),
    "no header": lambda rng, rows: rows.pop(0),
    "other header": lambda rng, rows: rows[0].__setitem__(
        rng.randrange(2), rng.choice(["imageid", "ImageId ", "", "EncodedPixels", "Id"])
    ),
    "header twice": lambda rng, rows: rows.insert(rng.randint(1, len(rows)), list(rows[0])),
    "a column more": lambda rng, rows: change_all(rows, lambda row: row.append("1")),
    "a cell more": lambda rng, rows: rows[any_row(rng, rows)].append(rng.choice(["", "1"])),
    "a cell less": lambda rng, rows: rows[any_row(rng, rows)].pop(),
    "columns swapped": lambda rng, rows: change_all(rows, list.reverse),
    "unknown image": lambda rng, rows: set_cell(rng, rows, 0, rng.choice(["x", "", "0", "../x", "\ufeff"])),
    "a row lost": lambda rng, rows: rows.pop(any_row(rng, rows)),
    "no rows": lambda rng, rows: rows.__delitem__(slice(1, None)),
    "nothing at all": lambda rng, rows: rows.clear(),
    "a row twice": lambda rng, rows: rows.insert(any_row(rng, rows), list(rows[any_row(rng, rows)])),
    "an empty row": lambda rng, rows: rows.insert(rng.randint(0, len(rows)), rng.choice([[], [""], ["", ""], [" "]])),
    "a mask emptied": lambda rng, rows: set_cell(rng, rows, 1, rng.choice(["", " ", "\u00a0"])),
    "a row without pixels": lambda rng, rows: rows.append([rows[any_row(rng, rows)][0], ""]),
    "another start": set_word(0, NUMBERS),
    "another length": set_word(1, NUMBERS),
    "a longer run": set_word(1, [str(n) for n in (1, 2, 3, 5, 8, 14, 40, 196, 197)]),
    "a run moved": set_word(0, [str(n) for n in (1, 2, 3, 5, 8, 14, 40, 196, 197)]),
    "a value lost": change_words(lambda rng, words: words.pop(rng.randrange(len(words)))),
    "a value twice": change_words(lambda rng, words: words.insert(rng.randrange(len(words)), rng.choice(words))),
    "pairs in another order": change_words(swap_pairs),
    "a pair twice": change_words(lambda rng, words: words.extend(words[:2])),
    "a space in a mask": lambda rng, rows: put_space(rng, rows, 1),
    "a space in an id": lambda rng, rows: put_space(rng, rows, 0),
    "masks joined": lambda rng, rows: set_cell(rng, rows, 1, " ".join(row[1] for row in rows[1:3])),
}
# What is done to the bytes.
OF_BYTES: dict[str, Callable[[Draw, bytes], bytes]] = {
    "byte order mark": lambda rng, data: b"\xef\xbb\xbf" * rng.randint(1, 2) + data,
    "line ends of Windows": lambda rng, data: data.replace(b"\n", b"\r\n"),
    "line ends of old": lambda rng, data: data.replace(b"\n", b"\r"),
    "line ends doubled": lambda rng, data: data.replace(b"\n", b"\r\r\n"),
    "no last line end": lambda rng, data: data.rstrip(b"\n"),
    "semicolons": lambda rng, data: data.replace(b",", b";"),
    "tabs": lambda rng, data: data.replace(b",", b"\t"),
    "a character put in": lambda rng, data: put_in(
        rng, data, rng.choice([b"\0", b'"', b"'", b",", b";", b"\n", b"\r", b"\xff", b"\xc3", b"\xe2\x80\x8b", b"\x1a"])
    ),
    "quoted": lambda rng, data: b"\n".join(
        line and b'"' + line.replace(b",", b'","') + b'"' for line in data.split(b"\n")
    ),
    "cut off": lambda rng, data: data[: rng.randrange(len(data))],
    "a byte changed": lambda rng, data: put_in(rng, data, bytes([rng.randrange(256)]), over=1),
    "UTF-16": lambda rng, data: data.decode().encode("utf-16"),
    "random": lambda rng, data: rng.randbytes(rng.randint(0, 300)),
}
# What is done to the bytes once they are gzipped; the name ends in .gz.
OF_GZIP: dict[str, Callable[[Draw, bytes], bytes]] = {
    "gzip": lambda rng, data: data,
    "gzip cut off": lambda rng, data: data[: rng.randrange(len(data))],
    "gzip damaged": lambda rng, data: put_in(rng, data, bytes([rng.randrange(256)]), over=1),
    "gzip and more": lambda rng, data: data + rng.choice([b"\0" * 9, b"more", data, rng.randbytes(5)]),
    "no gzip": lambda rng, data: gzip.decompress(data),
    "gzip twice": lambda rng, data: gzip.compress(data),
}
KINDS = [*OF_ROWS, *OF_BYTES, *OF_GZIP]


def put_in(rng: Draw, data: bytes, piece: bytes, over: int = 0) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + piece + data[at + over :]


def run(case: Case, place: Place) -> str | None:
    """Write one submission, mutated, and compare what the two checkers say of it."""
    rng = case.draw()
    shapes, rows = draw_submission(rng)
    truth = [list(row) for row in rows]
    if case.kind in OF_ROWS:
        OF_ROWS[case.kind](rng, rows)
    data = "".join(",".join(row) + "\n" for row in rows).encode()
    if case.kind in OF_BYTES:
        data = OF_BYTES[case.kind](rng, data)
    gzipped = case.kind in OF_GZIP
    if gzipped:
        data = OF_GZIP[case.kind](rng, gzip.compress(data, mtime=0))
    folder = place.fresh()
    path = folder / ("submission.csv" + ".gz" * gzipped)
    path.write_bytes(data)
    valid, violations = is_valid(data, gzipped, shapes), validate_submission(path, shapes)
    if valid != (not violations):
        return f"the oracle says {'valid' if valid else 'invalid'}, validate_submission {violations} of {data!r}"
    solution = folder / "solution.csv"
    solution.write_text(write_solution(truth, shapes))
    return find_score_fault(path, solution, valid, case.kind == "nothing")


def write_solution(rows: Rows, shapes: Shapes) -> str:
    lines = [f"{image},{mask},{shapes[image][0]},{shapes[image][1]},Public" for image, mask in rows[1:]]
    return "\n".join(["ImageId,EncodedPixels,Height,Width,Usage", *lines, ""])


def find_score_fault(path: Path, solution: Path, valid: bool, perfect: bool) -> str | None:
    """Return what is wrong with how a submission is read and scored: what is valid must be, what is not may."""
    try:
        table = read_submission(path)
    except ValueError as error:
        return None if path.name in str(error) and not valid else f"read_submission: {error!r}"
    try:
        scores = score_submission(table, read_solution(solution))
    except ValueError as error:
        return f"a valid submission is not scored: {error!r}" if valid else None
    return "a perfect submission does not score 1" if perfect and not (scores["score"] == 1).all() else None

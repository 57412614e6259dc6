"""Submissions: written, validated rule by rule, and scored against a solution file."""

import gzip
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_cases import find_case

from nuclei.evaluation.metric import THRESHOLDS, score_image
from nuclei.evaluation.rle import encode_labels
from nuclei.evaluation.sheets import gunzip
from nuclei.evaluation.submission import (
    read_solution,
    read_submission,
    score_submission,
    submission_rows,
    validate_submission,
    write_submission,
)

SHAPES = {"a": (3, 4), "b": (5, 5)}
VALID = "ImageId,EncodedPixels\na,1 2\na,5 2\nb,\n"


def violations_of(text):
    return validate_submission(io.StringIO(text), SHAPES)


def random_labels(rng, shape):
    labels = np.kron(rng.integers(0, 5, (4, 4)), np.ones((3, 3), int))
    return labels[: shape[0], : shape[1]] * 3


def test_rows_of_an_image():
    labels = np.array([[0, 7, 7], [2, 2, 0]])
    assert submission_rows("x", labels) == [("x", "2 1 4 1"), ("x", "3 1 5 1")]
    assert submission_rows("x", labels * 0) == [("x", "")]


def test_what_is_written_is_valid_and_reads_back():
    rng = np.random.default_rng(0)
    shapes = {f"image{i}": (12 - i, 7 + i) for i in range(5)} | {"empty": (4, 4)}
    images = {name: random_labels(rng, shape) for name, shape in shapes.items()}
    images["empty"] = np.zeros((4, 4), int)
    shapes = {name: labels.shape for name, labels in images.items()}
    file = io.StringIO()
    write_submission(file, images.items())
    assert validate_submission(io.StringIO(file.getvalue()), shapes) == []
    table = read_submission(io.StringIO(file.getvalue()))
    expected = [row for name, labels in images.items() for row in submission_rows(name, labels)]
    assert list(table.itertuples(index=False, name=None)) == expected


def test_valid_submissions_have_no_violation(tmp_path):
    assert violations_of(VALID) == []
    assert violations_of('ImageId,EncodedPixels\na,"1 2"\nb,3 1\na,5 2') == []
    path = tmp_path / "submission.csv"
    path.write_text(VALID)
    assert validate_submission(path, SHAPES) == []
    packed = tmp_path / "submission.csv.gz"
    packed.write_bytes(gzip.compress(VALID.encode()))
    assert validate_submission(packed, SHAPES) == []
    assert len(read_submission(packed)) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ImageId,Pixels\na,\nb,\n", "row 1: header is 'ImageId,Pixels'"),
        ("EncodedPixels,ImageId\na,\nb,\n", "row 1: header is 'EncodedPixels,ImageId'"),
        ("a,1 2\nb,\n", "row 1: header is 'a,1 2'"),
        (VALID + "c,1 2\n", "row 5, image 'c': unknown image"),
        (VALID + "b\n", "row 5: 1 columns instead of 2"),
        (VALID + "\n", "row 5: blank, delete it"),
        (VALID + ",\n", "row 5: blank, delete it"),
        (VALID.replace(",", ";"), "row 1: columns are separated by ';': save the file again with commas"),
        (VALID + "b,1,2\n", "row 5: 3 columns instead of 2"),
        ("ImageId,EncodedPixels\na,1 2\n", "image b: missing"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 x\n", "row 3, image b: 1 values are not integers"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 2.5\n", "row 3, image b: 1 values are not integers"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 2 3\n", "row 3, image b: odd number"),
        ("ImageId,EncodedPixels\na,1 2\nb,1  2\n", "row 3, image b: white space '  ' that is not a single space"),
        ("ImageId,EncodedPixels\na,1\u00a02\nb,\n", "row 2, image a: white space '\\xa0' that is not"),
        ("ImageId,EncodedPixels\na,1 2 \nb,\n", "row 2, image a: white space ' ' that is not"),
        ("ImageId,EncodedPixels\na,1 2\nb,\t\n", "row 3, image b: white space '\\t' that is not"),
        ("ImageId,EncodedPixels\na,1 2\nb," + "9" * 5000 + " 1\n", "row 3, image b: out of range"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 " + "9" * 5000 + "\n", "row 3, image b: out of range"),
        ("ImageId,EncodedPixels\na,1 2\nb,-" + "9" * 5000 + " 1\n", "row 3, image b: start below 1"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 0\n", "row 3, image b: zero length"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 -3\n", "row 3, image b: negative length"),
        ("ImageId,EncodedPixels\na,1 2\nb,0 3\n", "row 3, image b: start below 1"),
        ("ImageId,EncodedPixels\na,1 2\nb,9 1 3 1\n", "row 3, image b: not sorted"),
        ("ImageId,EncodedPixels\na,12 2\nb,25 1\n", "row 2, image a: out of range of an image of 12"),
        ("ImageId,EncodedPixels\na,1 2\nb,1 3 3 1\n", "row 3, image b: a pixel listed twice"),
        ("ImageId,EncodedPixels\na,1 2\nb,\na,2 3\n", "row 4, image a: overlaps row 2 in 1 pixels"),
        ("ImageId,EncodedPixels\na,1 2\nb,\na,1 2\n", "row 4, image a: duplicate of row 2"),
        ("ImageId,EncodedPixels\na,1 2\nb,\nb,\n", "row 4, image b: duplicate of row 3"),
        ("ImageId,EncodedPixels\na,1 2\nb,4 1\na,\n", "row 4, image a: no pixels"),
    ],
)
def test_each_violation_is_named_with_row_and_image(text, expected):
    violations = violations_of(text)
    assert violations[0].startswith(expected)
    assert len(violations) == 1


def test_all_violations_are_reported_together_in_row_order():
    text = "Id,EncodedPixels\na,5 2 1 2\nz,1 1\na,2 1 13 1\na,7 0\na,\n"
    expected = [
        "row 1: header",
        "row 2, image a: not sorted",
        "row 3, image 'z': unknown",
        "row 4, image a: out of range",
        "row 4, image a: overlaps row 2 in 1",
        "row 5, image a: zero length",
        "row 6, image a: no pixels",
        "image b: missing",
    ]
    violations = violations_of(text)
    assert len(violations) == len(expected)
    assert all(found.startswith(start) for found, start in zip(violations, expected, strict=True)), violations


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0", "  "])
def test_a_second_row_without_pixels_is_reported_whatever_its_white_space(blank):
    violations = violations_of(f"ImageId,EncodedPixels\na,1 2\nb,\nb,{blank}\n")
    assert violations[-1] == "row 4, image b: duplicate of row 3"
    assert len(violations) == (1 if blank == "" else 2)


def is_valid(rows):
    """Say by the rules alone, with sets of pixels, whether rows (image, text) are a valid submission of SHAPES."""
    if {image for image, _ in rows} != set(SHAPES):
        return False
    for image, (height, width) in SHAPES.items():
        texts = [text for name, text in rows if name == image]
        taken = set()
        if "" in texts and len(texts) > 1:
            return False
        for text in texts:
            words = text.split(" ") if text else []
            if len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words):
                return False
            numbers = [int(word) for word in words]
            runs = list(zip(numbers[::2], numbers[1::2], strict=True))
            pixels = [pixel for start, length in runs for pixel in range(start, start + length)]
            inside = all(1 <= pixel <= height * width for pixel in pixels)
            if not inside or pixels != sorted(set(pixels)) or not all(length for _, length in runs):
                return False
            if taken & set(pixels):
                return False
            taken |= set(pixels)
    return True


@st.composite
def nearly_valid_rows(draw):
    """Draw rows of disjoint runs, and, mostly, one of many ways to spoil them."""
    rows = []
    for image, (height, width) in SHAPES.items():
        cuts = sorted(draw(st.sets(st.integers(1, height * width + 1), max_size=6)))
        runs = [f"{start} {end - start}" for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
        rows += [(image, run) for run in runs] if draw(st.booleans()) else [(image, " ".join(runs))]
        rows += [(image, "")] * (image not in dict(rows))
    extra = ["", " ", "1 1", "3 2 1 1", "1 2 2 1", "25 1", "12 2", "0 1", "1 0", "-1 2", "1", "x 1", "1  1", "1\u00a01"]
    spoiled = st.one_of(
        st.just(rows),
        st.builds(lambda n, text: [*rows[:n], (rows[n][0], text), *rows[n + 1 :]], index(rows), st.sampled_from(extra)),
        st.builds(lambda n, text: [*rows, (rows[n][0], text)], index(rows), st.sampled_from(extra)),
        st.builds(
            lambda n, sign: [*rows[:n], (rows[n][0], rows[n][1] + sign), *rows[n + 1 :]], index(rows), st.text("1 \t")
        ),
        st.builds(lambda n: [*rows[:n], *rows[n + 1 :]], index(rows)),
        st.builds(lambda n: [*rows, rows[n]], index(rows)),
    )
    return draw(spoiled)


def index(rows):
    return st.integers(0, len(rows) - 1)


@given(nearly_valid_rows())
def test_a_submission_has_violations_exactly_where_the_rules_say_so(rows):
    text = "ImageId,EncodedPixels\n" + "".join(f"{image},{text}\n" for image, text in rows)
    assert (violations_of(text) == []) == is_valid(rows)
    table = read_submission(io.StringIO(text))
    assert list(table.itertuples(index=False, name=None)) == rows, "both read the same"


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(["", "ImageId,EncodedPixels\n"])
)
def test_no_bytes_make_the_validation_raise(data, start):
    text = start.encode() + data
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return
    assert violations_of(decoded)


def gzipped(text, damage):
    data = bytearray(gzip.compress(text.encode()))
    if damage == "cut short":
        return bytes(data[:-12])
    if damage == "flipped bits":
        data[len(data) // 2] ^= 255
    return b"no gzip" if damage == "no gzip" else bytes(data)


UNREADABLE = {
    "cut.csv.gz": (gzipped(VALID, "cut short"), "cut.csv.gz is a damaged or truncated gzip file"),
    "bits.csv.gz": (gzipped(VALID, "flipped bits"), "bits.csv.gz is a damaged or truncated gzip file"),
    "plain.csv.gz": (gzipped(VALID, "no gzip"), "plain.csv.gz is a damaged or truncated gzip file"),
    "latin.csv": (VALID.encode() + "\u00e9,1 1\n".encode("latin-1"), "latin.csv, row 5: not UTF-8 text"),
    "utf16.csv": (VALID.encode("utf-16"), "utf16.csv, row 1: not UTF-8 text"),
    "nul.csv": (VALID.encode() + b"\0\n", "nul.csv, row 5: a NUL byte"),
    "quote.csv": (VALID.encode() + b'b,"1 2\n', "quote.csv, row 5: not readable as CSV"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_a_violation_or_an_error_that_names_it(tmp_path, name):
    data, message = UNREADABLE[name]
    path = tmp_path / name
    path.write_bytes(data)
    violations = validate_submission(path, SHAPES)
    assert len(violations) == 1
    assert message in violations[0]
    for read in (read_submission, read_solution):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(path)


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n", "\r")]
)
def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path, change):
    path = tmp_path / "submission.csv"
    path.write_bytes(change(VALID).encode())
    assert validate_submission(path, SHAPES) == []
    assert read_submission(path).equals(read_submission(io.StringIO(VALID)))


def test_a_row_of_another_length_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "short.csv"
    path.write_text(VALID + "b\n")
    with pytest.raises(ValueError, match=re.escape("short.csv, row 5: 1 columns instead of 2")):
        read_submission(path)


SOLUTION = "ImageId,EncodedPixels,Height,Width,Usage\na,1 2,3,4,Public\nb,,5,5,Private\n"
BAD_ROWS = {
    "a,5 2,,4,Public": "image a: Height is ''",
    "a,5 2,3,4.0,Public": "image a: Width is '4.0'",
    "a,5 2,0,4,Public": "image a: Height is '0'",
    "a,5 2,3,-4,Public": "image a: Width is '-4'",
    "a,5 2,3,4,public": "image a: Usage is 'public', not Public, Private or Ignored",
    "a,5 2,4,3,Public": "image a: Height and Width differ",
    "a,12 2,3,4,Public": "image a: out of range",
    "a,5 2.0,3,4,Public": "image a: 1 values are not integers",
    ",5 2,3,4,Public": "no image",
    "a,5 2,3,4": "4 columns instead of 5",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_row_of_a_solution_that_cannot_be_scored_is_named(tmp_path, row):
    path = tmp_path / "solution.csv"
    path.write_text(SOLUTION + "\n" + row + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, row 5") + ".*" + re.escape(BAD_ROWS[row])):
        read_solution(path)


def test_ignored_rows_of_a_solution_are_not_looked_at():
    table = read_solution(io.StringIO(SOLUTION + "c,no mask,,,Ignored\n"))
    assert table["ImageId"].tolist() == ["a", "b"]


@pytest.mark.parametrize("kind", ["plain", "bom", "crlf", "semicolon", "trailing_blank_rows"])
def test_a_shared_solution_is_read_however_it_was_saved(kind):
    table = read_solution(find_case(f"solution_{kind}.csv"))
    assert table.equals(read_solution(find_case("solution_plain.csv")))
    assert table["ImageId"].tolist() == ["img1", "img1"]
    assert table[["Height", "Width"]].to_numpy().tolist() == [[64, 80]] * 2


@pytest.mark.parametrize("kind", ["plain", "bom", "semicolon"])
def test_a_shared_submission_is_read_however_it_was_saved(kind):
    path = find_case(f"submission_{kind}.csv")
    assert read_submission(path).equals(read_submission(find_case("submission_plain.csv")))
    expected = ["row 1: columns are separated by ';': save the file again with commas"] if kind == "semicolon" else []
    assert validate_submission(path, {"img1": (64, 80)}) == expected


def test_an_empty_file_lacks_everything():
    assert [violation[:7] for violation in violations_of("")] == ["row 1: ", "image a", "image b"]


def test_a_mask_longer_than_the_csv_module_takes_is_validated():
    labels = np.indices((600, 600)).sum(axis=0) % 2
    text = encode_labels(labels)[0]
    assert len(text) > 131_072
    file = io.StringIO(f"ImageId,EncodedPixels\nbig,{text}\n")
    assert validate_submission(file, {"big": labels.shape}) == []


@pytest.fixture
def truth_and_prediction():
    rng = np.random.default_rng(4)
    truth, prediction = {}, {}
    for name, shape in {"u": (9, 12), "v": (12, 8), "w": (10, 10), "none": (6, 6)}.items():
        truth[name] = random_labels(rng, shape)
        prediction[name] = np.where(rng.random(truth[name].shape) < 0.15, 0, truth[name])
    truth["none"][:] = 0
    prediction["none"][:] = 0
    return truth, prediction


def solution_csv(truth, usage):
    rows = [
        (name, text, *labels.shape, usage.get(name, "Public"))
        for name, labels in truth.items()
        for _, text in submission_rows(name, labels)
    ]
    table = pd.DataFrame(rows, columns=["ImageId", "EncodedPixels", "Height", "Width", "Usage"])
    return io.StringIO(table.to_csv(index=False))


def submission_table(prediction):
    rows = [row for name, labels in prediction.items() for row in submission_rows(name, labels)]
    return pd.DataFrame(rows, columns=["ImageId", "EncodedPixels"])


def test_scores_equal_those_of_the_label_images(truth_and_prediction):
    truth, prediction = truth_and_prediction
    table = score_submission(submission_table(prediction), read_solution(solution_csv(truth, {})))
    assert list(table) == ["image_id", "score", *(f"p{round(100 * t)}" for t in THRESHOLDS)]
    assert list(table["image_id"]) == list(truth)
    for row in table.itertuples(index=False):
        score, precision = score_image(truth[row.image_id], prediction[row.image_id])
        assert row.score == score
        assert list(row[2:]) == precision.tolist()
    assert 0 < table["score"][0] < 1
    assert table["score"][3] == 1


def test_ignored_rows_are_left_out_and_usages_can_be_chosen(truth_and_prediction):
    truth, prediction = truth_and_prediction
    usage = {"u": "Ignored", "v": "Private", "w": "Public", "none": "Private"}
    submission = submission_table(prediction)

    def scored(wanted):
        solution = read_solution(solution_csv(truth, usage), wanted)
        return list(score_submission(submission, solution)["image_id"])

    assert scored(None) == ["v", "w", "none"]
    assert scored("Private") == ["v", "none"]
    assert scored("Public") == ["w"]
    with pytest.raises(ValueError, match=r"usage='Secret'; it has .*Private"):
        read_solution(solution_csv(truth, usage), "Secret")


def test_overlapping_truth_masks_keep_their_pixels():
    solution = pd.DataFrame(
        [("a", "1 10", 4, 5, "Public"), ("a", "10 6", 4, 5, "Public")],
        columns=["ImageId", "EncodedPixels", "Height", "Width", "Usage"],
    )
    submission = pd.DataFrame([("a", "1 10"), ("a", "11 5")], columns=["ImageId", "EncodedPixels"])
    row = score_submission(submission, solution).iloc[0]
    # The second prediction has 5 of the second nucleus' 6 pixels: IoU 0.83.
    assert (row.p80, row.p85, row.p95) == (1, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_what_cannot_be_scored_names_the_image(truth_and_prediction):
    truth, prediction = truth_and_prediction
    solution = read_solution(solution_csv(truth, {}))
    submission = submission_table(prediction)
    with pytest.raises(ValueError, match="image w is missing"):
        score_submission(submission[submission["ImageId"] != "w"], solution)
    doubled = pd.concat([submission, submission[submission["ImageId"] == "v"]])
    with pytest.raises(ValueError, match=r"image v: masks .* overlap"):
        score_submission(doubled, solution)
    pixels = submission["EncodedPixels"].where(submission["ImageId"] != "u", "1")
    broken = submission.assign(EncodedPixels=pixels)
    with pytest.raises(ValueError, match=r"image u: .*odd"):
        score_submission(broken, solution)


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="solution lacks the columns Height, Width, Usage"):
        read_solution(io.StringIO(VALID))
    with pytest.raises(ValueError, match="submission lacks the columns ImageId"):
        read_submission(io.StringIO("Id,EncodedPixels\n"))


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.csv"])
@pytest.mark.parametrize("read", [read_submission, read_solution])
def test_a_file_that_unpacks_to_more_than_the_limit_is_refused_by_name(tmp_path, monkeypatch, name, read):
    monkeypatch.setattr("nuclei.evaluation.sheets.MAX_TABLE_BYTES", 10_000)
    content = b"ImageId,EncodedPixels\n" + b"a,1 1\n" * 2_000
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=rf"{name} is refused: .*more than"):
        read(path)
    assert [name in violation for violation in validate_submission(path, {"a": (1, 1)})] == [True]


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_gzip_is_unpacked_up_to_its_limit(content, limit):
    packed = gzip.compress(content)
    if len(content) <= limit:
        assert gunzip(packed, limit) == content
        assert gunzip(packed + bytes(7), limit) == content
    else:
        with pytest.raises(OverflowError, match=f"more than {limit}"):
            gunzip(packed, limit)

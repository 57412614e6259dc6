"""Results belong to an image's content, the weights and the settings; a bad file stops nothing; nothing is lost."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from shared_cases import find_case
from skimage.filters import threshold_otsu
from skimage.measure import label
from typer.testing import CliRunner

from nuclei.cli import app
from nuclei.data.axes import View
from nuclei.data.images import encode_image_png
from nuclei.data.novelty import describe_training
from nuclei.data.statistics import describe_image
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference import segment_files as module
from nuclei.inference.bundle import find_default
from nuclei.inference.exports import FORMATS
from nuclei.inference.gallery import VIEWS
from nuclei.inference.image_files import Reading, find_images
from nuclei.inference.predictor import load_predictor
from nuclei.inference.segment_files import COLUMNS, check_failures, segment_files
from nuclei.inference.up_to_date import FAILED, FORCED, MADE, TO_DO, UP_TO_DATE
from nuclei.runs.files import write_bytes


class Threshold:
    """Stand for a Predictor: bright components are nuclei."""

    config = None
    novelty = None  # as of a run that was made before its training images were recorded
    has_networks, trained_diameter = False, 10

    def segment(self, image, of_competition=False):  # noqa: ARG002 (as a Predictor takes it)
        gray = image[..., 0]
        if gray.min() == gray.max():
            return np.zeros(gray.shape, np.int32), None
        labels = label(gray > threshold_otsu(gray)).astype(np.int32)
        return labels, np.linspace(0, 1, labels.max(), dtype=np.float32)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Give a folder with two images in `in`, where a threshold stands for the networks."""
    monkeypatch.setattr(module, "load_predictor", lambda *key: Threshold())
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        write_bytes(tmp_path / f"in/{name}.png", draw(seed))
    return tmp_path


def draw(seed):
    return encode_image_png(make_image("dark_fluorescence_small", (64, 80), np.random.default_rng(seed))[0])


def segment(folder, *paths, **options):
    paths = paths or [folder / "in"]
    reading = options.pop("reading", None)
    weights = options.pop("weights", None) or find_default()
    return segment_files(find_images(paths), weights, folder / "out", reading, jobs=1, **options)


def states(summary):
    return dict(zip(summary["image"], summary["state"], strict=True))


def test_every_result_and_a_record_lie_in_the_folder(project):
    summary = segment(project)
    assert states(summary) == {"a": MADE, "b": MADE}
    assert list(summary) == list(COLUMNS)
    names = {f"{name}{ending}" for name in "ab" for ending in (*FORMATS, ".json")}
    pages = {"summary.csv", "index.html", VIEWS, ".predict-images.lock"}
    assert {path.name for path in (project / "out").iterdir()} == names | pages
    views = {"a.js", "a.jpg", "b.js", "b.jpg", "provenance.json"}
    assert {path.name for path in (project / "out" / VIEWS).iterdir()} == views
    for row in summary.itertuples():
        assert row.nuclei == len(pd.read_csv(project / f"out/{row.image}_nuclei.csv"))
        assert row.nuclei == tifffile.imread(project / f"out/{row.image}_labels.tif").max()


def test_an_image_unlike_all_training_images_is_called_so(project, monkeypatch):
    rng = np.random.default_rng(3)
    like = [describe_image(make_image("dark_fluorescence_small", (64, 80), rng)[0]) for _ in range(30)]
    monkeypatch.setattr(Threshold, "novelty", describe_training(like, list(map(str, range(30))), [0] * 30).novelty())
    white = make_image("purple_on_white", (64, 80), rng)[0]
    write_bytes(project / "in/c.png", encode_image_png(white))
    summary = segment(project).set_index("image")
    assert summary.loc["c", "novelty"] > 3 > 1.5 > summary.loc["a", "novelty"] > 0
    assert summary.loc["c", "known"] == "unlike any training image"
    assert "unlike any training image" in (project / "out/index.html").read_text()
    assert pd.read_csv(project / "out/summary.csv")["known"].tolist() == summary["known"].tolist()


def test_what_is_up_to_date_is_not_made_again(project):
    segment(project)
    before = {path: path.stat().st_mtime_ns for path in (project / "out").glob("*_labels.tif")}
    assert states(segment(project)) == {"a": UP_TO_DATE, "b": UP_TO_DATE}
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert states(segment(project, force=True)) == {"a": MADE, "b": MADE}


def test_another_image_of_the_same_name_is_segmented(project):
    segment(project)
    first = (project / "out/a_labels.tif").read_bytes()
    write_bytes(project / "other/a.png", draw(7))
    summary = segment(project, project / "other")
    assert summary["why"].tolist() == ["the image has changed"]
    assert (project / "out/a_labels.tif").read_bytes() != first


def test_other_settings_and_other_weights_make_results_anew(project, monkeypatch):
    segment(project)
    summary = segment(project, reading=Reading(pixel_size_um=0.5))
    assert summary["why"].tolist() == ["pixel_size_um: null -> 0.5"] * 2
    monkeypatch.setattr(module, "hash_weights", lambda run: "other")
    assert segment(project, reading=Reading(pixel_size_um=0.5))["why"].tolist() == ["other weights"] * 2


def test_a_diameter_is_a_setting_of_its_own_and_measures_stay_in_pixels_of_the_image(project):
    before = segment(project, project / "in/a.png")
    summary = segment(project, project / "in/a.png", reading=Reading(diameter=5.0))
    assert summary["why"].tolist() == ['diameter: "unlike" -> 5.0']
    assert before["diameter_px"].isna().all()
    assert summary["diameter_px"].tolist() == [5]
    assert (project / "out/a_labels.tif").stat().st_size
    labels, table = tifffile.imread(project / "out/a_labels.tif"), pd.read_csv(project / "out/a_nuclei.csv")
    assert labels.shape == (64, 80)
    assert table["area_px"].tolist() == np.bincount(labels.ravel())[1:].tolist()
    estimated = segment(project, project / "in/a.png", reading=Reading(diameter="auto"))
    assert 3 < estimated["diameter_px"][0] < 40
    assert json.loads((project / "out/a.json").read_text())["made_from"]["settings"]["diameter"] == "auto"


def test_the_hash_of_weights_knows_every_file_that_segments(tmp_path):
    source = find_default() / "bundle"
    hashes = set()
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    used = [path for path in files if path.parent.name != "meta" and path.name not in ("config.yaml", "manifest.json")]
    assert len(used) >= 8  # four networks, boosters, thresholds, and what was learned of the training images
    for changed in [None, *used]:
        for path in files:
            target = tmp_path / "runs" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or changed == path:
                target.write_bytes((source / path).read_bytes() + b"\n" * (changed == path))
        hashes.add(module.hash_weights(module.Run(find_default().name, tmp_path / "runs")))
    assert len(hashes) == len(used) + 1
    assert module.hash_weights(module.find_run(find_default())) in hashes


@pytest.mark.parametrize("lost", list(module.list_results("a")))
def test_a_lost_or_unfinished_result_is_made_again(project, lost):
    segment(project)
    (project / "out" / lost).unlink()
    assert states(segment(project)) == {"a": MADE, "b": UP_TO_DATE}
    record = project / "out/b.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": False}))
    assert states(segment(project)) == {"a": UP_TO_DATE, "b": MADE}


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b" "])
def test_a_damaged_result_is_named_and_made_again(project, name, damage):
    segment(project)
    path = project / f"out/a{name}"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    summary = segment(project)
    assert states(summary) == {"a": MADE, "b": UP_TO_DATE}
    assert summary["why"].tolist()[0] == f"a{name} is damaged or was changed"
    assert path.read_bytes() == whole


def test_a_record_is_damaged_by_any_bit_and_the_command_says_so_or_goes_on(project):
    (project / "in/b.png").unlink()
    segment(project)
    path, rng = project / "out/a.json", np.random.default_rng(0)
    whole = path.read_bytes().partition(b'"thumbnails"')[0]
    rest = path.read_bytes()[len(whole) :]
    for _ in range(40):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data) + rest)
        try:
            segment(project)
        except UserError as error:
            assert "a" in str(error)  # noqa: PT017 (either will do, but no other error)
        path.write_bytes(whole + rest)


def test_a_record_of_an_earlier_version_has_no_hashes(project):
    segment(project)
    record = json.loads((project / "out/a.json").read_text())
    del record["sha256"]
    (project / "out/a.json").write_text(json.dumps(record))
    assert states(segment(project)) == {"a": UP_TO_DATE, "b": UP_TO_DATE}


def test_left_overs_of_killed_writes_are_removed_and_nothing_else(project):
    segment(project)
    (project / "out/.77.partial.a_labels.tif").write_bytes(b"half")
    (project / "out/.77.partial.other.tif").write_bytes(b"somebody's")
    segment(project)
    assert [path.name for path in (project / "out").glob(".*.partial.*")] == [".77.partial.other.tif"]


def test_a_killed_call_leaves_no_finished_record(project, monkeypatch):
    def die(segmented):
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "_rois.zip", die)
    with pytest.raises(KeyboardInterrupt):
        segment(project, project / "in/a.png")
    monkeypatch.undo()
    monkeypatch.setattr(module, "load_predictor", lambda *key: Threshold())
    summary = segment(project)
    assert states(summary) == {"a": MADE, "b": MADE}
    assert summary["why"].tolist() == ["unfinished", "no results yet"]


def test_a_bad_file_is_listed_at_the_end_and_the_others_are_done(project):
    write_bytes(project / "in/cut.png", draw(3)[:900])
    write_bytes(project / "in/no.tif", b"II*\0nothing")
    summary = segment(project, submission=project / "submission.csv")
    assert states(summary) == {"a": MADE, "b": MADE, "cut": FAILED, "no": FAILED}
    assert not (project / "submission.csv").exists()
    with pytest.raises(
        ValueError, match=r"2 of 4 images cannot be read, so s.csv is not written:\n.*cut.png.*\n.*no.tif"
    ):
        check_failures(summary, "s.csv")
    again = pd.read_csv(project / "out/summary.csv")
    assert again["state"].tolist() == summary["state"].tolist()
    check_failures(segment(project, project / "in/a.png"))


def test_files_of_others_are_not_overwritten_unless_forced(project):
    mine = project / "out/a_labels.tif"
    write_bytes(mine, b"drawn by hand")
    with pytest.raises(ValueError, match="a_labels.tif would be overwritten.*--force"):
        segment(project)
    assert mine.read_bytes() == b"drawn by hand"
    assert not (project / "out/b.json").exists()
    assert states(segment(project, force=True)) == {"a": MADE, "b": MADE}
    for name in ("index.html", "summary.csv"):
        write_bytes(project / f"out/{name}", b"another page")
        with pytest.raises(ValueError, match=name):
            segment(project)
        segment(project, force=True)


def test_results_beside_the_images_are_no_images(project):
    for recursive in (False, False, True):
        found = find_images([project / "in"], recursive)
        summary = segment_files(found, find_default(), project / "in", jobs=1)
        assert summary["image"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="no images"):
        find_images([project / "in" / VIEWS])


def test_a_dry_run_writes_nothing_and_says_why(project):
    assert segment(project, dry_run=True)["state"].tolist() == [TO_DO, TO_DO]
    assert not (project / "out").exists()
    segment(project, project / "in/a.png")
    summary = segment(project, dry_run=True)
    assert states(summary) == {"a": UP_TO_DATE, "b": TO_DO}
    result = CliRunner().invoke(app, ["predict-images", "in", "--output", "out", "--dry-run"])
    assert result.exit_code == 0
    assert result.output.splitlines() == ["up to date: a (in/a.png)", "to do: b (in/b.png): no results yet"]


def test_the_command_fails_where_an_image_failed(project):
    write_bytes(project / "in/cut.png", draw(3)[:900])
    result = CliRunner().invoke(app, ["predict-images", "in", "--output", "out", "--jobs", "1"])
    assert "in 3 images (2 made, 1 failed) -> out/index.html" in result.output
    assert isinstance(result.exception, ValueError)


def test_a_time_series_is_segmented_point_by_point(project):
    stack = np.zeros((2, 3, 2, 32, 32), np.uint16)  # T, Z, C
    stack[0, 1, 1, 4:9, 4:9], stack[1, 2, 1, 4:9, 4:9], stack[1, 0, 1, 20:25, 20:25] = 500, 600, 700
    tifffile.imwrite(project / "s.tif", stack, imagej=True, metadata={"axes": "TZCYX", "unit": "um"}, resolution=(2, 2))
    with_choice = Reading(View("1"))
    summary = segment(project, project / "s.tif", reading=with_choice)
    assert dict(zip(summary["image"], summary["nuclei"], strict=True)) == {"s_t000": 1, "s_t001": 2}
    assert summary["plane"].tolist() == ["max of 3"] * 2
    table = pd.read_csv(project / "out/s_t001_nuclei.csv")
    assert table["gray_mean_raw"].tolist() == [600, 700]
    assert table["area_um2"].tolist() == [25 / 4] * 2
    assert states(segment(project, project / "s.tif", reading=with_choice)) == dict.fromkeys(
        summary["image"], UP_TO_DATE
    )
    failed = segment(project, project / "s.tif")
    assert failed["state"].tolist() == [FAILED]
    assert "--channel" in failed["why"][0]


def test_images_of_one_file_have_results_of_their_own(project):
    images = [np.zeros((32, 40), np.uint16), np.zeros((2, 24, 30), np.uint16)]
    images[0][4:9, 4:9] = images[1][0, 4:9, 4:9] = images[1][1, 2:5, 2:5] = images[1][1, 10:15, 10:15] = 500
    with tifffile.TiffWriter(project / "s.ome.tif", ome=True) as file:
        for image, axes in zip(images, ("YX", "TYX"), strict=True):
            file.write(image, metadata={"axes": axes})
    summary = segment(project, project / "s.ome.tif")
    assert dict(zip(summary["image"], summary["nuclei"], strict=True)) == {
        "s_s000": 1,
        "s_s001_t000": 1,
        "s_s001_t001": 2,
    }
    assert set(states(segment(project, project / "s.ome.tif")).values()) == {UP_TO_DATE}
    chosen = segment(project, project / "s.ome.tif", reading=Reading(View(series=1)))
    assert states(chosen) == {"s_s001_t000": UP_TO_DATE, "s_s001_t001": UP_TO_DATE}
    assert segment(project, project / "s.ome.tif", reading=Reading(View(series=2)))["state"].tolist() == [FAILED]


def test_intensities_of_a_camera_image_are_its_own_but_for_a_hot_pixel(project):
    paths = [find_case(name) for name in ("camera12in16.png", "hotpixel16.png")]
    summary = segment(project, *paths)
    camera, hot = (pd.read_csv(project / f"out/{path.stem}_nuclei.csv") for path in paths)
    assert camera["gray_mean_raw"].between(341, 2927).all()
    for path, table in zip(paths, (camera, hot), strict=True):
        pixels = find_images([path])[0].read(Reading())[0].pixels
        labels = tifffile.imread(project / f"out/{path.stem}_labels.tif")
        assert table["gray_mean_raw"].tolist() == pytest.approx([pixels[labels == i].mean() for i in table["label"]])
    same = hot["gray_mean_raw"].isin(camera["gray_mean_raw"])
    assert same.sum() >= len(camera) - 1
    assert summary["values"].tolist() == ["uint16 341..2927", "uint16 341..65535"]


@pytest.mark.parametrize("name", ["zip_test_mac.zip", "zip_test_upper.zip"])
def test_archives_of_the_official_layout_are_read_as_the_pipeline_reads_them(project, name):
    path = find_case(name)
    summary = segment(project, path, submission=project / "submission.csv")
    assert set(summary["state"]) == {MADE}
    assert set(summary["normalisation"]) == {"official archive, as it is"}
    with zipfile.ZipFile(path) as file:
        assert set(summary["image"]) <= {part for entry in file.namelist() for part in entry.split("/")}
    assert (project / "submission.csv").is_file()


def test_names_that_are_no_utf8_are_shown_as_far_as_they_can_be(project):
    for name, data in ((b"in/\xff.png", draw(5)), (b"in/\xfe.png", draw(6)[:900])):
        Path(os.fsdecode(name)).write_bytes(data)
    summary = segment(project)
    assert states(summary) == {"?_png": FAILED, "?_png_2": MADE, "a": MADE, "b": MADE}
    assert "?.png cannot be read" in (project / "out/index.html").read_text()


@pytest.mark.parametrize("name", ["gray8.png", "narrow16.png", "black.png"])
def test_the_published_networks_find_the_nuclei(tmp_path, name):
    assert module.load_predictor is load_predictor
    summary = segment_files(find_images([find_case(name)]), find_default(), tmp_path, jobs=1)
    assert summary["nuclei"].tolist() == [0 if name == "black.png" else 10]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-a", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_no_text_of_the_summary_is_a_formula(text):
    table = pd.DataFrame({"image": [text, "plain", "a=b"], "nuclei": [1, -2, 3]})
    escaped = module.escape_formulas(table)
    assert escaped["image"].tolist() == [f"'{text}", "plain", "a=b"]
    assert escaped["nuclei"].tolist() == [1, -2, 3]


@pytest.mark.parametrize("stem", ["=1", "-1", "\uff20x", "a\nb", "\ta"])
def test_a_name_that_is_no_id_is_refused_for_a_submission_before_anything_is_made(project, stem):
    (project / "in/a.png").rename(project / f"in/{stem}.png")
    with pytest.raises(UserError, match=r"^[^\n]*\.png': its name [^\n]* rename it"):
        segment_files(find_images([Path("in")]), find_default(), Path("out"), submission=Path("s.csv"), jobs=1)
    assert not Path("out").exists()
    assert set(segment(project)["state"]) == {MADE}


def test_what_a_worker_finished_before_it_died_is_not_done_again_unless_all_is_to_be(project):
    sources = find_images([Path("in")])
    segment_files(sources, find_default(), Path("out"), jobs=1)
    record = json.loads(Path("out/a.json").read_text())
    Path("in/a.png").unlink()  # which would have to be read
    for why, found in (("no results yet", record), (FORCED, {})):
        task = module.Task(sources[0], TO_DO, why, record["made_from"])
        assert module.segment_one((Path("in"), ()), Path("out"), Reading(), "a", task)[0] == found

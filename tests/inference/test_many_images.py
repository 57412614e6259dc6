"""Very many images: done batch by batch, each page of its own; what is unchanged is not read again, and is checked."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.measure import label

from nuclei.data.images import encode_image_png
from nuclei.errors import UserError
from nuclei.inference import image_files, up_to_date
from nuclei.inference import segment_files as module
from nuclei.inference.bundle import find_default
from nuclei.inference.image_files import find_images
from nuclei.inference.segment_files import COLUMNS, TOLD, segment_files
from nuclei.inference.up_to_date import FAILED, MADE, TO_DO, UP_TO_DATE

HOUR_NS = 3600 * 10**9


class Bright:
    """Stand for a Predictor: bright pixels are nuclei."""

    novelty = None

    def segment(self, image, of_competition=False):  # noqa: ARG002 (as a Predictor takes it)
        return label(image[..., 0] > 127).astype(np.int32), None


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Give a folder with seven images of an hour ago in `in`, of which three make a batch."""
    monkeypatch.setattr(module, "load_predictor", lambda *key: Bright())
    monkeypatch.setattr(module, "BATCH", 3)
    (tmp_path / "in").mkdir()
    for number in range(7):
        write(tmp_path / f"in/image_{number}.png", number)
    return tmp_path


def write(path, seed, age_ns=HOUR_NS):
    image = np.zeros((24, 24, 3), np.uint8)
    image[4 : 5 + seed, 4:9] = 200
    path.write_bytes(encode_image_png(image))
    changed = path.stat().st_mtime_ns - age_ns
    os.utime(path, ns=(changed, changed))


def segment(folder, **options):
    return segment_files(find_images([folder / "in"]), find_default(), folder / "out", jobs=1, **options)


@pytest.fixture
def hashed(monkeypatch):
    """List the names of images and results whose content is read to see whether it has changed."""
    names = []
    for one in (image_files, up_to_date):
        read = one.file_hash
        monkeypatch.setattr(one, "file_hash", lambda path, read=read: names.append(Path(path).name) or read(path))
    return names


def test_batches_make_one_summary_in_the_order_of_the_images(project):
    summary = segment(project)
    assert summary["image"].tolist() == [f"image_{number}" for number in range(7)]
    assert set(summary["state"]) == {MADE}
    assert list(summary) == list(COLUMNS)
    written = pd.read_csv(project / "out/summary.csv")
    assert written["image"].tolist() == summary["image"].tolist()
    assert written["nuclei"].tolist() == [1] * 7
    assert list(segment(project, columns=TOLD)) == list(TOLD)


def read_page(path):
    text = path.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    return [image["image"] for image in data["images"]], re.findall(r'href="(index[^"]*)"', text)


def test_each_batch_has_a_page_with_links_to_the_others(project):
    (project / "in/image_4.png").write_bytes(b"no image")
    segment(project)
    names = [f"image_{number}" for number in range(7)]
    assert read_page(project / "out/index.html") == (
        names[:3],
        ["index_2.html", "index_3.html", "index_2.html"],  # next, last, and where one failed
    )
    assert read_page(project / "out/index_2.html") == (
        names[3:6],
        ["index.html", "index.html", "index_3.html", "index_3.html"],
    )
    assert read_page(project / "out/index_3.html") == (names[6:], ["index.html", "index_2.html"])
    assert "7 images in all" in (project / "out/index.html").read_text()


def test_pages_that_are_no_longer_needed_are_removed_and_those_of_others_are_not(project):
    segment(project)
    (project / "out/index_9.html").write_text("mine")
    for number in range(2, 7):
        (project / f"in/image_{number}.png").unlink()
    segment(project)
    assert sorted(path.name for path in (project / "out").glob("*.html")) == ["index.html", "index_9.html"]
    assert read_page(project / "out/index.html") == (["image_0", "image_1"], [])


def test_a_batch_is_done_before_the_next_is_looked_at(project, monkeypatch):
    plan, made = module.plan_images, []

    def note(batch, *given):
        made.append(sum((project / f"out/image_{number}_labels.tif").is_file() for number in range(7)))
        return plan(batch, *given)

    monkeypatch.setattr(module, "plan_images", note)
    segment(project)
    assert made == [0, 3, 6]


def test_images_of_two_batches_do_not_share_a_name(project, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    found = find_images([project / "in"])
    with pytest.raises(UserError, match="are both called IMAGE_0"):
        segment_files([*found, found[0].__class__("IMAGE_0", found[1].path)], find_default(), project / "out", jobs=1)


def test_what_has_its_size_and_time_is_not_read_again(project, hashed):
    segment(project)
    del hashed[:]
    assert set(segment(project)["state"]) == {UP_TO_DATE}
    assert hashed == []
    assert set(segment(project, verify=True)["state"]) == {UP_TO_DATE}
    results = {name.rsplit("/", 1)[-1] for number in range(7) for name in module.list_results(f"image_{number}")}
    assert set(hashed) == results | {f"image_{number}.png" for number in range(7)}


def test_an_image_that_was_copied_is_read_once_and_then_known(project, hashed):
    segment(project)
    path = project / "in/image_3.png"
    os.utime(path, ns=(path.stat().st_mtime_ns - HOUR_NS,) * 2)
    del hashed[:]
    assert set(segment(project, dry_run=True)["state"]) == {UP_TO_DATE}
    assert set(segment(project)["state"]) == {UP_TO_DATE}
    assert set(segment(project)["state"]) == {UP_TO_DATE}
    assert hashed == ["image_3.png"] * 2  # by the dry run, which notes nothing, and once


def test_a_change_that_keeps_size_and_time_is_found_by_verify_alone(project):
    segment(project)
    path = project / "out/image_2_nuclei.csv"
    changed = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    os.utime(path, ns=(changed, changed))
    assert set(segment(project)["state"]) == {UP_TO_DATE}
    summary = segment(project, verify=True, dry_run=True)
    assert summary.loc[summary["state"] == TO_DO, "why"].tolist() == ["image_2_nuclei.csv is damaged or was changed"]


def test_an_image_that_has_just_been_written_is_read_again(project, hashed):
    write(project / "in/image_0.png", 0, age_ns=0)
    segment(project)
    assert json.loads((project / "out/image_0.json").read_text())["image_stat"] is None
    del hashed[:]
    segment(project)
    assert hashed == ["image_0.png"]


def test_what_a_call_took_is_recorded_unless_it_made_nothing(project):
    segment(project)
    path = project / "out" / module.PROVENANCE
    found = json.loads(path.read_text())
    assert found["images"] == 7
    assert found["images_per_second"] == pytest.approx(7 / found["seconds"], rel=0.01)
    assert {"commit", "versions", "processor", "cpu_seconds"} <= found.keys()
    before = path.read_bytes()
    segment(project)
    assert path.read_bytes() == before


def test_a_failed_image_stops_no_batch(project):
    (project / "in/image_0.png").write_bytes(b"no image")
    summary = segment(project, submission=project / "submission.csv")
    assert summary["state"].tolist() == [FAILED] + [MADE] * 6
    assert not (project / "submission.csv").exists()

"""Large things: memory and time of predict-images on one large image, and on very many small ones, each in a process.

    python benchmarks/large.py                       # slides of 5,000 and 10,000 px, 1,000 to 100,000 images
    python benchmarks/large.py --slides 20000 --classical --images ""
    python benchmarks/large.py --slides "" --images "" --real IMAGE.png --tile 512

Slides are synthetic nuclei repeated over an image of that side, in a tiled TIFF. Images are of 32 x 32 px, written once
and linked under distinct names; a threshold stands for the networks, so that what is measured is all that surrounds
them. Memory is the peak of the largest process (getrusage); seconds are of the processor, start is the wall-clock time
until the first result lies on the disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nuclei.runs.memory import measure_peak_bytes

SIDE_PX, PATCH_PX = 32, 512


def peak_mb() -> float:
    """Return the peak memory of this process or, if that is more, of its largest child, in MB."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return round(max(measure_peak_bytes(), children) / 2**20, 1)


def write_slide(path: Path, side_px: int) -> None:
    """Write synthetic nuclei as a gray, tiled TIFF of a side, tile by tile."""
    import numpy as np
    import tifffile

    from nuclei.data.synthetic import make_image

    patches = [
        make_image("dark_fluorescence_small", (PATCH_PX, PATCH_PX), np.random.default_rng(seed))[0][..., 0]
        for seed in range(16)
    ]
    n = -(-side_px // PATCH_PX)
    # Patches are cut at their edges; those beside each other differ, so that seams are as irregular as nuclei.
    tiles = (patches[(7 * row + 3 * column) % len(patches)] for row in range(n) for column in range(n))
    tifffile.imwrite(
        path,
        tiles,
        shape=(side_px, side_px),
        dtype=np.uint8,
        tile=(PATCH_PX, PATCH_PX),
        photometric="minisblack",
        compression="zlib",
    )


def measure_slide(side_px: int, folder: Path, classical: bool) -> dict[str, Any]:
    """Segment a slide of a side and return what it took."""
    from nuclei.inference.bundle import find_default
    from nuclei.inference.image_files import find_images
    from nuclei.inference.segment_files import segment_files

    path = folder / "in" / f"slide_{side_px}.tif"
    path.parent.mkdir(exist_ok=True)
    write_slide(path, side_px)
    if classical:
        stand_in()
    before, started = peak_mb(), time.process_time()
    summary = segment_files(find_images([path]), find_default(fast=True), folder / "out", jobs=1)
    row = summary.iloc[0]
    return {
        "side_px": side_px,
        "segmented_by": "classical recipe otsu" if classical else "ensembles/fast",
        "state": row["state"],
        "notes": row["notes"],
        "nuclei": int(row["nuclei"]),
        "cpu_seconds": round(time.process_time() - started, 1),
        "peak_mb_before": before,
        "peak_mb": peak_mb(),
        "labels_mb": round((folder / f"out/slide_{side_px}_labels.tif").stat().st_size / 1e6, 1),
    }


def compare_real(path: Path, tile_px: int) -> dict[str, Any]:
    """Segment an image by the fast network in one piece and in tiles, and count the nuclei that differ.

    Beside it stands what a mere shift does: the same image without its first ALIGN_PX rows and columns, in one piece.
    """
    from nuclei import Segmenter
    from nuclei.inference.image_files import Reading, find_images
    from nuclei.inference.tiles import ALIGN_PX

    image = find_images([path])[0].read(Reading())[1]
    # Of whole steps, so that 0.9 times the size, at which the fast network looks, is exact.
    height, width = (n // ALIGN_PX * ALIGN_PX for n in image.shape[:2])
    image = image[:height, :width]
    whole, tiled = (Segmenter(fast=True, tile=tile).segment(image).labels for tile in (0, tile_px))
    shifted = Segmenter(fast=True, tile=0).segment(image[ALIGN_PX:, ALIGN_PX:]).labels
    return {
        "image": path.name,
        "height": height,
        "width": width,
        "tile_px": tile_px,
        "tiles": count_same(whole, tiled),
        "shift": count_same(whole[ALIGN_PX:, ALIGN_PX:], shifted),
    }


def count_same(first: Any, second: Any) -> dict[str, int]:
    """Return how many nuclei two label images have, and how many of the first are found again in the second."""
    import numpy as np

    pairs, shared = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1, return_counts=True)
    inside = (pairs > 0).all(axis=0)
    areas = [np.bincount(labels.ravel()) for labels in (first, second)]
    union = areas[0][pairs[0, inside]] + areas[1][pairs[1, inside]] - shared[inside]
    iou = shared[inside] / union
    counts = {"nuclei": int((areas[0][1:] > 0).sum()), "of_the_other": int((areas[1][1:] > 0).sum())}
    return counts | {f"iou_above_{level}": int((iou > level).sum()) for level in (0.5, 0.7, 0.9)}


def stand_in() -> None:
    """Have Otsu's threshold, chosen on a sample of the image as for any slide, stand for the networks."""
    from nuclei.inference import segment_files, segment_slide

    for module in (segment_files, segment_slide):
        module.load_predictor = lambda *_key: Otsu()  # type: ignore[attr-defined]


class Otsu:
    """Stand for a Predictor by the classical recipe otsu."""

    config = novelty = None
    trained_diameter = 20.0

    def survey(self, parts: Any, _middle: Any, _n_pixels: int) -> Any:
        """Return the sample that the threshold is chosen on."""
        import numpy as np

        from nuclei.inference.predictor import Survey

        return Survey(sample=np.concatenate(parts, axis=1))

    def segment(self, image: Any, of_competition: bool = False, survey: Any = None) -> Any:  # noqa: ARG002
        """Return the labels of an image."""
        from nuclei.decoding.classical import Otsu as Settings
        from nuclei.decoding.classical import segment_otsu

        return segment_otsu(image, Settings(min_area_px=4), survey and survey.sample), None


def link_results(folder: Path, made: int, count: int) -> None:
    """Give the images from `made` on results: those of the first, which have the same content, by links."""
    for number in range(made, count):
        old, new = f"image_{number % made:06d}", f"image_{number:06d}"
        record = json.loads((folder / f"{old}.json").read_text().replace(old, new))
        for file in record["files"]:
            os.link(folder / file.replace(new, old), folder / file)
        (folder / f"{new}.json").write_text(json.dumps(record))


def measure_images(count: int, folder: Path, made: int) -> dict[str, Any]:
    """Segment many images, of which all beyond `made` get their results by links, then again with nothing to do."""
    import numpy as np

    from nuclei.data.images import encode_image_png
    from nuclei.data.synthetic import make_image
    from nuclei.inference.bundle import find_default
    from nuclei.inference.image_files import find_images
    from nuclei.inference.segment_files import TOLD, segment_files

    source = folder / "in"
    source.mkdir()
    kinds = min(count, made, 100)
    for number in range(kinds):
        image = make_image("dark_fluorescence_small", (SIDE_PX, SIDE_PX), np.random.default_rng(number))[0]
        (source / f"image_{number:06d}.png").write_bytes(encode_image_png(image))
    for number in range(kinds, count):
        os.link(source / f"image_{number % kinds:06d}.png", source / f"image_{number:06d}.png")
    hour_ago = time.time() - 3600
    for number in range(kinds):
        os.utime(source / f"image_{number:06d}.png", (hour_ago, hour_ago))
    stand_in()
    taken: dict[str, Any] = {"images": count, "made": min(made, count), "peak_mb_before": peak_mb()}
    for name in ("first", "again"):
        wall, cpu = time.time(), time.process_time()
        found = find_images([source])
        listed = time.process_time() - cpu
        found = found[:made] if name == "first" else found
        summary = segment_files(found, find_default(fast=True), folder / "out", jobs=1, columns=TOLD)
        taken[name] = {
            "states": summary["state"].value_counts().to_dict(),
            "listing_cpu_seconds": round(listed, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": peak_mb(),
        }
        if name == "first":
            first = folder / "out/image_000000.json"
            taken["seconds_to_the_first_result"] = round(first.stat().st_mtime - wall, 1)
            if count > made:
                link_results(folder / "out", made, count)
    pages = list((folder / "out").glob("index*.html"))
    taken["pages"] = len(pages)
    taken["largest_page_mb"] = round(max(page.stat().st_size for page in pages) / 1e6, 2)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", default="5000 10000", help="sides in pixels")
    parser.add_argument("--images", default="1000 10000 100000", help="numbers of images")
    parser.add_argument("--made", type=int, default=10**6, help="of the images so many are segmented, others linked")
    parser.add_argument("--classical", action="store_true", help="Otsu's threshold instead of the fast network")
    parser.add_argument("--real", type=Path, help="an image to be segmented in one piece and in tiles")
    parser.add_argument("--tile", type=int, default=512, help="side of the tiles of --real")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, size = options.one
        with tempfile.TemporaryDirectory() as folder:
            found = (
                measure_slide(int(size), Path(folder), options.classical)
                if kind == "slide"
                else measure_images(int(size), Path(folder), options.made)
            )
        print(json.dumps(found))
        return
    rows: dict[str, list[Any]] = {"slides": [], "images": [], "real": []}
    if options.real:
        rows["real"].append(compare_real(options.real, options.tile))
        print(json.dumps(rows["real"], indent=1), flush=True)
    for kind, sizes in (("slide", options.slides), ("images", options.images)):
        for size in sizes.split():
            command = [sys.executable, __file__, "--one", kind, size, "--made", str(options.made)]
            command += ["--classical"] if options.classical else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows["slides" if kind == "slide" else "images"].append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows, indent=1), flush=True)


if __name__ == "__main__":
    main()

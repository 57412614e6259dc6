"""Time prepare_image over a training archive beside a bare PNG decode loop over the same bytes, one core.

PYTHONPATH=src python benchmarks/prepare.py DIR        # DIR holds stage1_train.zip or stage1_train/
"""

import sys
import time

import cv2
import numpy as np

from nuclei.data.archives import Archive, find_archives, open_archive, prepare_image


def bare_decode(archive: Archive, image_id: str) -> float:
    """Decode the PNG files of one image that are already in memory; return the seconds it took."""
    files = [archive.read(name) for name in (archive.image_name(image_id), *archive.mask_names(image_id))]
    start = time.perf_counter()
    for data in files:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return time.perf_counter() - start


def main(folder: str) -> None:
    cv2.setNumThreads(1)
    start = time.perf_counter()
    archive = open_archive(find_archives(folder)["stage1_train"], "train")
    opened = time.perf_counter() - start
    prepared, decoded, n_nuclei = 0.0, 0.0, 0
    # Image by image in turn, so that a busy machine slows both alike.
    for image_id in archive.image_ids:
        decoded += bare_decode(archive, image_id)
        start = time.perf_counter()
        n_nuclei += prepare_image(archive, image_id)[2]["n_nuclei"]
        prepared += time.perf_counter() - start
    print(f"{len(archive.image_ids)} images, {n_nuclei} nuclei; opening the archive {opened:.2f} s")
    print(f"prepare_image {prepared:.2f} s (read, decode, merge, hash), bare decode {decoded:.2f} s")
    print(f"ratio with opening: {(opened + prepared) / decoded:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

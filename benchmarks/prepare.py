"""Time prepare_image over a training archive beside a bare PNG decode loop over the same bytes, one core.

PYTHONPATH=src python benchmarks/prepare.py DIR        # DIR holds stage1_train.zip or stage1_train/
"""

import sys
import time

import cv2
import numpy as np
from ratios import time_work

from nuclei.data.archives import find_archives, open_archive, prepare_image


def decode_bare(files: list[bytes]) -> None:
    """Decode PNG files that are already in memory."""
    for data in files:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def main(folder: str) -> None:
    cv2.setNumThreads(1)
    start = time.process_time()
    archive = open_archive(find_archives(folder)["stage1_train"], "train")
    opened = time.process_time() - start
    prepared, decoded, n_nuclei = 0.0, 0.0, 0
    # Image by image in turn, and in seconds of the processor, so that a busy machine slows both alike.
    for image_id in archive.image_ids:
        files = [archive.read(name) for name in (archive.image_name(image_id), *archive.mask_names(image_id))]
        decoded += time_work(decode_bare, files)
        start = time.process_time()
        n_nuclei += prepare_image(archive, image_id)[2]["n_nuclei"]
        prepared += time.process_time() - start
    print(f"{len(archive.image_ids)} images, {n_nuclei} nuclei; opening the archive {opened:.2f} s")
    print(f"prepare_image {prepared:.2f} s (read, decode, merge, hash), bare decode {decoded:.2f} s")
    print(f"ratio with opening: {(opened + prepared) / decoded:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

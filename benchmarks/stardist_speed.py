"""Time stardist's 2D model: run by benchmarks/predict_speed.py, in an environment of its own that has stardist.

    PYTHON benchmarks/stardist_speed.py IMAGES.npy THREADS

The architecture of its published models 2D_versatile_fluo and 2D_versatile_he (a U-Net of depth 3, grid 2, 32 rays)
with random weights, which take the time that trained ones take but for the suppression of overlapping polygons: it gets
the SHARE most probable points, about what a trained model leaves of an image with nuclei. Prints JSON: seconds of the
processor for each image, network and suppression.
"""

import json
import os
import sys
import tempfile
import time
from importlib import import_module
from typing import Any

SHARE = 0.05


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import numpy as np
    from stardist.models import Config2D, StarDist2D

    tensorflow: Any = import_module("tensorflow")  # whose types mypy would ask for
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    images = np.load(path)
    with tempfile.TemporaryDirectory() as folder:
        config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, unet_n_depth=3)
        model = StarDist2D(config, name="random", basedir=folder)
        seconds = []
        for number, image in enumerate(images[[0, *range(len(images))]]):  # the first warms up
            normal = image.astype(np.float32) / 255
            start, clock = time.perf_counter(), time.process_time()
            probability, distance = model.predict(normal, show_tile_progress=False)[:2]
            network = time.process_time() - clock
            # Distances of about a nucleus's radius, for random weights give none.
            model._instances_from_prediction(
                image.shape[:2],
                probability,
                8 + 0 * distance,
                prob_thresh=float(np.quantile(probability, 1 - SHARE)),
                nms_thresh=0.4,
            )
            if number:
                wall, took = time.perf_counter() - start, time.process_time() - clock
                seconds.append({"network": network, "rest": took - network, "wall": wall})
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""The stages of the pipeline in one table: their order, what each does, and which part of a run's time it counts as."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageEntry:
    """Describe a stage.

    help: what it does, as the command line says it; time: the part of a run's time that it counts as; on_demand: the
    command `run` leaves it out.
    """

    help: str
    time: str
    on_demand: bool = False


# Each is a module of nuclei.stages with a function `main(run, config, options)`.
STAGES = {
    "download": StageEntry(
        "fetch the official archives, and the external data sets that the config names, into --data, where missing",
        "data",
    ),
    "prepare": StageEntry("decode the official archives into images, label images and a manifest", "data"),
    "external": StageEntry(
        "prepare the external data sets that the config names, and leave out copies of the competition's images", "data"
    ),
    "folds": StageEntry("find mosaics and deal the training images into folds", "data"),
    "novelty": StageEntry("measure the training images, so that unlike ones are known later", "data"),
    "crops": StageEntry(
        "make the training crops that the folds share, where the config asks for a pool of them", "training"
    ),
    "classical": StageEntry(
        "segment without a network: by a classical recipe, or by label images of another tool", "post-processing"
    ),
    "train": StageEntry("train one network per fold", "training"),
    "predict": StageEntry("predict maps: out of fold, and of the test images averaged over folds", "maps"),
    "ensemble": StageEntry("average the maps of the members", "maps"),
    "plain": StageEntry(
        "decode maps by components and by watershed, thresholds tuned on the other folds", "post-processing"
    ),
    "candidates": StageEntry("cut maps into nested candidates and measure their features", "post-processing"),
    "outside": StageEntry(
        "cut candidates of external images from the maps of networks that never learned from them", "post-processing"
    ),
    "score": StageEntry(
        "train LightGBM on the candidates, by the networks' folds, and score all candidates", "post-processing"
    ),
    "select": StageEntry(
        "pick the best non-overlapping candidates, keep threshold tuned on the other folds", "post-processing"
    ),
    "submit": StageEntry("write and validate submission.csv", "submission"),
    "evaluate": StageEntry("score by the competition metric, out of fold and against solution files", "submission"),
    "report": StageEntry("write report.md and report.html", "report"),
    "writeup": StageEntry(
        "write up a run as a competition asks of its winners: writeup.md and writeup.html", "report", on_demand=True
    ),
    "publish": StageEntry(
        "copy a run's results to ensembles/<run>/ and its tables into README.md", "report", on_demand=True
    ),
}
# The part of a run's time that each stage counts as; what reports on a run is no part of it.
TIMES = {name: entry.time for name, entry in STAGES.items() if entry.time != "report"}


def stage_of(meta_name: str) -> str:
    """Return the stage that left a meta: 'train' for 'train_fold0'."""
    return meta_name.split("_")[0]

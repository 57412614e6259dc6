"""The stages of the pipeline, in their order: each reads files of a run and writes files of a run."""

# name -> what it does; each is a module of this package with a function `main(run, config, options)`.
STAGES = {
    "download": "fetch the official archives into --data, where they are not there yet",
    "prepare": "decode the official archives into images, label images and a manifest",
    "folds": "find mosaics and deal the training images into folds",
    "crops": "make the training crops that the folds share, where the config asks for a pool of them",
    "classical": "segment by a classical recipe, without any network",
    "train": "train one network per fold",
    "predict": "predict maps: out of fold, and of the test images averaged over folds",
    "ensemble": "average the maps of the members",
    "plain": "decode maps by components and by watershed, thresholds tuned on the other folds",
    "candidates": "cut maps into nested candidates and measure their features",
    "score": "train LightGBM on the candidates, by the networks' folds, and score all candidates",
    "select": "pick the best non-overlapping candidates, keep threshold tuned on the other folds",
    "submit": "write and validate submission.csv",
    "evaluate": "score by the competition metric, out of fold and against solution files",
    "report": "write report.md and report.html",
    "writeup": "write up a run as a competition asks of its winners: writeup.md and writeup.html",
    "publish": "copy a run's results to ensembles/<run>/ and its tables into the README files",
}

# Stages that `run` leaves to be asked for.
ON_DEMAND = ("writeup", "publish")

"""The table of stages gives every stage a part of the time, and parts of a stage their stage."""

from nuclei.runs.stage_table import STAGES, TIMES, stage_of


def test_every_stage_counts_as_a_part_of_the_time():
    assert set(TIMES.values()) == {"data", "training", "post-processing", "maps", "submission"}
    assert STAGES["crops"].time == STAGES["train"].time == "training"


def test_the_meta_of_a_fold_is_of_the_stage_train():
    assert [stage_of(name) for name in ("train_fold0", "predict")] == ["train", "predict"]

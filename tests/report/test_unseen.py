"""Seen and unseen kinds stand side by side, and what was not measured is said so."""

import numpy as np
import pandas as pd

from nuclei.evaluation.submission import SCORE_COLUMNS
from nuclei.evaluation.summary import ERRORS, summarise
from nuclei.report.blocks import Paragraph, Table
from nuclei.report.unseen import NOT_MEASURED, kinds_table, seen_and_unseen_table, unseen_blocks


def make_images(score, matched, kinds=None):
    table = pd.DataFrame(np.full((4, 11), score), columns=SCORE_COLUMNS[1:])
    names = {"image_id": list("abcd"), "group": list("abcd"), "cluster": ["x", "x", "x", "y"]}
    counts = {"n_true": 10, "n_pred": 8, "matched": matched, "offset_px": 0.5, "offset_percent": -4.0}
    table = table.assign(**names, **counts, **dict.fromkeys(ERRORS, 2))
    return table.assign(kind=kinds) if kinds else table


SEEN, UNSEEN = make_images(0.6, 8), make_images(0.4, 5, ["k", "k", "l", "l"])


def test_both_regimes_stand_in_one_row():
    rows = {row[0]: row[1:] for row in seen_and_unseen_table(summarise(SEEN), summarise(UNSEEN)).rows}
    assert rows["score"] == ("0.6000 (0.6000 to 0.6000)", "0.4000 (0.4000 to 0.4000)")
    assert rows["recall at IoU 0.5, %"] == ("80.0 (80.0 to 80.0)", "50.0 (50.0 to 50.0)")
    assert rows["outline offset, % of the radius"][0] == "-4.0 (-4.0 to -4.0)"
    assert rows["false, per 100 true nuclei"] == ("20.0", "20.0")


def test_what_there_is_no_run_or_no_column_for_is_not_measured():
    old = summarise(SEEN[[*SCORE_COLUMNS, "group", "cluster"]])
    rows = {row[0]: row[1:] for row in seen_and_unseen_table(old, None).rows}
    assert rows["score"] == ("0.6000 (0.6000 to 0.6000)", NOT_MEASURED)
    assert rows["recall at IoU 0.5, %"] == rows["missed, per 100 true nuclei"] == (NOT_MEASURED, NOT_MEASURED)


def test_each_kind_is_compared_with_itself():
    table = kinds_table(SEEN, UNSEEN)
    assert [row[:4] for row in table.rows] == [
        ("k", "2", "0.6000 (0.6000 to 0.6000)", "0.4000 (0.4000 to 0.4000)"),
        ("l", "2", "0.6000 (0.6000 to 0.6000)", "0.4000 (0.4000 to 0.4000)"),
    ]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_run_without_a_counterpart_says_which_is_missing():
    blocks = list(unseen_blocks(summarise(SEEN), None, [], "run_kinds"))
    said = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert any("no finished run run_kinds" in text for text in said)
    whole = list(unseen_blocks(summarise(SEEN), summarise(UNSEEN), [SEEN, UNSEEN], "run_kinds"))
    assert [sum(isinstance(block, Table) for block in some) for some in (blocks, whole)] == [2, 3]

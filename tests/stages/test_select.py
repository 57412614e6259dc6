"""How many nuclei are kept is chosen out of fold: by the best score, or by the most nuclei at nearly that."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nuclei.config.schema import Config
from nuclei.evaluation.metric import THRESHOLDS
from nuclei.stages import select

MEAN = {-0.4: 0.5, -0.3: 0.53, -0.2: 0.536, -0.1: 0.54, 0.0: 0.52}  # score by keep threshold


@pytest.fixture(name="chosen")
def choose(monkeypatch):
    """Return a function: keep thresholds and tolerance -> what is chosen where an image scores as MEAN says."""

    def each_image(ids, work, *_, **__):
        _, _, grid = work.args
        of_image = np.array([[MEAN[keep]] * len(THRESHOLDS) for keep in grid])
        return [np.stack([of_image, of_image]) for _ in ids]

    monkeypatch.setattr(select, "each_image", each_image)
    table = pd.DataFrame({"image_id": list("abcd"), "fold": [0, 0, 1, 1], "n_nuclei": [3, 4, 5, 6]})

    def tune(grid, tolerance):
        config = Config(selection={"keep_grid": grid, "tolerance": tolerance})
        return select.tune(SimpleNamespace(name="a"), config, table, SimpleNamespace(jobs=1))

    return tune


@pytest.mark.parametrize("grid", [list(MEAN), list(MEAN)[::-1], [-0.1, -0.4, 0.0, -0.2, -0.3]])
@pytest.mark.parametrize(("tolerance", "keep"), [(0, -0.1), (0.003, -0.1), (0.0041, -0.2), (0.0101, -0.3), (1, -0.4)])
def test_the_lowest_threshold_within_the_tolerance_is_kept(chosen, grid, tolerance, keep):
    tuned = chosen(grid, tolerance)
    assert {tuned.setting(fold)["keep"] for fold in (0, 1, None)} == {keep}
    assert tuned.curve == [pytest.approx(MEAN[keep]) for keep in tuned.options]

"""Reports of these tests draw every step of a few images only, and figures coarsely: both take most of their time."""

from unittest.mock import patch

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nuclei.report import browser, charts

COARSE_DPI = 16


@pytest.fixture(scope="session", autouse=True)
def few_cases():
    with patch.multiple(browser, N_WORST=1, N_BEST=1, N_OF_TYPE=0):
        yield


@pytest.fixture(scope="module")
def coarse():
    """Draw the figures of a module's reports coarsely: it asks for their names, and that they are there."""

    def draw(figure: Figure) -> FigureCanvasAgg:
        figure.set_dpi(COARSE_DPI)
        return FigureCanvasAgg(figure)

    with patch.multiple(charts, DPI=COARSE_DPI, FigureCanvasAgg=draw):
        yield

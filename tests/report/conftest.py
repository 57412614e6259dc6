"""Reports of these tests draw every step of a few images only, which takes most of a report's time."""

import pytest
from small_project import coarse_figures

from nuclei.report import browser


@pytest.fixture(scope="session", autouse=True)
def few_cases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "N_WORST", 2)
        patch.setattr(browser, "N_BEST", 1)
        patch.setattr(browser, "N_OF_TYPE", 1)
        yield


@pytest.fixture(scope="module")
def coarse():
    """Draw the figures of a module's reports coarsely: of them it asks what they are called and that they are there."""
    with coarse_figures():
        yield

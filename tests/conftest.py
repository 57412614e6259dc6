"""Data that several tests share: a small demo data set and, where it is there, the real one."""

from pathlib import Path

import hypothesis
import pytest

from nuclei.data.demo import write_demo

# An example that a busy machine holds up for a second is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
REAL_DATA = Path(__file__).parents[2] / "shared/data/bbbc038"


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """Give a folder of 12 train images (4 are quarters of one field) and 4 test images with their truth."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_train=12, n_test=4, size=128, seed=2018)
    return folder


@pytest.fixture(scope="session")
def real_folder():
    if not (REAL_DATA / "stage1_train.zip").is_file():
        pytest.skip("the real archives are not at ../shared/data/bbbc038")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_external():
    folder = REAL_DATA.parent / "external"
    if not folder.is_dir():
        pytest.skip("the external images are not at ../shared/data/external")
    return folder

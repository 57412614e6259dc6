"""Data that several tests share: a small demo data set and, where it is there, the real one."""

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from finished_run import make_config, make_run
from forks import start_fork

from nuclei.data.demo import write_demo
from nuclei.runs.layout import Options, Run

# An example that a busy machine holds up for a second is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
REAL_DATA = Path(__file__).parents[2] / "shared/data/bbbc038"
# What takes longest is begun first, so that the processes of a test run end together.
LONGEST = (
    *("stages/test_pipeline.py", "runs/test_backends.py", "attack/test_sample.py", "test_golden.py"),
    *("test_cli.py", "experiments/test_ablate.py", "stages/test_side_by_side.py", "training/test_engine.py"),
    *("config/test_configs.py", "networks/test_tiling.py", "inference/test_serve.py", "attack/test_attack.py"),
    *("networks/test_encoder_decoder.py", "inference/test_segment_slide.py", "report/test_report.py"),
    *("report/test_writeup.py", "test_lifeline.py", "stages/test_fast.py", "inference/test_bundle.py"),
)
LONG_NAME = 80


def pytest_collection_modifyitems(items):
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in place)
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_make_parametrize_id(val, argname):
    """Name a long text or bytes by how long it is: the processes must agree on names, and a zip holds a time."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > LONG_NAME else None


def make_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills, once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = folder.with_name(f"{name}.made")
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """Give a folder of 12 train images (4 are quarters of one field) and 4 test images with their truth."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, n_train=12, n_test=4, size=128, seed=2018)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Give the folder of the small project, all its stages run, to be copied."""

    def make(folder: Path) -> None:
        import small_project  # which brings all networks

        process = start_fork(small_project.main, ["small_project", folder], folder)
        process.join()
        assert process.exitcode == 0, (folder / "stderr.txt").read_text()[-3000:]

    return make_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, demo_folder):
    """Give a run `tiny` as `finished_run.make_run` makes it, to be copied by `copy_run`: (run, config, options)."""
    root = make_once(tmp_path_factory, "tiny", lambda folder: make_run(folder, demo_folder))
    return Run("tiny", root), make_config(root), Options(demo_folder, jobs=1)


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

"""The competition in one table: its splits, the official file that holds the images of each, and that of its truth."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OfficialFile:
    """Describe one file of the competition (BBBC038).

    name: file name without suffix; suffix: '.zip' for images, '.csv' for the truth of a test split; split: of which
    images, as the manifest calls it; content: what it holds, in words; required: no data can be prepared without it;
    fetched: the stage `download` fetches it unasked.
    """

    name: str
    suffix: Literal[".zip", ".csv"]
    split: str
    content: str
    required: bool = False
    fetched: bool = False

    @property
    def file_name(self) -> str:
        return self.name + self.suffix


# What people call the images of a split; "oof" are the training images, each seen by the networks that never learnt it.
TITLES = {"train": "training", "oof": "out of fold", "test": "stage 1 test", "stage2": "stage 2 test"}
# Stage 2 is 3,019 more images, of which 106 are scored: used where a user has put them, not fetched unasked.
FILES = {
    file.name: file
    for file in (
        OfficialFile("stage1_train", ".zip", "train", "training images and masks", required=True, fetched=True),
        OfficialFile("stage1_test", ".zip", "test", "stage 1 test images", required=True, fetched=True),
        OfficialFile("stage2_test_final", ".zip", "stage2", "stage 2 test images"),
        OfficialFile("stage1_solution", ".csv", "test", "stage 1 test truth", fetched=True),
        OfficialFile("stage2_solution_final", ".csv", "stage2", "stage 2 test truth"),
    )
}
# The fold of external images, which no network holds out.
EXTERNAL_FOLD = -1
# split -> name of the file with its images, and of the one with its truth, which only test splits have.
ARCHIVES = {file.split: file.name for file in FILES.values() if file.suffix == ".zip"}
SOLUTIONS = {file.split: file.name for file in FILES.values() if file.suffix == ".csv"}

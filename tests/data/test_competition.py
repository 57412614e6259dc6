"""The table of the competition's files: every split has its images, every test split its truth, all have titles."""

from nuclei.data.competition import ARCHIVES, FILES, SOLUTIONS, TITLES


def test_every_split_has_images_and_every_test_split_has_truth():
    assert ARCHIVES == {"train": "stage1_train", "test": "stage1_test", "stage2": "stage2_test_final"}
    assert SOLUTIONS == {"test": "stage1_solution", "stage2": "stage2_solution_final"}
    assert set(TITLES) == set(ARCHIVES) | {"oof"}


def test_what_is_required_is_fetched_and_stage_2_is_neither():
    assert [file.file_name for file in FILES.values() if file.required] == ["stage1_train.zip", "stage1_test.zip"]
    fetched = [file.file_name for file in FILES.values() if file.fetched]
    assert fetched == ["stage1_train.zip", "stage1_test.zip", "stage1_solution.csv"]

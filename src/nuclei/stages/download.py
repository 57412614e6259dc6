"""Public addresses -> the folder of archives, where it lacks them."""

from nuclei import runs
from nuclei.archives import find_archives
from nuclei.config import Config
from nuclei.download import download_files

# Stage 2 is 3,019 images more, of which 106 are scored: used where a user has put them, not fetched unasked.
NAMES = ["stage1_train.zip", "stage1_test.zip", "stage1_solution.csv"]


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data, run.folder.parent)
    try:
        find_archives(options.data)
    except FileNotFoundError:
        if not dataset.meta.is_file():
            print(f"{dataset.name} download: {', '.join(NAMES)} -> {options.data}", flush=True)
            download_files(options.data, NAMES)
            return
    print(f"{dataset.name} download: up to date ({options.data})", flush=True)

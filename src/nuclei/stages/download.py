"""Public addresses -> the folder of archives, where it lacks them."""

from nuclei.config.schema import Config
from nuclei.data.archives import find_archives
from nuclei.data.download import download_files
from nuclei.runs.layout import Dataset, Options, Run

# Stage 2 is 3,019 images more, of which 106 are scored: used where a user has put them, not fetched unasked.
NAMES = ["stage1_train.zip", "stage1_test.zip", "stage1_solution.csv"]


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    try:
        find_archives(options.data)
    except FileNotFoundError:
        if not dataset.meta.is_file():
            print(f"{dataset.name} download: {', '.join(NAMES)} -> {options.data}", flush=True)
            download_files(options.data, NAMES)
            return
    print(f"{dataset.name} download: up to date ({options.data})", flush=True)

"""Public addresses -> the folder of archives, where it lacks them."""

from nuclei.config.schema import Config
from nuclei.data.archives import find_archives
from nuclei.data.competition import FILES
from nuclei.data.download import download_files
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.rehearsal import foresee, rehearses


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    try:
        find_archives(options.data)
    except FileNotFoundError:
        if not dataset.meta.is_file():
            names = [file.file_name for file in FILES.values() if file.fetched]
            would = "would fetch " if rehearses() else ""
            print(f"{dataset.name} download: {would}{', '.join(names)} -> {options.data}", flush=True)
            if rehearses():
                foresee(dataset.meta.with_name("download.json"), {})
                return
            download_files(options.data, names)
            return
    print(f"{dataset.name} download: up to date ({options.data})", flush=True)

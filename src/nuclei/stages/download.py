"""Public addresses -> the folder of archives and of external data sets, where it lacks them."""

from nuclei.config.schema import Config
from nuclei.data.archives import find_archives
from nuclei.data.competition import FILES
from nuclei.data.download import download_files, fetch_external
from nuclei.data.external import PUBLISHED_SETS
from nuclei.inference.bundle import has_networks
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.rehearsal import foresee, rehearses


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    download_official(dataset, options)
    if config.members or has_networks(run, config, dataset, options.published):
        return
    for name in config.data.external_sets():
        download_external(dataset, name, options)


def download_official(dataset: Dataset, options: Options) -> None:
    """Fetch the official files unless the required ones, or what is made of them, are there."""
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


def download_external(dataset: Dataset, name: str, options: Options) -> None:
    """Fetch an external set unless its folder, or what is made of it, is there; the stage external says what is not."""
    folder = options.data / "external"
    if name not in PUBLISHED_SETS or (folder / name).is_dir() or dataset.external(name).meta.is_file():
        return
    published = PUBLISHED_SETS[name]
    print(f"external {name} download: {published.title}; licence: {published.licence} -> {folder / name}", flush=True)
    fetch_external(folder, name, published)

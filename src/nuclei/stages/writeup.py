"""Everything a run left -> writeup/: writeup.md with figures/, and writeup.html, which holds them."""

from nuclei.config.schema import Config
from nuclei.report.reader import RunReader, write_page
from nuclei.report.writeup import writeup_blocks
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import file_hash
from nuclei.runs.layout import Options, Run, comparison

VERSION = 2


def main(run: Run, config: Config, options: Options) -> None:
    folder, ablations = run.writeup, comparison(run.folder.parent, "ablations")
    inputs = {"evaluate": fingerprint(run.meta("evaluate"))}
    if ablations.is_file():
        inputs["ablations"] = file_hash(ablations)
    settings = {"config": config.record()}
    with stage(run.meta("writeup"), settings, inputs, [folder], options.force, version=VERSION) as needed:
        if not needed:
            return
        title = f"{run.name}: a solution of the 2018 Data Science Bowl"
        write_page(folder, "writeup", title, list(writeup_blocks(RunReader(run, config))))
    print(f"{run.name}: {folder / 'writeup.html'}", flush=True)

"""Everything a run left -> writeup/: writeup.md with figures/, and writeup.html, which holds them."""

from nuclei.config.schema import Config
from nuclei.report.reader import RunReader, write_page
from nuclei.report.writeup import writeup_blocks
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import file_hash
from nuclei.runs.layout import Options, Run, comparison
from nuclei.runs.rehearsal import rehearses

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
        reader = RunReader(run, config)
        synthetic = reader.dataset.is_synthetic
        subject = "a trial on synthetic images" if synthetic else "a solution of the 2018 Data Science Bowl"
        write_page(folder, "writeup", f"{run.name}: {subject}", list(writeup_blocks(reader)))
    if not rehearses():
        print(f"{run.name}: {folder / 'writeup.html'}", flush=True)

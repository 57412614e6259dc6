"""Everything a run left -> report/: report.md with figures/, report.html, which holds them, images/ to browse there."""

from nuclei.config.schema import Config
from nuclei.report.browser_pictures import write_pictures
from nuclei.report.reader import RunReader, write_page
from nuclei.report.run_report import report_blocks
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.layout import Options, Run
from nuclei.runs.rehearsal import rehearses

VERSION = 2


def main(run: Run, config: Config, options: Options) -> None:
    inputs = {"evaluate": fingerprint(run.meta("evaluate"))}
    settings = {"config": config.record()}
    with stage(run.meta("report"), settings, inputs, [run.report], options.force, version=VERSION) as needed:
        if not needed:
            return
        reader = RunReader(run, config)
        write_pictures(reader, run.report, options.jobs)
        blocks = list(report_blocks(reader))
        suffix = " on synthetic images" if reader.dataset.is_synthetic else ""
        write_page(run.report, "report", f"Report of the run {run.name}{suffix}", blocks)
    if not rehearses():
        print(f"{run.name}: {run.report / 'report.html'}", flush=True)

"""Everything a run left -> report/: report.md with figures/, and report.html, which holds them."""

from nuclei.config.schema import Config
from nuclei.report.reader import RunReader, write_page
from nuclei.report.run_report import report_blocks
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.layout import Options, Run
from nuclei.runs.rehearsal import rehearses

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    inputs = {"evaluate": fingerprint(run.meta("evaluate"))}
    settings = {"config": config.record()}
    with stage(run.meta("report"), settings, inputs, [run.report], options.force, version=VERSION) as needed:
        if not needed:
            return
        blocks = list(report_blocks(RunReader(run, config)))
        write_page(run.report, "report", f"Report of the run {run.name}", blocks)
    if not rehearses():
        print(f"{run.name}: {run.report / 'report.html'}", flush=True)

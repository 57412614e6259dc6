"""Everything a run left -> report/: report.md with figures/, and report.html, which holds them."""

from nuclei.config.schema import Config
from nuclei.report import reader
from nuclei.report.run_report import report_all
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.layout import Options, Run

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    inputs = {"evaluate": fingerprint(run.meta("evaluate"))}
    settings = {"config": config.record()}
    with stage(run.meta("report"), settings, inputs, [run.report], options.force, version=VERSION) as needed:
        if not needed:
            return
        reader.write_report(run.report, "report", f"Report of the run {run.name}", list(report_all(run, config)))
    print(f"{run.name}: {run.report / 'report.html'}", flush=True)

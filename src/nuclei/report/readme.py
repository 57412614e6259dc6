"""Generated blocks of the README files: what each holds, and which file has its place.

A block lies between the markers <!-- name --> and <!-- /name -->; its name is that of a comparison, or a published run
and one of results, types and made. README.md has one line, `scores`; the tables lie beside what made them.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.errors import UserError
from nuclei.evaluation.summary import format_gain, format_score
from nuclei.report.blocks import Table
from nuclei.report.charts import name_type
from nuclei.report.comparisons import FindPage, climb_table, gains_table, systems_table
from nuclei.report.markdown import as_text, render_block
from nuclei.report.tables import Meta, name_method
from nuclei.report.unseen import NOT_MEASURED

# Tables that compare runs, from the published file of the name.
COMPARISONS: dict[str, Callable[[pd.DataFrame, FindPage], Table]] = {
    "leaderboard": systems_table,
    "ablations": gains_table,
    "climb": climb_table,
}
PUBLISHED = Path("ensembles/README.md")  # results, types and made of every published run
PLACES = {
    "scores": Path("README.md"),
    "climb": PUBLISHED,
    "leaderboard": Path("configs/systems/README.md"),
    "ablations": Path("configs/ablations/README.md"),
    "floors": Path("benchmarks/README.md"),
}
# Other images than those of any score of this project, which is why it is said beside the number.
COMPETITION = (
    "The competition's winners reached 0.6316 on its private leaderboard (stage 2, other images; Caicedo et al. 2019)."
)


def find_place(marker: str) -> Path:
    """Return the file of the repository that has the block of a name."""
    return PLACES.get(marker, PUBLISHED)


def replace_block(text: str, marker: str, content: str, path: Path) -> str:
    """Return the text of `path` with `content` between the markers; raise UserError if it lacks them."""
    pattern = re.compile(rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- /{re.escape(marker)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"{path} has no markers <!-- {marker} --> and <!-- /{marker} -->: add them where it is to go")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def run_blocks(name: str, metrics: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, str]:
    """Return the blocks of the published run `name`, by their markers, from its metrics.json and made.json."""
    tables = {"results": results_table(metrics), "types": run_types_table(metrics), "made": made_table(made)}
    return {f"{name} {kind}": render_block(table) for kind, table in tables.items()}


def comparison_block(kind: str, table: pd.DataFrame) -> str:
    """Return the block of a published comparison, one of COMPARISONS; runs lead to their published reports."""
    place = find_place(kind).parent

    def find_page(name: str) -> str | None:
        page = PUBLISHED.parent / name / "report.html"
        return Path(os.path.relpath(page, place)).as_posix() if page.is_file() else None

    return render_block(COMPARISONS[kind](table, find_page))


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Tabulate the steps of metrics.json: score and gain, each with its 95 % interval."""
    rows = [
        (
            name_step(step["run"], step["method"]),
            format_score(step["score"]),
            format_gain(step["gain"]) if step["gain"] else "–",
            name_step(*step["over"]) if step["gain"] else "–",
        )
        for step in metrics["steps"]
    ]
    return Table(("step", "out-of-fold score", "gain", "over"), rows, n_text=4)


def run_types_table(metrics: Mapping[str, Any]) -> Table:
    """Tabulate the scores by image type of metrics.json, the largest type first."""
    types = sorted(metrics["oof"]["by_cluster"].items(), key=lambda item: -item[1]["n_images"])
    rows = [(name_type(name), str(one["n_images"]), format_score(one["score"])) for name, one in types]
    mean = ("mean over types", str(metrics["oof"]["n_images"]), f"{metrics['oof']['mean_over_clusters']:.4f}")
    return Table(("image type", "images", "out-of-fold score"), [*rows, mean])


def made_table(made: Mapping[str, Any]) -> Table:
    """Tabulate how long each run took to train and to process, from made.json."""
    rows = []
    for run, stages in made.items():
        trained = [f"{meta['seconds'] / 60:.0f}" for name, meta in sorted(stages.items()) if name.startswith("train_")]
        rest = sum(meta["seconds"] for name, meta in stages.items() if not name.startswith("train_")) / 60
        cpus = next(iter(stages.values()))["cpus"]
        rows.append((run, ", ".join(trained) or "nothing trained", f"{rest:.0f}", str(cpus)))
    return Table(("run", "training, minutes per fold", "the other stages, minutes", "CPU cores"), rows)


def floors_table(results: Mapping[str, Any]) -> Table:
    """Tabulate benchmarks/results.json, of benchmarks/all.py: ratios to floors and peers, and their targets.

    Where ours is to be faster the ratio is theirs over ours, else ours over theirs.
    """
    rows = [
        (
            one["what"],
            one["beside"],
            one["sample"],
            f"{one['ratio']:.2f}",
            f"at {'least' if one['faster'] else 'most'} {one['target']:g}{'' if one['met'] else ', missed'}",
        )
        for one in results["ratios"]
    ]
    return Table(("what", "beside", "sample", "ratio", "target"), rows, n_text=3)


def name_step(run: str, method: str) -> str:
    return f"{run}: {name_method(method)}"


def scores_line(
    published: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
    stage1: pd.DataFrame,
    unseen: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Say in a few lines what the best of the published runs scores, beside the competition, and what it took.

    published: (name, metrics.json, made.json) of each; the best is that with the highest out-of-fold score. stage1: the
    submissions that were scored with the truth of stage1_test, elsewhere; columns run and score. unseen: metrics.json
    of the counterparts of runs on unseen kinds, by the run; None: nothing is said of them.
    """
    name, metrics, made = max(published, key=lambda one: one[1]["oof"]["score"][0])
    stages = [(stage.startswith("train_"), meta) for own in made.values() for stage, meta in own.items()]
    trained, rest = ([meta for is_training, meta in stages if is_training == wanted] for wanted in (True, False))
    score = format_score(metrics["oof"]["score"], spelled_out=True)
    tested = say_stage1(name, stage1)
    if unseen is not None:
        said = f"**{format_score(unseen[name]['oof']['score'], True)}**" if name in unseen else NOT_MEASURED
        tested += f"; on kinds of images that training has never seen: {said}"
    return (
        f"Best published run, `{name}`: **{score}** out of fold over {metrics['oof']['n_images']} images{tested}. "
        f"{COMPETITION} {len(trained)} networks trained for {add_minutes(trained)} in all; all other stages took "
        f"{add_minutes(rest)}."
    )


def say_stage1(name: str, stage1: pd.DataFrame) -> str:
    """Say what a run scored on stage1_test or, where its submission was not scored, which run scored most."""
    if stage1.empty:
        return ""
    own, best = stage1[stage1["run"] == name], stage1.loc[stage1["score"].idxmax()]
    if len(own):
        return f", **{own['score'].iloc[0]:.4f}** on stage1_test (official truth, scored elsewhere)"
    most = f"`{best['run']}` has **{best['score']:.4f}**"
    return f", not scored on stage1_test, where {most} (official truth, scored elsewhere)"


def add_minutes(metas: Sequence[Meta]) -> str:
    """Return the time of stages added up, and the processors that they ran on, where that was recorded."""
    processors = sorted({meta["processor"] for meta in metas if meta.get("processor")})
    minutes = f"{sum(meta['seconds'] for meta in metas) / 60:.0f} minutes"
    return f"{minutes} ({as_text(', '.join(processors))})" if processors else minutes

"""Tables of a report, from what the stages of a run left: metrics, scores per image and metas.

A meta is what a finished stage left beside its outputs: stage, seconds, commit, machine, versions; `metas` are those of
several runs, {run: [meta]}.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from nuclei.data.competition import SOLUTIONS, TITLES
from nuclei.decoding.methods import METHODS
from nuclei.decoding.tuning import Tuned
from nuclei.evaluation.summary import ERRORS, format_interval
from nuclei.report.blocks import Table
from nuclei.report.charts import name_type

Meta = Mapping[str, Any]
Metas = Mapping[str, Sequence[Meta]]
SOLUTION_TITLES = {name: TITLES[split] for split, name in SOLUTIONS.items()}
RESULTS = {"oof": TITLES["oof"], **SOLUTION_TITLES}
# Of the demo, whose images are of no stage of the competition.
DEMO_RESULTS = {"oof": "out of fold, synthetic", SOLUTIONS["test"]: "test, synthetic"}
SEARCH_SENTENCES = {
    "exact": "Dynamic programming on the tree picks, exactly, the non-overlapping candidates with the greatest "
    "expected gain of the metric",
    "greedy": "Candidates are picked greedily by their expected gain of the metric, none overlapping another",
}
ERROR_MEANINGS = {
    "found": "IoU above 0.75 with a prediction",
    "merged": "in one prediction together with another nucleus",
    "split": "cut into several predictions",
    "badly_outlined": "found, but with an IoU of at most 0.75",
    "missed": "no prediction covers it",
    "false": "a prediction without a nucleus",
}
WRONG = tuple(kind for kind in ERRORS if kind != "found")
ID_LENGTH = 8


def each_row(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table as named tuples, whose cells may be of any type."""
    yield from table.itertuples()


def name_method(method: str) -> str:
    """Return the title of a method, or the method itself if it has none."""
    return METHODS[method].title if method in METHODS else method


def name_results(metrics: Mapping[str, Any], titles: Mapping[str, str] = RESULTS) -> dict[str, dict[str, Any]]:
    """Return what was scored, by a name to read: the summaries out of fold and of each solution file."""
    first = [key for key in titles if key in metrics]
    others = sorted(key for key, value in metrics.items() if isinstance(value, dict) and key not in titles)
    return {titles.get(key, key): metrics[key] for key in first + others}


def scores_table(metrics: Mapping[str, Any], titles: Mapping[str, str] = RESULTS) -> Table:
    """Tabulate the score out of fold and of each solution, with its interval."""
    rows = [
        (name, str(r["n_images"]), *format_interval(r["score"]), f"{r['mean_over_clusters']:.4f}")
        for name, r in name_results(metrics, titles).items()
    ]
    return Table(("images", "n", "score", "95 % interval", "mean over image types"), rows)


def name_steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the steps of summary.compare_steps; the run in a second line, where there are several."""
    several = len({step["run"] for step in steps}) > 1
    return [name_method(step["method"]) + (f"\n{step['run']}" if several else "") for step in steps]


def steps_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate the steps of summary.compare_steps with their paired gains, named as name_steps does."""
    name_of = {(s["run"], s["method"]): n for s, n in zip(steps, name_steps(steps), strict=True)}
    rows = []
    for step in steps:
        gain = format_interval(step["gain"], "+") if step["gain"] else ("", "")
        over = name_of[tuple(step["over"])].replace("\n", " of ") if step["over"] else ""
        name = name_of[step["run"], step["method"]].split("\n")[0]
        rows.append((name, step["run"], over, *format_interval(step["score"]), *gain))
    return Table(
        ("step", "run", "compared with", "score", "95 % interval", "paired gain", "95 % interval"), rows, n_text=3
    )


def precision_table(metrics: Mapping[str, Any], titles: Mapping[str, str] = RESULTS) -> Table:
    """Tabulate the mean precision at each IoU threshold."""
    results = name_results(metrics, titles)
    rows = [
        (t, *(f"{r['by_threshold'][t]:.4f}" for r in results.values())) for t in sorted(metrics["oof"]["by_threshold"])
    ]
    return Table(("IoU threshold", *results), rows)


def order_types(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Return image types as `order` has them, others after them by name."""
    return sorted(set(names), key=lambda name: (order.index(name) if name in order else len(order), name))


def type_scores_table(metrics: Mapping[str, Any], order: Sequence[str], titles: Mapping[str, str] = RESULTS) -> Table:
    """Tabulate the score of each image type, out of fold and of each solution."""
    results = name_results(metrics, titles)
    rows = []
    for cluster in order_types((c for r in results.values() for c in r["by_cluster"]), order):
        cells: list[str] = []
        for result in results.values():
            one = result["by_cluster"].get(cluster)
            cells += [str(one["n_images"]), *format_interval(one["score"])] if one else ["0", "", ""]
        rows.append((name_type(cluster), *cells))
    columns = [cell for name in results for cell in ("n", name, "95 % interval")]
    return Table(("image type", *columns), rows)


def count_errors_by_type(images: pd.DataFrame, order: Sequence[str]) -> dict[str, dict[str, int]]:
    """Sum the kinds of errors over all images and over each type: {type: {kind: count, "n_true": nuclei}}."""

    def count(some: pd.DataFrame) -> dict[str, int]:
        return {name: int(some[name].sum()) for name in (*ERRORS, "n_true")}

    types = order_types(images["cluster"], order)
    return {"all images": count(images), **{name: count(images[images["cluster"] == name]) for name in types}}


def errors_table(errors: Mapping[str, int]) -> Table:
    """Tabulate the kinds of errors, counted out of fold."""
    n_true = sum(errors[kind] for kind in ERRORS if kind != "false")
    rows = [
        (name_type(kind), meaning, f"{errors[kind]:,}", f"{100 * errors[kind] / max(n_true, 1):.1f}")
        for kind, meaning in ERROR_MEANINGS.items()
    ]
    return Table(("kind", "meaning", "count", "per 100 true nuclei"), rows, n_text=2)


def worst_table(images: pd.DataFrame, n: int) -> Table:
    """Tabulate the n images with the lowest scores."""
    rows = [
        (
            row.image_id[:ID_LENGTH],
            name_type(row.cluster),
            f"{row.score:.4f}",
            f"{row.p50:.3f}",
            f"{row.p75:.3f}",
            str(row.n_true),
            str(row.n_pred),
            *(str(getattr(row, kind)) for kind in WRONG),
        )
        for row in each_row(images.sort_values(["score", "image_id"]).head(n))
    ]
    counts = ("nuclei", "predicted", *map(name_type, WRONG))
    return Table(("image", "image type", "score", "at IoU 0.50", "at IoU 0.75", *counts), rows, n_text=2)


def stage_of(meta: Meta) -> str:
    """Return the stage that a meta is of; parts of a stage, such as train_fold0, are named after it."""
    return str(meta["stage"]).split("_")[0]


def stages_table(metas: Metas, order: Sequence[str]) -> Table:
    """Tabulate what each stage of each run took, stages in the `order` of the pipeline."""

    def rank(meta: Meta) -> tuple[int, str]:
        stage = stage_of(meta)
        return order.index(stage) if stage in order else len(order), meta["stage"]

    rows = [
        (run, meta["stage"], name_commit(meta), describe_machine(meta), f"{meta['seconds']:,.1f}")
        for run, found in metas.items()
        for meta in sorted(found, key=rank)
    ]
    total = sum(meta["seconds"] for found in metas.values() for meta in found)
    return Table(
        ("run", "stage", "commit", "machine", "seconds"), [*rows, ("all", "", "", "", f"{total:,.1f}")], n_text=4
    )


def name_commit(meta: Meta) -> str:
    """Return the commit a stage ran at, and whether files differed from it."""
    return f"{(meta.get('commit') or 'none')[:10]}{' + changes' if meta.get('dirty') else ''}"


def describe_machine(meta: Meta) -> str:
    """Return what a meta says of the machine."""
    parts = [str(meta[key]) for key in ("device", "gpu", "processor") if meta.get(key)]
    return ", ".join([*parts, f"{meta['cpus']} CPU cores"] if meta.get("cpus") else parts) or "not recorded"


def versions_table(metas: Metas) -> Table:
    """Tabulate the versions of Python and packages; several, where stages were run with different ones."""
    versions: dict[str, set[str]] = {}
    for meta in (m for found in metas.values() for m in found):
        for package, number in {"python": meta.get("python"), **meta.get("versions", {})}.items():
            versions.setdefault(package, set()).update([number] if number else [])  # a stage may do without a package
    rows = [(package, ", ".join(sorted(found)) or "not installed") for package, found in sorted(versions.items())]
    return Table(("package", "version"), rows, n_text=2)


def flatten(content: Mapping[str, Any], where: str = "") -> dict[str, str]:
    """Return the settings of nested sections by their dotted names, as text."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        nested = isinstance(value, dict) and value
        flat |= flatten(value, f"{where}{key}.") if nested else {f"{where}{key}": str(value)}
    return flat


def settings_table(configs: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> Table:
    """Tabulate the settings of each run that differ from the defaults, {run: config}."""
    usual = flatten(defaults)
    rows = [
        (run, name, value, usual.get(name, ""))
        for run, config in configs.items()
        for name, value in flatten(config).items()
        if value != usual.get(name)
    ]
    return Table(("run", "setting", "value", "default"), rows, n_text=4)


def splits_table(manifest: pd.DataFrame) -> Table:
    """Tabulate images and nuclei of each split of the manifest."""
    rows = []
    for split, images in manifest.groupby("split", sort=False):
        sizes = images[["width", "height"]].drop_duplicates().shape[0]
        nuclei = f"{images['n_nuclei'].sum():,.0f}" if images["n_nuclei"].notna().all() else "not given"
        rows.append((str(split), f"{len(images):,}", nuclei, str(sizes)))
    return Table(("split", "images", "nuclei", "image sizes"), rows)


def types_table(folds: pd.DataFrame, manifest: pd.DataFrame, order: Sequence[str]) -> Table:
    """Tabulate the image types: images, mosaic groups and nuclei of the fold table, and images without masks."""
    rest = manifest[manifest["split"] != "train"]
    rows = []
    for cluster in order_types({*folds["cluster"], *rest["cluster"]}, order):
        own = folds[folds["cluster"] == cluster]
        rows.append(
            (
                name_type(cluster),
                str(len(own)),
                str(own["group"].nunique()),
                f"{own['n_nuclei'].sum():,}",
                f"{(rest['cluster'] == cluster).sum():,}",
            )
        )
    return Table(("image type", "training images", "mosaic groups", "nuclei", "test images"), rows)


def folds_table(folds: pd.DataFrame, order: Sequence[str]) -> Table:
    """Tabulate the folds side by side: images, mosaic groups, nuclei, and images of each type."""
    numbers = sorted(folds["fold"].unique().tolist())
    of_fold = [folds[folds["fold"] == fold] for fold in numbers]
    rows = [
        ("images", *(str(len(own)) for own in of_fold)),
        ("mosaic groups", *(str(own["group"].nunique()) for own in of_fold)),
        ("nuclei", *(f"{own['n_nuclei'].sum():,}" for own in of_fold)),
    ]
    rows += [
        (name_type(cluster), *(str((own["cluster"] == cluster).sum()) for own in of_fold))
        for cluster in order_types(folds["cluster"], order)
    ]
    return Table(("", *(f"fold {fold}" for fold in numbers)), rows)


def thresholds_table(tuned: Tuned) -> Table:
    """Tabulate the thresholds chosen for each fold on the others, and for new images."""
    chosen = {**{f"fold {fold}": setting for fold, setting in tuned.fold.items()}, "new images": tuned.new}
    names = [name for name, value in tuned.new.items() if not isinstance(value, list)]
    rows = [(images, *(f"{setting[name]:g}" for name in names)) for images, setting in chosen.items()]
    return Table(("images", *map(name_type, names)), rows)


def format_time(seconds: float) -> str:
    """Return a time as people say it: seconds, minutes, or hours and minutes."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def times_table(metas: Metas, parts: Mapping[str, str]) -> Table:
    """Tabulate the time that each run took, wall clock by parts of the pipeline, and processor time in all.

    parts: the part of the time that each stage counts as, {stage: part}, in the order of the pipeline; the columns have
    the parts in the order in which they end.
    """
    everything = [meta for found in metas.values() for meta in found]
    machines = {run: "; ".join(sorted({describe_machine(meta) for meta in found})) for run, found in metas.items()}
    rows = [(run, machines[run] or "not recorded", *sum_times(found, parts)) for run, found in metas.items()]
    rows.append(("all", "", *sum_times(everything, parts)))
    columns = ("run", "machine", *order_parts(parts), "all", "processor time")
    return Table(columns, rows, n_text=2)


def order_parts(parts: Mapping[str, str]) -> list[str]:
    """Return the parts of the time, {stage: part}, by the place of their last stage."""
    return list(dict.fromkeys(reversed([*parts.values()])))[::-1]


def sum_times(metas: Sequence[Meta], parts: Mapping[str, str]) -> list[str]:
    """Return the time of each part, of all stages, and of the processor if that was recorded: cells of times_table."""
    seconds = [[meta["seconds"] for meta in metas if parts.get(stage_of(meta)) == part] for part in order_parts(parts)]
    processor = [meta["cpu_seconds"] for meta in metas if "cpu_seconds" in meta]
    cells = [format_time(sum(some)) if some else "–" for some in [*seconds, [meta["seconds"] for meta in metas]]]
    return [*cells, format_time(sum(processor)) if metas and len(processor) == len(metas) else "not recorded"]

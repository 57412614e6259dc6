"""Tables of a report, from what the stages of a run left: metrics, scores per image and metas."""

import pandas as pd

from nuclei.evaluation.summary import ERRORS
from nuclei.report.blocks import Table
from nuclei.report.charts import name_type

SOLUTIONS = {"stage1_solution": "stage 1 test", "stage2_solution_final": "stage 2 test"}
NAMES = {"oof": "out of fold", **SOLUTIONS}
METHODS = {
    "classical": "classical recipe",
    "components": "components",
    "watershed": "watershed",
    "detections": "detections",
    "scored": "candidate scoring",
}
KINDS = {
    "found": "IoU above 0.75 with a prediction",
    "merged": "in one prediction together with another nucleus",
    "split": "cut into several predictions",
    "badly_outlined": "found, but with an IoU of at most 0.75",
    "missed": "no prediction covers it",
    "false": "a prediction without a nucleus",
}
STAGE_ORDER = (
    "prepare",
    "folds",
    "train",
    "predict",
    "ensemble",
    "plain",
    "candidates",
    "score",
    "select",
    "submit",
    "evaluate",
)
PARTS_OF_TIME = {
    "data": ("prepare", "folds"),
    "training": ("train",),
    "maps": ("predict", "ensemble"),
    "post-processing": ("classical", "plain", "candidates", "score", "select"),
    "submission": ("submit", "evaluate"),
}
ID_LENGTH = 8


def list_results(metrics: dict) -> dict[str, dict]:
    """Return what was scored, by a name to read: the summaries out of fold and of each solution file."""
    first = [key for key in NAMES if key in metrics]
    others = sorted(key for key, value in metrics.items() if isinstance(value, dict) and key not in NAMES)
    return {NAMES.get(key, key): metrics[key] for key in first + others}


def format_interval(interval: list[float], sign: str = "") -> tuple[str, str]:
    """Return [mean, low, high] as two cells."""
    mean, low, high = (f"{round(value, 4) + 0.0:{sign}.4f}" for value in interval)  # zero has no sign
    return mean, f"{low} to {high}"


def list_scores(metrics: dict) -> Table:
    """Tabulate the score out of fold and of each solution, with its interval."""
    rows = [
        (name, str(r["n_images"]), *format_interval(r["score"]), f"{r['mean_over_clusters']:.4f}")
        for name, r in list_results(metrics).items()
    ]
    return Table(("images", "n", "score", "95 % interval", "mean over image types"), rows)


def name_steps(steps: list[dict]) -> list[str]:
    """Name the steps of evaluation.compare_steps; the run in a second line, where there are several."""
    several = len({step["run"] for step in steps}) > 1
    names = [METHODS.get(step["method"], step["method"]) for step in steps]
    return [f"{name}\n{step['run']}" if several else name for name, step in zip(names, steps, strict=True)]


def list_steps(steps: list[dict]) -> Table:
    """Tabulate the steps with their paired gains, named as name_steps does."""
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


def list_thresholds(metrics: dict) -> Table:
    """Tabulate the mean precision at each IoU threshold."""
    results = list_results(metrics)
    rows = [
        (t, *(f"{r['by_threshold'][t]:.4f}" for r in results.values())) for t in sorted(metrics["oof"]["by_threshold"])
    ]
    return Table(("IoU threshold", *results), rows)


def order_clusters(names, order: tuple[str, ...]) -> list[str]:
    """Return image types as `order` has them, others after them by name."""
    return sorted(set(names), key=lambda name: (order.index(name) if name in order else len(order), name))


def list_clusters(metrics: dict, order: tuple[str, ...]) -> Table:
    """Tabulate the score of each image type, out of fold and of each solution."""
    results = list_results(metrics)
    rows = []
    for cluster in order_clusters((c for r in results.values() for c in r["by_cluster"]), order):
        cells = []
        for result in results.values():
            one = result["by_cluster"].get(cluster)
            cells += [str(one["n_images"]), *format_interval(one["score"])] if one else ["0", "", ""]
        rows.append((name_type(cluster), *cells))
    columns = [cell for name in results for cell in ("n", name, "95 % interval")]
    return Table(("image type", *columns), rows)


def count_errors_by_type(images: pd.DataFrame, order: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Sum the kinds of errors over all images and over each type: {type: {kind: count, "n_true": nuclei}}."""
    columns = [*ERRORS, "n_true"]
    counts = {"all images": images[columns].sum().to_dict()}
    for cluster in order_clusters(images["cluster"], order):
        counts[cluster] = images.loc[images["cluster"] == cluster, columns].sum().to_dict()
    return counts


def list_errors(errors: dict[str, int]) -> Table:
    """Tabulate the kinds of errors, counted out of fold."""
    n_true = sum(errors[kind] for kind in ERRORS if kind != "false")
    rows = [
        (name_type(kind), meaning, f"{errors[kind]:,}", f"{100 * errors[kind] / max(n_true, 1):.1f}")
        for kind, meaning in KINDS.items()
    ]
    return Table(("kind", "meaning", "count", "per 100 true nuclei"), rows, n_text=2)


def list_worst(images: pd.DataFrame, n: int) -> Table:
    """Tabulate the n images with the lowest scores."""
    worst = images.sort_values(["score", "image_id"]).head(n)
    kinds = [kind for kind in ERRORS if kind != "found"]
    rows = [
        (
            row.image_id[:ID_LENGTH],
            name_type(row.cluster),
            f"{row.score:.4f}",
            f"{row.p50:.3f}",
            f"{row.p75:.3f}",
            str(row.n_true),
            str(row.n_pred),
            *(str(getattr(row, kind)) for kind in kinds),
        )
        for row in worst.itertuples()
    ]
    columns = (
        "image",
        "image type",
        "score",
        "at IoU 0.50",
        "at IoU 0.75",
        "nuclei",
        "predicted",
        *map(name_type, kinds),
    )
    return Table(columns, rows, n_text=2)


def stage_rank(stage: str) -> tuple[int, str]:
    """Return where a stage comes in the pipeline; parts of one, such as train_fold0, by name."""
    place = next((i for i, name in enumerate(STAGE_ORDER) if stage.split("_")[0] == name), len(STAGE_ORDER))
    return place, stage


def list_stages(metas: dict[str, list[dict]]) -> Table:
    """Tabulate what each stage of each run took, {run: metas}, in the order of the pipeline."""
    rows = []
    for run, found in metas.items():
        rows += [
            (run, meta["stage"], commit_of(meta), describe_machine(meta), f"{meta['seconds']:,.1f}")
            for meta in sorted(found, key=lambda m: stage_rank(m["stage"]))
        ]
    total = sum(meta["seconds"] for found in metas.values() for meta in found)
    return Table(
        ("run", "stage", "commit", "machine", "seconds"), [*rows, ("all", "", "", "", f"{total:,.1f}")], n_text=4
    )


def commit_of(meta: dict) -> str:
    """Return the commit a stage ran at, and whether files differed from it."""
    return f"{(meta.get('commit') or 'none')[:10]}{' + changes' if meta.get('dirty') else ''}"


def describe_machine(meta: dict) -> str:
    """Return what a meta says of the machine."""
    parts = [str(meta[key]) for key in ("device", "gpu", "processor") if meta.get(key)]
    return ", ".join([*parts, f"{meta['cpus']} CPU cores"] if meta.get("cpus") else parts) or "not recorded"


def list_versions(metas: dict[str, list[dict]]) -> Table:
    """Tabulate the versions of Python and packages; several, where stages were run with different ones."""
    versions = {}
    for meta in (m for found in metas.values() for m in found):
        for package, number in {"python": meta.get("python"), **meta.get("versions", {})}.items():
            versions.setdefault(package, set()).update([number] if number else [])  # a stage may do without a package
    rows = [(package, ", ".join(sorted(found)) or "not installed") for package, found in sorted(versions.items())]
    return Table(("package", "version"), rows, n_text=2)


def flatten(content: dict, where: str = "") -> dict[str, str]:
    """Return the settings of nested sections by their dotted names, as text."""
    flat = {}
    for key, value in content.items():
        nested = isinstance(value, dict) and value
        flat |= flatten(value, f"{where}{key}.") if nested else {f"{where}{key}": str(value)}
    return flat


def list_settings(configs: dict[str, dict], defaults: dict) -> Table:
    """Tabulate the settings of each run that differ from the defaults, {run: config}."""
    usual = flatten(defaults)
    rows = [
        (run, name, value, usual.get(name, ""))
        for run, config in configs.items()
        for name, value in flatten(config).items()
        if value != usual.get(name)
    ]
    return Table(("run", "setting", "value", "default"), rows, n_text=4)


def list_splits(manifest: pd.DataFrame) -> Table:
    """Tabulate images and nuclei of each split of the manifest."""
    rows = []
    for split, images in manifest.groupby("split", sort=False):
        sizes = images[["width", "height"]].drop_duplicates().shape[0]
        nuclei = f"{images['n_nuclei'].sum():,.0f}" if images["n_nuclei"].notna().all() else "not given"
        rows.append((split, f"{len(images):,}", nuclei, str(sizes)))
    return Table(("split", "images", "nuclei", "image sizes"), rows)


def list_types(folds: pd.DataFrame, manifest: pd.DataFrame, order: tuple[str, ...]) -> Table:
    """Tabulate the image types: images, mosaic groups and nuclei of the fold table, and images without masks."""
    rest = manifest[manifest["split"] != "train"]
    rows = []
    for cluster in order_clusters({*folds["cluster"], *rest["cluster"]}, order):
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


def list_folds(folds: pd.DataFrame, order: tuple[str, ...]) -> Table:
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
        for cluster in order_clusters(folds["cluster"], order)
    ]
    return Table(("", *(f"fold {fold}" for fold in numbers)), rows)


def list_chosen(tuned: dict) -> Table:
    """Tabulate the thresholds chosen for each fold on the others, and for new images: `tuned` as select leaves it."""
    chosen = {**{f"fold {fold}": setting for fold, setting in tuned["fold"].items()}, "new images": tuned["test"]}
    names = [name for name, value in tuned["test"].items() if not isinstance(value, list)]
    rows = [(images, *(f"{setting[name]:g}" for name in names)) for images, setting in chosen.items()]
    return Table(("images", *map(name_type, names)), rows)


def format_time(seconds: float) -> str:
    """Return a time as people say it: seconds, minutes, or hours and minutes."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def list_times(metas: dict[str, list[dict]]) -> Table:
    """Tabulate the time that each run took, by parts of the pipeline, {run: metas}: wall clock, and processor in all."""
    rows, everything = [], []
    for run, found in metas.items():
        everything += found
        rows.append((run, "; ".join(sorted({describe_machine(m) for m in found})) or "not recorded", *sum_times(found)))
    rows.append(("all", "", *sum_times(everything)))
    return Table(("run", "machine", *PARTS_OF_TIME, "all", "processor time"), rows, n_text=2)


def sum_times(metas: list[dict]) -> list[str]:
    """Return the time of each of PARTS_OF_TIME, of all stages and of the processor, where that was recorded."""
    sums = [[m["seconds"] for m in metas if m["stage"].split("_")[0] in stages] for stages in PARTS_OF_TIME.values()]
    processor = [m["cpu_seconds"] for m in metas if "cpu_seconds" in m]
    cells = [format_time(sum(seconds)) if seconds else "–" for seconds in [*sums, [m["seconds"] for m in metas]]]
    return [*cells, format_time(sum(processor)) if metas and len(processor) == len(metas) else "not recorded"]

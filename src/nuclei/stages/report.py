"""Everything a run left -> report/: report.md with figures/, and report.html, which holds them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from nuclei import figures, galleries, runs, tables
from nuclei.calibration import bin_predictions, summarise_bins
from nuclei.candidates import Candidates
from nuclei.config import Config
from nuclei.evaluation import ERRORS
from nuclei.folds import IMAGE_TYPES
from nuclei.images import decode_image, decode_labels_png
from nuclei.inference import dequantise
from nuclei.report import Block, Files, Heading, Missing, Paragraph, Picture, render_html, render_markdown
from nuclei.scorer import TARGETS
from nuclei.watershed import make_energy

N_EXAMPLES, N_WORST = 4, 20
NUCLEI_OF_EXAMPLE = (20, 80)  # of the image that the pipeline is shown on: enough to touch, few enough to be seen
FEW_COLOURS = 256  # a third of the size, and photographs of nuclei do not lose by it
INTERVALS = ("Intervals are 95 % percentile bootstrap intervals over groups of images, since tiles of one field of view "
             "resemble each other.")


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    inputs = {"evaluate": runs.fingerprint(run.meta("evaluate"))}
    settings = {"config": config.model_dump(mode="json")}
    with runs.stage(run.meta("report"), settings, inputs, [run.report], options.force) as needed:
        if not needed:
            return
        title, blocks = f"Report of the run {run.name}", list(write_report(run, config))
        for block in blocks:
            if isinstance(block, Picture):
                runs.write_bytes(run.report / "figures" / f"{block.name}.png", block.png)
        runs.write_bytes(run.report / "report.md", render_markdown(title, blocks).encode())
        runs.write_bytes(run.report / "report.html", render_html(title, blocks).encode())
    print(f"{run.name}: {run.report / 'report.html'}", flush=True)


def write_report(run: runs.Run, config: Config) -> Iterator[Block]:
    """Yield all blocks of a run's report; a part whose artefact is missing ends with its name."""
    dataset = runs.Dataset(config.data.dataset, run.folder.parent)
    if config.hypothesis:
        yield Paragraph(f"What this run is to show: {config.hypothesis}.")
    sections = {
        "From image to nuclei": show_pipeline, "Scores": show_scores, "What each step gains": show_steps,
        "Precision by IoU threshold": show_precision, "Image types": show_types, "Kinds of errors": show_errors,
        "Best, median and worst images": show_galleries, "The worst images in numbers": show_worst,
        "Examples of each image type": show_examples, "Candidate scoring": show_scoring, "Thresholds": show_thresholds,
        "Training": show_training, "How it was made": show_making,
    }
    for title, section in sections.items():
        yield Heading(title)
        yield from attempt(run, section(run, config, dataset))


def attempt(run: runs.Run, blocks: Iterator[Block]) -> Iterator[Block]:
    """Yield blocks up to the first that needs a file which is not there, and name that file."""
    try:
        yield from blocks
    except FileNotFoundError as error:
        path, root = Path(error.filename), run.folder.parent
        yield Missing(str(path.relative_to(root) if path.is_relative_to(root) else path))


def picture(name: str, figure, caption: str, wide: bool = False) -> Picture:
    """Render a figure; a wide one, of images, with few colours."""
    return Picture(name, figures.render_png(figure, FEW_COLOURS if wide else None), caption, wide)


def show_pipeline(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    image_id = choose_typical(runs.read_table(run.per_image("oof")), dataset)
    maps = dequantise(runs.read_arrays(run.maps("oof") / f"{image_id}.npz"))
    middle = {"energy": make_energy(maps, config.watershed.center_weight)}
    if config.selection.method == "scored":
        middle["candidates"] = Candidates.unpack(runs.read_arrays(run.candidates("oof") / f"{image_id}.npz"))
        middle["score"] = read_array(run.scores("oof") / f"{image_id}.npz", "scores")[:, TARGETS.index("iou")]
    figure = galleries.draw_pipeline(
        read_image(dataset, image_id), maps, read_labels(run.instances("oof") / f"{image_id}.png"), **middle)
    yield picture("pipeline", figure, "The steps on a window of an image whose score is near the median, by a network "
                  f"that was not trained on it ({image_id[:tables.ID_LENGTH]}).", wide=True)


def choose_typical(images: pd.DataFrame, dataset: runs.Dataset) -> str:
    """Return the image nearest the median score that has a number of nuclei that can be seen, some of them touching."""
    images = images.assign(off=(images["score"] - images["score"].median()).abs()).sort_values(["off", "image_id"])
    fit = images.loc[images["n_true"].between(*NUCLEI_OF_EXAMPLE), "image_id"].tolist() or images["image_id"].tolist()
    touching = (i for i in fit if galleries.count_touching(read_labels(dataset.labels(i))) >= 6)
    return next(touching, fit[0])


def show_scores(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield Paragraph("The score is the competition's: precision TP / (TP + FP + FN) at ten IoU thresholds from 0.50 to 0.95, "
                    "averaged over thresholds, then over images. Out of fold, each image was predicted, scored and selected "
                    "by models and thresholds that had not seen it. " + INTERVALS)
    yield tables.list_scores(runs.read_json(run.metrics))


def show_steps(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    steps, method = runs.read_json(run.metrics)["steps"], config.selection.method
    if len(steps) > 1:
        figure = figures.draw_steps(tables.name_steps(steps, method), steps)
        yield picture("steps", figure, "Out-of-fold score of each step and its paired gain: green above zero, gray "
                      "undecided, red below zero.")
    yield tables.list_steps(steps, method)


def show_precision(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    metrics = runs.read_json(run.metrics)
    curves = {name: result["by_threshold"] for name, result in tables.list_results(metrics).items()}
    yield picture("precision", figures.draw_precision(curves), "Mean precision over images at each IoU threshold; the "
                  "score is the mean of a curve.")
    yield tables.list_thresholds(metrics)


def show_types(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    metrics = runs.read_json(run.metrics)
    clusters = {name: result["by_cluster"] for name, result in tables.list_results(metrics).items()}
    yield picture("types", figures.draw_clusters(clusters, IMAGE_TYPES), "Mean score of each image type with its 95 % "
                  "interval and number of images.")
    yield tables.list_clusters(metrics, IMAGE_TYPES)


def show_errors(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield tables.list_errors(runs.read_json(run.metrics)["oof"]["errors"])
    counts = tables.count_errors_by_type(runs.read_table(run.per_image("oof")), IMAGE_TYPES)
    kinds = tuple(kind for kind in ERRORS if kind != "found")
    yield picture("errors", figures.draw_errors(counts, kinds), "Errors out of fold. Each true nucleus is counted once; "
                  "false predictions come on top.")


def show_galleries(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    images = runs.read_table(run.per_image("oof")).sort_values(["score", "image_id"], ascending=[False, True])
    middle = max((len(images) - N_EXAMPLES) // 2, 0)
    parts = {"best": images.head(N_EXAMPLES), "median": images[middle:middle + N_EXAMPLES], "worst": images.tail(N_EXAMPLES)}
    for name, chosen in parts.items():
        yield from attempt(run, show_gallery(run, dataset, name, chosen))


def show_gallery(run: runs.Run, dataset: runs.Dataset, name: str, chosen: pd.DataFrame) -> Iterator[Block]:
    row = [read_example(run, dataset, image.image_id, f"{image.image_id[:tables.ID_LENGTH]}   score {image.score:.3f}\n"
                        f"{figures.name_type(image.cluster)}") for image in chosen.itertuples()]
    yield picture(f"gallery_{name}", galleries.draw_gallery([row]), f"The {len(row)} out-of-fold images of {name} score. "
                  "Dark images are brightened; of large ones the window with most outlines is shown.", wide=True)


def show_worst(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield tables.list_worst(runs.read_table(run.per_image("oof")), N_WORST)


def show_examples(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    images = runs.read_table(run.per_image("oof")).sort_values(["score", "image_id"], ascending=[False, True])
    for cluster in tables.order_clusters(images["cluster"], IMAGE_TYPES):
        yield from attempt(run, show_type(run, dataset, cluster, images[images["cluster"] == cluster]))


def show_type(run: runs.Run, dataset: runs.Dataset, cluster: str, images: pd.DataFrame) -> Iterator[Block]:
    """Show images of one type, evenly spread over the ranks of their scores: above as they are, below outlined."""
    places = sorted({int((i + 0.5) / N_EXAMPLES * len(images)) for i in range(N_EXAMPLES)})
    outlined = [read_example(run, dataset, image.image_id, f"score {image.score:.3f}\n{image.n_true} nuclei, {image.n_pred} predicted")
                for image in images.iloc[places].itertuples()]
    rows = [[galleries.as_plain(e, f"{images['image_id'].iloc[place][:tables.ID_LENGTH]}\n{e.image.shape[1]} × {e.image.shape[0]} px")
             for place, e in zip(places, outlined, strict=True)], outlined]
    yield picture(f"type_{cluster}", galleries.draw_gallery(rows, 256, 256), f"{figures.name_type(cluster).capitalize()}: "
                  f"{len(outlined)} of {len(images)} images, from a good score to a bad one, without and with outlines.", wide=True)


def show_scoring(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    if config.selection.method != "scored":
        yield Paragraph(f"This run decodes its maps by {config.selection.method}; it has no candidates and no scorer.")
        return
    yield from attempt(run, show_reliability(run, config))
    importance = runs.read_json(run.scorer / "features.json")["importance"]
    yield picture("importance", figures.draw_importance(importance), "Share of the total gain of the boosted trees, "
                  "averaged over all of them.")


def show_reliability(run: runs.Run, config: Config) -> Iterator[Block]:
    sums = 0
    for image_id in runs.read_table(Path(config.data.folds))["image_id"]:
        predicted = read_array(run.scores("oof") / f"{image_id}.npz", "scores")[:, TARGETS.index("iou")]
        sums = sums + bin_predictions(predicted, read_array(run.candidates("oof") / f"{image_id}.npz", "iou"))
    n, squared_error = int(sums[0].sum()), sums[4].sum()
    yield picture("reliability", figures.draw_reliability(**summarise_bins(sums)), f"Predicted and true IoU of {n:,} "
                  f"out-of-fold candidates; root mean squared error {np.sqrt(squared_error / max(n, 1)):.3f}.")


def show_thresholds(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield Paragraph("Each threshold is chosen where the score of the other folds is highest; for new images, where that of "
                    "all folds is. Curves are means over all images.")
    if config.selection.method == "scored":
        yield from attempt(run, show_keep(run))
    for method in ("components", "watershed"):
        yield from attempt(run, show_plain(run, method))


def show_keep(run: runs.Run) -> Iterator[Block]:
    tuned = runs.read_json(run.tuned)
    tuned |= {"options": [{"keep": value} for value in tuned["options"]]}
    figure = figures.draw_threshold("Which candidates to keep", "expected gain a candidate must exceed", tuned, "keep")
    yield picture("keep", figure, "Score against the keep threshold of the selection.")


def show_plain(run: runs.Run, method: str) -> Iterator[Block]:
    line = "seed_level" if method == "watershed" else None
    figure = figures.draw_threshold(f"Plain decoding by {method}", "threshold of the mask map", runs.read_json(run.plain / f"{method}.json"),
                                    "mask_threshold", line)
    yield picture(method, figure, f"Score of the plain decoding by {method} against its thresholds.")


def show_training(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    n_folds = runs.read_table(Path(config.data.folds))["fold"].unique().tolist()
    for trained in [runs.Run(name, run.folder.parent) for name in config.members] or [run]:
        yield from attempt(run, show_histories(trained, sorted(n_folds)))


def show_histories(trained: runs.Run, folds: list[int]) -> Iterator[Block]:
    histories = {str(fold): runs.read_table(trained.fold(fold) / "history.csv") for fold in folds}
    yield picture(f"training_{trained.name}", figures.draw_training("Training loss", histories),
                  f"Training of {trained.name}, one network per fold. The score on the right is a quick look at some "
                  "images of the fold left out; it chooses nothing that is reported.")


def show_making(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    members = [runs.Run(name, run.folder.parent) for name in config.members]
    changes = {m.name: read_config(m) for m in [*members, run] if m.config.is_file()}
    yield Paragraph("Settings that differ from the defaults of config.py; the complete ones are in the config.yaml of each run.")
    yield tables.list_settings(changes, Config().model_dump(mode="json"))
    metas = {f"data/{dataset.name}": read_metas(dataset.meta.parent)}
    metas |= {r.name: read_metas(r.meta("report").parent) for r in [*members, run]}
    yield tables.list_stages(metas)
    yield tables.list_versions(metas)
    absent = [f"{m.name}/config.yaml" for m in [*members, run] if m.name not in changes]
    yield from map(Missing, absent + [f"{name}/meta" for name, found in metas.items() if not found])
    yield Paragraph("Files of this run:")
    yield from list_files(run)


def list_files(run: runs.Run) -> Iterator[Block]:
    """Yield the files of a run that its report was made from or that a reader may want, and those that are missing."""
    wanted = {"complete settings": run.config, "scores, intervals and counts": run.metrics,
              "scores per image, out of fold": run.per_image("oof"), "submission of the test images": run.submission("test")}
    yield Files([(what, f"../{path.name}") for what, path in wanted.items() if path.is_file()])
    yield from (Missing(f"{run.name}/{path.name}") for path in wanted.values() if not path.is_file())


def read_array(path: Path, name: str) -> np.ndarray:
    """Read one array of a file: the features beside it are far larger and are not unpacked."""
    with np.load(path) as file:
        return file[name]


def read_image(dataset: runs.Dataset, image_id: str) -> np.ndarray:
    return decode_image(dataset.image(image_id).read_bytes(), str(dataset.image(image_id)))


def read_labels(path: Path) -> np.ndarray:
    return decode_labels_png(path.read_bytes(), str(path))


def read_example(run: runs.Run, dataset: runs.Dataset, image_id: str, caption: str) -> galleries.Example:
    truth, prediction = (read_labels(p) for p in (dataset.labels(image_id), run.instances("oof") / f"{image_id}.png"))
    return galleries.Example(read_image(dataset, image_id), caption, truth, prediction)


def read_config(run: runs.Run) -> dict:
    return yaml.safe_load(run.config.read_text())


def read_metas(folder: Path) -> list[dict]:
    """Read the metas of the stages that a report is about; its own is none of them."""
    return [runs.read_json(path) for path in sorted(folder.glob("*.json")) if path.stem != "report"]

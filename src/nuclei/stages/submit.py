"""Instances of unseen images -> submission.csv, validated against every rule of the competition.

And one for each of submit.growths: nuclei whose outlines are moved by that much in place of selection.grow.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.evaluation.submission import validate_submission, write_submission
from nuclei.inference.predictions import read_tuned
from nuclei.runs.cache import Part, fingerprint, stage
from nuclei.runs.files import atomic, read_labels
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint
from nuclei.stages.select import decode_one

VERSION = 1
Labelled = Iterator[tuple[str, NDArray[Any]]]


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    splits = dataset.splits()
    del splits["oof"]
    parts = {s: Part({"instances": find_fingerprint(run, "instances", s)}, [run.submission(s)]) for s in splits}
    grown: dict[str, tuple[str, str | None]]
    grown = {f"{split} {growth}": (split, growth) for split in splits for growth in config.submit.growths}
    for name, (split, growth) in grown.items():
        inputs = {**parts[split].inputs, "novelty": fingerprint(run.meta("novelty"))}
        parts[name] = Part(inputs, [run.submission(split, growth)])
    with stage(run.meta("submit"), {}, {}, (), options.force, version=VERSION, parts=parts) as needed:
        manifest = dataset.read_manifest().set_index("image_id")
        for name in needed:
            split, growth = grown.get(name, (name, None))
            progress = tqdm(splits[split], f"{run.name} submit {name}", unit="image", mininterval=2)
            shapes = {i: (int(manifest["height"][i]), int(manifest["width"][i])) for i in splits[split]}
            if growth is None:
                labels: Labelled = ((i, read_labels(run.instances(split) / f"{i}.png")) for i in progress)
            else:
                labels = grow(run, dataset, config, split, growth, progress)
            write_valid(run.submission(split, growth), labels, shapes)


def grow(run: Run, dataset: Dataset, config: Config, split: str, growth: str, image_ids: "tqdm[str]") -> Labelled:
    """Yield images without truth with their labels under another selection.grow."""
    config = config.model_copy(update={"selection": config.selection.model_copy(update={"grow": growth})})
    setting = read_tuned(run).new
    return ((i, decode_one(run, dataset, config, split, i, setting, None)) for i in image_ids)


def write_valid(path: Path, labels: Labelled, shapes: dict[str, tuple[int, int]]) -> None:
    """Write a submission; raise UserError, and write nothing, if it breaks a rule of the competition."""
    with atomic(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write_submission(file, labels)
        if violations := validate_submission(temporary, shapes):
            raise UserError(f"{path} breaks the rules:\n  " + "\n  ".join(violations[:20]))
    print(f"{path}: {len(shapes)} images, valid", flush=True)

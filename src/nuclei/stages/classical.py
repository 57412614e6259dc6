"""Images -> instances/{oof,test}: label images by a classical recipe, without any network."""

from functools import partial

from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.decoding.classical import segment
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import read_image, write_bytes
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    settings = {"classical": config.classical.record(), "images": dataset.choice()}
    splits = dataset.splits()
    parts = {s: Part(dataset.inputs(s), [run.instances(s)]) for s in splits}
    with stage(
        run.meta("classical"),
        settings,
        {},
        [run.folder / "instances"],
        options.force,
        version=VERSION,
        parts=parts,
        share=True,
    ) as needed:
        for split in needed:
            work = partial(segment_one, run, dataset, config, split)
            each_image(splits[split], work, f"{run.name} classical {split}", options.jobs)


def segment_one(run: Run, dataset: Dataset, config: Config, split: str, image_id: str) -> None:
    """Segment one image and write its label image."""
    path = run.instances(split) / f"{image_id}.png"
    if not path.is_file():  # else by a run that was killed
        labels = segment(read_image(dataset.image(image_id)), config.classical.recipe, **config.classical.settings)
        write_bytes(path, encode_labels_png(labels))

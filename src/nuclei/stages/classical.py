"""Images -> instances/{oof,test}: label images without a network, by a recipe or as another tool wrote them."""

from functools import partial

from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.decoding.methods import method_of
from nuclei.errors import UserError
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import read_image, write_bytes
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    method = method_of(config)
    if method.segment is None:
        raise UserError(f"{run.name} decodes {method.needs}: the stage classical is for methods without a network")
    splits = dataset.splits()
    parts = {s: Part(dataset.inputs(s), [run.instances(s)]) for s in splits}
    with stage(
        run.meta("classical"),
        method.settings(config) | {"images": dataset.choice()},
        method.inputs(config),
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
        segment = method_of(config).segment
        assert segment is not None, "main has checked it"
        write_bytes(path, encode_labels_png(segment(read_image(dataset.image(image_id)), image_id, config)))

"""Images -> instances/{oof,test}: label images by a classical recipe, without any network."""

from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.decoding.classical import segment
from nuclei.runs.cache import stage
from nuclei.runs.files import read_image, write_bytes
from nuclei.runs.layout import Dataset, Options, Run


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    settings = {"classical": config.classical.record(), "images": dataset.choice()}
    outputs = [run.folder / "instances"]
    with stage(run.meta("classical"), settings, dataset.inputs(), outputs, options.force, share=True) as needed:
        if not needed:
            return
        for split, image_ids in dataset.splits().items():
            results = Parallel(options.jobs, return_as="generator_unordered")(
                delayed(segment_one)(run, dataset, config, split, image_id) for image_id in image_ids
            )
            for _ in tqdm(results, f"{run.name} classical {split}", len(image_ids), unit="image", mininterval=2):
                pass


def segment_one(run: Run, dataset: Dataset, config: Config, split: str, image_id: str) -> None:
    """Segment one image and write its label image."""
    path = run.instances(split) / f"{image_id}.png"
    if not path.is_file():  # else by a run that was killed
        labels = segment(read_image(dataset.image(image_id)), config.classical.recipe, **config.classical.settings)
        write_bytes(path, encode_labels_png(labels))

"""Images -> instances/{oof,test}: label images by a classical recipe, without any network."""

from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei import runs
from nuclei.classical import segment
from nuclei.config import Config
from nuclei.images import encode_labels_png


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data, run.folder.parent)
    settings = {"classical": config.classical.record(), "images": dataset.choice()}
    outputs = [run.folder / "instances"]
    with runs.stage(run.meta("classical"), settings, dataset.inputs(), outputs, options.force, share=True) as needed:
        if not needed:
            return
        for split, image_ids in dataset.splits().items():
            results = Parallel(options.jobs, return_as="generator_unordered")(
                delayed(segment_one)(run, dataset, config, split, image_id) for image_id in image_ids
            )
            for _ in tqdm(results, f"{run.name} classical {split}", len(image_ids), unit="image", mininterval=2):
                pass


def segment_one(run: runs.Run, dataset: runs.Dataset, config: Config, split: str, image_id: str) -> None:
    """Segment one image and write its label image."""
    path = run.instances(split) / f"{image_id}.png"
    if not path.is_file():  # else by a run that was killed
        labels = segment(runs.read_image(dataset.image(image_id)), config.classical.recipe, **config.classical.settings)
        runs.write_bytes(path, encode_labels_png(labels))

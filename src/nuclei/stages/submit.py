"""Instances of unseen images -> submission.csv, validated against every rule of the competition."""

from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.evaluation.submission import validate_submission, write_submission
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import atomic, read_labels
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    splits = dataset.splits()
    del splits["oof"]
    parts = {s: Part({"instances": find_fingerprint(run, "instances", s)}, [run.submission(s)]) for s in splits}
    with stage(run.meta("submit"), {}, {}, (), options.force, version=VERSION, parts=parts) as needed:
        manifest = dataset.read_manifest().set_index("image_id")
        for split in needed:
            image_ids = splits[split]
            progress = tqdm(image_ids, f"{run.name} submit {split}", unit="image", mininterval=2)
            paths = ((i, run.instances(split) / f"{i}.png") for i in progress)
            path = run.submission(split)
            with atomic(path) as temporary:
                with temporary.open("w", newline="") as file:
                    write_submission(file, ((i, read_labels(p)) for i, p in paths))
                shapes = {i: (int(manifest["height"][i]), int(manifest["width"][i])) for i in image_ids}
                if violations := validate_submission(temporary, shapes):
                    raise UserError(f"{path} breaks the rules:\n  " + "\n  ".join(violations[:20]))
            print(f"{path}: {len(image_ids)} images, valid", flush=True)

"""Instances of unseen images -> submission.csv, validated against every rule of the competition."""

from tqdm import tqdm

from nuclei import runs
from nuclei.config import Config
from nuclei.submission import validate_submission, write_submission


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data, run.folder.parent)
    splits = dataset.splits()
    del splits["oof"]
    outputs = [run.submission(split) for split in splits]
    with runs.stage(run.meta("submit"), {}, {"instances": runs.find_fingerprint(run, "instances")}, outputs,
                    options.force) as needed:
        if not needed:
            return
        manifest = runs.read_table(dataset.manifest).set_index("image_id")
        for split, image_ids in splits.items():
            progress = tqdm(image_ids, f"{run.name} submit {split}", unit="image", mininterval=2)
            paths = ((i, run.instances(split) / f"{i}.png") for i in progress)
            path = run.submission(split)
            with runs.atomic(path) as temporary:
                with temporary.open("w", newline="") as file:
                    write_submission(file, ((i, runs.read_labels(p)) for i, p in paths))
                shapes = {i: (int(manifest["height"][i]), int(manifest["width"][i])) for i in image_ids}
                if violations := validate_submission(temporary, shapes):
                    raise runs.StageError(f"{path} breaks the rules:\n  " + "\n  ".join(violations[:20]))
            print(f"{path}: {len(image_ids)} images, valid", flush=True)

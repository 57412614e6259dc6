"""What is up to date: fingerprints of settings and inputs, and the guard of a stage."""

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from nuclei.runs.files import as_json, content_hash, differences, link, read_json, write_json
from nuclei.runs.provenance import cpu_seconds, provenance


class StageError(ValueError):
    """Say why a stage cannot run, naming the file and the fix."""


def expected_fingerprint(stage: str, settings: dict, inputs: dict[str, str]) -> str:
    """Return the fingerprint that a stage leaves which is run with these settings and inputs."""
    return content_hash([stage, as_json({"settings": settings, "inputs": inputs})])


def fingerprint(meta: Path) -> str:
    """Return the fingerprint a finished stage left; raise StageError naming the stage that has not finished."""
    if not meta.is_file():
        raise StageError(f"{meta} is missing: the stage before this one has not finished; run it first")
    return read_json(meta)["fingerprint"]


def is_up_to_date(meta: Path, settings: dict, inputs: dict[str, str]) -> bool:
    """Return whether `meta` was left by a finished stage with these settings and inputs."""
    wanted = as_json({"settings": settings, "inputs": inputs})
    return meta.is_file() and {key: read_json(meta)[key] for key in wanted} == wanted


@contextmanager
def stage(
    meta: Path,
    settings: dict,
    inputs: dict[str, str],
    outputs: list[Path] = (),
    force: bool = False,
    share: bool = False,
    twin: Path | None = None,
    same_as: str | None = None,
):
    """Guard one stage: yield True if it must run, False if `meta` says that it is up to date.

    settings: what the stage reads of the config; inputs: name -> fingerprint or hash of what it reads from disk;
    outputs: what it writes. What a killed stage left in `outputs` is kept to go on from if it was begun with the
    same settings and inputs, and removed otherwise. `meta` is written last, so a killed stage never looks finished.
    share: take the outputs of another run whose stage had the same settings and inputs, if there is one; not for
    outputs that name the run. twin: meta of a stage whose outputs are to be taken whatever its inputs.
    same_as: fingerprint of what the outputs are a copy of, to be that of this stage too.
    Raises StageError that says what differs if `meta` was left by other settings or inputs, unless `force`.
    """
    wanted = as_json({"settings": settings, "inputs": inputs})
    begun = meta.with_suffix(".begun")
    name = f"{meta.parent.parent.name} {meta.stem}"
    if meta.is_file() and not force:
        if differs := differences({key: read_json(meta)[key] for key in wanted}, wanted):
            raise StageError(
                f"{name} was made with other settings or inputs:\n  "
                + "\n  ".join(differs)
                + "\nadd --force to replace it, or give the config another file name"
            )
        print(f"{name}: up to date", flush=True)
        yield False
        return
    if meta.is_file() or not begun.is_file() or read_json(begun) != wanted:
        meta.unlink(missing_ok=True)
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(begun, wanted)
    start, cpu_start = time.monotonic(), cpu_seconds()
    twin = twin or (share and find_twin(meta, wanted))
    print(f"{name}: the same as that of {twin.parent.parent}" if twin else f"{name}: running", flush=True)
    if twin:
        link_outputs(outputs, meta.parent.parent, twin.parent.parent)
        yield False
        # Whoever asks how the outputs were made, and in what time, means the run that made them.
        made = {"shared_with": twin.parent.parent.name} | read_json(twin)
    else:
        yield True
        made = {
            "stage": meta.stem,
            "fingerprint": same_as or expected_fingerprint(meta.stem, settings, inputs),
        } | provenance()
        made |= {"seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu_seconds() - cpu_start, 1)}
    write_json(meta, made | wanted)
    begun.unlink()


def find_twin(meta: Path, wanted: dict) -> Path | None:
    """Return the meta of the same stage of another run that was made with the settings and inputs `wanted`."""
    others = (path for path in sorted(meta.parent.parent.parent.glob(f"*/meta/{meta.name}")) if path != meta)
    return next((path for path in others if is_up_to_date(path, **wanted)), None)


def link_outputs(outputs: list[Path], folder: Path, source: Path) -> None:
    """Put the files that `source` has in place of the outputs of a run's `folder`, without copying what one disk holds.

    No stage writes into a file that is there, so the two runs cannot disturb each other.
    """
    for path in outputs:
        shutil.rmtree(path, ignore_errors=True)
        other = source / path.relative_to(folder)
        if other.is_dir():
            shutil.copytree(other, path, copy_function=link)
        elif other.is_file():
            path.unlink(missing_ok=True)
            link(other, path)

"""What is up to date: fingerprints of settings, code and inputs, and the guard of a stage."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuclei.errors import UserError
from nuclei.runs.cores import say_cores
from nuclei.runs.files import (
    as_json,
    content_hash,
    differences,
    link,
    named,
    read_json,
    remove,
    remove_partial_files,
    write_json,
)
from nuclei.runs.locks import describe_process, find_holder, lock
from nuclei.runs.outputs import Damage, find_damage, record_outputs
from nuclei.runs.provenance import count_done, cpu_seconds, provenance, rates
from nuclei.runs.rehearsal import foresee, foreseen, is_made, rehearses
from nuclei.runs.stage_table import stage_of

WHOLE = "all"  # the one part of a stage that is not divided
NEW = "not made yet"
FEW = 3  # reasons said in full


class RefusedError(UserError):
    """Say why what a stage has made is not replaced without being asked."""


@dataclass(frozen=True)
class Part:
    """Describe outputs of a stage that depend on inputs of their own, such as those of one split.

    inputs: name -> fingerprint or hash, beside the inputs of the whole stage; outputs: files and folders; same_as:
    fingerprint of what the outputs are a copy of, to be that of this part too.
    """

    inputs: Mapping[str, str]
    outputs: Sequence[Path] = ()
    same_as: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Hold what a stage is made of: settings, its code's version and lists, and the inputs of each part."""

    settings: Mapping[str, Any]
    version: int
    code: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]

    def of(self, part: str) -> dict[str, Any]:
        """Return what one part is made of, as JSON gives it back."""
        common = {"settings": self.settings, "version": self.version, "code": self.code}
        return as_json({**common, "inputs": self.inputs[part]})


def expected_fingerprint(
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    version: int = 1,
    code: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return the fingerprint of a stage, or part of one, that is run with these settings, inputs, version and code.

    facts: of how it was run, on which its outputs depend as well.
    """
    made_of: dict[str, Any] = {"settings": settings, "inputs": inputs}
    # Left out where they say nothing, so that what was made before there were versions keeps its fingerprint.
    made_of |= ({"version": version} if version > 1 else {}) | ({"code": code} if code else {})
    made_of |= {"facts": facts} if facts else {}
    return content_hash([stage, as_json(made_of)])


def read_meta(meta: Path) -> dict[str, Any]:
    """Read what a finished stage left; raise UserError naming the file and the fix if it is missing or damaged."""
    if (content := foreseen(meta)) is not None:
        return content
    if not meta.is_file():
        raise UserError(f"{meta} is missing: the stage before this one has not finished; run it first")
    maker = f"the stage {stage_of(meta.stem)}"
    found = read_json(meta, maker)
    with named(meta, maker):
        kinds = {"fingerprint": str, "settings": dict, "inputs": dict, "files": dict, "parts": dict}
        if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key, kind()), kind)]:
            raise ValueError(f"{wrong[0]} is not of the kind that stages write")
        found["fingerprint"], found["settings"], found["inputs"]
    return found


def check_whole(meta: Path) -> None:
    """Raise UserError if a stage has not finished, or naming what of its files is no longer as it made it.

    For commands that read what stages made without being one.
    """
    damage = find_damage(read_meta(meta).get("files", {}), meta.parent.parent)
    if damage:
        more = f", and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise UserError(f"{damage[0].text}{more}: run the stage {stage_of(meta.stem)} again, which makes it anew")


def fingerprint(meta: Path, part: str | None = None) -> str:
    """Return the fingerprint that a finished stage left, of the whole or of one part.

    Raises UserError naming the stage that has not finished, or has not made the part.
    """
    found = read_meta(meta)
    if part is None or "parts" not in found:  # stages were not divided once: then their parts are as the whole
        return str(found["fingerprint"])
    if part not in found["parts"]:
        raise UserError(f"{meta} has no {part}: run the stage {meta.stem} again, which makes only what is missing")
    return str(found["parts"][part]["fingerprint"])


def recorded_inputs(meta: Path, part: str) -> dict[str, str]:
    """Return the inputs that one part of a finished stage was made of; raise UserError as `fingerprint` does."""
    fingerprint(meta, part)
    found = read_meta(meta)
    inputs: dict[str, str] = found["parts"][part]["inputs"] if "parts" in found else found["inputs"]
    return inputs


def is_up_to_date(
    meta: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    version: int = 1,
    code: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether `meta` was left by a finished, undivided stage with these settings, inputs, version and code.

    And whether what it made is still as it was.
    """
    recipe = Recipe(settings, version, code or {}, {WHOLE: inputs})
    if not is_made(meta):
        return False
    found = read_meta(meta)
    return not any(_compare(found, recipe, WHOLE)) and not find_damage(found.get("files", {}), meta.parent.parent)


@contextmanager
def stage(
    meta: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    outputs: Sequence[Path] = (),
    force: bool = False,
    *,
    version: int = 1,
    code: Mapping[str, Any] | None = None,
    parts: Mapping[str, Part] | None = None,
    protect: bool = False,
    share: bool = False,
    twin: Path | None = None,
    notes: Mapping[str, Any] | None = None,
    facts: Sequence[str] = (),
) -> Iterator[list[str]]:
    """Guard one stage: yield the parts of it that must be made, none if `meta` says that all are up to date.

    settings: what the stage reads of the config; inputs: name -> fingerprint or hash of what it reads from disk;
    outputs: what it writes. version: raised when the code of the stage changes what it makes; code: lists of the code
    that decide what it makes, such as the names of features. parts: outputs that depend on inputs of their own, beside
    `inputs`: name -> Part; without them the stage has the one part WHOLE.

    Other settings than those of the finished stage are refused by a UserError that says what differs, for they may be
    a slip, unless `force`. A part of another version, code or inputs is made again, and the others kept; with
    `protect`, for stages of hours, this is refused as well. So it is where outputs are missing or damaged: what of a
    part is left and good is kept to resume from.

    What a killed stage left in the outputs of a part is kept to resume from if it was begun with all the same, and
    removed otherwise. `meta` is written last, so a killed stage never looks finished. From the decision to the last
    write the stage holds a lock: another process that wants it waits, and then finds it up to date.

    share: take the outputs of another run whose stage was made of the same, if there is one; not for outputs that name
    the run. twin: meta of a stage whose outputs are to be taken whatever its inputs. notes: what the meta is to say
    beside, which decides nothing; of a twin its own are taken. facts: which of the notes, and of what
    provenance.provenance says at the end, the outputs depend on: they are part of the fingerprint, so that later
    stages see which of several possible results they are made of, but what is finished stays up to date where this
    process would run otherwise.

    In a rehearsal (runs/rehearsal.py) it says what would be made and why, yields no part, and writes nothing.
    """
    parts = parts or {WHOLE: Part({}, outputs)}
    own = {name: {**inputs, **part.inputs} for name, part in parts.items()}
    job = _Job(meta, Recipe(settings, version, code or {}, own), dict(inputs), parts, list(outputs), tuple(facts))
    if rehearses():
        job.rehearse(force, protect, share, twin, {**(notes or {}), **(provenance() if facts else {})})
        yield []
        return
    with lock(meta, job.name):
        needed, why = job.decide(force, protect)
        if not needed:
            print(f"{job.name}: up to date", flush=True)
            yield []
            return
        job.begin(needed, force)
        start, cpu_start, done = time.monotonic(), cpu_seconds(), count_done()
        twin = twin or (find_twin(meta, job.recipe, needed) if share else None)
        if twin and (theirs := job.take(twin, needed)):
            print(f"{job.name}: the same as that of {twin.parent.parent}", flush=True)
            yield []
            # Whoever asks how the outputs were made, and in what time, means the run that made them.
            made = {"shared_with": twin.parent.parent.name} | theirs
        else:
            print(f"{job.name}: running{why}, {say_cores()}", flush=True)
            yield needed
            made = {"stage": meta.stem, **(notes or {})} | provenance()
            seconds = time.monotonic() - start
            made |= {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu_start}
            made |= rates(count_done() - done, seconds)
        job.finish(needed, made)


@dataclass
class _Job:
    """Hold one stage while it is guarded: what it is made of, and what of it was found on the disk."""

    meta: Path
    recipe: Recipe
    inputs: dict[str, str]
    parts: Mapping[str, Part]
    outputs: list[Path]
    facts: tuple[str, ...] = ()
    found: dict[str, Any] | None = None
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)  # records of the parts that stay as they are
    damaged: dict[str, list[Damage]] = field(default_factory=dict)  # of the parts that are else up to date

    @property
    def name(self) -> str:
        return f"{self.folder.name} {self.meta.stem}"

    @property
    def folder(self) -> Path:
        return self.meta.parent.parent

    @property
    def begun(self) -> Path:
        return self.meta.with_suffix(".begun")

    def decide(self, force: bool, protect: bool) -> tuple[list[str], str]:
        """Return the parts to be made, and why in words; raise UserError if their results must not be replaced."""
        self.found = read_meta(self.meta) if self.meta.is_file() else None
        if self.found is None or force:
            return list(self.parts), ""
        compared = {part: _compare(self.found, self.recipe, part) for part in self.parts}
        changed = {part: changes for part, (_, changes) in compared.items() if changes}
        settings = compared[next(iter(compared))][0]
        if settings or (protect and changed):
            lines = dict.fromkeys([*settings, *(line for changes in changed.values() for line in changes)])
            raise RefusedError(
                f"{self.name} was made with other settings, inputs or code, by {self.meta}:\n  "
                + "\n  ".join(lines)
                + "\nadd --force to replace it, or give the run another name: --name, or another file name"
            )
        damage = find_damage(self.found.get("files", {}), self.folder)
        if protect and damage:
            lines = dict.fromkeys(one.text for one in damage)
            raise RefusedError(
                f"what {self.name} made is no longer whole:\n  "
                + "\n  ".join(lines)
                + "\nput it back from a copy, or add --force to make all of it again"
            )
        for one in damage:
            for part in self.parts_of(one.name):
                if part not in changed or part in self.damaged:
                    changed.setdefault(part, []).append(one.text)
                    self.damaged.setdefault(part, []).append(one)
        return [part for part in self.parts if part in changed], f" again ({_join_reasons(changed)})"

    def parts_of(self, name: str) -> list[str]:
        """Return the parts that an output belongs to, by its path below the run's folder; all if it is of none."""
        path = self.folder / name
        owners = [
            part
            for part, entry in self.parts.items()
            if any(path.is_relative_to(output) or output.is_relative_to(path) for output in entry.outputs)
        ]
        return owners or list(self.parts)

    def rehearse(self, force: bool, protect: bool, share: bool, twin: Path | None, known: Mapping[str, Any]) -> None:
        """Say what would be made and why, and note what the stage would leave, so that later stages can say it too.

        known: the facts, as far as they are known now.
        """
        needed, why = self.decide(force, protect)
        if not needed:
            print(f"{self.name}: up to date", flush=True)
            return
        self.keep(needed, force)
        why = why or f" ({'--force' if force and self.found else NEW})"
        twin = twin or (find_twin(self.meta, self.recipe, needed) if share else None)
        if holder := find_holder(self.meta):
            what = f"would wait for {holder}"
        elif twin:
            what = f"would take that of {twin.parent.parent}"
        elif self.list_resumed(needed):
            what = "would go on where it was stopped"
        else:
            what = "would run"
        print(f"{self.name}: {what}{why}", flush=True)
        made = {"shared_with": twin.parent.parent.name} | read_meta(twin) if twin else {k: known[k] for k in self.facts}
        foresee(self.meta, self.describe(needed, made))

    def list_resumed(self, needed: list[str]) -> set[str]:
        """Return the parts that a killed process had begun with all the same."""
        begun, recorded = self._read_begun(), _list_parts(self.found, self.recipe)
        return {part for part in needed if part not in recorded and begun.get(part) == self.recipe.of(part)}

    def keep(self, needed: list[str], force: bool) -> None:
        """Note the records of the parts that stay as they are."""
        recorded = _list_parts(self.found, self.recipe)
        everything = len(needed) == len(self.parts)
        self.kept = {} if force or everything else {k: v for k, v in recorded.items() if k not in needed}

    def begin(self, needed: list[str], force: bool) -> None:
        """Clear what must not stay, and note on the disk what is begun."""
        resumed = self.list_resumed(needed) | self.damaged.keys()
        self.keep(needed, force)
        if not self.kept:
            self.meta.unlink(missing_ok=True)
        elif self.found:
            whole = content_hash([self.meta.stem, self.kept])
            files = {k: v for k, v in self.found.get("files", {}).items() if not set(needed) & set(self.parts_of(k))}
            write_json(self.meta, self.found | {"parts": self.kept, "fingerprint": whole, "files": files})
        self._clear([part for part in needed if part not in resumed])
        damage = [one for found in self.damaged.values() for one in found if not one.incomplete]
        for path in {self.folder / one.name for one in damage}:
            remove(path)
        remove_partial_files([self.meta, self.begun, *self.outputs, *self.outputs_of(needed)])
        write_json(self.begun, {"by": describe_process(), "parts": {part: self.recipe.of(part) for part in needed}})

    def outputs_of(self, needed: list[str]) -> list[Path]:
        """Return the outputs of some parts; of all parts, those of the stage, which may hold more than theirs."""
        if len(needed) == len(self.parts) and self.outputs:
            return self.outputs
        return [path for part in needed for path in self.parts[part].outputs]

    def all_outputs(self) -> list[Path]:
        """Return the outputs of the stage, and those of its parts beside them."""
        of_parts = [path for part in self.parts.values() for path in part.outputs]
        return [*self.outputs, *(p for p in of_parts if not any(p.is_relative_to(whole) for whole in self.outputs))]

    def take(self, twin: Path, needed: list[str]) -> dict[str, Any] | None:
        """Link the outputs of another run's stage and return its meta; None if that was being made anew meanwhile."""
        meta = read_meta(twin)
        try:
            link_outputs(self.outputs_of(needed), self.folder, twin.parent.parent)
            unchanged = twin.is_file() and read_meta(twin) == meta
        except OSError:  # a file went while it was copied
            unchanged = False
        if not unchanged:
            self._clear(needed)
        return meta if unchanged else None

    def finish(self, needed: list[str], made: dict[str, Any]) -> None:
        """Write the meta: how the parts were made, of what, and what they are."""
        described = self.describe(needed, made) | {"files": record_outputs(self.all_outputs(), self.folder)}
        write_json(self.meta, as_json(described))
        self.begun.unlink(missing_ok=True)

    def describe(self, needed: list[str], made: dict[str, Any]) -> dict[str, Any]:
        """Return the meta, all but the files: how the parts were made, and of what."""
        name, recipe = self.meta.stem, self.recipe
        twins = _list_parts(made, recipe) if "shared_with" in made else {}
        records, facts = dict(self.kept), {key: made[key] for key in self.facts if key in made}
        for part in needed:
            expected = expected_fingerprint(
                name, recipe.settings, recipe.inputs[part], recipe.version, recipe.code, facts
            )
            own = twins[part]["fingerprint"] if part in twins else self.parts[part].same_as or expected
            records[part] = {"inputs": recipe.inputs[part], "fingerprint": own}
        if self.kept and self.found:  # the time that all which is there took
            for key in ("seconds", "cpu_seconds"):
                made[key] = made.get(key, 0) + self.found.get(key, 0)
        made |= {key: round(made[key], 1) for key in ("seconds", "cpu_seconds") if key in made}
        made |= {"settings": recipe.settings, "version": recipe.version, "code": recipe.code, "inputs": self.inputs}
        if list(self.parts) == [WHOLE]:
            return made | {"fingerprint": records[WHOLE]["fingerprint"]}
        return made | {"parts": records, "fingerprint": content_hash([name, records])}

    def _clear(self, parts: list[str]) -> None:
        for path in self.outputs_of(parts):
            remove(path)

    def _read_begun(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(read_json(self.begun)["parts"]) if self.begun.is_file() else {}
        except (ValueError, TypeError, KeyError):  # nothing to resume from
            return {}


def _join_reasons(changed: Mapping[str, list[str]]) -> str:
    """Say why parts are made again, those of one reason together, in the words of the first few reasons of each."""
    texts: dict[str, list[str]] = {}
    for part, changes in changed.items():
        more = [f"and {len(changes) - FEW} more"] if len(changes) > FEW else []
        texts.setdefault("; ".join([*changes[:FEW], *more]), []).append(part)
    return "; ".join(text if parts == [WHOLE] else f"{', '.join(parts)}: {text}" for text, parts in texts.items())


def _list_parts(found: dict[str, Any] | None, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the parts that a meta records, name -> inputs and fingerprint.

    A meta from before its stage was divided was made of the inputs of all parts together, and each part takes its own.
    """
    if not found or "parts" in found:
        return found["parts"] if found else {}
    return {
        part: {
            "inputs": {k: v for k, v in found["inputs"].items() if part == WHOLE or k in inputs},
            "fingerprint": found["fingerprint"],
        }
        for part, inputs in recipe.inputs.items()
    }


def _compare(found: dict[str, Any], recipe: Recipe, part: str) -> tuple[list[str], list[str]]:
    """List how one part of what a meta records differs from the recipe: in its settings, and in anything else."""
    wanted, records = recipe.of(part), _list_parts(found, recipe)
    settings = differences(found["settings"], wanted["settings"], "settings")
    if part not in records:
        return settings, [NEW]
    made_of = {"version": found.get("version", 1), "code": found.get("code", {}), "inputs": records[part]["inputs"]}
    return settings, differences(made_of, {key: wanted[key] for key in made_of})


def find_twin(meta: Path, recipe: Recipe, needed: list[str]) -> Path | None:
    """Return the meta of the same stage of another run whose parts `needed` are of the same recipe, and still whole."""
    for path in sorted(meta.parent.parent.parent.glob(f"*/meta/{meta.name}")):
        if path == meta:
            continue
        found = read_meta(path)
        same = not any(any(_compare(found, recipe, part)) for part in needed)
        if same and not find_damage(found.get("files", {}), path.parent.parent):
            return path
    return None


def link_outputs(outputs: Sequence[Path], folder: Path, source: Path) -> None:
    """Put the files that `source` has in place of the outputs of a run's `folder`, without copying what one disk holds.

    No stage writes into a file that exists, so the two runs cannot disturb each other.
    """
    for path in outputs:
        remove(path)
        other = source / path.relative_to(folder)
        if other.is_dir():
            shutil.copytree(other, path, copy_function=link)
        elif other.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            link(other, path)

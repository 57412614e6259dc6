"""From YAML files to a checked config: `base:`, merging, and errors that name the file and the nearest key."""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from nuclei.config.schema import Config, check_run_name
from nuclei.errors import UserError
from nuclei.limits import MAX_TEXT_BYTES, check_file, check_kind

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80


OF_NETWORKS = ("model", "train", "predict")  # sections that a run with members does not read
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


class _Loader(yaml.SafeLoader):
    """Load plain YAML, but refuse a key given twice in one mapping, of which YAML's own loader takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


def run_name(path: Path) -> str:
    """Return the name of the run that a config makes: its file's name, or that of the folder of a run's own config.

    Raises UserError naming the file if that cannot be the name of a run.
    """
    name = path.absolute().parent.name if path.name == "config.yaml" else path.stem
    try:
        return check_run_name(name)
    except ValueError as error:
        raise UserError(f"{path} cannot name a run: {error}") from None


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `change` laid over it, mappings merged key by key."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # Members and a loss replace those of the base: half of one and half of the other is what nobody means.
        merged[key] = merge(merged[key], value) if both and key not in ("members", "loss") else value
    return merged


def read_yaml(path: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read one YAML file and what its `base:` names (relative to it); raise UserError naming the file."""
    content = _read_mapping(path)
    place = os.path.realpath(path)
    if place in above:
        raise UserError(f"{path} is its own base, through {' -> '.join(Path(p).name for p in above)}")
    base = _base_of(path, content)
    if base and not base.is_file():
        raise UserError(f"{path}: base: {_say_missing(base)}")
    own = {key: value for key, value in content.items() if key != "base"}
    return merge(read_yaml(base, (*above, place)), own) if base else own


def read_base(path: Path) -> Path | None:
    """Return the path of the config that a config's `base:` names, None if it names none or there is no such file."""
    return _base_of(path, _read_mapping(path)) if path.is_file() else None


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Return settings that are written as `train.steps=100`, each value in YAML, as the mapping that a file would hold.

    Raises UserError on a text of another form, on a value that is no YAML, and on a key that is given twice.
    """
    changes: dict[str, Any] = {}
    keys = set()
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and _KEY.fullmatch(key)):
            raise UserError(f"--set {text}: give a setting and its value, for example --set train.steps=100")
        if key in keys:
            raise UserError(f"--set {text}: {key} is given twice")
        keys.add(key)
        parsed = _parse_yaml(value, f"the value of --set {text}")
        nested: dict[str, Any] = reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), parsed)
        changes = merge(changes, nested)
    return changes


def load_config(path: str | Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Load a run's config, with `changes` of `parse_changes` laid over what the file says.

    Raises UserError that names the file, each wrong key and the nearest valid one.
    """
    path = Path(path)
    content, source = read_yaml(path), f"{path}, changed by --set" if changes else str(path)
    config = parse_config(merge(content, dict(changes or {})), source)
    # Such a setting would be in the run's config, and change nothing.
    if config.members and (unread := [section for section in OF_NETWORKS if section in (changes or {})]):
        raise UserError(f"{source}: it trains no network, so --set {unread[0]} changes nothing: set it for a member")
    return config


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate `content`; raise UserError that names `source`, each wrong key and the nearest valid one."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join([f"{source}:"] + [f"  {explain(e)}" for e in error.errors()])) from None


def explain(error: "ErrorDetails") -> str:
    """Say one validation error of pydantic in a line, with the nearest valid key where a key is unknown."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    *parents, key = error["loc"]
    where = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "value_error":
        return f"{where}: {message}"
    if error["type"] != "extra_forbidden":
        return f"{where}: {message} (got {_SHORT.repr(error['input'])})"
    section: type[BaseModel] = Config
    for parent in parents:
        annotation = section.model_fields[str(parent)].annotation
        assert isinstance(annotation, type), "an unknown key lies in a section"
        section = annotation
    options = list(section.model_fields)
    near = difflib.get_close_matches(str(key), options, n=1)
    return f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f"; valid: {', '.join(options)}")


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that one YAML file holds, without its base's; raise UserError naming the file."""
    if not path.is_file():
        raise UserError(_say_missing(path))
    check_file(path, MAX_TEXT_BYTES)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    content = _parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of settings, not a {type(content).__name__}")
    return content


def _parse_yaml(text: str, source: str) -> Any:
    """Return what a YAML text holds; raise UserError naming `source`."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source} is not valid YAML: {error}") from error
    except RecursionError:
        raise UserError(f"{source} is nested too deeply for a config") from None


def _say_missing(path: Path) -> str:
    """Say that there is no config at a path, and which are near; raise UserError as check_kind does."""
    if path.is_dir():
        return f"{path} is a folder, not a config: name one of its YAML files"
    check_kind(path)
    if path.is_symlink():
        return f"{path} is a link that leads to no file: make it anew, or name another config"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=3)
    return f"no config {path}" + (f"; did you mean {', '.join(near)}?" if near else "")


def _base_of(path: Path, content: dict[str, Any]) -> Path | None:
    """Return the path that the `base:` of a config names, if any; raise UserError naming the file if it is no path."""
    base = content.get("base")
    if base is None:
        return None
    if not isinstance(base, str) or not base or not base.isprintable():
        raise UserError(f"{path}: base must be the path of a config, relative to this file (got {base!r})")
    return path.parent / base

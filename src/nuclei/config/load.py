"""From YAML files to a checked config: `base:`, merging, and errors that name the file and the nearest key."""

import difflib
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from nuclei.config.schema import Config, check_run_name
from nuclei.errors import UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80


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

    Raises ValueError naming the file if that cannot be the name of a run.
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


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read one YAML file and what its `base:` names (relative to it); raise ValueError naming the file."""
    if path.resolve() in above:
        raise UserError(f"{path} is its own base, through {' -> '.join(p.name for p in above)}")
    content = _read_mapping(path)
    base = _base_of(path, content)
    if base and not base.is_file():
        raise UserError(f"{path}: base: {_say_missing(base)}")
    own = {key: value for key, value in content.items() if key != "base"}
    return merge(read_yaml(base, (*above, path.resolve())), own) if base else own


def read_base(path: Path) -> Path | None:
    """Return the path of the config that a config's `base:` names, None if it names none or there is no such file."""
    return _base_of(path, _read_mapping(path)) if path.is_file() else None


def load_config(path: str | Path) -> Config:
    """Load a run's config; raise ValueError that names the file, each wrong key and the nearest valid one."""
    path = Path(path)
    return parse_config(read_yaml(path), str(path))


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate `content`; raise ValueError that names `source`, each wrong key and the nearest valid one."""
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
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a config") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of settings, not a {type(content).__name__}")
    return content


def _say_missing(path: Path) -> str:
    """Say that there is no config at a path, and which are near."""
    if path.is_dir():
        return f"{path} is a folder, not a config: name one of its YAML files"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=3)
    return f"no config {path}" + (f"; did you mean {', '.join(near)}?" if near else "")


def _base_of(path: Path, content: dict[str, Any]) -> Path | None:
    """Return the path that the `base:` of a config names, if any; raise ValueError naming the file if it is no path."""
    base = content.get("base")
    if base is None:
        return None
    if not isinstance(base, str) or not base or not base.isprintable():
        raise UserError(f"{path}: base must be the path of a config, relative to this file (got {base!r})")
    return path.parent / base

"""From YAML files to a checked config: `base:`, merging, and errors that name the file and the nearest key."""

import difflib
from pathlib import Path

import yaml
from pydantic import ValidationError

from nuclei.config.schema import Config


def run_name(path: Path) -> str:
    """Return the name of the run that a config makes: its file's name, or that of the folder of a run's own config."""
    return path.parent.name if path.name == "config.yaml" else path.stem


def merge(base: dict, change: dict) -> dict:
    """Return `base` with the values of `change` laid over it, mappings merged key by key."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # An ensemble's members and a loss replace the base's: half of one and half of the other is nobody's wish.
        merged[key] = merge(merged[key], value) if both and key not in ("members", "loss") else value
    return merged


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """Read one YAML file and what its `base:` names (relative to it); raise ValueError naming the file."""
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base, by way of {' -> '.join(p.name for p in above)}")
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=3)
        raise ValueError(f"no config {path}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of settings, not a {type(content).__name__}")
    base = content.pop("base", None)
    return merge(read_yaml(path.parent / base, (*above, path.resolve())), content) if base else content


def read_base(path: Path) -> Path | None:
    """Return the path of the config that a config's `base:` names, None if it names none."""
    base = (yaml.safe_load(path.read_text()) or {}).get("base") if path.is_file() else None
    return path.parent / base if base else None


def load_config(path: str | Path) -> Config:
    """Load a run's config; raise ValueError that names the file, each wrong key and the nearest valid one."""
    path = Path(path)
    return parse_config(read_yaml(path), str(path))


def parse_config(content: dict, source: str) -> Config:
    """Validate `content`; raise ValueError that names `source`, each wrong key and the nearest valid one."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join([f"{source}:"] + [f"  {explain(e)}" for e in error.errors()])) from None


def explain(error: dict) -> str:
    """Say one validation error of pydantic in a line, with the nearest valid key where a key is unknown."""
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    *parents, key = error["loc"]
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']} (got {error['input']!r})"
    section = Config
    for parent in parents:
        section = section.model_fields[parent].annotation
    options = list(section.model_fields)
    near = difflib.get_close_matches(str(key), options, n=1)
    return f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f"; valid: {', '.join(options)}")

"""Every YAML file of configs/ and ensembles/ can be run: it loads, and what it names exists."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from nuclei.config.load import load_config
from nuclei.config.schema import ModelConfig
from nuclei.networks.kinds import build
from nuclei.networks.mask_rcnn import DetectorOptions, build_mask_rcnn
from nuclei.pipeline import check_run, list_runs, load_run

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
ENSEMBLES = sorted((ROOT / "ensembles").glob("*.yaml"))
FILES = {path.relative_to(ROOT).as_posix(): path for path in CONFIGS + ENSEMBLES}
WEIGHTS_FILES = (".safetensors", ".pth", ".pt")


def local_weights(model) -> Path | None:
    """Return the weights file that a model section names, None if it names none."""
    local = model.weights is not None and Path(model.weights).suffix in WEIGHTS_FILES
    return ROOT / model.weights if local else None


def distinct_networks() -> dict[str, ModelConfig]:
    """Return the networks that the configs train, each once, by a readable name."""
    networks = {}
    for config in map(load_config, FILES.values()):
        m = config.model
        if not config.members and config.selection.method != "classical":
            networks[f"{m.decoder}-{m.encoder}-{m.weights and Path(m.weights).stem}-{len(m.channels)}"] = m
    return networks


NETWORKS = distinct_networks()


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """Configs name files as seen from the project's root."""
    monkeypatch.chdir(ROOT)


def test_there_are_configs_and_ensembles():
    assert CONFIGS
    assert ENSEMBLES


def test_no_two_files_make_the_same_run():
    names = [path.stem for path in FILES.values()]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", FILES)
def test_what_a_config_names_exists(name):
    config = load_run(FILES[name])
    check_run(config, name)
    assert (config.model.gives == "maps") == bool(config.model.channels)
    assert set(config.train.channel_weights) <= set(config.model.channels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"encoder": "resnet43"}}, "unknown encoder resnet43; nearest: resnet34"),
        ({"model": {"decoder": "Unett"}}, "unknown decoder Unett"),
        ({"model": {"weights": "noisy"}}, "unknown weights noisy of tu-mobilenetv2_100; valid: imagenet"),
        ({"model": {"weights": "gone.safetensors"}}, "initial weights gone.safetensors not found"),
        ({"model": {"channels": ["mask", "centre"]}}, "unknown channel centre; valid: mask, border, center"),
        ({"train": {"channel_weights": {"edge": 2}}}, "unknown channel edge"),
        ({"train": {"loss": {"bcee": 1}}}, "unknown loss bcee; valid: bce, dice"),
        ({"train": {"augment": "fulll"}}, "fulll"),
        ({"train": {"leave_out": ["noises"]}}, "noises"),
        ({"scorer": {"leave_out": ["shapes"]}}, "unknown feature group shapes"),
        ({"classical": {"recipe": "otzu"}}, "unknown recipe 'otzu'; valid: otsu, strong"),
        ({"selection": {"method": "scores"}}, "unknown method 'scores'"),
    ],
)
def test_what_no_registry_has_is_refused_before_anything_runs(tmp_path, change, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(ValueError, match=f"(?s)^{path}:.*{said}"):
        list_runs(path)


@pytest.mark.parametrize("name", FILES)
def test_members_exist_and_share_the_data(name):
    runs = list_runs(FILES[name])
    config = load_config(FILES[name])
    assert {path.stem for path, _ in runs} >= {FILES[name].stem, *config.members}
    assert len({(run.data.dataset, run.data.unseen) for _, run in runs}) == 1
    together = {FILES[name].stem, *config.members}
    (folds,) = {run.data.only_folds for path, run in runs if path.stem in together}
    # What training starts from may have more folds than it needs: all, which () says, or these among others.
    starts = [run.data.only_folds for path, run in runs if path.stem not in together]
    assert all(not more or (folds and {*more} >= {*folds}) for more in starts)
    assert all(weight > 0 for weight in config.members.values())


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_network_is_built_and_runs(model):
    weights = local_weights(model)
    # Weights of a hub are downloaded where they are used; what is to be seen here is the same without them. Of the
    # thousand proposals of a detector that has learned nothing a few will do.
    make = build if model.channels else partial(build_mask_rcnn, options=DetectorOptions(proposals=20))
    network = make(model, str(weights) if weights else None).eval()
    with torch.inference_mode():
        result = network(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    if model.channels:
        assert result.shape == (1, len(model.channels), 64, 64)
        assert result.isfinite().all()
    else:
        assert result[0]["boxes"].shape == (len(result[0]["scores"]), 4)

"""Tables of networks side by side: what they predict, what they are made of, how they are trained and applied.

`networks` are the complete configs of runs that train, as nested dicts: {run: config}.
"""

from collections.abc import Callable, Mapping
from typing import Any

from nuclei.networks.tiling import VIEWS
from nuclei.report.blocks import Table
from nuclei.report.charts import name_type
from nuclei.report.tables import format_time
from nuclei.training.augment import GROUPS, resolve_preset
from nuclei.training.targets import TARGETS

Setup = Mapping[str, Any]  # the complete config of one run that trains


def weigh(weights: Mapping[str, float]) -> str:
    """Return a weighted sum as text."""
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items())


def weigh_channels(config: Setup) -> str:
    """Return the weight of each map's loss as text."""
    given = config["train"]["channel_weights"]
    return weigh({name: given.get(name, 1) for name in config["model"]["channels"]})


def describe_weights(config: Setup) -> str:
    """Return what the encoder's weights are before training: a hub's name for them, a file, or random."""
    return str(config["model"]["weights"] or "random")


def describe_optimiser(config: Setup) -> str:
    """Return the optimiser with its settings."""
    train = config["train"]
    return f"AdamW, weight decay {train['weight_decay']:g}, gradient norm up to {train['clip_norm']:g}"


def describe_rate(config: Setup) -> str:
    """Return the course of the learning rate."""
    train = config["train"]
    return (
        f"peak {train['learning_rate']:g}, of the encoder {train['learning_rate'] * train['encoder_rate']:g}; "
        f"linear warm-up over {100 * train['warmup']:g} % of the steps, then cosine to 1 % of it"
    )


def describe_views(config: Setup) -> str:
    """Return the views of an image that are predicted and averaged."""
    tta = config["predict"]["tta"]
    return f"{len(VIEWS[tta])} ({tta})"


def describe_stride(config: Setup) -> str:
    """Return the size at which a network's decoder ends."""
    stride = config["model"]["output_stride"]
    return f"1/{stride} of the image's, enlarged bilinearly" if stride > 1 else "the image's"


Rows = Mapping[str, Callable[[Setup], str]]
MODEL: Rows = {
    "decoder": lambda c: c["model"]["decoder"],
    "encoder": lambda c: (c["model"]["encoder"] or "its own").removeprefix("tu-"),
    "initial weights": describe_weights,
    "maps": lambda c: ", ".join(c["model"]["channels"]) or "none: it detects instances",
    "small images enlarged to": lambda c: (
        f"{c['model']['min_side_px']} px a side" if c["model"]["min_side_px"] else "not enlarged"
    ),
    "size of the maps": describe_stride,
    "decoder widths": lambda c: ", ".join(map(str, c["model"]["decoder_channels"])),
}
TRAINING: Rows = {
    "augmentation": lambda c: c["train"]["augment"] if isinstance(c["train"]["augment"], str) else "its own",
    "sampling": lambda c: c["train"]["sampling"],
    "loss": lambda c: weigh(c["train"]["loss"]),
    "weights of maps": weigh_channels,
    "steps": lambda c: f"{c['train']['steps']:,}",
    "time limit of a fold": lambda c: format_time(c["train"]["seconds"]) if c["train"]["seconds"] else "none",
    "crops a step": lambda c: str(c["train"]["batch_size"]),
    "crop": lambda c: f"{c['train']['crop_px']} px",
    "different crops": lambda c: f"{c['train']['pool']:,}, shared by the folds" if c["train"]["pool"] else "each anew",
    "optimiser": describe_optimiser,
    "learning rate": describe_rate,
    "averaged weights": lambda c: f"exponential, decay {c['train']['ema']:g}",
    "precision": lambda c: c["train"]["precision"],
    "seed": lambda c: str(c["train"]["seed"]),
}
INFERENCE: Rows = {
    "weights": lambda c: f"{c['predict']['checkpoint']} of the training",
    "views averaged": describe_views,
    "scales averaged": lambda c: ", ".join(f"{scale:g}" for scale in c["predict"]["scales"]),
    "tiles": lambda c: f"{c['predict']['tile_px']} px, overlap {c['predict']['overlap_px']} px",
}


def choices_table(networks: Mapping[str, Setup], rows: Rows, **more: Mapping[str, str]) -> Table:
    """Tabulate settings of the networks side by side; `more` are further rows, {label: {network: text}}."""
    cells = [(label, *(value(config) for config in networks.values())) for label, value in rows.items()]
    cells += [
        (name_type(label), *(texts.get(name, "not recorded") for name in networks)) for label, texts in more.items()
    ]
    return Table(("", *networks), cells, n_text=1 + len(networks))


def channels_table(networks: Mapping[str, Setup]) -> Table:
    """Tabulate the maps that the networks learn, with the meaning of each."""
    channels = dict.fromkeys(channel for config in networks.values() for channel in config["model"]["channels"])
    return Table(
        ("map", "what it is to be, 0 elsewhere"), [(name, TARGETS[name].meaning) for name in channels], n_text=2
    )


def augmentation_table(networks: Mapping[str, Setup]) -> Table:
    """Tabulate the probability with which each group of augmentations is applied to a crop."""
    presets = [resolve_preset(config["train"]["augment"]) for config in networks.values()]
    used = [group for group in GROUPS if any(preset[group] for preset in presets)]
    rows = [(name_type(group), *(f"{preset[group]:g}" for preset in presets)) for group in used]
    return Table(("augmentation, probability", *networks), rows)

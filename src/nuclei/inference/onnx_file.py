"""One trained network as an ONNX file, for other programs than this one; the extra `onnx` brings what writes it."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.inference.bundle import find_run
from nuclei.inference.contents import FILE_OF_CHECKPOINT, check_files, list_folds
from nuclei.inference.predictor import load_network
from nuclei.networks.encoder_decoder import STRIDE
from nuclei.runs.files import atomic, check_target
from nuclei.runs.layout import Run

EXTRA = "onnx"
PRODUCER = "nuclei"
OPSET = 18
INPUT, OUTPUT = "image", "maps"


class Probabilities(nn.Module):
    """Map float RGB in 0..255, [B, 3, H, W], to the network's maps in 0..1, [B, C, H, W]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.network(image))


def export_onnx(folder: Path, fold: int, member: str | None = None, output: Path | None = None) -> Path:
    """Write the network of one fold of a run, or of a published ensemble, as ONNX and return the file's path.

    member: the run of an ensemble whose network is meant. Input `image`: float32 RGB, raw values 0..255, [B, 3, H, W]
    with any B, and H and W multiples of STRIDE; output `maps`: float32 [B, C, H, W] in 0..1, channels by the metadata
    `channels`; the metadata say so too. Raises UserError naming what is missing, the folds or members there are, and
    the extra to install.
    """
    onnx = load_onnx()
    run, config = find_member(folder, member)
    if config.model.gives != "maps":
        raise UserError(f"{run.name}: only networks that give maps are exported, not {config.model.decoder}")
    folds = list_folds(run)
    if fold not in folds:
        raise UserError(f"{run.name} has no network of fold {fold}: choose --fold, one of {', '.join(map(str, folds))}")
    check_files(run, [run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint]])
    path = output or Path(f"{run.name}_fold{fold}.onnx")
    check_target(path, PRODUCER)
    network = Probabilities(load_network(Fabric(accelerator="cpu", devices=1), run, config, fold)).eval()
    metadata = {
        "channels": ",".join(config.model.channels),
        "input": f"float32 RGB, raw values 0..255, [B, 3, H, W], H and W multiples of {STRIDE}",
        "output": "float32 [B, C, H, W], 0..1",
        "stride": str(STRIDE),
        "normalisation": "inside the network",
        "source": f"{run.name}, fold {fold}",
    }
    with atomic(path) as temporary:
        write_model(network, temporary)
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, metadata)
        model.producer_name = PRODUCER
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
    return path


def find_member(folder: Path, member: str | None) -> tuple[Run, Config]:
    """Return the run in a folder, or of an ensemble its member of this name, and its config; raise UserError."""
    run = find_run(folder)
    if not run.config.is_file():
        raise UserError(f"{folder} is no run: it has no config.yaml. Name a folder of runs/ or ensembles/")
    config = load_config(run.config)
    if not config.members:
        if member not in (None, run.name):
            raise UserError(f"{run.name} has no members: leave out --member")
        return run, config
    if member not in config.members:
        names = " or ".join(config.members)
        raise UserError(f"{run.name} is an ensemble: choose whose network by --member, {names}")
    run = Run(member, run.folder.parent)
    return run, load_config(run.config)


def load_onnx() -> Any:
    """Return the package onnx; raise UserError naming the extra if it is missing."""
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which writes ONNX: pip install 'nuclei[{EXTRA}]'") from error


def write_model(network: nn.Module, path: Path) -> None:
    """Write a network from [B, 3, H, W] to [B, C, H, W] as ONNX whose B, H and W are free."""
    axes = {0: "batch", 2: "height", 3: "width"}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice to move to an exporter that needs more packages
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, 2 * STRIDE, 3 * STRIDE),),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
            opset_version=OPSET,
            dynamo=False,
        )

"""The networks, taking raw RGB: any smp decoder over any smp or timm encoder, and the two vanilla U-Nets."""

import difflib
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nuclei.config.schema import ModelConfig
from nuclei.errors import UserError
from nuclei.networks.plain_unet import VANILLA

# Not PAN, which fails below 128 px, nor DPT, which takes only timm's vision transformers.
DECODERS = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "MAnet",
    "Linknet",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
)
SIZED_DECODERS = ("Unet", "UnetPlusPlus", "MAnet")  # those that take one width per level
STRIDE = 32  # images are padded to a multiple of this
FILE_FORMATS = (".pth", ".pt", ".safetensors")  # of initial weights
Statistics = tuple[float, ...]  # one number per color, in 0..1


class Network(nn.Module):
    """Map uint8 RGB [B, 3, H, W] to logits [B, C, H, W]; H and W are multiples of STRIDE.

    Normalisation is part of the network, so that no caller can feed it otherwise than it was trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Statistics, std: Statistics):
        super().__init__()
        self.body = body
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def normalise(self, image: Tensor) -> Tensor:
        """Bring colors to the mean and standard deviation that the body was trained on."""
        return (image - self.mean) / self.std

    def forward(self, image: Tensor) -> Any:
        """Return the logits of images, uint8 [B, 3, H, W] -> [B, C, H, W]; of a Detector, its loss or detections."""
        return self.body(self.normalise(image).contiguous(memory_format=torch.channels_last))


def build_network(model: ModelConfig, weights: str | None) -> Network:
    """Build the network of a config that gives maps, one per channel, with initial encoder `weights`.

    weights: a name of the hub, a local file (.pth, .pt, .safetensors) or None; model.weights is not read. With
    model.output_stride the decoder stops at that fraction of the image's size (cut_decoder); Unet alone can. The
    networks of plain_unet.py are encoder and decoder in one: they take neither encoder nor weights, and input scaled
    to 0..1. Raises UserError listing the valid or nearest decoders, encoders and weights, or naming the weights file
    and the fix.
    """
    if model.output_stride != 1 and model.decoder != "Unet":
        raise UserError(f"no {model.decoder} of output stride {model.output_stride}; valid: 1, or 2 and 4 of a Unet")
    if model.decoder in VANILLA:
        return build_vanilla(model, weights)
    if model.decoder not in DECODERS:
        raise UserError(f"unknown decoder {model.decoder}; valid: {', '.join((*DECODERS, *VANILLA, 'MaskRCNN'))}")
    if model.encoder is None:
        raise UserError(f"{model.decoder} needs an encoder: set model.encoder, for example to resnet34")
    check_encoder(model.encoder)
    path = find_weights_file(weights, "imagenet")
    if not path:
        check_weights(model.encoder, weights)
    body = build_body(model, None if path else weights)
    if path:
        load_encoder(body.get_submodule("encoder"), path)
    mean, std = input_statistics(model.encoder, weights)
    return Network(body, model.mean or mean, model.std or std)


def build_vanilla(model: ModelConfig, weights: str | None) -> Network:
    """Build a network of plain_unet.py; raise UserError if it is to have another encoder, or published weights."""
    if model.encoder is not None or weights is not None:
        raise UserError(
            f"{model.decoder} has an encoder of its own, without published weights: set model.encoder and "
            "model.weights to null"
        )
    body = VANILLA[model.decoder](len(model.channels))
    return Network(body, model.mean or (0.0, 0.0, 0.0), model.std or (1.0, 1.0, 1.0))


def build_body(model: ModelConfig, weights: str | None) -> nn.Module:
    """Build smp's decoder over its encoder, whose published `weights` are fetched from the hub."""
    options: dict[str, Any] = {}
    if model.decoder in SIZED_DECODERS:
        n_cut = model.output_stride.bit_length() - 1
        widths = (*model.decoder_channels, *[1] * n_cut)  # those of the levels that are cut off again
        options = {"decoder_channels": widths, "encoder_depth": len(widths)}
    body: nn.Module = getattr(smp, model.decoder)(
        encoder_name=model.encoder, encoder_weights=weights, classes=len(model.channels), **options
    )
    if model.output_stride != 1:
        cut_decoder(body, len(model.decoder_channels), model.output_stride)
    return body


def cut_decoder(body: Any, levels: int, stride: int) -> None:
    """Let a Unet of smp end after so many levels of its decoder and enlarge its logits `stride`-fold instead.

    It still maps [B, 3, H, W] to [B, C, H, W]. The last level has nothing of the encoder to look at, yet takes a third
    of the time. Logits are enlarged about pixel centers, as cv2 resizes, so that nothing is shifted; smp's own heads
    would align corners.
    """
    body.decoder.blocks = body.decoder.blocks[:levels]
    last, classes = body.decoder.blocks[-1].conv2[0].out_channels, body.segmentation_head[0].out_channels
    body.segmentation_head = nn.Sequential(
        nn.Conv2d(last, classes, 3, padding=1), nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)
    )


def find_weights_file(weights: str | None, published: str) -> Path | None:
    """Return the path of initial weights that are a local file, None if they are not.

    Raises UserError that names the file and, as the fix, the `published` weights if there is no such file.
    """
    if weights is None or Path(weights).suffix not in FILE_FORMATS:
        return None
    if not Path(weights).is_file():
        raise UserError(f"initial weights {weights} not found: put the file there, or set model.weights to {published}")
    return Path(weights)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a network from a .pth, .pt or .safetensors file; raise UserError naming it if damaged."""
    try:
        if path.suffix == ".safetensors":
            with path.open("rb"):  # what the system says of a file that cannot be opened names it
                return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}, not a mapping of names to tensors")
        return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # a pickle's reader raises whatever its damage leads to
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(
            f"{path} is damaged, or no {path.suffix} file of weights ({str(error).partition(chr(10))[0]}): fetch it "
            "anew, or delete it and train again"
        ) from error


def load_weights(network: nn.Module, path: Path, source: str) -> None:
    """Load a whole network's weights from a file.

    Raises UserError naming the file if it is damaged, is for another network than that of the config `source`, or holds
    a weight that is not finite, with which a network finds anything or nothing.
    """
    state = read_state_dict(path)
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise UserError(f"{path} holds weights that are not finite, e.g. {broken[0]}: delete it and train again")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"{path} is for another network than that of {source} ({lines[min(1, len(lines) - 1)][:200]}): put the "
            "file that was trained with that config there, or train again"
        ) from error


def check_weights(encoder: str, weights: str | None) -> None:
    """Raise UserError listing the encoder's published weights if `weights` is a name and none of them."""
    published = ["imagenet"] if encoder.startswith("tu-") else smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights is not None and weights not in published:
        raise UserError(
            f"unknown weights {weights} of {encoder}; valid: {', '.join(published)}, "
            "a .pth, .pt or .safetensors file, or null"
        )


def check_encoder(encoder: str) -> None:
    """Raise UserError naming the nearest encoders if neither smp nor timm knows `encoder`."""
    if encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-").split(".")[0]):
        return
    options = smp.encoders.get_encoder_names()
    if encoder in options:
        return
    near = difflib.get_close_matches(encoder, options + [f"tu-{name}" for name in timm.list_models()], n=3)
    raise UserError(f"unknown encoder {encoder}; nearest: {', '.join(near) or 'none'} (timm's are 'tu-<name>')")


def input_statistics(encoder: str, weights: str | None) -> tuple[Statistics, Statistics]:
    """Return the mean and standard deviation, in 0..1, that the encoder's published weights expect.

    A local file, or none, counts as the first of smp's sets of weights. ImageNet's where nothing is published.
    """
    if encoder.startswith("tu-"):
        published = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if published is not None:
            return tuple(published.mean), tuple(published.std)
    published = smp.encoders.pretrained_settings.get(encoder, {})
    if published:
        settings = published.get(weights) or next(iter(published.values()))
        return tuple(settings["mean"]), tuple(settings["std"])
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load a state dict into an encoder; raise UserError if the file lacks any of its tensors, or has another shape.

    Keys of `path` that the encoder lacks (the classifier of a whole network) are skipped.
    """
    state = read_state_dict(path)
    target: nn.Module = getattr(encoder, "model", encoder)  # smp wraps timm's networks
    own = target.state_dict()
    # Where timm takes a network apart for its features, it writes stages_0.blocks for stages.0.blocks.
    state = {key.replace(".", "_"): value for key, value in state.items()}
    found = {key: state[flat].to(own[key].dtype) for key in own if (flat := key.replace(".", "_")) in state}
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} tensors of the encoder, e.g. {missing[0]}: another network's file?"
        )
    for key, value in found.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{path} has {key} of shape {tuple(value.shape)} and the encoder {tuple(own[key].shape)}: "
                "another network's file?"
            )
    # A complete state dict, because the load_state_dict of smp's encoders is always strict or returns nothing.
    target.load_state_dict(own | found)

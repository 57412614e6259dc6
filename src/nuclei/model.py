"""The segmentation network: any smp decoder over any smp or timm encoder, taking raw RGB."""

import difflib
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import nn

DECODERS = ("Unet", "UnetPlusPlus", "FPN", "MAnet", "Linknet", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
            "Segformer", "DPT")
SIZED_DECODERS = ("Unet", "UnetPlusPlus", "MAnet")  # those that take one width per level
STRIDE = 32  # images are padded to a multiple of this


class Network(nn.Module):
    """Map uint8 RGB [B, 3, H, W] to logits [B, C, H, W]; H and W are multiples of STRIDE.

    Normalisation is part of the network, so that no caller can feed it otherwise than it was trained.
    """

    def __init__(self, body: nn.Module, mean, std):
        super().__init__()
        self.body = body
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image):
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.body(normalised)


def build_network(decoder: str, encoder: str, weights: str | None, decoder_channels, n_channels: int,
                  mean=None, std=None) -> Network:
    """Build a network with initial encoder weights from the hub, a local file (.pth, .safetensors) or none.

    Raises ValueError listing the valid or nearest decoders and encoders, or naming the weights file and the fix.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder}; valid: {', '.join(DECODERS)}")
    check_encoder(encoder)
    local = weights is not None and Path(weights).suffix in (".pth", ".pt", ".safetensors")
    if local and not Path(weights).is_file():
        raise ValueError(f"initial weights {weights} not found: put the file there, or set model.weights to imagenet")
    options = {}
    if decoder in SIZED_DECODERS:
        options = {"decoder_channels": tuple(decoder_channels), "encoder_depth": len(decoder_channels)}
    body = getattr(smp, decoder)(
        encoder_name=encoder, encoder_weights=None if local else weights, classes=n_channels, **options
    )
    if local:
        load_encoder(body.encoder, Path(weights))
    default_mean, default_std = input_statistics(encoder, weights)
    return Network(body, mean or default_mean, std or default_std)


def check_encoder(encoder: str) -> None:
    """Raise ValueError naming the nearest encoders if neither smp nor timm knows `encoder`."""
    options = smp.encoders.get_encoder_names()
    if encoder.startswith("tu-"):
        if timm.is_model(encoder.removeprefix("tu-").split(".")[0]):
            return
        options = [f"tu-{name}" for name in timm.list_models()]
    elif encoder in options:
        return
    near = difflib.get_close_matches(encoder, options, n=3)
    raise ValueError(f"unknown encoder {encoder}; nearest: {', '.join(near) or 'none'} (timm's are 'tu-<name>')")


def input_statistics(encoder: str, weights: str | None) -> tuple:
    """Return the mean and standard deviation, in 0..1, that the encoder's published weights expect."""
    if encoder.startswith("tu-"):
        published = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if published is not None:
            return tuple(published.mean), tuple(published.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load a state dict into an encoder; raise ValueError if the file lacks any of its tensors.

    Keys of `path` that the encoder lacks (the classifier of a whole network) are passed over.
    """
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    target = getattr(encoder, "model", encoder)  # smp wraps timm's networks
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    missing, _ = target.load_state_dict(state, strict=False)
    lacking = [key for key in missing if not key.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(f"{path} lacks {len(lacking)} tensors of the encoder, e.g. {lacking[0]}: another network's file?")

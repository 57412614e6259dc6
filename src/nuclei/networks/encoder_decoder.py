"""The networks, taking raw RGB: any smp decoder over any smp or timm encoder, and the two vanilla U-Nets."""

import difflib
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import nn

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
OUTPUT_STRIDES = (2, 4)
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


def build_network(
    decoder: str,
    encoder: str | None,
    weights: str | None,
    decoder_channels,
    n_channels: int,
    mean=None,
    std=None,
    output_stride: int = 1,
) -> Network:
    """Build a network with initial encoder weights from the hub, a local file (.pth, .pt, .safetensors) or none.

    output_stride: the decoder stops at 1 / output_stride of the image's size (cut_decoder); Unet alone can. The
    networks of vanilla.py are encoder and decoder in one: they take neither encoder nor weights, and input scaled
    to 0..1. Raises ValueError listing the valid or nearest decoders, encoders and weights, or naming the weights file
    and the fix.
    """
    if output_stride != 1 and (decoder != "Unet" or output_stride not in OUTPUT_STRIDES):
        raise ValueError(f"no {decoder} of output stride {output_stride}; valid: 1, or {OUTPUT_STRIDES} of a Unet")
    if decoder in VANILLA:
        if encoder is not None or weights is not None:
            raise ValueError(
                f"{decoder} has an encoder of its own, without published weights: set model.encoder and "
                "model.weights to null"
            )
        return Network(VANILLA[decoder](n_channels), mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0))
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder}; valid: {', '.join((*DECODERS, *VANILLA, 'MaskRCNN'))}")
    if encoder is None:
        raise ValueError(f"{decoder} needs an encoder: set model.encoder, for example to resnet34")
    check_encoder(encoder)
    local = weights is not None and Path(weights).suffix in (".pth", ".pt", ".safetensors")
    if local and not Path(weights).is_file():
        raise ValueError(f"initial weights {weights} not found: put the file there, or set model.weights to imagenet")
    published = ["imagenet"] if encoder.startswith("tu-") else smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights is not None and not local and weights not in published:
        raise ValueError(
            f"unknown weights {weights} of {encoder}; valid: {', '.join(published)}, "
            "a .pth, .pt or .safetensors file, or null"
        )
    options = {}
    if decoder in SIZED_DECODERS:
        widths = (*decoder_channels, *[1] * (output_stride.bit_length() - 1))  # those that are cut off again
        options = {"decoder_channels": widths, "encoder_depth": len(widths)}
    body = getattr(smp, decoder)(
        encoder_name=encoder, encoder_weights=None if local else weights, classes=n_channels, **options
    )
    if output_stride != 1:
        cut_decoder(body, len(decoder_channels), output_stride)
    if local:
        load_encoder(body.encoder, Path(weights))
    default_mean, default_std = input_statistics(encoder, weights)
    return Network(body, mean or default_mean, std or default_std)


def cut_decoder(body: nn.Module, levels: int, stride: int) -> None:
    """Let a Unet end after so many levels of its decoder and enlarge its logits `stride`-fold instead.

    It goes on mapping [B, 3, H, W] to [B, C, H, W]. The last level has nothing of the encoder to look at, yet takes a
    third of the time. Logits are enlarged about pixel centers, as cv2 resizes, so that nothing is shifted; smp's own
    heads would align corners.
    """
    body.decoder.blocks = body.decoder.blocks[:levels]
    last, classes = body.decoder.blocks[-1].conv2[0].out_channels, body.segmentation_head[0].out_channels
    body.segmentation_head = nn.Sequential(
        nn.Conv2d(last, classes, 3, padding=1), nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)
    )


def check_encoder(encoder: str) -> None:
    """Raise ValueError naming the nearest encoders if neither smp nor timm knows `encoder`."""
    if encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-").split(".")[0]):
        return
    options = smp.encoders.get_encoder_names()
    if encoder in options:
        return
    near = difflib.get_close_matches(encoder, options + [f"tu-{name}" for name in timm.list_models()], n=3)
    raise ValueError(f"unknown encoder {encoder}; nearest: {', '.join(near) or 'none'} (timm's are 'tu-<name>')")


def input_statistics(encoder: str, weights: str | None) -> tuple:
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
    """Load a state dict into an encoder; raise ValueError if the file lacks any of its tensors, or has another shape.

    Keys of `path` that the encoder lacks (the classifier of a whole network) are passed over.
    """
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    )
    target = getattr(encoder, "model", encoder)  # smp wraps timm's networks
    own = target.state_dict()
    # Where timm takes a network apart for its features, it writes stages_0.blocks for stages.0.blocks.
    state = {key.replace(".", "_"): value for key, value in state.items()}
    found = {key: state[flat].to(own[key].dtype) for key in own if (flat := key.replace(".", "_")) in state}
    lacking = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(
            f"{path} lacks {len(lacking)} tensors of the encoder, e.g. {lacking[0]}: another network's file?"
        )
    for key, value in found.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{path} has {key} of shape {tuple(value.shape)} and the encoder {tuple(own[key].shape)}: "
                "another network's file?"
            )
    # A complete state dict, because the load_state_dict of smp's encoders is always strict or returns nothing.
    target.load_state_dict(own | found)

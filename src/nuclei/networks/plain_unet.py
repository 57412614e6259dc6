"""The two vanilla U-Nets of the field: that of the Keras starter, and the original one with valid convolutions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Valid convolutions over five levels take 92 px off each side; with 2 more every pooling halves an even number.
VALID_MARGIN_PX = 94


def double_conv(n_in: int, n_out: int, padding: int) -> nn.Sequential:
    """Return two 3 × 3 convolutions, each followed by a ReLU."""
    convolutions = nn.Conv2d(n_in, n_out, 3, padding=padding), nn.Conv2d(n_out, n_out, 3, padding=padding)
    return nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU())


def crop_to(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle [H, W] = `size` out of features [B, C, H', W']."""
    top, left = ((a - b) // 2 for a, b in zip(features.shape[-2:], size, strict=True))
    return features[..., top : top + size[0], left : left + size[1]]


class PlainUnet(nn.Module):
    """A U-Net without normalisation: [B, 3, H, W] -> logits [B, C, H, W], H and W multiples of 16.

    widths: channels of each of the five levels, from the finest. With `valid` convolutions the image is mirrored
    beyond its frame to make up for what they take off (Ronneberger et al. 2015).
    """

    def __init__(self, n_channels: int, widths: tuple[int, ...], valid: bool = False, dropout: float = 0.0):
        super().__init__()
        self.margin_px, padding = (VALID_MARGIN_PX, 0) if valid else (0, 1)
        inputs = (3, *widths[:-1])
        self.encoder = nn.ModuleList(double_conv(a, b, padding) for a, b in zip(inputs, widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # (coarse, fine), from the coarsest
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in pairs)
        self.decoder = nn.ModuleList(double_conv(2 * fine, fine, padding) for _, fine in pairs)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(widths[0], n_channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        features = mirror(image, self.margin_px) if self.margin_px else image
        skips: list[Tensor] = []
        for level in self.encoder:
            if skips:
                features = F.max_pool2d(features, 2)
            features = level(features)
            skips.append(features)
        features = self.dropout(skips.pop())
        for up, level in zip(self.up, self.decoder, strict=True):
            features = up(features)
            skip = crop_to(skips.pop(), (features.shape[-2], features.shape[-1]))
            features = level(torch.cat([skip, features], dim=1))
        return crop_to(self.head(features), (height, width))


def mirror(image: Tensor, margin_px: int) -> Tensor:
    """Mirror an image [B, C, H, W] beyond its frame, as often as a margin wider than the image needs."""
    for axis in (-2, -1):
        period = 2 * max(1, image.shape[axis] - 1)
        place = torch.arange(-margin_px, image.shape[axis] + margin_px, device=image.device) % period
        image = image.index_select(axis, torch.minimum(place, period - place))
    return image


# name -> a function that builds the network of so many channels.
# Widths: the Keras starter of the competition; Ronneberger et al. 2015.
VANILLA: dict[str, Callable[[int], nn.Module]] = {
    "KerasUnet": lambda n_channels: PlainUnet(n_channels, (8, 16, 32, 64, 128)),
    "OriginalUnet": lambda n_channels: PlainUnet(n_channels, (64, 128, 256, 512, 1024), valid=True, dropout=0.5),
}

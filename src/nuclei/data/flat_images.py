"""Pictures without axes of their own: PNG, JPEG, BMP and WebP, gray or colours."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from nuclei.data.axes import check_size
from nuclei.data.images import PNG_SIGNATURE
from nuclei.errors import UserError
from nuclei.limits import read_whole

# By the first bytes: what Pillow reads here.
OPENERS: dict[bytes, Callable[[IO[bytes]], Image.Image]] = {
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}


def read_flat(path: Path) -> NDArray[Any]:
    """Return the pixels of a file, [H, W] or RGB [H, W, 3]; raise UserError on an animation, and on what is none."""
    data = read_whole(path)
    return _decode_png(data) if data.startswith(PNG_SIGNATURE) else _decode_by_pillow(data)


def measure_flat(path: Path) -> tuple[int, int]:
    """Return the height and width of a file by its header."""
    with path.open("rb") as file:
        head = file.read(24)
        if head.startswith(PNG_SIGNATURE):
            return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
        file.seek(0)
        image = _open_by_pillow(file)
        return image.height, image.width


def _decode_png(data: bytes) -> NDArray[Any]:
    """Decode by OpenCV, as Pillow has no colours of 16 bits."""
    check_size(*(int.from_bytes(data[start : start + 4], "big") for start in (20, 16)))
    control = data.find(b"acTL", 0, data.find(b"IDAT"))  # which has the number of frames
    if control > 0 and int.from_bytes(data[control + 4 : control + 8], "big") > 1:
        raise UserError("it is an animation: save the picture that is wanted by itself")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError("it is a broken PNG (cut short or damaged): copy or export it again")
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 2::-1]  # BGR, and perhaps transparency, to RGB


def _decode_by_pillow(data: bytes) -> NDArray[Any]:
    """Decode by Pillow, which refuses what is cut short, where OpenCV fills it with gray."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open_by_pillow(io.BytesIO(data))
        check_size(image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise UserError("it is an animation: save the picture that is wanted by itself")
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _open_by_pillow(file: IO[bytes]) -> Image.Image:
    """Return an image of which the header alone has been read."""
    start = file.read(4)
    file.seek(0)
    # Image.open has a limit of its own, below ours.
    opener = next((opener for mark, opener in OPENERS.items() if start.startswith(mark)), None)
    try:
        if opener is None:
            raise SyntaxError
        return opener(file)
    except SyntaxError:  # of which Pillow's readers make that bytes are none of theirs
        raise UserError("it is no image of a known format: save it as TIFF or PNG") from None

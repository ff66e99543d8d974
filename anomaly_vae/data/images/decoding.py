"""Image files as arrays of 8 bits: upright, on white, whatever their mode. Pillow reads, torchvision resizes.

Pillow is what torchvision depends on: torchvision's own decoders are deprecated since 0.29 and read neither BMP nor
TIFF.
"""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.errors import DataError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})  # a mask in them has noise around black
THREADS = min(8, os.cpu_count() or 1)
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: the tag, and its values that swap height and width
DEPTHS = (10, 12, 14, 16)  # bits that cameras deliver in files of 16 bits a pixel
WHITE16 = 65535.0


class Encoded(io.BytesIO):
    """An image file in memory, with a name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.called: str = name

    def __str__(self) -> str:
        return self.called


class BrokenImageError(DataError):
    """One file cannot be decoded; `why` is the reason, without the file."""

    def __init__(self, file: Path | Encoded, why: str) -> None:
        super().__init__(f"{file}: {why}; replace it, or leave such files out with --skip-broken")
        self.why = why


def decode(file: Path | Encoded, channels: int, height: int, width: int, white: float = 255.0) -> NDArray[np.uint8]:
    """One picture (C, H, W), resized. white: of pictures with 16 bits a pixel; 255: their full range.

    Raises BrokenImageError where it cannot be decoded.
    """
    array = _flat(open_upright(file), white, "L" if channels == 1 else "RGB")
    pixels = array.reshape(*array.shape[:2], channels).transpose(2, 0, 1)  # (C, H, W)
    return np.ascontiguousarray(pixels if pixels.shape[1:] == (height, width) else resize(pixels, height, width))


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture (C, H, W) at another size: bilinear, and smoothed before it is made smaller.

    The pixels are those of torchvision.transforms.v2.functional.resize, which takes 1.5 s to import.
    """
    import torch

    batch = torch.from_numpy(picture)[None]
    # where torch has a kernel of its own for bytes
    whole = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")
    scaled = torch.nn.functional.interpolate(
        batch if whole else batch.float(), (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    resized: NDArray[np.uint8] = (scaled if whole else scaled.round_().to(torch.uint8))[0].numpy()
    return resized


def encode(picture: NDArray[np.uint8]) -> bytes:
    """A picture (C, H, W) as the bytes of a PNG file; one channel is grey, three are red, green and blue."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def picture(file: Path, white: float = 255.0) -> NDArray[np.uint8]:
    """One picture (H, W, 3) at its own size. Raises BrokenImageError where it cannot be decoded."""
    return _flat(open_upright(file), white, "RGB")


def mask(file: Path) -> NDArray[np.bool_]:
    """(H, W) where a mask is not its background 0; of a lossy file, where it is in the upper half of its range.

    Raises BrokenImageError where it cannot be decoded.
    """
    opened = open_upright(file, palette=True)
    if opened.mode in ("LA", "RGBA", "PA"):
        opened = _on(opened, 0)
    array = np.asarray(opened)  # a palette's numbers, not its colours: the first is the background
    array = array.max(axis=2) if array.ndim == 3 else array
    marked: NDArray[np.bool_] = array > (127 if file.suffix.lower() in LOSSY else 0)
    return marked


def size(file: Path) -> tuple[int, int]:
    """(H, W) of an upright picture, from the head of its file. Raises BrokenImageError where that cannot be read."""
    from PIL import Image

    with _explained(file), Image.open(file) as opened:
        width, height = opened.size
        turned = opened.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if turned else (height, width)


def is_grey(file: Path) -> bool:
    """Whether a picture is stored as grey, or as colour of which all channels are equal."""
    opened = open_upright(file)
    if opened.mode in ("1", "L", "LA") or opened.mode.startswith("I"):
        return True
    array = np.asarray(opened.convert("RGB"))  # (H, W, 3)
    return bool((array == array[..., :1]).all())


def white_of(files: Iterable[Path]) -> float:
    """What is white in some pictures: 255, or of 16 bits a pixel the end of the smallest usual range that holds them.

    A camera of 12 bits fills a sixteenth of a 16-bit file: taken at face value its pictures would be black.
    """
    brightest = 0
    for file in files:
        opened = open_upright(file)
        if opened.mode.startswith("I"):
            brightest = max(brightest, int(np.asarray(opened).max()))
    if brightest == 0:
        return 255.0
    return float(2 ** next(bits for bits in DEPTHS if brightest < 2**bits or bits == DEPTHS[-1]) - 1)


def broken(files: Iterable[Path]) -> list[str | None]:
    """Of each file why it cannot be decoded, None where it can; all of them are decoded."""

    def why(file: Path) -> str | None:
        try:
            open_upright(file)
        except BrokenImageError as error:
            return error.why
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(why, files))


def open_upright(file: Path | Encoded, palette: bool = False) -> Any:
    """A decoded Pillow image, upright. palette: keep one as numbers; else it becomes colours."""
    from PIL import Image, ImageOps

    with _explained(file):
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
            upright.load()
        if upright.mode in ("P", "PA") and not palette:
            upright = upright.convert("RGBA")
    if upright.mode == "F":
        raise BrokenImageError(file, "an image of floating-point numbers, which have no white")
    return upright


class _explained:
    """Pillow's exceptions as one of ours."""

    def __init__(self, file: Path | Encoded) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from PIL import Image

        if isinstance(error, OSError | ValueError | SyntaxError | EOFError | Image.DecompressionBombError):
            raise BrokenImageError(self.file, "not a readable image, or its end is missing") from error


def _flat(opened: Any, white: float, mode: str) -> NDArray[np.uint8]:
    """A Pillow image as (H, W) or (H, W, 3) of 0-255."""
    from PIL import Image

    if opened.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255 instead of scaling
        scale = 255 / (white if white > 255 else WHITE16)
        opened = Image.fromarray(np.clip(np.asarray(opened) * scale, 0, 255).astype(np.uint8))
    if opened.mode in ("LA", "La", "RGBA", "RGBa"):
        opened = _on(opened, 255)
    return np.array(opened.convert(mode))


def _on(opened: Any, shade: int) -> Any:
    """A picture with transparency laid on a ground, as it is seen: what lies under transparent pixels is left to the
    program that wrote the file, and must not decide a score. White is what viewers and print lay under it."""
    from PIL import Image

    ground = Image.new("RGBA", opened.size, (shade, shade, shade, 255))
    return Image.alpha_composite(ground, opened.convert("RGBA")).convert("RGB")

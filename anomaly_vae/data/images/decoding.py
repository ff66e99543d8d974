"""Image files as arrays of 8 bits, upright, with transparency laid on white. Pillow decodes, torch resizes.

torchvision's own decoders are deprecated since 0.29 and read neither BMP nor TIFF.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_vae.core.advice import setting
from anomaly_vae.core.errors import DataError

LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif"})  # formats in which the black of a mask is noisy
LAYERED = frozenset({".gif", ".tif", ".tiff", ".webp"})  # formats that may hold several pictures; the first is read
ENDINGS = LOSSY | LAYERED | {".png", ".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".jp2"}
THREADS = min(8, os.cpu_count() or 1)
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap height and width
DEPTHS = (10, 12, 14, 16)  # bits a pixel of cameras that write files of 16 bits a pixel
WHITE16 = 65535.0
LATER = "later pictures"  # key of a Pillow image's `info`, of a file that holds more than the one that was read


class Encoded(io.BytesIO):
    """An image file in memory. label: what messages call it."""

    def __init__(self, content: bytes, label: str) -> None:
        super().__init__(content)
        self.label = label

    def __str__(self) -> str:
        return self.label


class BrokenImageError(DataError):
    """A file cannot be decoded. why: the reason, without the name of the file."""

    def __init__(self, file: Path | Encoded, why: str) -> None:
        super().__init__(f"{file}: {why}; replace it, or leave such files out with --skip-broken")
        self.why = why


def decode(file: Path | Encoded, channels: int, height: int, width: int, white: float = 255.0) -> NDArray[np.uint8]:
    """Decodes a picture, resized to (C, H, W).

    white: the value that becomes 255 in pictures of 16 bits a pixel; 255 stands for their full range.
    Raises BrokenImageError if it cannot be decoded.
    """
    return as_pixels(open_upright(file), channels, height, width, white)


def as_pixels(opened: Any, channels: int, height: int, width: int, white: float = 255.0) -> NDArray[np.uint8]:
    """The same of a picture that `open_upright` opened."""
    array = _flat(opened, white, "L" if channels == 1 else "RGB")
    pixels = array.reshape(*array.shape[:2], channels).transpose(2, 0, 1)  # (C, H, W)
    return np.ascontiguousarray(pixels if pixels.shape[1:] == (height, width) else resize(pixels, height, width))


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture (C, H, W) at another size, bilinear with antialiasing.

    The pixels equal those of torchvision.transforms.v2.functional.resize, whose import takes 1.5 s.
    """
    import torch

    batch = torch.from_numpy(picture)[None]
    # only on these processors torch has a kernel for bytes
    is_arm = platform.machine() in ("aarch64", "arm64")
    as_bytes = is_arm or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    scaled = torch.nn.functional.interpolate(
        batch if as_bytes else batch.float(), (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    resized: NDArray[np.uint8] = (scaled if as_bytes else scaled.round_().to(torch.uint8))[0].numpy()
    return resized


def encode(picture: NDArray[np.uint8]) -> bytes:
    """A picture (C, H, W) as the bytes of a PNG file: grey with one channel, RGB with three."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def picture(file: Path, white: float = 255.0) -> NDArray[np.uint8]:
    """Decodes a picture at its original size, (H, W, 3). Raises BrokenImageError if it cannot be decoded."""
    return _flat(open_upright(file), white, "RGB")


def mask(file: Path) -> NDArray[np.bool_]:
    """Decodes a mask, (H, W): true where a pixel is not 0 or, in a lossy file, where it is above 127.

    Raises BrokenImageError if it cannot be decoded.
    """
    opened = open_upright(file, palette=True)
    if opened.mode in ("LA", "RGBA", "PA"):
        opened = _on(opened, 0)
    array = np.asarray(opened)  # of a palette the indices, not the colours: index 0 is the background
    array = array.max(axis=2) if array.ndim == 3 else array
    is_marked: NDArray[np.bool_] = array > (127 if file.suffix.lower() in LOSSY else 0)
    return is_marked


def size(file: Path) -> tuple[int, int]:
    """The size (H, W) of an upright picture, from the file's header. Raises BrokenImageError if it cannot be read."""
    from PIL import Image

    with _explained(file), Image.open(file) as opened:
        width, height = opened.size
        is_sideways = opened.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if is_sideways else (height, width)


def limit_pixels(most: int) -> None:
    """Refuses larger pictures from now on, by their headers: Pillow holds one limit for the whole process, and refuses
    twice as many."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = -(-most // 2)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes to stderr what is wrong with a TIFF
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what cannot be decoded is refused, whatever else is damaged


def is_grey(opened: Any) -> bool:
    """Whether an open picture is stored as grey, or in colour with equal channels."""
    if is_stored_grey(opened):
        return True
    array = np.asarray(opened.convert("RGB"))  # (H, W, 3)
    return bool((array == array[..., :1]).all())


def is_stored_grey(opened: Any) -> bool:
    """Whether a picture is stored with one channel of brightness; opened: at least its header."""
    return opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")


def in_colour(files: Sequence[Path]) -> list[Path]:
    """Those of the files that are stored in colour, by their headers, and those whose header cannot be read."""
    from PIL import Image

    def stored_grey(file: Path) -> bool:
        try:
            with _explained(file), Image.open(file) as opened:
                return is_stored_grey(opened)
        except BrokenImageError:
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        return [file for file, grey in zip(files, pool.map(stored_grey, files), strict=True) if not grey]


def white_of(files: Iterable[Path]) -> float:
    """The value of white in pictures: 255, or with 16 bits a pixel the end of the smallest range of DEPTHS that holds
    all of them.

    A camera of 12 bits uses a sixteenth of the range of a 16-bit file; on the full range its pictures would be black.
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
    """For each file the reason why it cannot be decoded, or None if it can. Decodes all files."""

    def why(file: Path) -> str | None:
        try:
            open_upright(file)
        except BrokenImageError as error:
            return error.why
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(why, files))


def open_upright(file: Path | Encoded, palette: bool = False) -> Any:
    """A decoded Pillow image, turned upright. palette: keep the indices of a palette; else they become colours.

    Of a file of several pictures it is the first, and `info` has the key LATER.
    Raises BrokenImageError if it cannot be decoded.
    """
    from PIL import Image

    with _explained(file), Image.open(file) as opened:
        return upright(opened, file, palette)


def upright(opened: Any, file: Path | Encoded, palette: bool = False) -> Any:
    """The same of an open Pillow image; file: what messages call it."""
    from PIL import ImageOps

    with _explained(file):
        is_first = Path(str(file)).suffix.lower() in LAYERED and getattr(opened, "is_animated", False)
        image = ImageOps.exif_transpose(opened)
        image.load()
        if is_first:
            image.info[LATER] = True
        if image.mode in ("P", "PA") and not palette:
            image = image.convert("RGBA")
    if image.mode == "F":
        raise BrokenImageError(file, "an image of floating-point numbers, which have no white")
    return image


@contextmanager
def _explained(file: Path | Encoded) -> Iterator[None]:
    """Raises Pillow's exceptions as BrokenImageError."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise BrokenImageError(
            file,
            f"{pixels} pixels, which would fill the memory; {setting('data.max_pixels', pixels)} reads it all the same",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises exceptions of any type
        raise BrokenImageError(file, "not a readable image, or its end is missing") from error


def _flat(opened: Any, white: float, mode: str) -> NDArray[np.uint8]:
    """A Pillow image as (H, W) or (H, W, 3) in 0-255. white: see `decode`; mode: Pillow's name, L or RGB."""
    from PIL import Image

    if opened.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255 instead of scaling
        scale = 255 / (white if white > 255 else WHITE16)
        opened = Image.fromarray(np.clip(np.asarray(opened) * scale, 0, 255).astype(np.uint8))
    if opened.mode in ("LA", "La", "RGBA", "RGBa"):
        opened = _on(opened, 255)
    return np.array(opened.convert(mode))


def _on(opened: Any, shade: int) -> Any:
    """A picture with transparency, laid on a grey background of brightness `shade`.

    The colours stored under transparent pixels are arbitrary and must not affect a score. Viewers and printers show
    white there.
    """
    from PIL import Image

    background = Image.new("RGBA", opened.size, (shade, shade, shade, 255))
    return Image.alpha_composite(background, opened.convert("RGBA")).convert("RGB")

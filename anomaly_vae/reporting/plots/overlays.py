"""The pictures of `score --maps`: each beside its heat map, with a contour at the threshold and a scale in nats.

They are drawn as arrays, which takes 10 ms a picture; a matplotlib figure would take 200 ms.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, get_data_path
from numpy.typing import ArrayLike, NDArray

from anomaly_vae.core.files import replacing
from anomaly_vae.reporting.plots.style import INK

Image = NDArray[np.uint8]  # (H, W, 3)

SMALLEST = 256  # pixels: the longer side of a picture at least
GAP, BAR, STRIP = 8, 14, 96  # pixels: white between panels, width of the scale's bar, width of bar and text
TEXT = 12  # pixels: height of the caption's letters
CONTOUR, MASK = (255, 255, 255), (86, 180, 233)  # white; the sky blue of Okabe and Ito, which the colours of heat lack


def overlay(
    picture: ArrayLike, heat: ArrayLike, threshold: float, mask: ArrayLike | None = None, caption: str = ""
) -> Image:
    """A picture (H, W, 1 or 3), 0-255, beside its map (H, W) in nats above the usual; as (H', W', 3) uint8.

    The scale runs from 0 to twice the pixel threshold, so a colour means the same in every picture of a detector.
    White: the contour at the threshold. Blue: the outline of the mask (H, W), if there is one. A picture of fewer than
    256 pixels is enlarged by an integer factor, with square pixels. The caption is one line below, cut to the width.
    """
    pixels, nats = np.asarray(picture, np.uint8), np.nan_to_num(np.asarray(heat, np.float32))
    factor = max(1, -(-SMALLEST // max(nats.shape)))
    rgb = _enlarged(
        np.broadcast_to(pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1], (*nats.shape, 3)), factor
    )
    nats = _enlarged(nats, factor)
    width = max(1, round(max(nats.shape) / 400))  # of a line, in pixels
    top = 2 * threshold if threshold > 0 else 1.0
    hot = heated(rgb, nats, top)
    plain = rgb.copy()
    if mask is not None:
        edge = outline(_enlarged(np.asarray(mask, bool), factor), width)
        plain[edge] = hot[edge] = MASK
    hot[outline(nats >= threshold, width)] = CONTOUR
    drawn = _side_by_side(plain, hot, _scale(len(hot), top, threshold, mask is not None))
    return np.concatenate([drawn, _line(caption, drawn.shape[1])]) if caption else drawn


def heated(rgb: Image, heat: NDArray[np.float32], top: float) -> Image:
    """Heat (H, W) over a picture (H, W, 3): `top` nats get the hottest colour, 0 nats are transparent.

    The picture is made grey, with less contrast, so that only heat has a colour.
    """
    grey = rgb.mean(axis=2, keepdims=True, dtype=np.float32) / 255
    hot = np.clip(heat / top, 0, 1)
    alpha = 0.85 * np.sqrt(hot)[..., None]
    return np.asarray(np.rint(255 * ((0.15 + 0.7 * grey) * (1 - alpha) + _colours(hot) * alpha)), np.uint8)


def outline(inside: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """The pixels (H, W) of a region (H, W) within `width` pixels of its edge."""
    from scipy import ndimage

    return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=width, border_value=1))


def save_png(array: Image, path: str | Path) -> None:
    """Writes (H, W, 3) uint8. Raises AnomalyVAEError where the file cannot be written."""
    from PIL import Image as pillow

    with replacing(path) as beside:
        pillow.fromarray(array).save(beside, "PNG")


def _colours(hot: NDArray[Any]) -> NDArray[np.float32]:
    """Colours of shares of the scale, 0-1, without its black end, which would look like a hole in the picture."""
    return np.asarray(colormaps["inferno"](0.3 + 0.6 * hot)[..., :3], np.float32)


def _enlarged(array: NDArray[Any], factor: int) -> NDArray[Any]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _side_by_side(*panels: Image) -> Image:
    """The panels in a row on white, aligned at the top."""
    height = max(len(panel) for panel in panels)
    columns: list[Image] = []
    for panel in panels:
        below = np.full((height - len(panel), panel.shape[1], 3), 255, np.uint8)
        columns += [np.concatenate([panel, below]), np.full((height, GAP, 3), 255, np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def _scale(height: int, top: float, threshold: float, masked: bool) -> Image:
    """The bar of colours from 0 to `top` nats with the threshold on it, and a legend of the mask's outline."""
    from PIL import Image as pillow
    from PIL import ImageDraw

    size = max(11, height // 40)
    line = size + 4  # pixels of one line of text
    height = max(height, 6 * line)
    alarm = f"{_number(threshold)} alarm"
    width = max(STRIP * size // 11, BAR + 6 + int(np.ceil(_font(size).getlength(alarm))))
    bar = (height - (2 * line if masked else 0)) - 2 * line
    canvas = np.full((height, width, 3), 255, np.uint8)
    shades = np.linspace(1, 0, bar)[:, None]
    canvas[line : line + bar, :BAR] = np.rint(255 * _colours(np.repeat(shades, BAR, axis=1)))
    middle = line + round((1 - threshold / top) * (bar - 1)) if threshold > 0 else line + bar - 1
    canvas[middle - 1 : middle + 1, :BAR] = CONTOUR
    drawn = pillow.fromarray(canvas)
    write = ImageDraw.Draw(drawn)
    words = [
        (0, 0, f"{_number(top)} nats", INK),
        (BAR + 4, middle - size // 2 - 2, alarm, INK),
        (0, line + bar + 1, "0", INK),
    ]
    if masked:
        words.append((0, height - line, "— mask", "#{:02x}{:02x}{:02x}".format(*MASK)))
    for x, y, text, colour in words:
        write.text((x, y), text, fill=colour, font=_font(size))
    return np.asarray(drawn)


def _line(text: str, width: int) -> Image:
    """A line of text on white; of one that is too long the end, for paths differ there."""
    from PIL import Image as pillow
    from PIL import ImageDraw

    font = _font(TEXT)
    while font.getlength(text) > width and len(text) > 1:
        text = f"…{text[2:]}"
    drawn = pillow.new("RGB", (width, TEXT + 6), "white")
    ImageDraw.Draw(drawn).text((0, 1), text, fill=INK, font=font)
    return np.asarray(drawn)


def _number(nats: float) -> str:
    """The number with three significant digits, without an exponent below a million."""
    return f"{nats:.0f}" if 100 <= nats < 1e6 else f"{nats:.3g}"


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)

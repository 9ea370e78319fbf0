"""Decoding, resizing, cropping and scaling of images: bytes and arrays in, arrays out.

Pixels are those of Pillow, which models were trained with. :func:`load` is the only one that reads bytes of
callers: it bounds the pixels before they are decoded, and every way in which a file can be broken is an
InvalidInput.
"""

import contextlib
import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from salver.features.pipelines.payload import payload
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

#: Formats that are decoded; others of Pillow's start programs (EPS), or are hardly tried.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: The default of networks; a number of Pillow's, as in ``preprocessor_config.json``.
BILINEAR: Final = 2
#: Pixels of an image; one takes 4 to 8 bytes while it is decoded, 15 in a WebP.
MOST_PIXELS: Final = 50_000_000
_ORIENTATION: Final = 0x0112  # tag of EXIF
_ROTATED: Final = range(2, 9)
_LYING: Final = range(5, 9)  # height and width are swapped
#: Choices between exactness and speed.
How = Literal["exact", "near", "fast"]
_SEND: Final = "Send the bytes of an image (JPEG, PNG, WebP, GIF, BMP, TIFF), or its base64."
_FEWER: Final = "Make it smaller before it is sent, or raise max_pixels in the model's [options]."


class Plan(msgspec.Struct, frozen=True):
    """Sizes of an image on its way to a network, in pixels.

    Attributes:
        height, width: Size after resizing.
        crop: Height and width of the part in the middle; None = all of it.
    """

    height: int
    width: int
    crop: tuple[int, int] | None = None


def plain_bytes(value: bytes | str) -> bytes:
    """Return the bytes of an image, which may have been sent as base64 or as a ``data:`` URL.

    >>> plain_bytes("data:image/png;base64,iVBORw0KGgo=")[:4]
    b'\\x89PNG'

    Raises:
        InvalidInput: it is a URL of another kind, or broken base64.
    """
    return payload(value, "an image", _SEND)


class DecodedImage(msgspec.Struct, frozen=True):
    """A decoded image; ``height`` and ``width`` are those of the file, upright.

    Attributes:
        image: Pillow's image, RGB; smaller than the file says where it was decoded at a fraction of its size.
    """

    image: Any
    height: int
    width: int


def load(
    data: bytes,
    most_pixels: int = MOST_PIXELS,
    plan: Callable[[int, int], Plan] | None = None,
    *,
    is_fast: bool = False,
) -> DecodedImage:
    """Decode a file into RGB pixels, upright: alpha is dropped, of an animation the first picture is taken.

    Args:
        plan: From height and width to the sizes that the image is made for.
        is_fast: Decode a JPEG at a half, quarter or eighth of its size if that is enough for the plan, which
            changes pixels.

    Raises:
        InvalidInput: it is no image, broken, has more pixels, or is so long and thin that the plan has more.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(image, most_pixels)
        width, height = image.size
        if plan is not None:
            _check_plan(plan(height, width), height, width)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if orientation in _LYING:
            height, width = width, height
        whole = image.size
        if plan is not None and is_fast:
            needed = plan(height, width)
            least = (needed.width, needed.height)
            image.draft("RGB", least[::-1] if orientation in _LYING else least)
        decoded = _decoded(image, data, orientation, is_whole=image.size == whole)
        return DecodedImage(decoded, height, width)
    except (InvalidInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidInput(
            f"inputs has an image with too many pixels; at most {most_pixels} are decoded",
            field="inputs",
            fix=_FEWER,
        ) from error
    except Exception as error:  # Pillow raises whatever its parsers do
        what = "the bytes of inputs are no image" if len(data) else "inputs has an empty image"
        if len(data) and not isinstance(error, UnidentifiedImageError):
            what = f"inputs has an image that is broken ({str(error)[:200] or type(error).__name__})"
        raise InvalidInput(what, field="inputs", fix=_SEND) from error


def _check(image: Any, most_pixels: int) -> None:
    pixels = image.width * image.height
    if not 0 < pixels <= most_pixels:
        raise InvalidInput(
            f"inputs has an image of {image.width} x {image.height} pixels; from 1 to {most_pixels} pixels "
            "are decoded",
            field="inputs",
            fix=_FEWER,
        )


def _check_plan(plan: Plan, height: int, width: int) -> None:
    # Before one edge is resized the other one is, and orientation, which PNG tells at its end, swaps them.
    if max(plan.height, plan.width, height, width) * max(plan.height, plan.width) > MOST_PIXELS:
        raise InvalidInput(
            f"inputs has an image of {width} x {height} pixels, which would become {plan.width} x "
            f"{plan.height}",
            field="inputs",
            fix="Cut it into images that are less long and thin.",
        )


def _jpeg_decoder() -> Any:
    """Return simplejpeg if it is installed: equal pixels, and the interpreter lock is released longer."""
    try:
        return importlib.import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None


_DECODE_JPEG: Final = _jpeg_decoder()


def _decoded(image: Any, data: bytes, orientation: int, is_whole: bool) -> Any:
    if orientation in _ROTATED:
        image = ImageOps.exif_transpose(image)
    elif _DECODE_JPEG is not None and is_whole and (image.format, image.mode) == ("JPEG", "RGB"):
        with contextlib.suppress(ValueError):  # Pillow decides what is broken
            return Image.fromarray(_DECODE_JPEG(data))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes, most_pixels: int = MOST_PIXELS) -> Array:
    """Return the pixels of a file as UINT8 [height, width, 3], RGB and upright; raises as :func:`load`."""
    return np.asarray(load(plain_bytes(data), most_pixels).image)


def resize(pixels: Array, height: int, width: int, resample: int = BILINEAR) -> Array:
    """Return UINT8 [height, width, 3] in another size.

    >>> resize(np.full((4, 2, 3), 7, np.uint8), 2, 2).tolist()[0]
    [[7, 7, 7], [7, 7, 7]]
    """
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling(resample)))


def center_crop(pixels: Array, height: int, width: int) -> Array:
    """Return the part in the middle, with zeros around it where the image is smaller.

    >>> center_crop(np.arange(5)[None, :, None], 1, 2).ravel().tolist()
    [1, 2]
    >>> center_crop(np.ones((1, 1, 1), int), 2, 3).ravel().tolist()
    [0, 0, 0, 0, 1, 0]
    """
    own_height, own_width = pixels.shape[:2]
    top, left = (own_height - height) // 2, (own_width - width) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + height, left : left + width]
    canvas = np.zeros((height, width, *pixels.shape[2:]), pixels.dtype)
    part = pixels[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    canvas[max(0, -top) : max(0, -top) + len(part), max(0, -left) : max(0, -left) + part.shape[1]] = part
    return canvas


def fitted(image: Any, plan: Plan, resample: int = BILINEAR, *, is_near: bool = False) -> Array:
    """Return a decoded image as UINT8 [height, width, 3], resized and cropped.

    Args:
        is_near: Compute only the part that is left; about one value in 10,000 is off by one.
    """
    width, height = image.size
    kind = Image.Resampling(resample)
    rows, columns = plan.crop or (plan.height, plan.width)
    top, left = (plan.height - rows) // 2, (plan.width - columns) // 2
    if is_near and min(top, left) >= 0:
        across, down = width / plan.width, height / plan.height
        box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
        return np.asarray(image.resize((columns, rows), kind, box=box))
    whole = np.asarray(image.resize((plan.width, plan.height), kind))
    return center_crop(whole, rows, columns)


def part_of(image: Any, corners: Array, height: int, width: int, *, is_lying: bool = False) -> Array:
    """Return a part of an image as UINT8 [height, at most width, 3].

    It keeps its shape, unless it is longer than the width, into which it is pressed then.

    Args:
        corners: Four points (x, y) in pixels, clockwise from the upper left one.
        is_lying: Turn it to the left by 90 degrees if it is one and a half times as high as wide.
    """
    across = max(_distance(corners[0], corners[1]), _distance(corners[3], corners[2]))
    down = max(_distance(corners[0], corners[3]), _distance(corners[1], corners[2]))
    if is_lying and down >= 1.5 * across:
        corners, across, down = corners[[1, 2, 3, 0]], down, across
    columns, rows = max(1, round(across)), max(1, round(down))
    if max(columns, width) * max(rows, height) > MOST_PIXELS:
        raise InvalidInput("a box is larger than an image may be", field="box")
    wide = min(width, max(1, math.ceil(height * columns / rows)))
    part = image.transform(
        (columns, rows),
        Image.Transform.PERSPECTIVE,
        _perspective(corners, columns, rows),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(part.resize((wide, height), Image.Resampling.BILINEAR))


def _distance(one: Array, other: Array) -> float:
    return float(np.hypot(*(one - other)))


def _perspective(corners: Array, width: int, height: int) -> list[float]:
    """Return Pillow's coefficients of the map from a rectangle to four points.

    >>> corners = np.array([[2.0, 1], [6, 1], [6, 3], [2, 3]])
    >>> [round(value, 6) for value in _perspective(corners, 4, 2)]
    [1.0, 0.0, 2.0, 0.0, 1.0, 1.0, 0.0, 0.0]

    Raises:
        InvalidInput: the points lie on a line.
    """
    rows = []
    for (x, y), (u, v) in zip(((0, 0), (width, 0), (width, height), (0, height)), corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    try:
        found: list[float] = np.linalg.solve(np.array(rows, np.float64), corners.ravel()).tolist()
    except np.linalg.LinAlgError as error:
        raise InvalidInput("a box has no area", field="box") from error
    return found


class Scale(msgspec.Struct, frozen=True):
    """Table from the values 0 to 255 of each channel to the numbers that a network takes.

    Attributes:
        values: FP32 [3, 256], in the order of the network's channels.
        channels: Channels of the image in that order.
    """

    values: Array
    channels: tuple[int, ...] = (0, 1, 2)

    def __call__(self, pixels: Array) -> Array:
        """Return UINT8 [height, width, 3] as FP32 [3, height, width]."""
        scaled = np.empty((3, *pixels.shape[:2]), np.float32)
        for place, channel in enumerate(self.channels):
            # A table of 256 values is exact, and ten times as fast as arithmetic on all pixels.
            np.take(self.values[place], pixels[..., channel], out=scaled[place], mode="clip")
        return scaled


def scale_of(
    factor: float | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    has_offset: bool = False,
    is_bgr: bool = False,
) -> Scale:
    """Return ``(x * factor - mean) / std``, rounded as transformers does it.

    Args:
        factor: None = 1.
        has_offset: Subtract 1 after the factor.

    >>> scale_of(1 / 255, (0.5,) * 3, (0.5,) * 3)(np.full((1, 1, 3), 255, np.uint8)).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    values = np.arange(256, dtype=np.float64) * (1.0 if factor is None else factor)
    table = np.tile(values.astype(np.float32), (3, 1)) - np.float32(has_offset)
    if mean is not None and std is not None:
        table = (table - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    return Scale(table, (2, 1, 0) if is_bgr else (0, 1, 2))

"""Steps on images: from files to the numbers that a network takes."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np

from salver.features.pipelines.directory import inside
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.lazy import lazy_imports
from salver.words.errors import LoadFailed

with lazy_imports():
    from salver.backends.installed import is_installed
    from salver.features.pipelines.images import fitted, load, plain_bytes, scale_of
    from salver.features.pipelines.processor import ImageProcessor, Sizes, read_processor
if TYPE_CHECKING:
    from salver.features.pipelines.images import DecodedImage
    from salver.words.tensor import Array

_FILTERS: Final = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
MOST_EDGE: Final = 4096
_GREY: Final = 114
Fit = Literal["crop", "stretch", "letterbox"]
#: A little below what Pillow itself refuses.
MOST_ALLOWED: Final = 178_000_000


def check_pillow(step: str) -> None:
    """Raise LoadFailed if Pillow is not installed."""
    if not is_installed("PIL"):
        fix = "Install it with: pip install 'salver[images]'"
        raise LoadFailed(f"the step {step} needs the package 'pillow'", fix=fix)


def sizes_of(fit: Fit, height: int, width: int, shortest: int = 0) -> "Sizes":
    """Return the sizes of images that are made fit for a network's input; see :class:`Pixels`."""
    if fit == "crop":
        return Sizes(shortest=shortest or max(height, width), crop=(height, width))
    if fit == "stretch":
        return Sizes(height=height, width=width)
    return Sizes(most_height=height, most_width=width)


class Pixels(Step, frozen=True):
    """Files of images, or their base64, to the pixels that a network takes: ``(x * factor - mean) / std``.

    ``size`` are height and width of each image as it was sent, upright.

    Attributes:
        path: Folder of a ``preprocessor_config.json``, which then says all but ``decode`` and ``max_pixels``.
        height, width: Size of the pixels.
        fit: ``crop`` = scale so that nothing is empty, and take the middle; ``stretch`` = without regard to
            the shape; ``letterbox`` = all of the image in the upper left corner, and grey (114) beside it.
        shortest: Shorter edge before the middle is taken; 0 = the longer one of ``height`` and ``width``.
        factor: 0.00392156862745098, the default, is 1/255.
        order: Order of the channels.
        layout: ``nchw`` = channels first, as most networks take them; ``nhwc`` = last, as TensorFlow's do.
        decode: ``near`` resizes only what is kept, which rounds one value in 10,000 differently; ``fast``
            also decodes large JPEGs at a fraction of their size.
        max_pixels: An image with more is refused before it is decoded.
    """

    inputs: ClassVar = {"image": "BYTES[rows]"}
    is_heavy: ClassVar = True
    threads: ClassVar = 4
    libraries: ClassVar = ("pillow", "simplejpeg")
    reads: ClassVar = ("preprocessor_config.json", "processor_config.json")

    path: str = ""
    height: int = 224
    width: int = 224
    fit: Fit = "crop"
    shortest: int = 0
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    decode: Literal["exact", "near", "fast"] = "exact"
    max_pixels: int = 50_000_000

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        height, width = self._size(self._processor(folder))
        shape = f"3, {height}, {width}" if self.layout == "nchw" else f"{height}, {width}, 3"
        return {**self.inputs}, {"pixels": f"FP32[rows, {shape}]", "size": "INT64[rows, 2]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        processor = self._processor(folder)
        height, width = self._size(processor)
        plan, is_fast = processor.sizes.plan, self.decode == "fast"
        is_near = self.decode != "exact"

        def pixels_of(image: "DecodedImage") -> "Array":
            needed = plan(image.image.height, image.image.width)
            pixels = fitted(image.image, needed, processor.resample, is_near=is_near)
            if pixels.shape[:2] != (height, width):
                canvas = np.full((height, width, 3), _GREY, np.uint8)
                canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
                pixels = canvas
            return processor.scale(pixels)

        def run(arrays: Arrays) -> Arrays:
            values = arrays["image"].tolist()
            pixels = np.empty((len(values), 3, height, width), np.float32)
            size = np.empty((len(values), 2), np.int64)
            for row, value in enumerate(values):
                image = load(plain_bytes(value), self.max_pixels, plan, is_fast=is_fast)
                pixels[row], size[row] = pixels_of(image), (image.height, image.width)
            if self.layout == "nhwc":
                pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            return {"pixels": pixels, "size": size}

        return run

    def _processor(self, folder: Path) -> "ImageProcessor":
        check_pillow("image")
        if not 0 < self.max_pixels <= MOST_ALLOWED:
            raise LoadFailed(f"image: `max_pixels` must be from 1 to {MOST_ALLOWED}")
        if self.path:
            return read_processor(inside(folder, self.path))
        edges = (self.height, self.width, self.shortest or 1)
        if not all(0 < edge <= MOST_EDGE for edge in edges) or 0 in self.std:
            raise LoadFailed(f"image: edges must be from 1 to {MOST_EDGE}, and `std` not 0")
        sizes = sizes_of(self.fit, self.height, self.width, self.shortest)
        scale = scale_of(self.factor, self.mean, self.std, is_bgr=self.order == "bgr")
        return ImageProcessor(sizes, _FILTERS[self.resample], scale)

    def _size(self, processor: "ImageProcessor") -> tuple[int, int]:
        size = processor.sizes.fixed if self.path else (self.height, self.width)
        if size is None:
            raise LoadFailed(
                f"image: the file in {self.path} keeps the shape of images, which then have no common size",
                fix="Write `height` and `width` in place of `path`.",
            )
        return size

"""Steps on boxes in images: from a detector's numbers to boxes in pixels, and to the parts of an image.

Corners are (x1, y1, x2, y2), in pixels of the image as it was sent, upright.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from salver.features.pipelines.steps.images import MOST_ALLOWED, MOST_EDGE, check_pillow, sizes_of
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, Step
from salver.features.pipelines.tasks.scores import sigmoid
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput, LoadFailed

with lazy_imports():
    from salver.backends.installed import is_installed
    from salver.features.pipelines.images import load, part_of, plain_bytes, scale_of
    from salver.features.pipelines.text_areas import text_areas
if TYPE_CHECKING:
    from salver.features.pipelines.processor import Sizes
    from salver.words.tensor import Array

Fit = Literal["crop", "stretch", "letterbox"]
#: Cells of a detector.
_MOST_ANCHORS: Final = 1 << 20


class SsdDecode(Step, frozen=True):
    """Numbers of a detector with anchors to boxes (cx, cy, w, h) and scores, relative to the network's input.

    Each anchor is the middle of a cell: ``raw`` has the distance of the centre from it and the size of the
    box, in pixels of the network's input, as the detectors of MediaPipe give it.

    Attributes:
        edge: Height and width of the network's input.
        strides: Pixels of a cell, for each layer.
        anchors: Anchors of each cell, for each layer.
    """

    inputs: ClassVar = {"raw": "FLOAT[rows, anchors, values]", "logits": "FLOAT[rows, anchors, classes]"}
    outputs: ClassVar = {"boxes": "FLOAT[rows, anchors, 4]", "scores": "FLOAT[rows, anchors]"}

    edge: int
    strides: tuple[int, ...]
    anchors: tuple[int, ...]

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        centers = self._centers()

        def run(arrays: Arrays) -> Arrays:
            raw, logits = arrays["raw"], arrays["logits"]
            if raw.shape[1] != len(centers) or raw.shape[2] < 4 or not logits.shape[2]:
                shown = list(raw.shape)
                raise InvalidInput(
                    f"raw has the shape {shown}, and there are {len(centers)} anchors of 4 values"
                )
            boxes = raw[..., :4] / self.edge
            boxes[..., :2] += centers
            return {"boxes": boxes.astype(raw.dtype, copy=False), "scores": sigmoid(logits.max(axis=-1))}

        return run

    def _centers(self) -> "Array":
        """Return the centres of all anchors, relative to the input, row by row. Raises LoadFailed."""
        layers = [*zip(self.strides, self.anchors, strict=False)]
        cells = sum((self.edge // max(1, stride)) ** 2 * max(0, count) for stride, count in layers)
        if len(self.strides) != len(self.anchors) or not 0 < cells <= _MOST_ANCHORS or min(self.strides) < 1:
            raise LoadFailed("ssd-decode: `strides` and `anchors` must be numbers above 0 for each layer")
        found = []
        for stride, count in layers:
            size = self.edge // stride
            middle = (np.arange(size) + 0.5) / size
            grid = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
            found.append(np.repeat(grid, count, axis=0))
        return np.concatenate(found).astype(np.float32)


class Boxes(Step, frozen=True):
    """Boxes of a network's input to corners in pixels of the image as it was sent, cut at its edges.

    ``size`` is that of the step ``image``, whose ``height``, ``width``, ``fit`` and ``shortest`` are given
    here as well.

    Attributes:
        form: ``center`` = (cx, cy, w, h); ``corners`` = (x1, y1, x2, y2); ``rows`` = (y1, x1, y2, x2).
        unit: ``relative`` = of the network's input; ``pixels`` = its pixels.
    """

    inputs: ClassVar = {"boxes": "FLOAT[rows, length, 4]", "size": "INT64[rows, 2]"}
    outputs: ClassVar = {"boxes": "FLOAT[rows, length, 4]"}

    form: Literal["center", "corners", "rows"] = "center"
    unit: Literal["relative", "pixels"] = "relative"
    height: int = 224
    width: int = 224
    fit: Fit = "crop"
    shortest: int = 0

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        sizes = sizes_of(self.fit, self.height, self.width, self.shortest)
        edges = np.array([self.width, self.height] * 2, np.float64)

        def run(arrays: Arrays) -> Arrays:
            boxes = arrays["boxes"].astype(np.float64)
            if self.form == "rows":
                boxes = boxes[..., [1, 0, 3, 2]]
            if self.form == "center":
                boxes[..., :2] -= boxes[..., 2:] / 2
                boxes[..., 2:] += boxes[..., :2]
            if self.unit == "relative":
                boxes *= edges
            for row, (height, width) in enumerate(arrays["size"].tolist()):
                boxes[row] = in_image(boxes[row].reshape(-1, 2), sizes, height, width).reshape(-1, 4)
            return {"boxes": boxes.astype(arrays["boxes"].dtype)}

        return run


def in_image(points: "Array", sizes: "Sizes", height: int, width: int) -> "Array":
    """Return points (x, y) of the network's input as points of the image that was made fit, inside it."""
    plan = sizes.plan(height, width)
    rows, columns = plan.crop or (plan.height, plan.width)
    offset = np.array([(plan.width - columns) // 2, (plan.height - rows) // 2])
    found: Array = (points + offset) * (width / plan.width, height / plan.height)
    return np.clip(found, 0, (width, height))


class TextBoxes(Step, frozen=True):
    """Lines of text from the map of a detector (differentiable binarization), in the order of reading.

    A line is an area of pixels above ``least`` that touch, in the smallest rectangle around them, which is
    widened as the network was trained to give narrow areas. Its corners are clockwise, from the upper left.

    Attributes:
        least: Smallest value of a pixel.
        score: Smallest mean value of a line's pixels.
        widen: Times area / circumference by which a rectangle becomes larger on each side.
        most: Most lines of an image.
        fit: As in the step ``image``.
    """

    inputs: ClassVar = {"areas": "FLOAT[rows, 1, height, width]", "size": "INT64[rows, 2]"}
    outputs: ClassVar = {"box": "FP32[items, 4, 2]", "score": "FP32[items]"}

    least: float = 0.3
    score: float = 0.5
    widen: float = 1.6
    most: int = 200
    fit: Fit = "letterbox"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if self.most < 1 or self.widen < 0:
            raise LoadFailed("text-boxes: `most` must be at least 1, and `widen` not negative")
        if not is_installed("scipy"):
            raise LoadFailed("the step text-boxes needs the package 'scipy'", fix="pip install scipy")

        def run(arrays: Arrays) -> Arrays:
            boxes: list[Any] = []
            scores: list[float] = []
            offsets = [0]
            for areas, (height, width) in zip(arrays["areas"][:, 0], arrays["size"].tolist(), strict=True):
                sizes = sizes_of(self.fit, *areas.shape)
                for box, score in text_areas(areas, self.least, self.score, self.widen, self.most):
                    boxes.append(in_image(box, sizes, height, width))
                    scores.append(score)
                offsets.append(len(boxes))
            return {
                "box": np.array(boxes, np.float32).reshape(-1, 4, 2),
                "score": np.array(scores, np.float32),
                OFFSETS: np.array(offsets, np.int64),
            }

        return run


class Crop(Step, frozen=True):
    """Part of an image in each box, upright and as high as a network takes it.

    A part keeps its shape: it fills the height, or the width if it is longer, and has the value 0 beside it.
    A box is (x1, y1, x2, y2), or has four corners; one that is much higher than wide is turned by 90 degrees
    with ``lying``.

    Attributes:
        height, width: Size of the pixels.
        lying: Turn what is one and a half times as high as wide, as lines of text from top to bottom are.
        turned: Score from which a part is turned by 180 degrees, by the second score of ``turn``.
        factor, mean, std, order, layout, max_pixels: As in the step ``image``.
    """

    inputs: ClassVar = {"image": "BYTES[rows]", "box": "FLOAT[rows, ...]", "turn?": "FP32[rows, 2]"}
    is_heavy: ClassVar = True

    height: int = 224
    width: int = 224
    lying: bool = False
    turned: float = 0.9
    factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: Literal["rgb", "bgr"] = "rgb"
    max_pixels: int = 50_000_000

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        check_pillow("crop")
        if not all(0 < edge <= MOST_EDGE for edge in (self.height, self.width)) or 0 in self.std:
            raise LoadFailed(f"crop: edges must be from 1 to {MOST_EDGE}, and `std` not 0")
        if not 0 < self.max_pixels <= MOST_ALLOWED:
            raise LoadFailed(f"crop: `max_pixels` must be from 1 to {MOST_ALLOWED}")
        return {**self.inputs}, {"pixels": f"FP32[rows, 3, {self.height}, {self.width}]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        scale = scale_of(self.factor, self.mean, self.std, is_bgr=self.order == "bgr")

        def run(arrays: Arrays) -> Arrays:
            values, turn = arrays["image"].tolist(), arrays.get("turn")
            pixels = np.zeros((len(values), 3, self.height, self.width), np.float32)
            decoded, image = b"", None
            for row, (value, corners) in enumerate(zip(values, self._corners(arrays["box"]), strict=True)):
                if image is None or value is not decoded:  # the boxes of an image are beside one another
                    image, decoded = load(plain_bytes(value), self.max_pixels).image, value
                if turn is not None and turn[row, 1] > self.turned:
                    corners = corners[[2, 3, 0, 1]]
                part = part_of(image, corners, self.height, self.width, is_lying=self.lying)
                pixels[row, :, : part.shape[0], : part.shape[1]] = scale(part)
            return {"pixels": pixels}

        return run

    def _corners(self, boxes: "Array") -> "Array":
        """Return the four corners of each box, clockwise from the upper left. Raises InvalidInput."""
        boxes = boxes.astype(np.float64)
        if boxes.shape[1:] == (4,):
            boxes = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        if boxes.shape[1:] != (4, 2) or not np.isfinite(boxes).all():
            shown = list(boxes.shape[1:])
            raise InvalidInput(f"a box is (x1, y1, x2, y2) or four corners; these have the shape {shown}")
        return boxes

"""Image classification and object detection, as transformers' pipelines do them.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.parameters import DetectionParameters, ImageClassParameters
from salver.features.pipelines.ports import ImageOutputs, ImageTask
from salver.features.pipelines.tasks.scores import FUNCTIONS, OUTPUT, best_labels, json_rows, sigmoid, softmax
from salver.words.tensor import Array

_TOP: Final = 5
#: Models that score every class of every query with a sigmoid, with the most answers; 0 = one for each query.
_BY_SIGMOID: Final = {
    "conditional_detr": 100,
    "deformable_detr": 100,
    "rt_detr": 0,
    "rt_detr_v2": 0,
    "d_fine": 0,
}


class ImageClassification(ImageTask):
    """Labels of an image, with scores."""

    outputs = (OUTPUT,)
    parameters = ImageClassParameters

    def __init__(self, directory: ModelDirectory, classes: int) -> None:
        self._labels = directory.labels(classes)
        has_one = directory.config.problem_type == "multi_label_classification" or classes == 1
        self._function = "sigmoid" if has_one else "softmax"

    def answer(self, parameters: ImageClassParameters, seen: Sequence[ImageOutputs]) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.ImageTask`."""
        function = FUNCTIONS[parameters.function_to_apply or self._function]
        top = _TOP if parameters.top_k is None else parameters.top_k
        rows = []
        for each in seen:
            (logits,) = each.outputs.values()
            rows.append(best_labels(function(logits), self._labels, top))
        return {"output": json_rows(rows)}


class ObjectDetection(ImageTask):
    """Objects in an image: labels, scores and boxes in pixels of the image as it was sent."""

    outputs = (OUTPUT,)
    parameters = DetectionParameters

    def __init__(self, directory: ModelDirectory, classes: int) -> None:
        self._labels = directory.labels(classes)
        self._most = _BY_SIGMOID.get(directory.config.model_type)

    def answer(self, parameters: DetectionParameters, seen: Sequence[ImageOutputs]) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.ImageTask`."""
        return {"output": json_rows(self._objects(each, parameters.threshold) for each in seen)}

    def _objects(self, seen: ImageOutputs, threshold: float) -> list[dict[str, Any]]:
        scores, labels, queries = scored(seen.outputs["logits"], self._most)
        boxes = corners(seen.outputs["pred_boxes"], seen.height, seen.width)
        return [
            {
                "score": float(scores[i]),
                "label": self._labels[labels[i]],
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, boxes[queries[i]]), strict=True)),
            }
            for i in np.flatnonzero(scores > threshold).tolist()
        ]


def scored(logits: Array, most: int | None = None) -> tuple[Array, Array, Array]:
    """Return score, class and query of each object.

    Args:
        logits: FP32 [queries, classes].
        most: None = the best class of each query by a soft-max, whose last class is no object; else so many
            of all classes of all queries by a sigmoid, the best first; 0 = as many as there are queries.
    """
    count, classes = logits.shape
    if most is None:
        likely = softmax(logits)[:, :-1]
        return likely.max(axis=-1), likely.argmax(axis=-1), np.arange(count)
    likely = sigmoid(logits).ravel()
    order = np.argsort(-likely, kind="stable")[: most or count]
    return likely[order], order % classes, order // classes


def corners(boxes: Array, height: int, width: int) -> Array:
    """Return boxes given by centre and size, as parts of an image, by their corners in its pixels.

    >>> corners(np.array([[0.5, 0.5, 1.0, 0.5]], np.float32), 8, 10).tolist()
    [[0.0, 2.0, 10.0, 6.0]]
    """
    centers, halves = boxes[:, :2], boxes[:, 2:] / 2
    found: Array = np.concatenate([centers - halves, centers + halves], axis=1)
    return found * np.array([width, height, width, height], np.float32)

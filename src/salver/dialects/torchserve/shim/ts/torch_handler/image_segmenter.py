"""Segmentation of pictures."""

from typing import Any

import torch

from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """The likeliest class of each pixel and its probability, ``[rows, columns, 2]``."""

    image_processing = ImageClassifier.image_processing

    def postprocess(self, data: Any) -> Any:
        """Return class and probability from the scores ``out``, ``[pictures, classes, rows, columns]``."""
        best = torch.max(torch.softmax(data["out"], dim=1), dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()

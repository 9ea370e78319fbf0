"""Which class is each point of a picture?"""

from typing import Any

import torch

from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """For each point the likeliest class and its chance, ``[rows, columns, 2]``; all classes are too much."""

    image_processing = ImageClassifier.image_processing

    def postprocess(self, data: Any) -> Any:
        """Class and chance of the scores ``out``, ``[pictures, classes, rows, columns]``."""
        best = torch.max(torch.softmax(data["out"], dim=1), dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()

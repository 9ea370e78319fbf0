"""Classification of pictures: the ``topk`` likeliest classes with their probabilities."""

from typing import Any

import torch
from torchvision import transforms

from ts.handler_utils.timer import timed
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ImageClassifier(VisionHandler):
    """Classifier for models of ImageNet; answers map labels to probabilities."""

    topk = 5
    image_processing = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def set_max_result_classes(self, topk: int) -> None:
        """Set the number of classes in an answer."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return the number of classes in an answer."""
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Return the likeliest classes of each row of scores."""
        chances, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(chances.tolist(), self.mapping, classes.tolist())

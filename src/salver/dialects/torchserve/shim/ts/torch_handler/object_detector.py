"""Detection of objects in pictures."""

from typing import Any

from torchvision import transforms

from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """Label, box and ``score`` of each object above ``threshold``."""

    image_processing = transforms.Compose([transforms.ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Any) -> Any:
        """Return the objects of each picture, from the output of torchvision's detectors."""
        return [self._things(row) for row in data]

    def _things(self, row: Any) -> list[dict[str, Any]]:
        sure = row["scores"] >= self.threshold
        things = []
        for box, kind, score in zip(
            *[row[key][sure].tolist() for key in ("boxes", "labels", "scores")], strict=True
        ):
            (thing,) = map_class_to_label([[box]], self.mapping, [[kind]])
            things.append({**thing, "score": score})
        return things

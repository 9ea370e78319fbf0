"""A model of Triton's Python backend: JPEG bytes to the pixels of a network."""

import io
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def pixels(data: bytes) -> Any:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    return ((np.asarray(image, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        replies = []
        for request in requests:
            raw = pb_utils.get_input_tensor_by_name(request, "raw").as_numpy()
            made = np.ascontiguousarray(np.stack([pixels(row[0]) for row in raw]))
            replies.append(pb_utils.InferenceResponse([pb_utils.Tensor("pixel_values", made)]))
        return replies

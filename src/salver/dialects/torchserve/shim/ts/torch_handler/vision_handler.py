"""Base class of handlers of pictures.

Pictures are the bytes of a file, base64 text, or numbers.
"""

import base64
import functools
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from ts.handler_utils.bodies import body_of
from ts.handler_utils.libraries import needed
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

_STEPS = 15


class VisionHandler(BaseHandler, ABC):
    """Handler of pictures; a subclass sets ``image_processing``, which converts one to a tensor."""

    image_processing: Any

    def initialize(self, context: Any) -> None:
        """Load the model, and disable Pillow's limit of pixels if the operator wants that."""
        super().initialize(context)
        self.initialized = True
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    @functools.cached_property
    def ig(self) -> Any:
        """Captum's integrated gradients of the model, created at the first use."""
        return needed("an explanation", "captum.attr", "captum").IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Return a batch on the model's device."""
        images = []
        for row in data:
            image = body_of(row)
            if isinstance(image, str):
                image = base64.b64decode(image)
            if isinstance(image, bytearray | bytes):
                images.append(self.image_processing(Image.open(io.BytesIO(image))))
            else:
                images.append(torch.FloatTensor(image))
        return torch.stack(images).to(self.device)

    def get_insights(self, tensor_data: Any, inputs: Any, target: Any = 0) -> Any:
        """Return what each value of each picture adds to the score of ``target``."""
        return self.ig.attribute(tensor_data, target=target, n_steps=_STEPS).tolist()

"""Base class of handlers of pictures that NVIDIA DALI preprocesses."""

from abc import ABC
from typing import Any

import numpy as np
import torch

from ts.handler_utils.bodies import body_of
from ts.handler_utils.preprocess.dali import get_dali_pipeline
from ts.torch_handler.vision_handler import VisionHandler


class DALIHandler(VisionHandler, ABC):
    """Handler of pictures that are decoded and scaled by DALI."""

    def initialize(self, context: Any) -> None:
        """Create the pipeline, and load the model.

        Raises:
            LoadFailed: DALI is not installed.
        """
        self.pipeline = get_dali_pipeline(context)
        super().initialize(context)

    def preprocess(self, data: Any) -> Any:
        """Return a batch on the model's device."""
        files = [body_of(row) for row in data]
        raw = [np.frombuffer(f, np.uint8) if isinstance(f, bytes | bytearray) else f for f in files]
        (prepared, *_) = self.pipeline.run(source=raw)
        return torch.stack([torch.tensor(prepared.at(i)) for i in range(len(files))]).to(self.device)

"""Handler of tensors that callers send in the format of ``torch.save``."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ts.handler_utils.bodies import body_of
from ts.torch_handler.model_files import load_eager, load_script
from ts.utils.util import list_classes_from_module

__all__ = ["DenseNetHandler", "list_classes_from_module"]

logger = logging.getLogger(__name__)


class DenseNetHandler:
    """Handler with tensors as input and one tensor as output; not derived from the base class."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.manifest: Any = None
        self.map_location: str | None = None

    def initialize(self, context: Any) -> None:
        """Load TorchScript, or weights with the class of their module.

        Raises:
            RuntimeError: there are no weights.
        """
        properties = context.system_properties
        gpu = properties.get("gpu_id") if torch.cuda.is_available() else None
        self.map_location = "cpu" if gpu is None else "cuda"
        self.device = torch.device("cpu" if gpu is None else f"cuda:{gpu}")
        self.manifest = context.manifest
        described = self.manifest["model"]
        path = Path(properties.get("model_dir")) / described["serializedFile"]
        if not path.is_file():
            raise RuntimeError("Missing the model.pt file")
        if described.get("modelFile"):
            self.model = self._load_pickled_model(str(path.parent), described["modelFile"], str(path))
        else:
            self.model = self._load_torchscript_model(str(path))
        self.model.to(self.device)
        self.model.eval()
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return load_script(model_pt_path, self.map_location)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str) -> Any:
        return load_eager(model_dir, model_file, model_pt_path, self.map_location)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model, without gradients."""
        with torch.no_grad():
            return self.model(data.to(self.device), *args, **kwargs)

    def handle(self, data: Any, context: Any) -> list[Any]:
        """Return one tensor for the whole batch."""
        begun = time.time()
        self.context = context
        tensors = [torch.load(io.BytesIO(body_of(row))) for row in data]
        output = self.inference(torch.stack(tensors))
        took_ms = round((time.time() - begun) * 1000, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return [output]

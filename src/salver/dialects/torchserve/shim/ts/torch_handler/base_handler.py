"""Base class of handlers: loads a model, runs batches in three steps, explains and describes.

Names, order and answers are those of TorchServe's ``BaseHandler`` (TS-A4), since subclasses override any of
them.
"""

import abc
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ts.handler_utils.bodies import body_of
from ts.handler_utils.libraries import is_here, needed
from ts.handler_utils.timer import timed
from ts.torch_handler.faster import faster
from ts.torch_handler.model_files import (
    compile_options,
    compiled,
    is_session,
    load_eager,
    load_exported,
    load_package,
    load_script,
    run_session,
    setup_ort_session,
    wants_aot,
    wants_speed,
)
from ts.utils.util import load_label_mapping

__all__ = ["BaseHandler", "ProfilerActivity", "profile", "record_function", "setup_ort_session"]

logger = logging.getLogger(__name__)

if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
    # At import, as in TorchServe, for handlers that load their models themselves.
    torch.set_float32_matmul_precision("high")


class BaseHandler(abc.ABC):
    """Handler of a PyTorch module or an ONNX Runtime session."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: Any = None
        self.initialized: bool | None = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Load the model from the archive.

        Raises:
            RuntimeError: it has no weights, or of an unknown kind.
            LoadFailed: it needs a library that is not installed.
        """
        if context is not None and hasattr(context, "model_yaml_config"):
            self.model_yaml_config = context.model_yaml_config
        properties = context.system_properties
        self._choose_device(properties.get("gpu_id"))
        self.manifest = context.manifest
        folder = properties.get("model_dir")
        described = self.manifest["model"]
        self.model_pt_path = None
        if "serializedFile" in described:
            self.model_pt_path = os.path.join(folder, described["serializedFile"])  # noqa: PTH118 - a str
        self._load(folder, described.get("modelFile", ""))
        options = compile_options(getattr(self, "model_yaml_config", None))
        if options is not None:
            self.model = compiled(self.model, options)
        self.mapping = load_label_mapping(str(Path(folder) / "index_to_name.json"))
        self.initialized = True

    def _choose_device(self, gpu: Any) -> None:
        if gpu is not None and torch.cuda.is_available():
            self.map_location, self.device = "cuda", torch.device(f"cuda:{gpu}")
        elif gpu is not None and torch.backends.mps.is_available():
            self.map_location, self.device = "mps", torch.device("mps")
        elif is_here("torch_xla"):
            self.device = needed("XLA", "torch_xla.core.xla_model", "torch-xla").xla_device()
        else:
            self.map_location, self.device = "cpu", torch.device("cpu")

    def _load(self, folder: str, model_file: str) -> None:
        path = self.model_pt_path or ""
        if model_file:
            self.model = self._load_pickled_model(folder, model_file, self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
            if wants_speed(getattr(self, "model_yaml_config", None)) and (layers := faster(self.model)):
                logger.info("%d layers were folded into the ones before them", layers)
        elif path.endswith(".pt"):
            if is_here("torch_tensorrt"):
                needed("TensorRT", "torch_tensorrt")
            self.model = self._load_torchscript_model(path)
            self.model.eval()
        elif path.endswith(".onnx"):
            self.model = setup_ort_session(path, self.map_location)
        elif path.endswith(".so") and self._use_torch_export_aot_compile():
            if self.map_location == "cuda":
                torch.cuda.set_device(self.device)
            self.model = self._load_torch_export_aot_compile(path)
        elif path.endswith(".pt2"):
            self.model = load_package(path, self._use_torch_export_aot_compile())
        else:
            raise RuntimeError("No model weights could be loaded")
        logger.debug("Model file %s loaded successfully", path)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return load_exported(model_so_path, self.map_location)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return load_script(model_pt_path, self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        return load_eager(model_dir, model_file, model_pt_path, self.device)

    def _use_torch_export_aot_compile(self) -> bool:
        return wants_aot(getattr(self, "model_yaml_config", None))

    @timed
    def preprocess(self, data: Any) -> Any:
        """Convert a batch of requests to the model's input; here numbers to a tensor."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model, without gradients."""
        if is_session(self.model):
            return run_session(self.model, data)
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Convert the model's output to an answer for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """Run a batch through its steps, explain it, or describe the model, as its headers say.

        Writes the metric ``HandlerTime`` in milliseconds. With ``ENABLE_TORCH_PROFILER`` in the environment,
        each batch is profiled.
        """
        begun = time.time()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            if self.manifest is None:
                self.manifest = context.manifest
            output, _ = self._infer_with_profiler(data=data)
        elif self._is_describe():
            output = [self.describe_handle()]
        else:
            prepared = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(prepared, data)
            else:
                output = self.postprocess(self.inference(prepared))
        took_ms = round((time.time() - begun) * 1000, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return output

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """Return the answers and the profiler, whose trace is written to a folder named like the model."""
        arguments = self.profiler_args
        if not arguments:
            arguments["activities"] = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
            arguments["record_shapes"] = True
        if "on_trace_ready" not in arguments:
            folder = Path("/tmp/pytorch_profiler", self.manifest["model"].get("modelName", ""))
            arguments["on_trace_ready"] = torch.profiler.tensorboard_trace_handler(str(folder))
            logger.info("Saving chrome trace to : %s", folder)
        with profile(**arguments) as profiler:
            with record_function("preprocess"):
                prepared = self.preprocess(data)
            if self._is_explain():
                with record_function("explain"):
                    output = self.explain_handle(prepared, data)
            else:
                with record_function("inference"):
                    output = self.inference(prepared)
                with record_function("postprocess"):
                    output = self.postprocess(output)
        logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explain an answer; the field ``target`` selects the class to explain, default 0."""
        inputs, target = None, 0
        row = raw_data[0]
        if isinstance(row, dict):
            inputs = body_of(row)
            target = row.get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, inputs: Any, target: Any = 0) -> Any:
        """Return what each part of an input adds to the score of ``target``; for subclasses."""
        raise NotImplementedError(f"{type(self).__name__} does not explain its answers")

    def _is_explain(self) -> bool:
        if self._is_asked_to("explain"):
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self._is_asked_to("describe")

    def _is_asked_to(self, header: str) -> bool:
        return bool(self.context and self.context.get_request_header(0, header) == "True")

    def describe_handle(self) -> Any:
        """Return a description of the model in addition to the server's; here None."""
        return None

    def get_device(self) -> Any:
        """Return the device of the model."""
        return self.device

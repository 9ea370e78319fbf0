"""Loading of model files.

By extension and neighbouring files: weights with the class of their module, TorchScript, ONNX, and files of
``torch.export`` and AOTInductor (TS-A7). Requests are not known here.
"""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from salver.machine import usable_cores
from salver.words.errors import LoadFailed
from ts.handler_utils.libraries import explained, needed
from ts.utils.util import check_valid_pt2_backend, list_classes_from_module

logger = logging.getLogger(__name__)

#: Imported before a TorchScript file is read or a model compiled, since it registers operators.
_TENSORRT: Final = "torch_tensorrt"


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """Return a session of ONNX Runtime with a thread for each core that it may use."""
    runtime = needed("an .onnx file", "onnxruntime")
    providers = ["CPUExecutionProvider"]
    if map_location == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    return runtime.InferenceSession(model_pt_path, providers=providers, sess_options=options)


def run_session(session: Any, data: Any) -> Any:
    """Run a session on tensors; return a tensor for each output, or the only one.

    Args:
        data: A tensor for each input in order, or the only one.
    """
    given = data if isinstance(data, list | tuple) else [data]
    names = [each.name for each in session.get_inputs()]
    if len(given) != len(names):
        raise ValueError(f"the model takes {len(names)} inputs ({', '.join(names)}), and got {len(given)}")
    answers = session.run(None, dict(zip(names, [each.cpu().numpy() for each in given], strict=True)))
    tensors = [torch.from_numpy(answer) for answer in answers]
    return tensors[0] if len(tensors) == 1 else tensors


def is_session(model: Any) -> bool:
    """Return whether a model is a session of ONNX Runtime, which cannot be called like a module."""
    return type(model).__name__ == "InferenceSession"


def load_script(path: str, device: Any) -> Any:
    """Return a TorchScript module.

    Raises:
        LoadFailed: it needs a library that is not installed.
    """
    try:
        return torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        refusal = explained(error, Path(path).name)
        if refusal is None:
            raise
        raise refusal from error


def load_eager(model_dir: str, model_file: str, weights: str | None, device: Any) -> Any:
    """Return an instance of the class in ``model_file``, with these weights."""
    if not (Path(model_dir) / model_file).is_file():
        raise RuntimeError("Missing the model.py file")
    module = importlib.import_module(model_file.split(".", maxsplit=1)[0])
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        raise ValueError(f"Expected only one class as model definition. {classes}")
    model = classes[0]()
    if weights:
        model.load_state_dict(torch.load(weights, map_location=device))
    return model


def load_exported(path: str, map_location: str | None) -> Any:
    """Load a library that AOTInductor has compiled (``.so``)."""
    return torch._export.aot_load(path, map_location)


def load_package(path: str, is_compiled: bool) -> Any:
    """Load a model saved by ``torch.export``, or a package of AOTInductor (``.pt2``)."""
    if is_compiled:
        return torch._inductor.aoti_load_package(path)
    return torch.export.load(path).module()


def wants_aot(config: Mapping[str, Any] | None) -> bool:
    """Return whether the configuration has ``pt2: {export: {aot_compile: true}}``."""
    pt2 = (config or {}).get("pt2")
    export = pt2.get("export") if isinstance(pt2, Mapping) else None
    return isinstance(export, Mapping) and export.get("aot_compile") is True


def wants_speed(config: Mapping[str, Any] | None) -> bool:
    """Return whether answers may differ by rounding; not with ``handler: {optimize: false}``."""
    handler = (config or {}).get("handler")
    return not isinstance(handler, Mapping) or handler.get("optimize") is not False


def compile_options(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the options of ``torch.compile``; None = do not compile.

    ``pt2: {compile: {enable: true, …}}``, or the older forms: the backend alone, or the options.
    """
    pt2 = (config or {}).get("pt2")
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        options = {"backend": pt2}
    elif not isinstance(pt2, Mapping):
        raise LoadFailed("pt2 should be str or dict", field="pt2")
    elif "compile" in pt2:
        options = dict(pt2["compile"])
        if options.pop("enable", False) is not True:
            return None
    elif "export" in pt2:
        return None
    else:
        options = dict(pt2)
    if "backend" in options and not check_valid_pt2_backend(options["backend"]):
        return None
    return options


def compiled(model: Any, options: dict[str, Any]) -> Any:
    """Return the compiled model, or the model itself if compiling fails."""
    shown = ", ".join([f"{key} {value}" for key, value in options.items()])
    for library in ("openvino.torch", _TENSORRT):
        if options.get("backend") == library.partition(".")[0].removeprefix("torch_"):
            needed(f"torch.compile with backend {options['backend']}", library)
    try:
        model = torch.compile(model, **options)
        logger.info("Compiled model with %s", shown)
    except Exception as error:
        logger.warning("Compiling the model with %s failed; it runs uncompiled: %s", shown, error)
    return model

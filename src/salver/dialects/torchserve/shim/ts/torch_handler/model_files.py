"""How does a file of a model become something that a handler can call?

By its ending and by what lies beside it: weights with the class of their module, TorchScript, ONNX, and what
``torch.export`` and AOTInductor write (TS-A7). Knows no request.
"""

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from salver.words.errors import LoadFailed
from ts.handler_utils.libraries import explained, needed
from ts.utils.util import check_valid_pt2_backend, list_classes_from_module

logger = logging.getLogger(__name__)

#: Imported before a TorchScript file is read or a model compiled, if they are there: they bring operators.
_TENSORRT: Final = "torch_tensorrt"


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """A session of ONNX Runtime, on as many threads as there are cores."""
    runtime = needed("an .onnx file", "onnxruntime")
    providers = ["CPUExecutionProvider"]
    if map_location == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    return runtime.InferenceSession(model_pt_path, providers=providers, sess_options=options)


def run_session(session: Any, data: Any) -> Any:
    """Tensors in, tensors out; one tensor of a model with one output.

    Args:
        data: A tensor for each input in their order, or the only one.
    """
    given = data if isinstance(data, list | tuple) else [data]
    names = [each.name for each in session.get_inputs()]
    if len(given) != len(names):
        raise ValueError(
            f"the model takes {len(names)} inputs ({', '.join(names)}), and was given {len(given)}"
        )
    answers = session.run(None, dict(zip(names, [each.cpu().numpy() for each in given], strict=True)))
    tensors = [torch.from_numpy(answer) for answer in answers]
    return tensors[0] if len(tensors) == 1 else tensors


def is_session(model: Any) -> bool:
    """Is it one of ONNX Runtime, which is not called like a module?"""
    return type(model).__name__ == "InferenceSession"


def load_script(path: str, device: Any) -> Any:
    """A TorchScript module.

    Raises:
        LoadFailed: it was made with a library that is not here.
    """
    try:
        return torch.jit.load(path, map_location=device)
    except RuntimeError as error:
        refusal = explained(error, Path(path).name)
        if refusal is None:
            raise
        raise refusal from error


def load_eager(model_dir: str, model_file: str, weights: str | None, device: Any) -> Any:
    """The module whose class ``model_file`` defines, with these weights."""
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
    """A library that AOTInductor has compiled (``.so``)."""
    return torch._export.aot_load(path, map_location)


def load_package(path: str, is_compiled: bool) -> Any:
    """What ``torch.export`` has saved, or AOTInductor packed (``.pt2``)."""
    if is_compiled:
        return torch._inductor.aoti_load_package(path)
    return torch.export.load(path).module()


def wants_aot(config: Mapping[str, Any] | None) -> bool:
    """Does ``pt2: {export: {aot_compile: true}}`` stand there?"""
    pt2 = (config or {}).get("pt2")
    export = pt2.get("export") if isinstance(pt2, Mapping) else None
    return isinstance(export, Mapping) and export.get("aot_compile") is True


def wants_speed(config: Mapping[str, Any] | None) -> bool:
    """May answers differ by rounding? Not where ``handler: {optimize: false}`` stands."""
    handler = (config or {}).get("handler")
    return not isinstance(handler, Mapping) or handler.get("optimize") is not False


def compile_options(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What ``torch.compile`` is to be told; None = the model stays as it is.

    ``pt2: {compile: {enable: true, …}}``, or as it was written before: the backend alone, or the options.
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
    """The model that ``torch.compile`` makes; the model itself if it cannot."""
    shown = ", ".join([f"{key} {value}" for key, value in options.items()])
    for library in ("openvino.torch", _TENSORRT):
        if options.get("backend") == library.partition(".")[0].removeprefix("torch_"):
            needed(f"torch.compile with backend {options['backend']}", library)
    try:
        model = torch.compile(model, **options)
        logger.info("Compiled model with %s", shown)
    except Exception as error:
        logger.warning("Compiling the model with %s has failed, so it runs as it is: %s", shown, error)
    return model

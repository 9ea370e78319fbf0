"""Utilities of handlers: labels of classes, classes of modules, errors with a status."""

import enum
import functools
import inspect
import itertools
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

#: Tags and entities of HTML.
CLEANUP_REGEX = re.compile("<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PT2Backend(enum.StrEnum):
    """Backends of ``torch.compile``."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


def check_valid_pt2_backend(backend: str) -> bool:
    """Return whether a backend is one of :class:`PT2Backend`."""
    is_known = backend in list(PT2Backend)
    if not is_known:
        _log.warning("%s is not a supported backend", backend)
    return is_known


class PredictionException(Exception):
    """Exception with a message and an HTTP status for callers."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Return the classes that a module defines itself, or those derived from ``parent_class``."""
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
    ]
    return [each for each in own if issubclass(each, parent_class)] if parent_class else own


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """Return the labels of classes in ``index_to_name.json``; None if there is no such file.

    Raises:
        Exception: the file has another format.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        _log.warning("%r is missing. Inference output will not include class name.", mapping_file_path)
        return None
    mapping = json.loads(path.read_bytes())
    if not isinstance(mapping, dict):
        raise Exception('index->name JSON mapping should be in "class": "label" format.')
    names = mapping.get("object_type_names")
    if isinstance(names, list):  # the format of older examples
        return {str(index): name for index, name in enumerate(names)}
    labels = {key: said[-1] if isinstance(said, list) else said for key, said in mapping.items()}
    if not all(isinstance(label, str) for label in labels.values()):
        raise Exception("labels in index->name mapping must be either str or List[str]")
    return labels


def map_class_to_label(
    probs: list[list[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[Any]] | None = None,
) -> list[dict[str, float]]:
    """Return the probabilities of each row by label.

    Args:
        probs: Rows of probabilities.
        mapping: Labels of classes; None = the classes themselves.
        lbl_classes: Classes of each row's probabilities; None = all, from 0.
    """
    if not isinstance(probs, list):
        raise Exception("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise Exception("Mapping must be a dict")
    if lbl_classes is None:
        lbl_classes = itertools.repeat(range(len(probs[0])), len(probs))
    return [
        {
            (str(each) if mapping is None else mapping[str(each)]): probability
            for each, probability in zip(classes, row, strict=False)
        }
        for classes, row in zip(lbl_classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str) -> Any:
    """Return the content of a YAML file."""
    import yaml

    return yaml.safe_load(Path(yaml_file_path).read_bytes())


def deprecated(
    version: float | str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[_F], _F]:
    """Return a decorator that warns callers that a function will be removed with ``version``."""

    def decorated(function: _F) -> _F:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            text = f"{function.__name__} is deprecated in {version} and moved to {replacement}"
            warnings.warn(text, klass, stacklevel=2)
            return function(*args, **kwargs)

        return called  # type: ignore[return-value]

    return decorated

"""OpenAPI descriptions of TorchServe's interfaces (TS-R2).

``openapi.json`` is the description of a port with every interface, in TorchServe's words, from which clients
may have generated code; ``shared`` holds values that occur often. Other descriptions are parts of it.
"""

import functools
from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Any, Final

import orjson

from salver.dialects.torchserve.flags import VERSION

_PREDICTIONS: Final = ("/ping", "/v1/models/", "/v2/models/", "/predictions/")
_OF_A_MODEL: Final = "/models/{model_name}"


def describe_port(surfaces: Collection[str]) -> dict[str, Any]:
    """Return the description of a port that serves these interfaces; each port describes its metrics."""

    def is_served(path: str) -> bool:
        if path == "/metrics":
            return True
        if path.startswith("/models"):
            return "management" in surfaces
        if path.startswith(_PREDICTIONS):
            return "inference" in surfaces
        return "inference" in surfaces or "management" in surfaces

    return {**_document(), "paths": _paths(is_served)}


def describe_management(model: str) -> dict[str, Any]:
    """Return the description of a model's management."""
    info = {"title": f"RESTful Management API for: {model}", "version": VERSION}
    paths = _paths(lambda path: path.startswith(_OF_A_MODEL))
    return {"openapi": "3.0.1", "info": info, "paths": paths}


def describe_prediction(model: str) -> dict[str, Any]:
    """Return the description of a model's predictions; its first path is not a route, as in TorchServe."""
    failure = _document()["paths"]["/ping"]["get"]["responses"]["500"]
    operation = {
        "description": f"A predict entry point for model: {model}.",
        "operationId": model,
        "parameters": [],
        "responses": {"200": {"description": "OK"}, "500": failure},
    }
    paths = (f"/prediction/{model}", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    info = {"title": f"RESTful API for: {model}", "version": "1.0.0"}
    return {"openapi": "3.0.1", "info": info, "paths": {path: {"post": operation} for path in paths}}


@functools.cache
def _document() -> dict[str, Any]:
    document = orjson.loads(files(__package__).joinpath("openapi.json").read_bytes())
    shared = document.pop("shared")

    def expanded(value: Any) -> Any:
        """Return a value with names such as ``#fault`` replaced by what they stand for."""
        if isinstance(value, dict):
            return {key: expanded(item) for key, item in value.items()}
        if isinstance(value, list):
            return [expanded(item) for item in value]
        if value in shared:
            return expanded(shared[value])
        return value

    whole: dict[str, Any] = expanded(document)
    return whole


def _paths(is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    return {path: verbs for path, verbs in _document()["paths"].items() if is_wanted(path)}

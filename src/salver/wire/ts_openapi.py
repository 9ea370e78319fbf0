"""How does TorchServe describe its interfaces (TS-R2)?

As OpenAPI 3.0.1, a description for each port, and one for a model. It knows no server.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

#: Whose interfaces these are, and what its clients ask for.
VERSION: Final = "0.12.0"
_ABOUT: Final = "TorchServe is a flexible and easy to use tool for serving deep learning models"
_TEXT: Final = {"type": "string"}
_SYNCHRONOUS: Final = ("synchronous", "boolean", "Answer when it is done, and not at once.")
_TIMEOUT: Final = ("timeout", "integer", "Accepted, and without effect.")
_SCALING: Final = (
    ("min_worker", "integer", "Least number of workers, 1 if it is not given."),
    ("max_worker", "integer", "Largest number of workers, as the least one if it is not given."),
    ("number_gpu", "integer", "Accepted, and without effect."),
    _SYNCHRONOUS,
    _TIMEOUT,
)
_REGISTERING: Final = (
    ("url", "string", "Archive of the model: a file of the model store, or where to fetch it."),
    ("model_name", "string", "Name of the model, if not the archive's."),
    ("handler", "string", "Handler of the model, if not the archive's."),
    ("runtime", "string", "Runtime of the handler, if not the archive's."),
    ("batch_size", "integer", "Most requests of a batch."),
    ("max_batch_delay", "integer", "Milliseconds that a batch waits to fill."),
    ("response_timeout", "integer", "Seconds in which a worker has to answer."),
    ("startup_timeout", "integer", "Seconds in which a worker has to start."),
    ("initial_workers", "integer", "Workers to start with."),
    _SYNCHRONOUS,
    ("s3_sse_kms", "boolean", "The archive is encrypted by S3."),
)


class _Row(NamedTuple):
    """One operation; ``query`` are names, types and meanings of its parameters."""

    path: str
    verb: str
    name: str
    about: str
    codes: tuple[int, ...] = (200, 500)
    query: tuple[tuple[str, str, str], ...] = ()
    takes_body: bool = False


_SELF: Final = _Row("/", "options", "apiDescription", "Describe this interface.")
_SELF_BEFORE: Final = _Row("/api-description", "get", "api-description", "The same, in the older way.")
_METRICS: Final = _Row(
    "/metrics",
    "get",
    "metrics",
    "Numbers of the server, as Prometheus reads them.",
    query=(("name[]", "string", "Names of those that are wanted."),),
)
_CODES: Final = (200, 404, 500, 503)
_OF_INFERENCE: Final = (
    _Row("/ping", "get", "ping", "Is the server healthy?"),
    *(
        _Row(path, "post", "predictions", "Ask the default version of a model.", _CODES, takes_body=True)
        for path in (
            "/v1/models/{model_name}:predict",
            "/v2/models/{model_name}/infer",
            "/predictions/{model_name}",
        )
    ),
    _Row(
        "/predictions/{model_name}/{model_version}",
        "post",
        "version_predictions",
        "Ask a version of a model.",
        _CODES,
        takes_body=True,
    ),
)
_OF_MODELS: Final = tuple(
    _Row(f"/models/{{model_name}}{path}", verb, prefix + name, about, codes, query)
    for path, prefix in (("", ""), ("/{model_version}", "version_"))
    for verb, name, about, codes, query in (
        ("get", "describeModel", "How a model is served.", (200, 404, 500), ()),
        ("put", "setAutoScale", "Change the number of workers.", (200, 202, 400, 404, 500), _SCALING),
        (
            "delete",
            "unregisterModel",
            "Take a model out.",
            (200, 404, 408, 500),
            (_SYNCHRONOUS, _TIMEOUT),
        ),
    )
)
_SET_DEFAULT: Final = _Row(
    "/models/{model_name}/{model_version}/set-default",
    "put",
    "setDefault",
    "Make a version the one that is asked by the name alone.",
    (200, 404, 500),
)
_OF_MANAGEMENT: Final = (
    _Row(
        "/models",
        "get",
        "listModels",
        "The models that are registered.",
        query=(
            ("limit", "integer", "Most models of a page, 100 if it is not given."),
            ("next_page_token", "string", "Where the page begins, as the one before it says."),
        ),
    ),
    _Row(
        "/models",
        "post",
        "registerModel",
        "Register a model.",
        (200, 202, 400, 404, 409, 500),
        _REGISTERING,
    ),
    *_OF_MODELS,
    _SET_DEFAULT,
)
_MEANINGS: Final = {
    200: "OK",
    202: "Accepted",
    400: "Bad request",
    404: "Model not found or model version not found",
    408: "Request timed out",
    409: "Model already registered",
    500: "Internal Server Error",
    503: "No worker is available to serve the request",
}
_FAULT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "Error code."},
        "type": {"type": "string", "description": "Error type."},
        "message": {"type": "string", "description": "Error message."},
    },
}


def of_port(*, infers: bool, manages: bool) -> dict[str, Any]:
    """What may be asked at a port; neither = it tells numbers alone."""
    rows: list[_Row] = [_SELF] if infers or manages else []
    rows += _OF_INFERENCE if infers else ()
    rows += _OF_MANAGEMENT if manages else ()
    rows += [_SELF_BEFORE] if infers or manages else []
    info = {"title": "TorchServe APIs", "description": _ABOUT, "version": VERSION}
    return {"openapi": "3.0.1", "info": info, "paths": _paths([*rows, _METRICS])}


def of_managed(model: str) -> dict[str, Any]:
    """What may be done with a model."""
    info = {"title": f"RESTful Management API for: {model}", "version": VERSION}
    return {"openapi": "3.0.1", "info": info, "paths": _paths([*_OF_MODELS, _SET_DEFAULT])}


def of_model(model: str) -> dict[str, Any]:
    """How a model is asked; its first path is not quite that of the route, as its clients know it."""
    operation = {
        "description": f"A predict entry point for model: {model}.",
        "operationId": model,
        "parameters": [],
        "responses": {"200": {"description": "OK"}, "500": _failure(500)},
    }
    paths = (f"/prediction/{model}", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    info = {"title": f"RESTful API for: {model}", "version": "1.0.0"}
    return {"openapi": "3.0.1", "info": info, "paths": {path: {"post": operation} for path in paths}}


def _paths(rows: Iterable[_Row]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row.path, {})[row.verb] = _operation(row)
    return found


def _operation(row: _Row) -> dict[str, Any]:
    names = [name for name in ("model_name", "model_version") if f"{{{name}}}" in row.path]
    operation: dict[str, Any] = {"description": row.about, "operationId": row.name}
    operation["parameters"] = [
        {"in": "path", "name": name, "description": f"{name[6:].title()} of the model.", "required": True}
        | {"schema": _TEXT}
        for name in names
    ] + [
        {"in": "query", "name": name, "description": about, "required": name == "url"}
        | {"schema": {"type": kind}}
        for name, kind, about in row.query
    ]
    if row.takes_body:
        content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {
            "description": "As the model's handler wants it.",
            "content": content,
            "required": True,
        }
    if row is _SELF_BEFORE:
        operation["deprecated"] = True
    operation["responses"] = {str(code): _response(row, code) for code in row.codes}
    return operation


def _response(row: _Row, code: int) -> dict[str, Any]:
    if code >= 400:
        return _failure(code)
    if row.takes_body:
        return {"description": "As the model's handler gives it.", "content": {"*/*": {"schema": _TEXT}}}
    if row is _METRICS:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return {"description": _MEANINGS[code], "content": {kind: {"schema": _TEXT}}}
    return {"description": _MEANINGS[code], "content": {"application/json": {"schema": {"type": "object"}}}}


def _failure(code: int) -> dict[str, Any]:
    return {"description": _MEANINGS[code], "content": {"application/json": {"schema": _FAULT}}}

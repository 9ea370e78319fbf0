"""How does TorchServe describe its interfaces (TS-R2)?

As OpenAPI 3.0.1, a description for each port, and one for a model, in the words that its clients may have
generated code from. It knows no server.

Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from salver.dialects.torchserve.flags import VERSION

_ABOUT: Final = "TorchServe is a flexible and easy to use tool for serving deep learning models"
_TEXT: Final = {"type": "string"}
_BYTES: Final = {"type": "string", "format": "binary"}
_ANY: Final = "*/*"
_JSON: Final = "application/json"
_PAGE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _said(kind: str, about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, **more}


def _list(about: str, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": about}


_FAULT: Final = _object(
    "code type message",
    code=_said("integer", "Error code."),
    type=_said("string", "Error type."),
    message=_said("string", "Error message."),
)
_STATUS: Final = _object("status", status=_said("string", "Error type."))
_HEALTH: Final = _object("status", status=_said("string", "Overall status of the TorchServe."))
_DESCRIPTION: Final = _object(
    "openapi info paths", openapi=_TEXT, info={"type": "object"}, paths={"type": "object"}
)
_METRIC: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["# HELP", "# TYPE", "metric"],
    "properties": {
        "# HELP": _said("string", "Help text for TorchServe metric."),
        "# TYPE": _said("string", "Type of TorchServe metric."),
        "metric": _said("string", "TorchServe application metric."),
    },
}
_LISTED: Final = _object(
    "models",
    nextPageToken=_said(
        "string",
        "Use this parameter in a subsequent request after you receive a response with truncated results. "
        "Set it to the value of NextMarker from the truncated response you just received.",
    ),
    models=_list(
        "A list of registered models.",
        _object(
            "modelName modelUrl",
            modelName=_said("string", "Name of the model."),
            modelUrl=_said("string", "URL of the model."),
        ),
    ),
)
_DESCRIBED: Final = _object(
    "modelName modelVersion modelUrl minWorkers maxWorkers status workers metrics jobQueueStatus",
    modelName=_said("string", "Name of the model."),
    modelVersion=_said("string", "Version of the model."),
    modelUrl=_said("string", "URL of the model."),
    minWorkers=_said("integer", "Configured minimum number of worker."),
    maxWorkers=_said("integer", "Configured maximum number of worker."),
    batchSize=_said("integer", "Configured batch size."),
    maxBatchDelay=_said("integer", "Configured maximum batch delay in ms."),
    status=_said("string", "Overall health status of the model"),
    workers=_list(
        "A list of active backend workers.",
        _object(
            "id startTime status",
            id=_said("string", "Worker id"),
            startTime=_said("string", "Worker start time"),
            gpu=_said("boolean", "If running on GPU"),
            status=_said("string", "Worker status", enum=["READY", "LOADING", "UNLOADING"]),
        ),
    ),
    metrics=_object(
        "rejectedRequests waitingQueueSize requests",
        rejectedRequests=_said("integer", "Number requests has been rejected in last 10 minutes."),
        waitingQueueSize=_said("integer", "Number requests waiting in the queue."),
        requests=_said("integer", "Number requests processed in last 10 minutes."),
    ),
    jobQueueStatus=_object(
        "remainingCapacity pendingRequests",
        remainingCapacity=_said("integer", "Number of new requests that can be queued."),
        pendingRequests=_said("integer", "Number of requests waiting in the queue."),
    ),
)
_NO_MODEL: Final = "Model not found or Model version not found"
_FAILED: Final = {500: "Internal Server Error"}


class _Query(NamedTuple):
    """A parameter of a query."""

    name: str
    kind: str
    about: str
    default: str = ""
    values: tuple[str, ...] = ()
    is_required: bool = False


class _Row(NamedTuple):
    """One operation.

    Attributes:
        gives: Content type and schema of an answer that is no failure.
        codes: What each status means; the others' are failures.
        names: What the names in the path are.
        takes: The request has a body.
    """

    path: str
    verb: str
    name: str
    about: str
    gives: tuple[str, dict[str, Any]]
    codes: Mapping[int, str]
    query: tuple[_Query, ...] = ()
    names: tuple[str, ...] = ()
    takes: bool = False
    is_deprecated: bool = False


_TIMEOUT: Final = _Query(
    "timeout",
    "integer",
    "Waiting up to the specified wait time if necessary for a worker to complete all pending requests. Use 0 "
    "to terminate backend worker process immediately. Use -1 for wait infinitely.",
    "-1",
)
_SYNCHRONOUS: Final = _Query(
    "synchronous", "boolean", "Decides whether the call is synchronous or not, default: false.", "false"
)
_SCALING: Final = (
    _Query("min_worker", "integer", "Minimum number of worker processes.", "1"),
    _Query("max_worker", "integer", "Maximum number of worker processes.", "1"),
    _Query("number_gpu", "integer", "Number of GPU worker processes to create.", "0"),
    _SYNCHRONOUS,
    _TIMEOUT,
)
_REGISTERING: Final = (
    _Query(
        "url",
        "string",
        "Model archive download url, support local file or HTTP(s) protocol. For S3, consider "
        "use pre-signed url.",
        is_required=True,
    ),
    _Query(
        "model_name",
        "string",
        "Name of model. This value will override modelName in MANIFEST.json if present.",
    ),
    _Query(
        "handler",
        "string",
        "Inference handler entry-point. This value will override handler in MANIFEST.json if present.",
    ),
    _Query(
        "runtime",
        "string",
        "Runtime for the model custom service code. This value will override runtime in "
        "MANIFEST.json if present.",
        values=("PYTHON", "PYTHON3", "LSP"),
    ),
    _Query("batch_size", "integer", "Inference batch size, default: 1.", "1"),
    _Query("max_batch_delay", "integer", "Maximum delay for batch aggregation, default: 100.", "100"),
    _Query(
        "response_timeout",
        "integer",
        "Maximum time, in seconds, the TorchServe waits for a response from the model inference "
        "code, default: 120.",
        "2",
    ),
    _Query(
        "startup_timeout",
        "integer",
        "Maximum time, in seconds, the TorchServe waits for the model to startup/initialize, default: 120.",
        "120",
    ),
    _Query("initial_workers", "integer", "Number of initial workers, default: 0.", "0"),
    _Query(
        "synchronous",
        "boolean",
        "Decides whether creation of worker synchronous or not, default: false.",
        "false",
    ),
    _Query(
        "s3_sse_kms",
        "boolean",
        "Model mar file is S3 SSE KMS(server side encryption) enabled or not, default: false.",
        "false",
    ),
)
_LISTING: Final = (
    _Query(
        "limit",
        "integer",
        "Use this parameter to specify the maximum number of items to return. When this value is present, "
        "TorchServe does not return more than the specified number of items, but it might return fewer. This "
        "value is optional. If you include a value, it must be between 1 and 1000, inclusive. If you do not "
        "include a value, it defaults to 100.",
        "100",
    ),
    _Query(
        "next_page_token",
        "string",
        "The token to retrieve the next set of results. TorchServe provides the token when the "
        "response from a "
        "previous call has more results than the maximum page size.",
    ),
)
_OWN: Final = {200: "A openapi 3.0.1 descriptor", **_FAILED}
_SELF: Final = _Row("/", "options", "apiDescription", "Get openapi description.", (_JSON, _DESCRIPTION), _OWN)
_SELF_BEFORE: Final = _SELF._replace(
    path="/api-description", verb="get", name="api-description", is_deprecated=True
)
_METRICS: Final = _Row(
    "/metrics",
    "get",
    "metrics",
    "Get TorchServe application metrics in prometheus format.",
    (_PAGE, _METRIC),
    {200: "TorchServe application metrics", **_FAILED},
    (_Query("name[]", "string", "Names of metrics to filter"),),
)
_ASKED: Final = {
    200: "Output data format is defined by each model.",
    404: "Model not found or Model Version not found",
    **_FAILED,
    503: "No worker is available to serve request",
}
_OF_INFERENCE: Final = (
    _Row(
        "/ping",
        "get",
        "ping",
        "Get TorchServe status.",
        (_JSON, _HEALTH),
        {200: "TorchServe status", **_FAILED},
    ),
    *(
        _Row(
            path,
            "post",
            "predictions",
            "Predictions entry point to get inference using default model version.",
            (_ANY, _BYTES),
            _ASKED,
            names=("Name of model.",),
            takes=True,
        )
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
        "Predictions entry point to get inference using specific model version.",
        (_ANY, _BYTES),
        _ASKED,
        names=("Name of model.", "Name of model version."),
        takes=True,
    ),
)


def _of_a_model(path: str, prefix: str, how: str, abouts: tuple[str, str, str]) -> tuple[_Row, ...]:
    """Describing, scaling and removing a model, or a version of it."""
    goals = ("to describe.", "to scale workers.", "to unregister.")
    names = [tuple([f"{what} of model {goal}" for what in how.split()]) for goal in goals]
    changed = {202: "Accepted", 210: "Partial Success", 400: "Bad request", 404: _NO_MODEL, **_FAILED}
    return (
        _Row(
            path,
            "get",
            f"{prefix}describeModel",
            abouts[0],
            (_JSON, _DESCRIBED),
            {200: "OK", 404: _NO_MODEL, **_FAILED},
            names=names[0],
        ),
        _Row(
            path,
            "put",
            f"{prefix}setAutoScale",
            abouts[1],
            (_JSON, _STATUS),
            {200: "Model workers updated", **changed},
            _SCALING,
            names[1],
        ),
        _Row(
            path,
            "delete",
            f"{prefix}unregisterModel",
            abouts[2],
            (_JSON, _STATUS),
            {
                200: "Model unregistered",
                202: "Accepted",
                404: _NO_MODEL,
                408: "Request Timeout Error",
                **_FAILED,
            },
            (_SYNCHRONOUS, _TIMEOUT),
            names[2],
        ),
    )


_LATER: Final = (
    "This is an asynchronous call by default. Caller need to call describeModel to check if the "
    "model workers "
    "has been changed."
)
_OF_MODELS: Final = (
    *_of_a_model(
        "/models/{model_name}",
        "",
        "Name",
        (
            "Provides detailed information about the default version of a model.",
            f"Configure number of workers for a default version of a model. {_LATER}",
            "Unregister the default version of a model from TorchServe if it is the only version "
            "available. This "
            "is an asynchronous call by default. Caller can call listModels to confirm model is "
            "unregistered.",
        ),
    ),
    *_of_a_model(
        "/models/{model_name}/{model_version}",
        "version_",
        "Name Version",
        (
            'Provides detailed information about the specified version of a model.If "all" is specified as '
            "version, returns the details about all the versions of the model.",
            f"Configure number of workers for a specified version of a model. {_LATER}",
            "Unregister the specified version of a model from TorchServe. This is an asynchronous call by "
            "default. Caller can call listModels to confirm model is unregistered",
        ),
    ),
)
_SET_DEFAULT: Final = _Row(
    "/models/{model_name}/{model_version}/set-default",
    "put",
    "setDefault",
    "Set default version of a model",
    (_JSON, _STATUS),
    {200: "Default version successfully updated for model", 404: _NO_MODEL, **_FAILED},
    names=(
        "Name of model whose default version needs to be updated.",
        "Version of model to be set as default version for the model",
    ),
)
_OF_MANAGEMENT: Final = (
    _Row(
        "/models",
        "get",
        "listModels",
        "List registered models in TorchServe.",
        (_JSON, _LISTED),
        {200: "OK", **_FAILED},
        _LISTING,
    ),
    _Row(
        "/models",
        "post",
        "registerModel",
        "Register a new model in TorchServe.",
        (_JSON, _STATUS),
        {
            200: "Model registered",
            202: "Accepted",
            210: "Partial Success",
            400: "Bad request",
            404: "Model not found",
            409: "Model already registered",
            **_FAILED,
        },
        _REGISTERING,
    ),
    *_OF_MODELS,
    _SET_DEFAULT,
)


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
        "responses": {"200": {"description": "OK"}, "500": _response(_FAILED[500], _JSON, _FAULT)},
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
    names = ("model_name", "model_version")
    operation: dict[str, Any] = {"description": row.about, "operationId": row.name}
    operation["parameters"] = [
        {"in": "path", "name": name, "description": about, "required": True, "schema": _TEXT}
        for name, about in zip(names, row.names, strict=False)
    ] + [_parameter(query) for query in row.query]
    if row.takes:
        operation["requestBody"] = {
            "description": "Input data format is defined by each model.",
            "content": {_ANY: {"schema": _BYTES}},
            "required": True,
        }
    operation["responses"] = {
        str(code): _response(about, *(row.gives if code < 400 else (_JSON, _FAULT)))
        for code, about in row.codes.items()
    }
    if row.is_deprecated:
        operation["deprecated"] = True
    return operation


def _parameter(query: _Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": query.kind}
    if query.default:
        schema["default"] = query.default
    if query.values:
        schema["enum"] = list(query.values)
    return {
        "in": "query",
        "name": query.name,
        "description": query.about,
        "required": query.is_required,
        "schema": schema,
    }


def _response(about: str, content: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {content: {"schema": schema}}}

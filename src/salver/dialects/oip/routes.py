"""HTTP operations of the Open Inference Protocol, and Salver's own beside them. Pure."""

from typing import Final

from salver.transport.routes import Operation

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
OPERATIONS: Final = (
    Operation("welcome", "GET", "/", "Name, version and where to look next"),
    Operation("live", "GET", "/v2/health/live", "Is the process alive?"),
    Operation("ready", "GET", "/v2/health/ready", "Can every model that should serve answer?"),
    Operation("server_metadata", "GET", "/v2", "Server name, version and extensions"),
    Operation("model_metadata", "GET", _MODEL, "Inputs and outputs of a model"),
    Operation("model_metadata", "GET", _VERSION, "Inputs and outputs of a version"),
    Operation("model_ready", "GET", f"{_MODEL}/ready", "Can the model answer?"),
    Operation("model_ready", "GET", f"{_VERSION}/ready", "Can the version answer?"),
    Operation("infer", "POST", f"{_MODEL}/infer", "Ask a model (JSON or binary tensors)"),
    Operation("infer", "POST", f"{_VERSION}/infer", "Ask one version of a model"),
    Operation("explain_v2", "POST", f"{_MODEL}/explain", "Explanations, of a handler that gives them"),
    Operation("explain_v2", "POST", f"{_VERSION}/explain", "The same of a version"),
    Operation("explain", "GET", f"{_MODEL}/explain", "Where the time of a model's requests goes"),
    Operation("explain", "GET", f"{_VERSION}/explain", "The same for one version"),
    Operation(
        "explain_request", "GET", f"{_MODEL}/explain/{{request}}", "Where the time of one request went"
    ),
    Operation("openapi", "GET", "/openapi.json", "This description"),
)

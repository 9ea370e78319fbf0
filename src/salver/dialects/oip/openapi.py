"""OpenAPI 3.1 description of the HTTP interface, from the tables of operations. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from salver.dialects.oip.model_openapi import paths_of
from salver.transport.routes import Operation
from salver.words.messages import Signature, State
from salver.words.tensor import DataType

_NO_MODELS: Final[Mapping[str, Signature]] = {}
_TENSOR_DATA = {"type": "array", "items": {}}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "number", "string"]}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _tensor(required: list[str]) -> dict[str, Any]:
    return _object(
        required,
        name={"type": "string"},
        datatype={"type": "string", "enum": [d.name for d in DataType]},
        shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
        parameters=_PARAMETERS,
        data=_TENSOR_DATA,
    )


_TEXT = {"type": "string"}
_NUMBER_OR_NULL = {"type": ["string", "null"], "pattern": "^[+-]?[0-9]+$"}
_SPEC = _object(
    ["name", "datatype", "shape"],
    name=_TEXT,
    datatype=_TEXT,
    shape={"type": "array", "items": {"type": "integer"}},
)
_SCHEMAS: dict[str, Any] = {
    "Error": _object(["error"], error=_TEXT),
    "InferRequest": _object(
        ["inputs"],
        id=_TEXT,
        parameters=_PARAMETERS,
        inputs={"type": "array", "items": _tensor(["name", "datatype", "shape", "data"])},
        outputs={
            "type": "array",
            "items": _object(["name"], name=_TEXT, parameters=_PARAMETERS),
        },
    ),
    "InferResponse": _object(
        ["model_name", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs={"type": "array", "items": _tensor(["name", "datatype", "shape"])},
    ),
    "PredictRequest": {
        "type": "object",
        "properties": {"signature_name": _TEXT, "instances": {"type": "array"}, "inputs": {}},
        "anyOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "PredictResponse": {
        "type": "object",
        "properties": {"predictions": {"type": "array"}, "outputs": {}},
        "anyOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
    },
    "ExamplesRequest": _object(
        ["examples"],
        signature_name=_TEXT,
        context={"type": "object"},
        examples={"type": "array", "minItems": 1, "items": {"type": "object"}},
    ),
    "ExamplesResponse": _object(["results"], results={"type": "array"}),
    "GenerateRequest": {
        "type": "object",
        "properties": {"text_input": _TEXT, "parameters": {"type": "object"}, "id": _TEXT},
    },
    "GenerateResponse": _object(
        ["model_name", "model_version"], model_name=_TEXT, model_version=_TEXT, text_output=_TEXT
    ),
    "ModelMetadata": _object(
        ["name", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions={"type": "array", "items": _TEXT},
        platform=_TEXT,
        inputs={"type": "array", "items": _SPEC},
        outputs={"type": "array", "items": _SPEC},
    ),
    "ServerMetadata": _object(
        ["name", "version", "extensions"],
        name=_TEXT,
        version=_TEXT,
        extensions={"type": "array", "items": _TEXT},
    ),
    "Index": {
        "type": "array",
        "items": _object(["name", "version", "state", "reason"], name=_TEXT, state=_TEXT),
    },
    "Readiness": _object(["ready"], name=_TEXT, ready={"type": "boolean"}),
    "IndexRequest": _object([], ready={"type": "boolean"}),
    "ControlRequest": _object([], parameters=_PARAMETERS),
    "RegionRequest": _object(
        ["key", "byte_size"],
        key=_TEXT,
        offset={"type": "integer", "minimum": 0},
        byte_size={"type": "integer", "minimum": 1},
    ),
    "LogSettings": _object(
        [],
        log_file={"type": ["string", "null"]},
        log_info={"type": ["boolean", "null"]},
        log_warning={"type": ["boolean", "null"]},
        log_error={"type": ["boolean", "null"]},
        log_verbose_level={"type": ["integer", "null"], "minimum": 0, "maximum": 2**32 - 1},
        log_format={"enum": ["default", "ISO8601", None]},
    ),
    "TraceSetting": _object(
        [],
        trace_level={"type": ["array", "null"], "items": _TEXT},
        trace_rate=_NUMBER_OR_NULL,
        trace_count=_NUMBER_OR_NULL,
        log_frequency=_NUMBER_OR_NULL,
        trace_file=_TEXT,
        trace_mode={},
    ),
    "ChatRequest": _object(
        ["model", "messages"],
        model=_TEXT,
        messages={"type": "array", "minItems": 1, "items": _object(["role"], role=_TEXT)},
        stream={"type": ["boolean", "null"]},
    ),
    "CompletionRequest": _object(
        ["model", "prompt"],
        model=_TEXT,
        prompt={"type": "string", "minLength": 1},
        stream={"type": ["boolean", "null"]},
    ),
    "Completion": _object(
        ["id", "object", "created", "model", "choices"], id=_TEXT, choices={"type": "array"}
    ),
    "EmbeddingRequest": _object(["model", "input"], model=_TEXT, input={"type": ["string", "array"]}),
    "Embeddings": _object(["object", "data", "model"], data={"type": "array"}),
    "SpeechForm": _object(
        ["file", "model"],
        file={"type": "string", "format": "binary", "minLength": 1},
        model={"type": "string", "minLength": 1},
        response_format={"enum": ["json", "text", "srt", "verbose_json", "vtt"]},
    ),
    "Transcription": _object(["text"], text=_TEXT),
    "OpenAiError": _object(
        ["error"], error=_object(["message", "type", "param", "code"], message=_TEXT, type=_TEXT)
    ),
    "Any": {},
}
#: Schemas of request body and reply by operation.
_BODIES: dict[str, tuple[str, str]] = {
    "infer": ("InferRequest", "InferResponse"),
    "predict_v1": ("PredictRequest", "PredictResponse"),
    "classify_v1": ("ExamplesRequest", "ExamplesResponse"),
    "regress_v1": ("ExamplesRequest", "ExamplesResponse"),
    "generate": ("GenerateRequest", "GenerateResponse"),
    "generate_stream": ("GenerateRequest", "Events"),
    "model_metadata": ("", "ModelMetadata"),
    "server_metadata": ("", "ServerMetadata"),
    "welcome": ("", "ServerMetadata"),
    "ready": ("", "Readiness"),
    "model_ready": ("", "Readiness"),
    "index": ("IndexRequest", "Index"),
    "index_named": ("IndexRequest", "Index"),
    "load": ("ControlRequest", ""),
    "unload": ("ControlRequest", ""),
    "log_settings": ("", "LogSettings"),
    "update_log_settings": ("LogSettings", "LogSettings"),
    "trace_setting": ("", "TraceSetting"),
    "update_trace_setting": ("TraceSetting", "TraceSetting"),
    "load_named": ("ControlRequest", ""),
    "unload_named": ("ControlRequest", ""),
    "region_register": ("RegionRequest", ""),
    "region_unregister": ("", ""),
    "cuda_unregister": ("", ""),
    "chat": ("ChatRequest", "Completion"),
    "completions": ("CompletionRequest", "Completion"),
    "embeddings": ("EmbeddingRequest", "Embeddings"),
    "transcriptions": ("SpeechForm", "Transcription"),
    "translations": ("SpeechForm", "Transcription"),
    "ready_plain": ("", "Readiness"),
}

#: Operations that require a request body.
_REQUIRED = (
    *("InferRequest", "PredictRequest", "ExamplesRequest", "GenerateRequest", "RegionRequest"),
    *("ChatRequest", "CompletionRequest", "EmbeddingRequest", "SpeechForm"),
)
#: Operations with errors in OpenAI's form.
_OPENAI = ("chat", "completions", "embeddings", "transcriptions", "translations")


def describe(
    version: str,
    operations: Iterable[Operation],
    models: Mapping[str, Signature] = _NO_MODELS,
    *,
    takes_short: bool = True,
) -> dict[str, Any]:
    """Return the whole description, for a server of that version.

    Args:
        operations: Operations of all dialects.
        models: Models that get a path of their own, by name.
        takes_short: These models accept inputs by name.
    """
    is_raw = any(signature.takes_raw for signature in models.values())
    operations = [each for each in operations if is_raw or not each.takes_raw]
    takes_tables = any(operation.name == "pipeline" for operation in operations)
    paths: dict[str, Any] = paths_of(models, takes_short=takes_short, takes_tables=takes_tables)
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.verb.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Salver",
            "version": version,
            "description": "Open Inference Protocol v2 with the binary tensor extension, TensorFlow "
            "Serving's REST interface, KServe v1, and OpenAI's routes. "
            f"Version states: {', '.join(State)}.",
        },
        "externalDocs": {"description": "Management, at the common port", "url": "/api/openapi.json"},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    takes, gives = _BODIES.get(operation.name, ("", "Any"))
    good: dict[str, Any] = {"description": "Done"}
    if operation.name in ("metrics", "tfs_metrics"):
        good["content"] = {"text/plain": {}, "application/openmetrics-text": {}}
    elif gives == "Events":
        good["content"] = {"text/event-stream": {"schema": _TEXT}}
    elif gives:
        good["content"] = {"application/json": {"schema": _ref(gives)}}
        if gives == "Completion":
            good["content"]["text/event-stream"] = {"schema": _TEXT}
        if gives == "Transcription":
            good["content"]["text/plain"] = {"schema": _TEXT}
        if gives == "InferResponse":
            good["content"]["application/octet-stream"] = {}
    kinds = {"{version}": "_version", "{label}": "_label", "{model}": "", "{region}": "_region"}
    fault = "Error"
    if operation.name in _OPENAI:
        fault = "OpenAiError"
    suffix = next((end for name, end in kinds.items() if name in operation.path), "_server")
    out: dict[str, Any] = {
        "operationId": operation.name + suffix,
        "summary": operation.summary,
        "responses": {
            "200": good,
            "default": {
                "description": "What is wrong and what to do",
                "content": {"application/json": {"schema": _ref(fault)}},
            },
        },
    }
    if gives == "Readiness":  # Triton answers 400 if not ready (TR-R19)
        out["responses"]["400"] = {"description": "Not ready", "content": good["content"]}
    names = re.findall(r"{(\w+)}", operation.path)
    if names:
        out["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if takes:
        media = "multipart/form-data" if takes == "SpeechForm" else "application/json"
        content: dict[str, Any] = {media: {"schema": _ref(takes)}}
        out["requestBody"] = {"required": takes in _REQUIRED, "content": content}
    return out

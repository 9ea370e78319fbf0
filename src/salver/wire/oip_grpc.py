"""How does an Open Inference gRPC message become words, and the answer a message?

Each function takes or gives the bytes of one message of ``inference.GRPCInferenceService``
(Triton's superset, TR-G1 to TR-G12) or ``grpc.health.v1.Health``. It knows no frame, stream or
status; see :mod:`grpc_frames` and :mod:`faults`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from salver.errors import InvalidInput
from salver.messages import (
    InferRequest,
    InferResponse,
    ModelId,
    Parameter,
    RequestedOutput,
    Signature,
    VersionStatus,
)
from salver.tensor import Array, DataType, Tensor
from salver.wire import metadata
from salver.wire.grpc_schema import SERVING_STATUS, build
from salver.wire.oip_binary import from_raw, to_raw
from salver.wire.values import cast, count_elements, find_datatype, shaped

_CLASSES = build()
_ModelInferRequest = _CLASSES["ModelInferRequest"]
_ModelInferResponse = _CLASSES["ModelInferResponse"]

_CONTENTS = {
    DataType.BOOL: "bool_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
_DTYPES = {
    "bool_contents": "?",
    "int_contents": "i4",
    "int64_contents": "i8",
    "uint_contents": "u4",
    "uint64_contents": "u8",
    "fp32_contents": "f4",
    "fp64_contents": "f8",
}
_NONE: Mapping[str, Parameter] = {}
_ALLOWED_OWN = "triton_enable_empty_final_response"


def _parse(name: str, message: bytes) -> Any:
    try:
        return _CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {name}: {error}") from None


# Inference.


def decode_infer(message: bytes) -> InferRequest:
    """The request in a ModelInferRequest.

    Raises:
        InvalidInput: naming the field.
        TooLarge: a declared shape is absurd.
    """
    try:
        parsed = _ModelInferRequest.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no ModelInferRequest: {error}") from None
    raws = parsed.raw_input_contents
    entries = parsed.inputs
    if raws and len(raws) < len(entries):
        raise InvalidInput(
            f"raw_input_contents has {len(raws)} entries for {len(entries)} inputs",
            field="raw_input_contents",
        )
    inputs: list[Tensor] = []
    for index, entry in enumerate(entries):
        inputs.append(_decode_input(entry, index, raws[index] if raws else None))
    if len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs):
        raise InvalidInput("an input is given twice", field="inputs")
    wanted = parsed.outputs
    parameters = parsed.parameters
    return InferRequest(
        parsed.model_name,
        tuple(inputs),
        parsed.model_version,
        parsed.id,
        tuple(
            RequestedOutput(o.name, _decode_parameters(o.parameters))
            for o in wanted
        )
        if wanted
        else (),
        _decode_parameters(parameters) if parameters else _NONE,
    )


def _decode_input(entry: Any, index: int, raw: bytes | None) -> Tensor:
    name = entry.name
    at = f"inputs[{index}]"
    datatype = find_datatype(entry.datatype, at)
    shape = entry.shape[:]
    count = count_elements(shape, at)
    if entry.parameters and "shared_memory_region" in entry.parameters:
        raise InvalidInput(
            "Client shared memory is disabled", field=f"{at}.parameters", fix="Send the data itself."
        )
    if raw is not None:
        if entry.HasField("contents") and entry.contents.ByteSize():
            raise InvalidInput(
                f"contents field must not be specified when using raw_input_contents for '{name}'",
                field=f"{at}.contents",
            )
        return Tensor(name, datatype, from_raw(raw, datatype, shape, count, at))
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidInput(
            f"{datatype.name} has no typed contents. Please use raw_input_contents for input {name}",
            field=f"{at}.contents",
        )
    array = _decode_contents(getattr(entry.contents, field), datatype, field, at)
    return Tensor(name, datatype, shaped(array, shape, count, f"{at}.contents.{field}"))


def _decode_contents(values: Any, datatype: DataType, field: str, at: str) -> Array:
    if datatype is DataType.BYTES:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    return cast(np.array(values, _DTYPES[field]), datatype, f"{at}.contents.{field}")


def _decode_parameters(parameters: Any) -> Mapping[str, Parameter]:
    decoded: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            )
        if name.startswith("triton_") and name != _ALLOWED_OWN:
            raise InvalidInput(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following "
                f"keys starting with 'triton_' are allowed: {_ALLOWED_OWN}"
            )
        decoded[name] = getattr(parameter, choice)
    return decoded


def encode_infer(request: InferRequest, response: InferResponse) -> bytes:
    """A ModelInferResponse; every output is in ``raw_output_contents`` (TR-G8)."""
    return _response(response).SerializeToString()  # type: ignore[no-any-return]


def encode_stream(response: InferResponse) -> bytes:
    """A ModelStreamInferResponse that carries an answer."""
    return _serialize("ModelStreamInferResponse", infer_response=_response(response))


def encode_stream_error(message: str) -> bytes:
    """A ModelStreamInferResponse that carries an error; the stream goes on (TR-G9)."""
    return _serialize("ModelStreamInferResponse", error_message=message)


def _response(response: InferResponse) -> Any:
    outputs = response.outputs
    message = _ModelInferResponse(
        model_name=response.model,
        model_version=response.version,
        id=response.id,
        raw_output_contents=[bytes(to_raw(tensor)) for tensor in outputs],
    )
    add = message.outputs.add
    for tensor in outputs:
        add(name=tensor.name, datatype=tensor.datatype._value_, shape=tensor.array.shape)
    for name, value in response.parameters.items():
        setattr(message.parameters[name], _choice(value), value)
    return message


def _choice(value: Parameter) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value < 1 << 63 else "uint64_param"
    return "string_param" if isinstance(value, str) else "double_param"


# The other methods.


def _serialize(name: str, /, **fields: Any) -> bytes:
    return _CLASSES[name](**fields).SerializeToString()  # type: ignore[no-any-return]


def decode_model_request(message: bytes) -> tuple[str, str]:
    """Name and version of a Model{Ready,Metadata,Config,Statistics}Request: one shape for all four."""
    parsed = _parse("ModelReadyRequest", message)
    return parsed.name, parsed.version


def encode_server_live(is_live: bool) -> bytes:
    """A ServerLiveResponse."""
    return _serialize("ServerLiveResponse", live=is_live)


def encode_server_ready(is_ready: bool) -> bytes:
    """A ServerReadyResponse."""
    return _serialize("ServerReadyResponse", ready=is_ready)


def encode_model_ready(is_ready: bool) -> bytes:
    """A ModelReadyResponse."""
    return _serialize("ModelReadyResponse", ready=is_ready)


def encode_server_metadata(version: str) -> bytes:
    """A ServerMetadataResponse."""
    return _serialize("ServerMetadataResponse", **metadata.server(version))


def encode_model_metadata(id: ModelId, versions: Sequence[str], signature: Signature) -> bytes:
    """A ModelMetadataResponse."""
    return _serialize("ModelMetadataResponse", **metadata.model(id, versions, signature))


def encode_model_config(config: bytes) -> bytes:
    """A ModelConfigResponse around a serialised ModelConfig."""
    return _serialize("ModelConfigResponse", config=_CLASSES["ModelConfig"].FromString(config))


def encode_statistics(statistics: Mapping[str, Any]) -> bytes:
    """A ModelStatisticsResponse from the JSON form (TR-R8)."""
    return _serialize("ModelStatisticsResponse", **statistics)


def decode_index_request(message: bytes) -> bool:
    """True if only ready versions are wanted."""
    parsed = _parse("RepositoryIndexRequest", message)
    metadata.refuse_repository(parsed.repository_name)
    return bool(parsed.ready)


def encode_index(statuses: Iterable[VersionStatus], only_ready: bool) -> bytes:
    """A RepositoryIndexResponse."""
    return _serialize("RepositoryIndexResponse", models=metadata.index(statuses, only_ready))


def decode_load_request(message: bytes) -> tuple[str, dict[str, Parameter]]:
    """Model name and parameters of a RepositoryModelLoadRequest."""
    return _control(_parse("RepositoryModelLoadRequest", message))


def decode_unload_request(message: bytes) -> tuple[str, dict[str, Parameter]]:
    """Model name and parameters of a RepositoryModelUnloadRequest."""
    return _control(_parse("RepositoryModelUnloadRequest", message))


def _control(parsed: Any) -> tuple[str, dict[str, Parameter]]:
    metadata.refuse_repository(parsed.repository_name)
    parameters: dict[str, Parameter] = {}
    for name, parameter in parsed.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None or choice == "bytes_param":
            raise InvalidInput(
                f"parameter '{name}' must be a boolean, integer or string", field=f"parameters.{name}"
            )
        parameters[name] = getattr(parameter, choice)
    return parsed.model_name, parameters


def decode_health_request(message: bytes) -> str:
    """The service asked after; empty for the whole server."""
    service: str = _parse("HealthCheckRequest", message).service
    return service


def encode_health(is_serving: bool) -> bytes:
    """A HealthCheckResponse."""
    status = SERVING_STATUS.split().index("SERVING" if is_serving else "NOT_SERVING")
    return _serialize("HealthCheckResponse", status=status)

"""Codec of the gRPC messages of the Open Inference Protocol.

Each function reads or writes one message of ``inference.GRPCInferenceService`` (TR-G1 to TR-G12). The
messages of Triton's extensions are in ``dialects/triton/grpc_codec.py``.

Pure.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from salver.dialects.oip import metadata
from salver.dialects.oip.checks import first_twice, once_each, unfit, wrong_size
from salver.dialects.oip.classification import PARAMETER, classified
from salver.dialects.oip.grpc_schema import build
from salver.dialects.oip.keywords import CONTENT_TYPE, ROWS_OF_JSON, KeywordRequest, in_rows
from salver.dialects.oip.regions import (
    KEYS,
    NO_REGIONS,
    Place,
    Reader,
    Regions,
    held,
    place_of,
    places_of,
    store,
)
from salver.encoding import varints
from salver.encoding.known_forms import LONGEST, Form, KnownForms, form_of, holds
from salver.encoding.raw import from_raw, to_raw
from salver.encoding.values import MAX_STRINGS, MAX_TENSORS, cast, count_elements, find_datatype
from salver.words.errors import InvalidInput, TooLarge
from salver.words.messages import (
    InferRequest,
    InferResponse,
    ModelId,
    Parameter,
    RequestedOutput,
    Signature,
)
from salver.words.tensor import DATATYPES, Array, DataType, Tensor

_CLASSES = build()
_ModelInferRequest = _CLASSES["ModelInferRequest"]
INFER_RESPONSE = _CLASSES["ModelInferResponse"]
METADATA_RESPONSE = _CLASSES["ModelMetadataResponse"]

#: Field of the elements by datatype; FP16 and BF16 have none.
CONTENTS = {
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
#: Numpy dtype of the elements by field; bytes have none.
DTYPES = {
    "bool_contents": "?",
    "int_contents": "i4",
    "int64_contents": "i8",
    "uint_contents": "u4",
    "uint64_contents": "u8",
    "fp32_contents": "f4",
    "fp64_contents": "f8",
}
_NONE: Mapping[str, Parameter] = {}
_NOWHERE: Mapping[str, Place] = {}
_KINDS = ("string_param", "int64_param")
#: Fields that a known parameter's value may have, by name; :data:`_CUSTOM` has those of any other parameter.
_OF_REQUESTS: Mapping[str, tuple[str, ...]] = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    "triton_enable_empty_final_response": ("bool_param",),
}
_OF_OUTPUTS: Mapping[str, tuple[str, ...]] = {PARAMETER: ("int64_param",)}
_CUSTOM = ("int64_param", "bool_param", "string_param", "double_param")
#: Request parameter: mark the last reply of a stream, with an empty reply if necessary.
ENABLE_FINAL = "triton_enable_empty_final_response"
#: Reply parameter: this is the last reply.
FINAL = "triton_final_response"


def _parse(name: str, message: bytes) -> Any:
    try:
        return _CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {name}: {error}") from None


# Inference.

_RAW_INPUT = b"\x3a"  # field 7 of a ModelInferRequest, which has bytes
_RAW_OUTPUT = b"\x32"  # field 6 of a ModelInferResponse, likewise
#: Bytes up to which every message is parsed quickly.
_LARGE = 1 << 16
#: Fields that are parsed: inputs with parameters and contents, outputs with parameters. Raw contents are
#: views.
_OUTLINE: varints.Outline = {0: frozenset((7,)), 4: {}, 5: {4: {}, 5: {}}, 6: {4: {}}}
_NAMED = 32  # first bytes, in which messages for different models usually differ
_Output = tuple[str, str, tuple[int, ...]]


class _Layout(msgspec.Struct, frozen=True, gc=False):
    """Layout of a message without its tensor data, and the offset of the first tensor."""

    around: tuple[tuple[int, bytes], ...]
    at: int
    model: str
    version: str
    form: Form


def target(framed: bytes) -> bytes:
    """Return the beginning of a framed ModelInferRequest, up to the model's name and version.

    Empty if these are not the first fields, or are long.

    >>> target(b"....." + bytes([10, 1]) + b"m" + bytes([18, 1]) + b"1" + bytes([26, 0]))[2:3]
    b'm'
    """
    at = 5
    if framed[at : at + 1] != b"\x0a":
        return b""
    while framed[at : at + 1] in (b"\x0a", b"\x12"):
        size = framed[at + 1]
        if size > 127:
            return b""
        at += 2 + size
    return framed[5:at]


class InferMessages:
    """Codec of ModelInferRequests and ModelInferResponses, with a fast path for layouts seen before.

    Args:
        regions: Shared memory in which tensors may be.
        ignores_surplus: See :func:`read_infer`.
    """

    def __init__(self, regions: Regions = NO_REGIONS, *, ignores_surplus: bool = False) -> None:
        self._regions = regions
        self._ignores_surplus = ignores_surplus
        #: Layouts by the message's length and first bytes.
        self._known: KnownForms[tuple[int, bytes], _Layout] = KnownForms()
        #: Serialised beginnings of responses by model, version and outputs.
        self._begun: KnownForms[tuple[str, str, tuple[_Output, ...]], bytes] = KnownForms()

    def read(self, message: bytes) -> InferRequest:
        """Decode a request as :func:`decode_infer` does."""
        key = (len(message), message[:_NAMED])
        known = self._known.get(key)
        if known is not None and holds(message, known.around):
            return known.form.request(known.model, known.version, message, known.at)
        request = read_infer(parse_infer(message), self._regions, ignores_surplus=self._ignores_surplus)
        if known is None and (new := _known(message, request)) is not None:
            self._known.add(key, new)
        return request

    def lead(self, size: int, begun: bytes) -> int:
        """Return the bytes before the tensors of a large message that begins like this; 0 = unknown."""
        known = self._known.get((size, begun[:_NAMED]))
        return 0 if known is None else known.at

    def names(self, size: int, begun: bytes) -> tuple[str, str] | None:
        """Return model and version of a large message that begins like this; None = unknown."""
        known = self._known.get((size, begun[:_NAMED]))
        return None if known is None else (known.model, known.version)

    def read_known(self, message: memoryview) -> InferRequest | None:
        """Decode a large request if its layout is known; None = it is not."""
        known = self._known.get((len(message), bytes(message[:_NAMED])))
        if known is None or any(message[at : at + len(piece)] != piece for at, piece in known.around):
            return None
        return known.form.request(known.model, known.version, message, known.at)

    def is_slow(self, message: bytes) -> bool:
        """Return whether reading a large message would block the event loop."""
        known = self._known.get((len(message), message[:_NAMED]))
        return (known is None or not holds(message, known.around)) and is_dense(message)

    def write(self, request: InferRequest, response: InferResponse) -> bytes:
        """Encode a response as :func:`encode_infer` does."""
        if request.outputs or response.id or response.parameters:
            return encode_infer(request, response, self._regions)
        outputs = response.outputs
        key = (
            response.model,
            response.version,
            tuple([(tensor.name, tensor.datatype._value_, tensor.array.shape) for tensor in outputs]),
        )
        tensors: list[bytes | memoryview] = []
        for tensor in outputs:
            raw = to_raw(tensor)
            tensors += (_RAW_OUTPUT, varints.one(len(raw)), raw)
        begun = self._begun.get(key)
        if begun is None:
            whole = encode_infer(request, response, self._regions)
            begun = whole[: len(whole) - sum(map(len, tensors))]
            self._begun.add(key, begun)
        return b"".join((begun, *tensors))


def _known(message: bytes, request: InferRequest) -> _Layout | None:
    """Return the layout of a message that ends with its tensors, as all usual clients write it."""
    sizes = [tensor.array.nbytes for tensor in request.inputs]
    heads = [_RAW_INPUT + varints.one(size) for size in sizes]
    first = 0
    if heads:
        first = len(message) - sum(sizes) - sum(map(len, heads)) + len(heads[0])
    form = form_of(request, [len(head) for head in heads[1:]])
    if form is None or not 0 < first <= LONGEST or not message.endswith(heads[0], 0, first):
        return None
    prefix = message[:first]
    around, at = [(0, prefix)], first
    for size, head in zip(sizes, heads[1:], strict=False):
        at += size
        around.append((at, head))
        if not message.startswith(head, at):
            return None
        at += len(head)
    try:
        before = parse_infer(prefix[: -len(heads[0])])
    except InvalidInput:
        return None  # the bytes that looked like tensors were something else
    if before.raw_input_contents or len(before.inputs) != len(sizes):
        return None
    return _Layout(tuple(around), first, request.model, request.version, form)


def decode_infer(
    message: bytes, regions: Regions = NO_REGIONS, ignores_surplus: bool = False
) -> InferRequest:
    """Decode a ModelInferRequest.

    Raises:
        InvalidInput: a field is invalid; the error names it.
        TooLarge: a declared shape is absurd.
        NotFound, Unsupported: a tensor in shared memory cannot be read.
    """
    return read_infer(parse_infer(message), regions, ignores_surplus=ignores_surplus)


def parse_infer(message: bytes) -> Any:
    """Parse a ModelInferRequest without checking its values.

    Raises:
        InvalidInput: the message cannot be parsed.
    """
    raws: list[memoryview] | None = None
    if len(message) > _LARGE:
        with contextlib.suppress(ValueError):  # protobuf's parser then reports the error
            message, raws = varints.apart(message, 7, varints.MOST_FIELDS)
    try:
        parsed = _ModelInferRequest.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a ModelInferRequest: {error}") from None
    if raws is None:
        return parsed
    return _Viewed(parsed, raws)


class _Viewed:
    """Parsed ModelInferRequest whose ``raw_input_contents`` are views of the message."""

    def __init__(self, parsed: Any, raws: list[memoryview]) -> None:
        self._parsed = parsed
        self.raw_input_contents = raws

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parsed, name)


def is_dense(message: bytes) -> bool:
    """Return whether parsing a large message takes long, because much of it is not raw tensor data."""
    try:
        count, weight = varints.weigh(message, _OUTLINE, varints.MOST_FIELDS)
    except ValueError:
        return len(message) > _LARGE
    return count > varints.MOST_FIELDS or weight > _LARGE


def encode_heading(request: InferRequest) -> bytes:
    """Encode the names and the id of a request as a ModelInferRequest without tensors."""
    made = _ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    return made.SerializeToString()  # type: ignore[no-any-return]


def check_counts(parsed: Any) -> None:
    """Raise InvalidInput for a ModelInferRequest with more tensors or parameters than any model has."""
    for field in ("inputs", "outputs", "raw_input_contents", "parameters"):
        count = len(getattr(parsed, field))
        if count > MAX_TENSORS:
            raise InvalidInput(f"{field} has {count} entries; at most {MAX_TENSORS} are allowed", field=field)


def read_infer(parsed: Any, regions: Regions = NO_REGIONS, *, ignores_surplus: bool = False) -> InferRequest:
    """Return the request in a parsed ModelInferRequest; raises as :func:`decode_infer` does.

    Args:
        ignores_surplus: Ignore entries of ``raw_input_contents`` beyond the inputs, as Triton does.
    """
    raws = parsed.raw_input_contents
    model = parsed.model_name
    check_counts(parsed)
    reader: Reader | None = None
    inputs: list[Tensor] = []
    used = 0  # entries of raw_input_contents; inputs in shared memory have none
    try:
        for index, entry in enumerate(parsed.inputs):
            parameters = entry.parameters
            if parameters and not KEYS.isdisjoint(parameters):
                reader = reader or Reader(regions, model)
                inputs.append(_read_input(entry, index, reader))
                continue
            inputs.append(_decode_input(entry, index, model, raws, used))
            used += 1
        if len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs):
            raise unfit(f"input '{first_twice(inputs)}' already exists in request")
        if used < len(raws) and not ignores_surplus:
            raise InvalidInput(
                f"raw_input_contents has {len(raws)} entries for model '{model}', "
                f"but only {used} inputs take one",
                field="raw_input_contents",
                fix="Send one for each input that is not in shared memory.",
            )
    except InvalidInput as error:
        if error.about is not None:
            error.about = parsed.id
        raise
    outputs: tuple[RequestedOutput, ...] = ()
    if asked := parsed.outputs:
        outputs = tuple(
            [RequestedOutput(o.name, _decode_parameters(o.parameters, _OF_OUTPUTS)) for o in asked]
        )
        once_each(outputs)
        outputs = held(regions, outputs, _KINDS, reader.used if reader else ())
    parameters = parsed.parameters
    return InferRequest(
        model,
        tuple(inputs),
        parsed.model_version,
        parsed.id,
        outputs,
        _decode_parameters(parameters, _OF_REQUESTS) if parameters else _NONE,
    )


def _decode_input(entry: Any, index: int, model: str, raws: Sequence[bytes], used: int) -> Tensor:
    name = entry.name
    at = f"inputs[{index}]"
    datatype = DATATYPES.get(entry.datatype)
    if datatype is None:
        if found := entry.contents.ListFields():
            raise _unexpected(name, model, found[0][0].name, "<invalid>")
        datatype = find_datatype(entry.datatype, at)
    shape = entry.shape[:]
    count = count_elements(shape, at)
    if raws:
        if entry.HasField("contents") and entry.contents.ByteSize():
            raise InvalidInput(
                f"contents field must not be specified when using raw_input_contents for '{name}' "
                f"for model '{model}'"
            )
        if used >= len(raws):
            raise _no_data(name, model)
        raw = raws[used]
        try:
            return Tensor(name, datatype, from_raw(raw, datatype, shape, count, at))
        except InvalidInput as error:
            raise wrong_size(error, raw, datatype, count, name, model) from None
    array = _decode_contents(entry.contents.ListFields(), datatype, count, (name, model, at))
    return Tensor(name, datatype, array.reshape(shape))


def _read_input(entry: Any, index: int, reader: Reader) -> Tensor:
    """Read an input from shared memory."""
    at = f"inputs[{index}]"
    datatype = find_datatype(entry.datatype, at)
    shape = entry.shape[:]
    count = count_elements(shape, at)
    given = {
        name: getattr(parameter, parameter.WhichOneof("parameter_choice") or "bool_param")
        for name, parameter in entry.parameters.items()
    }
    place = place_of(given, entry.name, _KINDS)
    if entry.HasField("contents"):
        raise InvalidInput(
            "unexpected 'content' provided when using shared memory for input tensor "
            f"'{entry.name}' for model '{reader.model}'"
        )
    return reader.tensor(entry.name, datatype, shape, count, place, at)


def _decode_contents(
    found: Sequence[tuple[Any, Any]], datatype: DataType, count: int, owner: tuple[str, str, str]
) -> Array:
    """Return the elements in the datatype's field.

    Args:
        found: Fields that are set.
        owner: Name of the input, the model, and the place of the input.
    """
    name, model, at = owner
    if not found:
        if count:
            raise _no_data(name, model)
        return np.empty(0, datatype.dtype)
    values = found[0][1]
    field = CONTENTS.get(datatype, "")
    if found[0][0].name != field:
        raise _unexpected(name, model, found[0][0].name, datatype.name)
    if len(found) > 1:
        raise InvalidInput(
            f"unexpected explicit tensor data for input tensor '{name}' for model '{model}', "
            "binary data was already supplied."
        )
    if len(values) != count:
        if datatype is DataType.BYTES:
            raise unfit(
                f"expected {count} string elements for inference input '{name}' for model '{model}', "
                f"got {len(values)}"
            )
        size = datatype.itemsize
        raise unfit(
            f"input byte size mismatch for input '{name}' for model '{model}'. "
            f"Expected {count * size}, got {len(values) * size}"
        )
    if datatype is DataType.BYTES:
        if len(values) > MAX_STRINGS:
            raise TooLarge(f"{at} has {len(values)} BYTES elements; at most {MAX_STRINGS} are allowed")
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    return cast(np.array(values, DTYPES[field]), datatype, f"{at}.contents.{field}")


def _unexpected(name: str, model: str, field: str, wanted: str) -> InvalidInput:
    found = {"int_contents": "INT32", "uint_contents": "UINT32"}.get(
        field, field.removesuffix("_contents").upper()
    )
    return InvalidInput(
        f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' of type '{found}', "
        f"expected datatype '{wanted}'"
    )


def _no_data(name: str, model: str) -> InvalidInput:
    return InvalidInput(f"unable to find data for input tensor '{name}' for model '{model}' in request.")


def _decode_parameters(parameters: Any, kinds: Mapping[str, tuple[str, ...]]) -> Mapping[str, Parameter]:
    decoded: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if kinds is _OF_OUTPUTS and name not in kinds and name not in KEYS:
            continue  # like Triton, ignore other parameters of an output
        if choice not in kinds.get(name, _CUSTOM):
            wanted = " or ".join(kinds.get(name, ("int64_param, bool_param,", "string_param")))
            raise InvalidInput(f"invalid value type for '{name}' parameter, expected {wanted}.")
        if name.startswith("triton_") and name != ENABLE_FINAL:
            raise InvalidInput(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following "
                f"keys starting with 'triton_' are allowed: {ENABLE_FINAL}"
            )
        decoded[name] = value = getattr(parameter, choice)
        if name == PARAMETER and kinds is _OF_OUTPUTS and value < 1:
            raise InvalidInput(f"invalid value for '{name}' parameter, expected >= 0")
    return decoded


def encode_infer(request: InferRequest, response: InferResponse, regions: Regions = NO_REGIONS) -> bytes:
    """Encode a ModelInferResponse; every output is in ``raw_output_contents`` (TR-G8), or in shared memory.

    Raises:
        NotFound, InvalidInput, SegmentFailed: an output cannot be written to shared memory.
    """
    return _response(request, response, regions).SerializeToString()  # type: ignore[no-any-return]


def encode_stream(
    request: InferRequest, response: InferResponse, is_final: bool, regions: Regions = NO_REGIONS
) -> bytes:
    """Encode a ModelStreamInferResponse with an answer and whether more follow (TR-G11).

    Raises:
        NotFound, InvalidInput, SegmentFailed: as :func:`encode_infer`.
    """
    inner = _response(request, response, regions)
    inner.parameters[FINAL].bool_param = is_final
    return _serialize("ModelStreamInferResponse", infer_response=inner)


def encode_stream_mark(
    id: str, model: str = "", version: str = "", *, is_final: bool | None = None, error: str = ""
) -> bytes:
    """Encode a ModelStreamInferResponse without an answer: an error, or the end of a stream (TR-G9, TR-G11).

    Args:
        version: Version in the request.
        is_final: Value of the final marker; None = no marker.
    """
    inner = INFER_RESPONSE(model_name=model, model_version=version, id=id)
    if is_final is not None:
        inner.parameters[FINAL].bool_param = is_final
    return _serialize("ModelStreamInferResponse", error_message=error, infer_response=inner)


def _response(request: InferRequest, response: InferResponse, regions: Regions) -> Any:
    places: Mapping[str, Place] = _NOWHERE
    outputs = response.outputs
    if request.outputs:  # only requested outputs can be classes or go to shared memory
        places = places_of(request.outputs, _KINDS)
        outputs = classified(request, response).outputs
    by_keywords = isinstance(request, KeywordRequest)
    if isinstance(request, KeywordRequest):
        outputs = in_rows(request, response).outputs
    message = INFER_RESPONSE(
        model_name=response.model,
        model_version=response.version,
        id=response.id,
        raw_output_contents=[b"" if tensor.name in places else bytes(to_raw(tensor)) for tensor in outputs],
    )
    add = message.outputs.add
    for tensor in outputs:
        if places and tensor.name in places:
            store(regions, places[tensor.name], tensor)
        entry = add(name=tensor.name, datatype=tensor.datatype._value_, shape=tensor.array.shape)
        if by_keywords and tensor.datatype is DataType.BYTES:
            entry.parameters[CONTENT_TYPE].string_param = ROWS_OF_JSON
    for name, value in response.parameters.items():
        setattr(message.parameters[name], _choice(value), value)
    return message


def _choice(value: Parameter) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        if value < 1 << 63:
            return "int64_param"
        return "uint64_param"
    if isinstance(value, str):
        return "string_param"
    return "double_param"


# Messages of the other methods.


def _serialize(name: str, /, **fields: Any) -> bytes:
    return _CLASSES[name](**fields).SerializeToString()  # type: ignore[no-any-return]


def decode_model_request(message: bytes) -> tuple[str, str]:
    """Return name and version of a Model{Ready,Metadata,Config,Statistics}Request; all have these fields."""
    parsed = _parse("ModelReadyRequest", message)
    return parsed.name, parsed.version


def encode_server_live(is_live: bool) -> bytes:
    """Encode a ServerLiveResponse."""
    return _serialize("ServerLiveResponse", live=is_live)


def encode_server_ready(is_ready: bool) -> bytes:
    """Encode a ServerReadyResponse."""
    return _serialize("ServerReadyResponse", ready=is_ready)


def encode_model_ready(is_ready: bool) -> bytes:
    """Encode a ModelReadyResponse."""
    return _serialize("ModelReadyResponse", ready=is_ready)


def encode_server_metadata(version: str, name: str = "salver", more: Sequence[str] = ()) -> bytes:
    """Encode a ServerMetadataResponse."""
    return _serialize("ServerMetadataResponse", **metadata.server(version, name, more))


def encode_model_metadata(id: ModelId, versions: Sequence[str], signature: Signature) -> bytes:
    """Encode a ModelMetadataResponse."""
    return _serialize("ModelMetadataResponse", **metadata.model(id, versions, signature))

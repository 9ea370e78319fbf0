"""Codec of Open Inference requests over HTTP.

JSON as in OIP-9 to OIP-12, and the binary tensor extension in both directions on the same route (TR-R20 to
TR-R25). It checks that a request is consistent in itself; the engine checks it against the model's signature.

Pure.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from salver.dialects.oip.checks import first_twice, once_each, unfit, wrong_size
from salver.dialects.oip.faults import http_fault
from salver.dialects.oip.regions import NO_REGIONS, Place, Reader, Regions, held, place_of, places_of, store
from salver.encoding.bodies import HttpBody, HttpReply, over_limit
from salver.encoding.forms import NO_FORMS, Forms
from salver.encoding.json_text import LARGE, TOO_DEEP, dumps, filled, is_too_deep, kind_of, list_pieces, loads
from salver.encoding.known_forms import LONGEST, Form, KnownForms, form_of
from salver.encoding.raw import from_raw, joined, to_raw
from salver.encoding.values import (
    MAX_TENSORS,
    cast,
    count_elements,
    find_datatype,
    from_json,
    is_long,
    shaped,
    to_json,
    to_json_within,
)
from salver.kernel.serving.ports import Codec
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput, SalverError, tritons
from salver.words.handlers import is_form
from salver.words.messages import (
    InferRequest,
    InferResponse,
    Parameter,
    RequestedOutput,
    Signature,
)
from salver.words.tensor import Array, DataType, Tensor

with lazy_imports():
    from salver.dialects.oip import classification, short_json
    from salver.dialects.oip.classification import ClassRequest, classified, with_classes
    from salver.dialects.oip.keywords import KeywordRequest, content_types, in_rows, mark, with_keywords
    from salver.dialects.oip.short_json import ShortRequest
    from salver.encoding.large_json import loads_large, loads_quickly


LENGTH = b"inference-header-content-length"
_BINARY_TYPE = (b"content-type", b"application/octet-stream")
_OWN = "triton_"

_INTEGERS = {int}
#: Bytes of the largest body that is searched for tensors in shared memory.
_MOST_PLACES = 1 << 20
#: Key of such tensors.
PLACES = b"shared_memory_region"
_GROWTH = 8  # most bytes of a tensor per byte of JSON
_SMALL = 512  # elements up to which a list is faster than numpy
_NONE: Mapping[str, Parameter] = {}
_OF_TENSORS = Signature((), ())  # stands for every model that takes tensors
_RAW_REPLY: Mapping[str, Parameter] = {"binary_data_output": True}


class OpenInferenceHttp(Codec[HttpBody, HttpReply]):
    """Codec of ``POST /v2/models/{m}/infer``, JSON and binary.

    Args:
        regions: Shared memory in which tensors may be.
        most: Most bytes of a tensor in JSON; 0 = no limit.
        forms: Converts requests for models that take forms.
        takes_short: Accept bodies without ``inputs`` as inputs by name
            (:mod:`~salver.dialects.oip.short_json`).
    """

    protocol = "oip-http"

    def __init__(
        self,
        regions: Regions = NO_REGIONS,
        most: int = 0,
        *,
        takes_short: bool = True,
        forms: Forms = NO_FORMS,
    ) -> None:
        self._regions = regions
        self._forms = forms
        self._most = most
        self._takes_short = takes_short
        self._known: KnownForms[bytes, Form] = KnownForms()  # layouts by their JSON
        self._lengths: KnownForms[bytes, int] = KnownForms()
        #: Encoded beginnings of replies with one output.
        self._begun: KnownForms[tuple[str, str, str, str, tuple[int, ...]], bytes] = KnownForms()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the codec for another process, without shared memory."""
        return (_for_another, (type(self), self._most, self._takes_short, self._forms))

    def weigh(self, http: HttpBody) -> int:
        """Return the bytes that must be parsed; 0 for a known layout, and for JSON that is parsed now."""
        body, header = http.body, http.headers.get(LENGTH)
        if header is None:
            size = len(http.content)
            if size > LARGE:
                http.root = loads_quickly(http.content)
                if http.root is not None:
                    return 0
            if http.large is not None:
                return size
        elif http.large is not None:
            return 0 if self._recall(http, http.large) is not None else len(http.large)
        else:
            # A body with the JSON of an earlier one needs no parsing: only its tensors differ.
            size = self._lengths.get(header, 0)
            if size and body[:size] in self._known:
                return 0
            text = header.strip()
            size = int(text) if text.isdigit() and len(text) <= 18 else len(body)
        if LARGE < size <= _MOST_PLACES and self._regions is not NO_REGIONS and PLACES in body:
            return LARGE  # only this process can read shared memory
        return size

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Decode a request. Arrays of binary inputs are views of the body where alignment allows.

        Raises:
            InvalidInput: a field is invalid; the error names it.
            TooLarge: a declared shape is absurd, or a tensor exceeds the limit.
            NotFound, Unsupported: a tensor in shared memory cannot be read.
        """
        body = http.body
        header = http.headers.get(LENGTH)
        if signature.takes_forms:
            if header is None:
                return self._forms.read(http)
            # A binary request to a model that takes forms: decode its tensors first, then make a form of
            # them.
            return self._forms.from_tensors(self.decode(http, _OF_TENSORS))
        # Three ways, from the fastest: plain JSON numbers, a known layout, and the general decoder.
        if header is None and len(body) < LARGE:
            inputs = _plain_inputs(body)
            if inputs is not None:
                return InferRequest(http.model, inputs, http.version)
        tail: memoryview | None = None
        if header is None and not body and http.root is None:
            return _decode_raw(http, signature)
        if header is not None:
            if http.large is not None and (request := self._recall(http, http.large)) is not None:
                return request
            length = self._lengths.get(header, 0)
            if length:
                form = self._known.get(body[:length])
                if form is not None and form.size == len(body) - length:
                    return form.request(http.model, http.version, body, length)
            length = _header_length(header, len(body))
            if not length:
                return _decode_raw(http, signature)
            whole = memoryview(body)
            tail = whole[length:]
            body = body[:length]
        try:
            root = http.root
            if root is None:
                root = loads(body) if len(body) < LARGE else loads_large(body)
            if self._takes_short and header is None and (type(root) is not dict or "inputs" not in root):
                request = short_json.asked(http, root, signature)
                if self._most:
                    _check_sizes(request, self._most)
                return request
            request = _decode_root(http, root, tail, self._regions)
            if signature.converts:
                request = with_keywords(request, signature, content_types(root["inputs"]))
            if self._most and len(http.content) * _GROWTH > self._most:
                _check_sizes(request, self._most)
            if header is not None and tail is not None and len(body) <= LONGEST:
                self._remember(header, body, request, len(tail))
            if request.outputs:
                return with_classes(request, signature)
            return request
        except InvalidInput as error:
            # orjson reports deep nesting as a syntax error; say what it is.
            if is_too_deep(body):
                raise InvalidInput(TOO_DEEP) from None
            if error.about is not None and type(root.get("id")) is str:
                error.about = root["id"]
            raise

    def _recall(self, http: HttpBody, data: memoryview) -> InferRequest | None:
        """Return the request of a large body if its layout is known."""
        length = self._lengths.get(http.headers.get(LENGTH, b""), 0)
        form = self._known.get(bytes(data[:length]))
        if form is None or form.size != len(data) - length:
            return None
        return form.request(http.model, http.version, data, length)

    def _remember(self, header: bytes, text: bytes, request: InferRequest, size: int) -> None:
        """Remember the layout of a request whose tensors are all binary, behind its JSON."""
        form = form_of(request)
        if form is not None and form.size == size:
            self._lengths.add(header, len(text))
            self._known.add(text, form)

    def takes_long(self, response: InferResponse) -> bool:
        """See :class:`~salver.kernel.serving.ports.Codec`."""
        return is_long(response.outputs)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Encode the reply, with each output in JSON, or raw behind the JSON if the caller asked for that.

        Raises:
            InvalidInput, Unsupported: an output has no JSON form, and the caller did not ask for binary.
            NotFound, InvalidInput, SegmentFailed: an output cannot be written to shared memory.
        """
        is_plain = not (request.outputs or request.parameters or response.id or response.parameters)
        if is_plain and len(response.outputs) == 1:
            return HttpReply(200, self._everyday(response, response.outputs[0]))
        if is_form(request):
            return self._forms.write(response)
        outputs: list[dict[str, Any]] = []
        long: list[list[bytes]] = []
        raws: list[bytes | memoryview] = []
        binary: dict[str, bool] | None = None
        if request.outputs or request.parameters:
            if isinstance(request, ShortRequest):
                return short_json.told(response)
            binary = _binary_by_name(request)
            if isinstance(request, ClassRequest):
                response = classified(request, response)
            elif isinstance(request, KeywordRequest):
                response = in_rows(request, response)
        places = places_of(request.outputs)
        for tensor in response.outputs:
            entry: dict[str, Any] = {
                "name": tensor.name,
                "datatype": tensor.datatype._value_,
                "shape": tensor.array.shape,
            }
            if tensor.name in places:
                store(self._regions, places[tensor.name], tensor)
            elif binary is not None and binary.get(tensor.name, binary[""]):
                raw = to_raw(tensor)
                raws.append(raw)
                entry["parameters"] = {"binary_data_size": len(raw)}
            else:
                entry["data"] = to_json_within(tensor, long)
            if tensor.datatype is DataType.BYTES and isinstance(request, KeywordRequest):
                mark(entry)
            outputs.append(entry)
        root: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
        if response.id:
            root["id"] = response.id
        if response.parameters:
            root["parameters"] = dict(response.parameters)
        root["outputs"] = outputs
        # Long lists are encoded in pieces, so that the interpreter lock is released between them.
        text = filled(dumps(root), long)
        if not any(map(len, raws)):  # like Triton, send no binary part if all outputs are empty
            return HttpReply(200, text)
        size = str(len(text)).encode()
        return HttpReply(200, joined((text, *raws)), (_BINARY_TYPE, (LENGTH, size)))

    def _everyday(self, response: InferResponse, tensor: Tensor) -> bytes:
        """Encode the common reply: one output in JSON, without id, parameters or requested outputs."""
        shape = tensor.array.shape
        key = (response.model, response.version, tensor.name, tensor.datatype._value_, shape)
        # Everything but the values is the same for equal shapes, so it is encoded once.
        begun = self._begun.get(key)
        if begun is None:
            entry = {"name": tensor.name, "datatype": tensor.datatype._value_, "shape": shape, "data": []}
            whole = {"model_name": response.model, "model_version": response.version, "outputs": [entry]}
            begun = dumps(whole).removesuffix(b"[]}]}")
            self._begun.add(key, begun)
        values = to_json(tensor)
        if is_long((tensor,)):
            return b"".join((begun, *list_pieces(values), b"}]}"))
        return b"%b%b}]}" % (begun, dumps(values))

    def fault(self, error: SalverError) -> HttpReply:
        """Return ``{"error": text}`` with Triton's status."""
        return http_fault(error)


def _for_another(
    kind: type[OpenInferenceHttp], most: int, takes_short: bool, forms: Forms
) -> OpenInferenceHttp:
    return kind(NO_REGIONS, most, takes_short=takes_short, forms=forms)


def _check_sizes(request: InferRequest, most: int) -> None:
    """Bound the size of tensors from JSON, where two bytes (``1,``) may become eight."""
    for tensor in request.inputs:
        if tensor.datatype is DataType.BYTES:
            size = sum(map(len, tensor.array.ravel().tolist())) + 4 * tensor.array.size
        else:
            size = tensor.array.nbytes
        if size > most:
            raise over_limit(
                f"JSON input '{tensor.name}' has a byte_size ({size} bytes) that exceeds the maximum allowed "
                f"value of {most}"
            )


def _plain_inputs(body: bytes) -> tuple[Tensor, ...] | None:
    """Return the inputs of a common request: FP32 numbers in flat lists, without optional fields.

    None means that it is another kind of request or malformed, and the general decoder must read it.
    """
    try:
        root = orjson.loads(body)
        if len(root) != 1:
            return None
        inputs = []
        for entry in root["inputs"]:
            name, shape, data = entry["name"], entry["shape"], entry["data"]
            if entry["datatype"] != "FP32" or len(entry) != 4 or type(name) is not str:
                return None
            if type(data) is not list or len(data) > _SMALL or set(map(type, shape)) != _INTEGERS:
                return None
            # struct.pack checks that every element is a number, and is faster than numpy for short lists.
            values = np.frombuffer(struct.pack(f"={len(data)}f", *data), np.float32)
            inputs.append(Tensor(name, DataType.FP32, values.reshape(shape)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, OverflowError):
        return None
    if len(inputs) == 1:
        if min(shape) < 0:
            return None  # numpy would infer an extent of -1
        return tuple(inputs)
    return None


def _decode_root(http: HttpBody, root: Any, tail: memoryview | None, regions: Regions) -> InferRequest:
    if type(root) is not dict:
        raise InvalidInput(f"the request must be a JSON object, not {kind_of(root)}")
    entries = root.get("inputs")
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise InvalidInput(_not_a_list(entries, "inputs"), field="inputs")
    used = 0
    reader = Reader(regions, http.model)
    inputs: list[Tensor] = []
    for index, entry in enumerate(entries):
        tensor, size = _decode_input(entry, index, reader, tail, used)
        used += size
        inputs.append(tensor)
    if len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs):
        raise unfit(f"input '{first_twice(inputs)}' already exists in request")
    if tail is not None and used != len(tail):
        raise InvalidInput(f"unexpected additional input data for model '{http.model}'")
    mark = root.get("id", "")
    if type(mark) is not str:
        raise InvalidInput(f"id must be a string, not {kind_of(mark)}", field="id")
    wanted = root.get("outputs")
    outputs = held(regions, _decode_outputs(wanted), used=reader.used) if wanted is not None else ()
    parameters = root.get("parameters")
    return InferRequest(
        http.model,
        tuple(inputs),
        http.version,
        mark,
        outputs,
        _decode_parameters(parameters) if parameters is not None else _NONE,
    )


def _decode_input(
    entry: Any, index: int, reader: Reader, tail: memoryview | None, used: int
) -> tuple[Tensor, int]:
    """Return one input and the number of bytes that it took of the binary part."""
    at = f"inputs[{index}]"
    if type(entry) is not dict:
        raise InvalidInput(f"{at} must be an object, not {kind_of(entry)}", field=at)
    name, model = entry.get("name"), reader.model
    if type(name) is not str:
        raise InvalidInput(f"{at}.name must be a string, not {kind_of(name)}", field=f"{at}.name")
    shape: Any = entry.get("shape")
    count = count_elements(shape, at)
    datatype = find_datatype(entry.get("datatype"), at)
    parameters = entry.get("parameters")
    if parameters is not None:
        if type(parameters) is not dict:
            raise InvalidInput(f"{at}.parameters must be an object", field=f"{at}.parameters")
        if "binary_data_size" in parameters:
            raw = _slice(entry, parameters["binary_data_size"], model, tail, used, at)
            try:
                array = from_raw(raw, datatype, shape, count, at)
            except InvalidInput as error:
                raise wrong_size(error, raw, datatype, count, name, model) from None
            return Tensor(name, datatype, array), len(raw)
        if "shared_memory_region" in parameters:
            return reader.tensor(name, datatype, shape, count, _place(entry, name), at), 0
    data = entry.get("data")
    if data is None and "data" not in entry:
        raise _not_one_source(" no field is set")
    if datatype is DataType.FP16 or datatype is DataType.BF16:
        raise InvalidInput(
            f"receiving {datatype.name} data via JSON is not supported. "
            f"Please use the binary data format for input {name}"
        )
    field = f"{at}.data"
    array = from_json(data, datatype, field) if type(data) is list else _from_buffer(data, datatype, field)
    return Tensor(name, datatype, shaped(array, shape, count, field)), 0


def _place(entry: dict[str, Any], name: str) -> Place:
    if "data" in entry:
        raise _not_one_source(" set 'data' 'shared_memory_region'")
    return place_of(entry["parameters"], name)


def _from_buffer(data: Any, datatype: DataType, field: str) -> Array:
    """Return the values of a list that :mod:`large_json` has already parsed into a buffer."""
    if data is None or isinstance(data, str | int | float | dict):
        raise InvalidInput(f"{field} must be a list, not {kind_of(data)}", field=field)
    return cast(data, datatype, field)


def _not_one_source(found: str) -> InvalidInput:
    return InvalidInput(
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        f"'shared_memory_region' in 'parameters'. But{found}"
    )


def _slice(
    entry: dict[str, Any], size: Any, model: str, tail: memoryview | None, used: int, at: str
) -> memoryview:
    field = f"{at}.parameters.binary_data_size"
    if type(size) is not int or size < 0:
        raise InvalidInput(f"{field} must be an integer of at least 0", field=field)
    others = ""
    if "shared_memory_region" in entry["parameters"]:
        others = " 'shared_memory_region'"
    if "data" in entry or others:
        data = " 'data'" if "data" in entry else ""
        raise _not_one_source(f" set{data} 'binary_data_size'{others}")
    if tail is None:
        raise InvalidInput(
            f"{at} has binary_data_size, but the header Inference-Header-Content-Length is missing",
            field=field,
        )
    if size > len(tail) - used:
        raise InvalidInput(
            f"unexpected size for input '{entry['name']}', "
            f"expecting {size - len(tail) + used} additional bytes for model '{model}'"
        )
    return tail[used : used + size]


def _header_length(header: bytes, size: int) -> int:
    text = header.strip()
    if not text.isdigit() or len(text) > 18:
        raise _no_length(text, size, f"must be a number of bytes, not {header[:40]!r}")
    length = int(text)
    if length > size:
        raise _no_length(text, size, f"is {length}, but the body has {size} bytes")
    return length


def _no_length(text: bytes, size: int, why: str) -> InvalidInput:
    return tritons(
        InvalidInput(f"the header Inference-Header-Content-Length {why}"),
        f"inference header size should be in range (0, {size}), got: {text[:40].decode('latin-1')}",
    )


def _decode_raw(http: HttpBody, signature: Signature) -> InferRequest:
    """Decode a body that is the model's one input (TR-R25); the reply is binary."""
    if len(signature.inputs) != 1:
        raise unfit(
            "Raw request must only have 1 input (found 1) to be deduced "
            f"but got {len(signature.inputs)} inputs in '{http.model}' model configuration"
        )
    spec = signature.inputs[0]
    body, shape = http.body, list(spec.shape)
    if signature.batched and shape:
        shape[0] = 1
    free = [axis for axis, dim in enumerate(shape) if dim < 0]
    if spec.datatype is DataType.BYTES:
        if shape != ([1, 1] if signature.batched else [1]):
            raise unfit(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
        body = len(body).to_bytes(4, "little") + body
    elif len(free) > 1:
        raise unfit(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more than "
            "one variable-sized dimension"
        )
    elif free:
        shape[free[0]] = 1
        row = _product(shape) * spec.datatype.itemsize
        shape[free[0]] = len(body) // row if row else 0
    count = _product(shape)
    try:
        array = from_raw(body, spec.datatype, shape, count, "the raw binary body")
    except InvalidInput as error:
        raise wrong_size(error, body, spec.datatype, count, spec.name, http.model) from None
    return InferRequest(
        http.model, (Tensor(spec.name, spec.datatype, array),), http.version, parameters=_RAW_REPLY
    )


def _product(shape: list[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _decode_outputs(entries: Any) -> tuple[RequestedOutput, ...]:
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise InvalidInput(_not_a_list(entries, "outputs"), field="outputs")
    wanted: list[RequestedOutput] = []
    for index, entry in enumerate(entries):
        at = f"outputs[{index}]"
        if type(entry) is not dict:
            raise InvalidInput(f"{at} must be an object, not {kind_of(entry)}", field=at)
        name = entry.get("name")
        if type(name) is not str:
            raise InvalidInput(f"{at}.name must be a string, not {kind_of(name)}", field=f"{at}.name")
        parameters = entry.get("parameters")
        if parameters is None:
            wanted.append(RequestedOutput(name))
            continue
        parsed = _decode_parameters(parameters, f"{at}.parameters")
        _refuse_non_boolean(parsed, "binary_data", f"{at}.parameters")
        if type(parsed.get(classification.PARAMETER, 0)) is not int:
            field = f"{at}.parameters.{classification.PARAMETER}"
            raise InvalidInput(f"{field} must be an integer of at least 0", field=field)
        wanted.append(RequestedOutput(name, parsed))
    once_each(wanted)
    return tuple(wanted)


def _decode_parameters(parameters: Any, at: str = "parameters") -> Mapping[str, Parameter]:
    if type(parameters) is not dict:
        raise InvalidInput(f"{at} must be an object, not {kind_of(parameters)}", field=at)
    if len(parameters) > MAX_TENSORS:
        raise InvalidInput(f"{at} has {len(parameters)} entries; at most {MAX_TENSORS} are allowed", field=at)
    for name, value in parameters.items():
        if type(value) not in (bool, int, float, str):
            raise InvalidInput(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            )
        if type(value) is int and not -(1 << 63) <= value < 1 << 63 and name != "sequence_id":
            parameters[name] = float(value)  # as in Triton
        if name.startswith(_OWN):
            raise InvalidInput(
                "parameter keys starting with 'triton_' are reserved for Triton usage "
                "and should not be specified."
            )
    for name in ("binary_data_output", "sequence_start", "sequence_end"):
        _refuse_non_boolean(parameters, name, at)
    id = parameters.get("sequence_id", 0)
    if type(id) is not str and (type(id) is not int or not 0 <= id < 1 << 64):
        field = f"{at}.sequence_id"
        raise InvalidInput(f"{field} must be a whole number of 64 bits, or a string", field=field)
    return parameters


def _refuse_non_boolean(parameters: Mapping[str, Parameter], name: str, at: str) -> None:
    if type(parameters.get(name, False)) is not bool:
        raise InvalidInput(f"{at}.{name} must be a boolean", field=f"{at}.{name}")


def _binary_by_name(request: InferRequest) -> dict[str, bool]:
    """Return which outputs are binary, by name; the empty name has the default if no output is requested."""
    binary = {"": request.parameters.get("binary_data_output") is True}
    for output in request.outputs:
        binary[output.name] = output.parameters.get("binary_data") is True
    return binary


def _not_a_list(entries: Any, field: str) -> str:
    if type(entries) is list:
        return f"{field} has {len(entries)} entries; at most {MAX_TENSORS} are allowed"
    return f"{field} must be a list, not {kind_of(entries)}"

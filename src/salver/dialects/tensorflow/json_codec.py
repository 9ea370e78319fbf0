"""Codecs of Predict requests in TensorFlow Serving's JSON, which KServe's first protocol shares.

Bodies have rows (``instances`` to ``predictions``) or columns (``inputs`` to ``outputs``). Names and
datatypes come from the signature, shapes from the nesting (TF-R8 to TF-R16). Each request has a codec of
its own, since its errors name the model. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from salver.dialects.tensorflow import json_layout as tfs_layout
from salver.dialects.tensorflow.faults import tfs_fault
from salver.dialects.tensorflow.json_layout import quoted
from salver.dialects.tensorflow.json_shown import shown
from salver.dialects.tensorflow.json_tensors import RowCheck, as_status, is_base64, tensor_of, tensor_of_rows
from salver.dialects.tensorflow.large_predict import LARGE, read_large
from salver.dialects.tensorflow.rapid_json import parse
from salver.dialects.tensorflow.rules import DEFAULT
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.forms import NO_FORMS, Forms, no_explainer
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, NotFound, SalverError
from salver.words.messages import InferRequest, InferResponse, Parameter, Signature, TensorSpec
from salver.words.tensor import Tensor

#: Marks a request in columns, whose answer is in columns, too.
_COLUMNS: Final = "tfs_columns"
_IN_COLUMNS: Final[Mapping[str, Parameter]] = {_COLUMNS: True}
_IN_ROWS: Final[Mapping[str, Parameter]] = {}
_SAVED_MODEL: Final = "tensorflow_savedmodel"
#: Number of values that take milliseconds to write.
MANY: Final = 32_768


def servable_name(model: str, version: str) -> str:
    """Return the name of a model in TensorFlow Serving's error texts.

    >>> servable_name("m", ""), servable_name("m", "3")
    ('Latest(m)', 'Specific(m, 3)')
    """
    if version:
        return f"Specific({model}, {version})"
    return f"Latest({model})"


def servable_not_found(name: str, error: SalverError) -> NotFound:
    """Return the error that no version can answer (TF-R21), with the reason if it is known.

    Args:
        name: From :func:`servable_name`.
    """
    text = f"Servable not found for request: {name}"
    if error.code is Code.NOT_READY or error.fix:
        text += f": {error}"
    return NotFound(text)


def root_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        InvalidInput: It is no object, or its signature_name is no text.
    """
    root = parse(body)
    if type(root) is not dict:
        raise InvalidInput(f"JSON Value: {shown(root)} Is not object")
    if type(root.get("signature_name", "")) is not str:
        raise InvalidInput(
            f"JSON Value: {shown(root)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return root


class ModelCodec(Codec[HttpBody, HttpReply]):
    """Base of the codecs of requests to a model.

    Args:
        name: From :func:`servable_name`.
        checks_method: Whether the signature's method has to be that of the request.
        forms: Reads requests to models that take forms.
        first_output: Whether predictions by row are those of the first output alone; of a SavedModel they are
            always those of all, since KServe runs it in TensorFlow Serving.
    """

    protocol = "tfs-http"

    def __init__(
        self,
        name: str = "Latest()",
        *,
        checks_method: bool = False,
        forms: Forms = NO_FORMS,
        first_output: bool = False,
    ) -> None:
        self._name = name
        self._first_output = first_output
        self._forms = forms
        self._checks_method = checks_method

    def takes_long(self, response: InferResponse) -> bool:
        """See :class:`~salver.kernel.serving.ports.Codec`."""
        count = 0
        for tensor in response.outputs:
            count += tensor.array.size
        return count >= MANY

    def fault(self, error: SalverError) -> HttpReply:
        """Return ``{"error": text}``; the text is TensorFlow Serving's if it has one."""
        if error.code in (Code.NOT_FOUND, Code.NOT_READY) and not error.is_late:
            return tfs_fault(servable_not_found(self._name, error))
        return tfs_fault(error)


class Predict(ModelCodec):
    """Codec of ``POST /v1/models/{m}:predict``, also for KServe's handlers."""

    explains = False
    _handler = ""  # name of the model, if it is a handler

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request. Raises Unsupported if JSON has no form for the datatype of an input."""
        if signature.takes_forms:
            self._handler = http.model
            return self._forms.read(http, explains=self.explains)
        if self.explains:
            raise no_explainer(http.model)
        if signature.platform == _SAVED_MODEL:
            self._first_output = False
        read = None
        if len(http.body) >= LARGE:
            read = read_large(http.body, signature)
        if read is not None:
            key, in_columns, tensors = read.key or DEFAULT, read.in_columns, read.tensors
            chosen = signature.named(key)
        else:
            root = root_of(http.body)
            if self._first_output:
                root = _in_rows(root, signature)
            key = root.get("signature_name") or DEFAULT
            chosen = signature.named(key)
            if chosen is None:
                raise InvalidInput(f'Serving signature name: "{key}" not found in signature def')
            inputs = {spec.name: spec for spec in chosen.inputs}
            if not inputs:
                named = root.get("signature_name") or "DEFAULT"
                raise InvalidInput(f"Failed to get input map for signature: {named}")
            in_columns, tensors = _read(root, inputs)
        return InferRequest(
            http.model,
            tensors,
            http.version,
            parameters=_IN_COLUMNS if in_columns else _IN_ROWS,
            signature="" if chosen is signature else key,
            any_shape=True,
        )

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return predictions by row, without names if there is one output; or columns, as in the request.

        Raises:
            InvalidInput: There is no output, or outputs cannot be split into rows.
        """
        if self._handler:
            return self._forms.write(response)
        outputs = response.outputs
        if not outputs:
            raise InvalidInput("Cannot convert empty tensor map to JSON")
        if _COLUMNS in request.parameters:
            return HttpReply(200, tfs_layout.object_of([(b'"outputs"', _columns(outputs))], 0))
        if self._first_output:
            outputs = outputs[:1]
        _check_rows(outputs)
        return HttpReply(200, tfs_layout.object_of([(b'"predictions"', _rows(outputs))], 0))

    def fault(self, error: SalverError) -> HttpReply:
        """Return the error, for a handler with TorchServe's keys as well."""
        if not self._handler:
            return super().fault(error)
        fault = self._forms.fault(error, self._handler)
        more = [(b'"code"', b"%d" % fault.status), (b'"type"', quoted(fault.kind))]
        reply = tfs_fault(error, *more, (b'"message"', quoted(fault.message)))
        reply.status = fault.status
        return reply


class Explain(Predict):
    """Codec of ``POST /v1/models/{m}:explain``, which only handlers have."""

    explains = True


def _in_rows(root: dict[str, Any], signature: Signature) -> dict[str, Any]:
    """Return KServe's ``{"inputs": [{column: values}]}`` as rows of a table; any other request as it is."""
    frames, table = root.get("inputs"), signature.table
    if table is None or type(frames) is not list or not all(type(frame) is dict for frame in frames):
        return root
    rows: list[dict[str, Any]] = []
    for i, frame in enumerate(frames):
        columns = [values if type(values) is list else [values] for values in frame.values()]
        if len(set(map(len, columns))) > 1:
            raise InvalidInput(f"the columns of inputs[{i}] have different lengths", field=f"inputs[{i}]")
        rows += [dict(zip(frame, row, strict=True)) for row in zip(*columns, strict=True)]
    return {"signature_name": table.name, "instances": rows}


def _read(root: dict[str, Any], inputs: Mapping[str, TensorSpec]) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether the request is in columns, and the tensors."""
    if "instances" in root and "inputs" in root:
        raise InvalidInput(
            f"JSON Value: {shown(root)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist "
        )
    if "inputs" in root:
        return True, _from_columns(root["inputs"], inputs)
    if "instances" not in root:
        raise InvalidInput("Missing 'inputs' or 'instances' key")
    rows = root["instances"]
    if type(rows) is not list:
        raise InvalidInput(f"JSON Value: {shown(root)} Expecting 'instances' to be an list/array")
    if not rows:
        raise InvalidInput(f"JSON Value: {shown(root)} No values in 'instances' array")
    return False, _from_rows(rows, inputs)


def _is_object(value: Any) -> bool:
    """Return whether a value is an object of named inputs; ``{"b64": ...}`` is a single value."""
    return type(value) is dict and not is_base64(value)


def _only(inputs: Mapping[str, TensorSpec]) -> TensorSpec | None:
    """Return the input for values without a name; None if there are several."""
    required = [expected for expected in inputs.values() if not expected.optional] or list(inputs.values())
    return required[0] if len(required) == 1 else None


def _from_columns(value: Any, inputs: Mapping[str, TensorSpec]) -> tuple[Tensor, ...]:
    if not _is_object(value):
        only = _only(inputs)
        if only is None:
            raise InvalidInput(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as "
                "per tensorinfo_map"
            )
        return (tensor_of(value, only),)
    tensors = []
    for name, expected in inputs.items():
        if name in value:
            tensors.append(tensor_of(value[name], expected))
        elif not expected.optional:
            raise InvalidInput(f"Missing named input: {name} in 'inputs' object.")
    return tuple(tensors)


def _from_rows(rows: list[Any], inputs: Mapping[str, TensorSpec]) -> tuple[Tensor, ...]:
    only = _only(inputs)
    if only is None and type(rows[0]) is not dict:
        raise InvalidInput(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map"
        )
    if _is_object(rows[0]):
        return _from_objects(rows, inputs)
    only = only or min(inputs.values(), key=lambda expected: expected.name)
    wrong = len(rows)
    if dict in set(map(type, rows)):
        wrong = next((index for index, row in enumerate(rows) if _is_object(row)), wrong)
    count = len(rows)
    tensor, place = tensor_of_rows(rows[:wrong] if wrong < count else rows, only)  # a slice copies
    if tensor is None:
        raise _refusal([{only.name: rows[0]}, {only.name: rows[place]}], (0, place), inputs, has_keys=False)
    if wrong < count:
        raise InvalidInput(f"Expecting value/list but got object at item {wrong} of input list")
    return (tensor,)


def _from_objects(rows: list[Any], inputs: Mapping[str, TensorSpec]) -> tuple[Tensor, ...]:
    keys = rows[0].keys()
    required = {name for name, expected in inputs.items() if not expected.optional}
    wrong = 0  # index of the first row that may be wrong
    if required <= keys <= inputs.keys():
        wrong = next(
            (i for i, row in enumerate(rows) if type(row) is not dict or row.keys() != keys), len(rows)
        )
    tensors = []
    if wrong:
        good = rows[:wrong]
        for name in keys:
            tensor, place = tensor_of_rows([row[name] for row in good], inputs[name])
            if tensor is not None:
                tensors.append(tensor)
                continue
            wrong = min(wrong, place)
            good = rows[:wrong]
            if not wrong:
                break
    if wrong == len(rows):
        return tuple(tensors)
    raise _refusal([rows[0], rows[wrong]], (0, wrong), inputs)


def _refusal(
    rows: list[Any], places: tuple[int, int], inputs: Mapping[str, TensorSpec], *, has_keys: bool = True
) -> InvalidInput:
    """Return the error of the second of two rows, of which the first shows the shapes."""
    check = RowCheck(inputs)
    for place, row in zip(places, rows, strict=True):
        if not _is_object(row):
            return InvalidInput(f"Expecting object but got list at item {place} of input list")
        for name, value in row.items():
            try:
                check.add(name, value)
            except SalverError as error:
                key = f" key: {name}" * has_keys
                return InvalidInput(
                    f"Failed to process element: {place}{key} of 'instances' list. Error: {as_status(error)}"
                )
        if not row.keys() >= {name for name, expected in inputs.items() if not expected.optional}:
            break
    return InvalidInput(
        f"Failed to process element: {place} of 'instances' list. JSON object: {shown(row)} "
        f"keys must be equal to: {','.join(sorted(inputs))}"
    )


def _check_rows(outputs: Sequence[Tensor]) -> None:
    size = -1
    for tensor in outputs:
        if not tensor.shape:
            raise InvalidInput(f"Tensor name: {tensor.name} has no shape information ")
        if size not in (-1, tensor.shape[0]):
            raise InvalidInput(
                f"Tensor name: {tensor.name} has inconsistent batch size: {tensor.shape[0]} expecting: {size}"
            )
        size = tensor.shape[0]


def _rows(outputs: Sequence[Tensor]) -> bytes:
    """Return the list of rows: objects with a line for each output, or values on one line."""
    if len(outputs) == 1:
        return tfs_layout.rows_on_one_line(outputs[0], 2)
    columns = [tfs_layout.rows(tensor, 3) for tensor in outputs]
    names = [tfs_layout.quoted(tensor.name) for tensor in outputs]
    return tfs_layout.list_of(
        [tfs_layout.object_of(list(zip(names, row, strict=True)), 2) for row in zip(*columns, strict=True)], 1
    )


def _columns(outputs: Sequence[Tensor]) -> bytes:
    if len(outputs) == 1:
        return tfs_layout.lines(outputs[0], 1)
    return tfs_layout.object_of(
        [(tfs_layout.quoted(tensor.name), tfs_layout.lines(tensor, 2)) for tensor in outputs], 1
    )

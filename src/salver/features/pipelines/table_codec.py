"""Requests with a table by the names of its columns, and their answers.

``{"inputs": [{"age": 41}]}``, MLflow's ``dataframe_split`` and ``dataframe_records``, TensorFlow Serving's
``instances``, delimited text, Parquet and Arrow; answered with ``{"predictions": […]}``.

Pure, but for Parquet and Arrow.
"""

from collections.abc import Mapping
from typing import Any, Final

from salver.encoding.bodies import HttpBody, HttpReply, Message, media_type
from salver.encoding.json_text import dumps, kind_of, loads
from salver.features.pipelines.cells import tensors
from salver.features.pipelines.columnar import read_columnar
from salver.features.pipelines.forms import no_path
from salver.features.pipelines.raw_rows import rows_of
from salver.features.pipelines.tables import DELIMITED, Specs, Table, from_json, from_text
from salver.kernel.serving.ports import Codec
from salver.transport.faults import http_fault
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import PIPELINE, InferRequest, InferResponse, RequestedOutput, Signature
from salver.words.tensor import DataType, Tensor

_MANY: Final = 8_192  # values that take milliseconds to write
_PARAMETERS: Final = ("parameters", "params")
_PROBABILITIES: Final = "probabilities"
_FORMS: Final = frozenset(("inputs", "instances", "dataframe_records", "dataframe_split", *_PARAMETERS))
#: Bodies from which another process decodes.
_LARGE: Final = 1 << 17


class TableRequest(InferRequest, frozen=True):
    """Request with a table; its answer has probabilities by label if ``labels`` are set."""

    labels: tuple[str, ...] = ()


class TableCodec(Codec[HttpBody | Message, HttpReply]):
    """Codec of ``POST /v1/models/{model}`` for models of tables.

    Args:
        model, version: Of the request.
        form: Of a body that comes as a message, to be read by another process: Parquet, Arrow, large text.
    """

    protocol = "pipeline-http"

    def __init__(self, model: str = "", version: str = "", form: str = "") -> None:
        self._model = model
        self._version = version
        self._form = form

    def weigh(self, body: HttpBody | Message) -> int:
        """Return the bytes that are parsed; those of a message are, wherever it is small."""
        if isinstance(body, Message):
            return max(len(body.message), _LARGE)
        return len(body.body)

    def takes_long(self, response: InferResponse) -> bool:
        """See :class:`~salver.kernel.serving.ports.Codec`."""
        return sum(tensor.array.size for tensor in response.outputs) > _MANY

    def decode(self, body: HttpBody | Message, signature: Signature) -> TableRequest:
        """Return the request.

        Raises:
            InvalidInput: the model takes no tables, or this one does not fit it; the text says what does.
            Unsupported: pyarrow is needed, and not installed.
        """
        table = signature.table
        if table is None:  # another version answers now
            raise no_path(self._model, self._version)
        specs = {spec.name: spec for spec in table.inputs}
        parameters: Mapping[str, Any] = {}
        if isinstance(body, Message):
            model, version = self._model, self._version
            sent = self._read(body.message, specs)
        else:
            model, version = body.model, body.version
            sent, parameters = _table(body, specs)
        first = signature.outputs[0]
        outputs, labels = [RequestedOutput(first.name)], tuple[str, ...]()
        if signature.platform == PIPELINE:
            outputs = []  # all that its file names
        if _wants_probabilities(parameters):
            scores = next((spec for spec in signature.outputs if spec.name == _PROBABILITIES), None)
            if scores is None or not scores.labels:
                raise InvalidInput(
                    "the model gives no probabilities",
                    field=_PROBABILITIES,
                    fix="Leave the parameter out; the predictions are what the model gives.",
                )
            outputs.append(RequestedOutput(scores.name))
            labels = scores.labels
        return TableRequest(
            model,
            tensors(sent, specs),
            version,
            outputs=tuple(outputs),
            signature="" if table is signature else table.name,
            labels=labels,
        )

    def _read(self, body: bytes, specs: Specs) -> Table:
        kind = self._form.encode()
        if kind in DELIMITED:
            return _delimited(body, kind, specs)
        return read_columnar(body, self._form, specs)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return predictions by row, and probabilities by label if they were asked for."""
        found = {tensor.name: tensor for tensor in response.outputs}
        if len(found) > 1 and not (isinstance(request, TableRequest) and request.labels):
            return HttpReply(200, dumps({"predictions": rows_of(response)}))
        labels = request.labels if isinstance(request, TableRequest) else ()
        scores = found.pop(_PROBABILITIES) if labels else None
        answer: dict[str, Any] = {"predictions": _values(next(iter(found.values())))}
        if scores is not None:
            rows = scores.array.tolist()
            answer[_PROBABILITIES] = [dict(zip(labels, row, strict=True)) for row in rows]
        return HttpReply(200, dumps(answer))

    def fault(self, error: SalverError) -> HttpReply:
        """Return ``{"error": text}``."""
        return http_fault(error)


def _table(http: HttpBody, specs: Specs) -> tuple[Table, Mapping[str, Any]]:
    kind = media_type(http.headers)
    if kind in DELIMITED:
        return _delimited(bytes(http.content), kind, specs), {}
    root = loads(http.content)
    table = from_json(root, specs)
    if unknown := [name for name in root if name not in _FORMS]:
        raise InvalidInput(
            f"{unknown[0][:100]} is unknown; a request has rows and parameters", field=unknown[0][:100]
        )
    said = [root[name] for name in _PARAMETERS if root.get(name) is not None]
    if any(type(each) is not dict for each in said):
        raise InvalidInput(f"parameters must be an object, not {kind_of(said[0])}", field="parameters")
    return table, said[0] if said else {}


def _delimited(body: bytes, kind: bytes, specs: Specs) -> Table:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not valid UTF-8 ({error.reason} at byte {error.start})",
            fix="Send it encoded as UTF-8.",
        ) from error
    return from_text(text, specs, DELIMITED[kind])


def _wants_probabilities(parameters: Mapping[str, Any]) -> bool:
    if unknown := [name for name in parameters if name != _PROBABILITIES]:
        raise InvalidInput(
            f"the parameter {unknown[0][:100]!r} is unknown",
            field=f"parameters.{unknown[0][:100]}",
            fix="There is one: probabilities.",
        )
    wanted = parameters.get(_PROBABILITIES, False)
    if type(wanted) is not bool:
        raise InvalidInput(
            f"parameters.probabilities must be true or false, not {kind_of(wanted)}",
            field="parameters.probabilities",
        )
    return wanted


def _values(tensor: Tensor) -> Any:
    if tensor.datatype is DataType.BYTES:
        return [value.decode(errors="replace") for value in tensor.array.ravel().tolist()]
    return tensor.array

"""Requests to pipelines in the JSON of transformers' users, and answers as a task's pipeline gives them.

``{"inputs": X, "parameters": {…}}``, where X is a text, a list of texts, or an object with named texts; or a
text alone, with the content type ``text/plain``. An image is its base64 in that place, or its bytes alone.

Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson

from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps, kind_of
from salver.features.pipelines import raw_rows
from salver.features.pipelines.bodies import IMAGE, NO_TEXTS, SOUND, file_fix, parts
from salver.features.pipelines.names import OF_FILES, OF_IMAGES, OF_SEQUENCES, OF_SOUNDS, SUPPORTED
from salver.features.pipelines.parameters import PARAMETERS, from_json, plain_names, to_request
from salver.kernel.serving.ports import Codec
from salver.transport.faults import http_fault
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import PIPELINE, InferRequest, InferResponse, Signature
from salver.words.tensor import Array, DataType, Tensor

_MANY: Final = 32_768  # numbers that take milliseconds to write
_QUERY: Final = 'Send {"query": "…", "texts": ["…", "…"]}, or a pair ["…", "…"].'
_QUESTION: Final = 'Send {"question": "…", "context": "…"}, or a list of such objects.'

Row = Sequence[str | bytes]
Wrap = Callable[[InferResponse], bytes]


class PipelineRequest(InferRequest, frozen=True):
    """Request of this form; ``wrap`` returns the JSON of its answer."""

    wrap: Wrap | None = None


class AskedRows:
    """Rows of a request by the inputs of its task, and what writes the answer."""

    def __init__(self, rows: Sequence[Row], wrap: Wrap) -> None:
        self.rows = rows
        self.wrap = wrap


class PipelineJson(Codec[HttpBody, HttpReply]):
    """Codec of ``POST /v1/models/{model}``."""

    protocol = "pipeline-http"

    def weigh(self, body: HttpBody) -> int:
        """Return 0: texts are decoded in place."""
        return 0

    def takes_long(self, response: InferResponse) -> bool:
        """See :class:`~salver.kernel.serving.ports.Codec`."""
        return sum(tensor.array.size for tensor in response.outputs) > _MANY

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request.

        Raises:
            InvalidInput: the model takes tensors, or the body does not fit its task; the text says what does.
        """
        task = signature.task
        if signature.platform == PIPELINE:
            return _of_pipeline(http, signature)
        if task not in SUPPORTED:
            raise no_path(http.model, http.version)
        inputs, parameters = parts(http, signature)
        return task_request(http, signature, inputs, parameters)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return the answer of the task, or of the pipeline."""
        wrap = request.wrap if isinstance(request, PipelineRequest) else None
        return HttpReply(200, (wrap or _listed)(response))

    def fault(self, error: SalverError) -> HttpReply:
        """Return ``{"error": text}``."""
        return http_fault(error)


def task_request(
    http: HttpBody, signature: Signature, inputs: Any, parameters: Mapping[str, Any], wrap: Wrap | None = None
) -> PipelineRequest:
    """Return the request of a model for a task.

    Args:
        wrap: Writes the answer; None = as the task's pipeline does.

    Raises:
        InvalidInput: the inputs or parameters do not fit the task.
    """
    asked, parameters = asked_rows(signature.task, inputs, parameters)
    return request_of(http, signature, asked.rows, parameters, wrap or asked.wrap)


def asked_rows(task: str, inputs: Any, parameters: Mapping[str, Any]) -> tuple[AskedRows, Mapping[str, Any]]:
    """Return the rows and the parameters that inputs in the form of transformers' pipelines mean.

    Raises:
        InvalidInput: they do not fit the task.
    """
    if task == "zero-shot-classification" and isinstance(inputs, dict):
        inputs, parameters = _zero_shot(inputs, parameters)
    kind = PARAMETERS[task]
    from_json(parameters, kind)  # what is wrong is said before the request waits for a batch
    asked = _READERS.get(task, _texts)(inputs, parameters)
    if not asked.rows:
        fix = file_fix(task) if task in OF_FILES else NO_TEXTS
        raise InvalidInput("inputs is an empty list", field="inputs", fix=fix)
    return asked, plain_names(parameters, kind)


def request_of(
    http: HttpBody, signature: Signature, rows: Sequence[Row], parameters: Mapping[str, Any], wrap: Wrap
) -> PipelineRequest:
    """Return the request with these rows of a task's inputs."""
    names = [spec.name for spec in signature.inputs][: len(rows[0])]
    tensors = tuple(Tensor(name, DataType.BYTES, _column(rows, i)) for i, name in enumerate(names))
    return PipelineRequest(http.model, tensors, http.version, parameters=to_request(parameters), wrap=wrap)


def _of_pipeline(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of a pipeline, whose only input may be the body itself."""
    inputs, parameters = parts(http, signature)
    tensors, wrap = raw_rows.read(inputs, signature.inputs)
    return PipelineRequest(http.model, tensors, http.version, parameters=to_request(parameters), wrap=wrap)


def no_path(model: str, version: str) -> InvalidInput:
    """Return TensorFlow Serving's error for a path that models of tensors do not have."""
    part = f"/versions/{version}" if version else ""
    return InvalidInput(f"Malformed request: POST /v1/models/{model}{part}")


def _text(value: Any, field: str, fix: str = NO_TEXTS) -> str:
    if type(value) is not str:
        raise InvalidInput(f"{field} must be a text, not {kind_of(value)}", field=field, fix=fix)
    return value


def _list(value: Any, field: str, fix: str) -> list[str]:
    if type(value) is not list or not value:
        raise InvalidInput(f"{field} must be a list of texts, not {kind_of(value)}", field=field, fix=fix)
    return [_text(each, f"{field}[{i}]", fix) for i, each in enumerate(value)]


def _named(value: Any, names: Sequence[str], field: str, fix: str) -> Row:
    """Return the texts of an object with these names."""
    if type(value) is not dict:
        raise InvalidInput(f"{field} must be an object, not {kind_of(value)}", field=field, fix=fix)
    if unknown := [name for name in value if name not in names]:
        at = f"{field}.{unknown[0][:100]}"
        raise InvalidInput(f"{at} is unknown", field=at, fix=fix)
    for name in names:
        if name not in value:
            raise InvalidInput(f"{field}.{name} is missing", field=f"{field}.{name}", fix=fix)
    return [_text(value[name], f"{field}.{name}", fix) for name in names]


def _texts(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    """Read a text or a list of texts; the answer is one row, or a list of them."""
    if type(inputs) is list:
        return AskedRows([[_text(each, f"inputs[{i}]")] for i, each in enumerate(inputs)], _listed)
    if type(inputs) is dict and list(inputs) == ["text"]:
        inputs = inputs["text"]
    return AskedRows([[_text(inputs, "inputs")]], _bare)


def _files(fix: str) -> Callable[[Any, Mapping[str, Any]], AskedRows]:
    """Return the reader of a file or a list of files; each is decoded when its batch runs."""

    def read(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
        if type(inputs) is list:
            return AskedRows([[_file(each, f"inputs[{i}]", fix)] for i, each in enumerate(inputs)], _listed)
        return AskedRows([[_file(inputs, "inputs", fix)]], _bare)

    return read


def _file(value: Any, field: str, fix: str) -> str | bytes:
    """Return the bytes of a file, or its base64, perhaps as ``{"b64": …}`` (TensorFlow Serving's)."""
    if type(value) is bytes:
        return value
    if type(value) is dict and list(value) == ["b64"]:
        value = value["b64"]
    return _text(value, field, fix)


def _made(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    """Read texts of a task that makes texts, which answers a list for a single one, too."""
    asked = _texts(inputs, parameters)
    asked.wrap = _listed
    return asked


def _masked(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    asked = _texts(inputs, parameters)
    if len(asked.rows) == 1:  # as transformers does, also for a list of one
        asked.wrap = _bare
    return asked


def _classes(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    fix = 'Send a text, a list of texts, or {"text": "…", "text_pair": "…"}.'
    if type(inputs) is str:
        return AskedRows([[inputs]], _bare if "top_k" in parameters else _listed)
    if type(inputs) is dict:
        names = ("text", "text_pair") if "text_pair" in inputs else ("text",)
        return AskedRows([_named(inputs, names, "inputs", fix)], _bare)
    if type(inputs) is not list:
        raise InvalidInput(f"inputs must be a text, not {kind_of(inputs)}", field="inputs", fix=fix)
    if len(inputs) == 1 and type(inputs[0]) is list and len(inputs[0]) == 2:
        return AskedRows([_list(inputs[0], "inputs[0]", fix)], _listed)
    if inputs and type(inputs[0]) is dict:
        names = ("text", "text_pair") if "text_pair" in inputs[0] else ("text",)
        return AskedRows([_named(each, names, f"inputs[{i}]", fix) for i, each in enumerate(inputs)], _listed)
    return AskedRows([[_text(each, f"inputs[{i}]", fix)] for i, each in enumerate(inputs)], _listed)


def _sentences(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    if type(inputs) is dict and "source_sentence" in inputs:
        fix = 'Send {"source_sentence": "…", "sentences": ["…"]}.'
        source = _text(inputs["source_sentence"], "inputs.source_sentence", fix)
        others = _list(inputs.get("sentences"), "inputs.sentences", fix)
        return AskedRows([[text] for text in (source, *others)], _similarities)
    asked = _texts(inputs, parameters)
    asked.wrap = _embeddings if asked.wrap is _listed else _embedding
    return asked


def _ranked(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    if type(inputs) is dict and "query" in inputs:
        query = _text(inputs["query"], "inputs.query", _QUERY)
        texts = _list(inputs.get("texts"), "inputs.texts", _QUERY)
        shows = inputs.get("return_documents") or inputs.get("return_text")
        return AskedRows(
            [[query, text] for text in texts],
            lambda response: order_of(response, texts if shows else None),
        )
    if type(inputs) is dict:
        return AskedRows([_named(inputs, ("text", "text_pair"), "inputs", _QUERY)], _score)
    if type(inputs) is list and len(inputs) == 2 and type(inputs[0]) is str:
        return AskedRows([_list(inputs, "inputs", _QUERY)], _score)
    if type(inputs) is not list:
        raise InvalidInput(f"inputs must be an object, not {kind_of(inputs)}", field="inputs", fix=_QUERY)
    rows = []
    for i, each in enumerate(inputs):
        pair = _list(each, f"inputs[{i}]", _QUERY)
        if len(pair) != 2:
            raise InvalidInput(
                f"inputs[{i}] must be a pair of texts, not {len(pair)}", field=f"inputs[{i}]", fix=_QUERY
            )
        rows.append(pair)
    return AskedRows(rows, _scores)


def _questions(inputs: Any, parameters: Mapping[str, Any]) -> AskedRows:
    names = ("question", "context")
    if type(inputs) is list:
        rows = [_named(each, names, f"inputs[{i}]", _QUESTION) for i, each in enumerate(inputs)]
        return AskedRows(rows, _bare if len(rows) == 1 else _listed)
    if type(inputs) is dict and type(inputs.get("question")) is list:
        columns = [_list(inputs.get(name), f"inputs.{name}", _QUESTION) for name in names]
        if len(columns[0]) != len(columns[1]):
            raise InvalidInput(
                "inputs.question and inputs.context have different lengths", field="inputs", fix=_QUESTION
            )
        rows = [list(row) for row in zip(*columns, strict=True)]
        return AskedRows(rows, _bare if len(rows) == 1 else _listed)
    return AskedRows([_named(inputs, names, "inputs", _QUESTION)], _bare)


def _zero_shot(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return inputs and parameters of a request that has labels beside its text."""
    more = {name: inputs[name] for name in ("candidate_labels", "candidateLabels") if name in inputs} | dict(
        parameters
    )
    text = next((inputs[name] for name in ("text", "sequences", "sequence") if name in inputs), None)
    return text, more


_READERS: Final = {
    "text-classification": _classes,
    "sentence-embeddings": _sentences,
    "text-ranking": _ranked,
    "fill-mask": _masked,
    "question-answering": _questions,
    **dict.fromkeys(OF_IMAGES, _files(IMAGE)),
    **dict.fromkeys(OF_SOUNDS, _files(SOUND)),
    **dict.fromkeys(OF_SEQUENCES, _made),
}


def _column(rows: Sequence[Row], index: int) -> np.ndarray[Any, Any]:
    array = np.empty(len(rows), dtype=object)
    try:
        array[:] = [_encoded(row[index]) for row in rows]
    except UnicodeEncodeError as error:
        raise InvalidInput(
            "inputs has a lone surrogate", field="inputs", fix="Send valid Unicode."
        ) from error
    return array


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _json_rows(response: InferResponse) -> list[bytes]:
    return list(response.outputs[0].array.tolist())


def _bare(response: InferResponse) -> bytes:
    return _json_rows(response)[0]


def _listed(response: InferResponse) -> bytes:
    return b"[%b]" % b",".join(_json_rows(response))


def _embeddings(response: InferResponse) -> bytes:
    return dumps({"embeddings": response.outputs[0].array})


def _embedding(response: InferResponse) -> bytes:
    return dumps({"embeddings": response.outputs[0].array[0]})


def _similarities(response: InferResponse) -> bytes:
    return dumps({"similarities": similarities(response)})


def similarities(response: InferResponse) -> Array:
    """Return the cosine of the first text with each other one."""
    rows = response.outputs[0].array
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    found: Array = (rows[1:] @ rows[0]) / (lengths[1:] * lengths[0])
    return found


def _scores(response: InferResponse) -> bytes:
    return dumps({"scores": response.outputs[0].array})


def _score(response: InferResponse) -> bytes:
    return dumps({"scores": float(response.outputs[0].array[0])})


def order_of(response: InferResponse, texts: Sequence[str] | None) -> bytes:
    """Return the texts' numbers and scores, the best one first."""
    scores = response.outputs[0].array
    order = np.argsort(-scores, kind="stable").tolist()
    rows: list[dict[str, Any]] = [{"index": i, "score": float(scores[i])} for i in order]
    if texts is not None:
        rows = [row | {"text": texts[row["index"]]} for row in rows]
    return orjson.dumps(rows)

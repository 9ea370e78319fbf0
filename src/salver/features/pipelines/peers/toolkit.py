"""Requests of Hugging Face's inference toolkit: Inference Endpoints, SageMaker's and Vertex AI's containers.

``{"inputs", "parameters"}`` as at ``/v1/models/NAME``, with parameters in the query if the body has none;
``{"instances", "parameters"}`` for Vertex, answered with ``{"predictions"}``; and ``application/x-npy`` as
an answer.

Pure.
"""

import functools
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
import numpy as np

from salver.encoding.bodies import HttpBody, HttpReply, media_type
from salver.encoding.json_text import kind_of, loads
from salver.features.pipelines import raw_rows
from salver.features.pipelines.bodies import JSON, parameters_of, parts, root_parts
from salver.features.pipelines.forms import PipelineJson, PipelineRequest, Row, Wrap, asked_rows, request_of
from salver.features.pipelines.parameters import to_request
from salver.features.pipelines.peers import tei
from salver.features.pipelines.peers.codec import PeerCodec
from salver.transport.faults import http_fault
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import PIPELINE, InferRequest, InferResponse, Signature
from salver.words.tensor import Tensor

_NPY: Final = b"application/x-npy"
_MOST_FIELDS: Final = 64
#: Fields of raw inputs and tables.
_RAW: Final = frozenset(("inputs", "instances", "dataframe_records", "dataframe_split"))
#: Fields that TEI has beside ``inputs``, and the toolkit in ``parameters``.
_OF_TEI: Final = frozenset(("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions"))


def read_at_root(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``POST /``, where TEI has a path, too. Raises InvalidInput."""
    if signature.task == "text-ranking" and "query" in root_of(http):
        return tei.rerank(http, signature)
    if signature.task == "sentence-embeddings" and not _OF_TEI.isdisjoint(root_of(http)):
        return tei.embed(http, signature)
    return read(http, signature)


def read_at_predict(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``POST /predict``, which the toolkit and TEI have. Raises InvalidInput."""
    if signature.task == "text-classification":
        root = root_of(http)
        if "inputs" in root and "parameters" not in root and not http.query:
            return tei.predict(http, signature)
    return read(http, signature)


def read(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request in a body of any content type, or in Vertex AI's form. Raises InvalidInput."""
    root = root_of(http)
    if "instances" in root:
        return _vertex(http, root, signature)
    inputs, parameters = root_parts(root) if root else parts(http, signature)
    if http.query and not parameters:
        parameters = _of_query(http.query)
    if signature.platform == PIPELINE:
        tensors, wrap = raw_rows.read(inputs, signature.inputs)
        return PipelineRequest(
            http.model, tensors, http.version, parameters=to_request(parameters), wrap=wrap
        )
    asked, parameters = asked_rows(signature.task, _unwrapped(inputs, signature.task), parameters)
    return request_of(http, signature, asked.rows, parameters, asked.wrap)


def root_of(http: HttpBody) -> Mapping[str, Any]:
    """Return the JSON object of a body; empty = it is none."""
    if media_type(http.headers) not in JSON or not bytes(http.content[:64]).lstrip().startswith(b"{"):
        return {}
    root: Mapping[str, Any] = loads(http.content)
    return root


def is_of_tensors(http: HttpBody) -> bool:
    """Return whether a body has tensors of the Open Inference Protocol instead of raw inputs."""
    if media_type(http.headers) not in JSON:
        return False
    root = root_of(http)
    inputs = root.get("inputs")
    if type(inputs) is list and inputs:
        return all(type(one) is dict and "datatype" in one for one in inputs)
    return _RAW.isdisjoint(root)


def _unwrapped(inputs: Any, task: str) -> Any:
    """Return inputs without the name that the toolkit's sentence pipelines have for them."""
    is_named = task in ("sentence-embeddings", "text-ranking") and type(inputs) is dict
    if is_named and list(inputs) == ["sentences"]:
        return inputs["sentences"]
    return inputs


def _of_query(query: bytes) -> dict[str, Any]:
    """Return the parameters in a query string, whose values are JSON if they can be."""
    try:
        found = parse_qsl(query.decode("ascii"), errors="strict", max_num_fields=_MOST_FIELDS)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"the query string is malformed: {error}", field="query") from error
    parameters: dict[str, Any] = {}
    for name, text in found:
        try:
            parameters[name] = loads(text.encode())
        except InvalidInput:
            parameters[name] = text
    return parameters


def _vertex(http: HttpBody, root: Mapping[str, Any], signature: Signature) -> PipelineRequest:
    """Return one request for all instances, each of which is answered as if it were asked by itself."""
    instances = root["instances"]
    if type(instances) is not list or not instances:
        raise InvalidInput(
            f"instances must be a list that is not empty, not {kind_of(instances)}", field="instances"
        )
    if signature.platform == PIPELINE:
        tensors, wrap = raw_rows.read(instances, signature.inputs)
        whole = functools.partial(_predictions_of_rows, wrap)
        parameters = to_request(parameters_of(root))
        return PipelineRequest(http.model, tensors, http.version, parameters=parameters, wrap=whole)
    rows: list[Row] = []
    wraps: list[tuple[int, Wrap]] = []
    found: Mapping[str, Any] | None = None
    for index, instance in enumerate(instances):
        own = parameters_of(root)
        if type(instance) is dict and "inputs" in instance:
            instance, more = root_parts(instance)
            own = {**own, **more}
        asked, own = asked_rows(signature.task, _unwrapped(instance, signature.task), own)
        if found is not None and own != found:
            raise InvalidInput(
                f"instances[{index}] has other parameters than instances[0]",
                field=f"instances[{index}]",
                fix="Send it in a request of its own.",
            )
        found = own
        rows += asked.rows
        wraps.append((len(asked.rows), asked.wrap))
    if len({len(row) for row in rows}) > 1:
        raise InvalidInput(
            "instances has single texts and pairs", field="instances", fix="Send them in two requests."
        )
    return request_of(http, signature, rows, found or {}, functools.partial(_predictions, wraps))


def _predictions(wraps: Sequence[tuple[int, Wrap]], response: InferResponse) -> bytes:
    answers, begin = [], 0
    for count, wrap in wraps:
        outputs = tuple(
            Tensor(tensor.name, tensor.datatype, tensor.array[begin : begin + count])
            for tensor in response.outputs
        )
        answers.append(wrap(msgspec.structs.replace(response, outputs=outputs)))
        begin += count
    return b'{"predictions":[%b]}' % b",".join(answers)


def _predictions_of_rows(wrap: Wrap, response: InferResponse) -> bytes:
    return b'{"predictions":%b}' % wrap(response)


class NpyCodec(PeerCodec):
    """Codec whose answers are numpy's files, for models that give numbers."""

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return the first output. Raises Unsupported."""
        tensor = response.outputs[0]
        if not tensor.datatype.is_float and not tensor.datatype.is_integer:
            raise Unsupported(
                f"the answer is {tensor.datatype.name}, and {_NPY.decode()} holds numbers",
                field="accept",
                fix="Accept application/json.",
            )
        file = BytesIO()
        np.save(file, tensor.array, allow_pickle=False)
        return HttpReply(200, file.getvalue(), ((b"content-type", _NPY),))


def codec_of(http: HttpBody) -> PipelineJson:
    """Return the codec of ``/invocations`` for what the caller accepts."""
    kind = NpyCodec if http.headers.get(b"accept", b"").strip().lower() == _NPY else PeerCodec
    return kind(read, http_fault)

"""Requests of Text Embeddings Inference (TEI, 2026-07), Hugging Face's server of embeddings.

Fields have TEI's names and defaults, and unknown ones are ignored, as there. What is not taken is refused:
token ids as inputs, and cutting a text at its beginning. ``["a", "b"]`` is a pair at ``/predict``.

Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
import numpy as np
import orjson

from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps, kind_of
from salver.features.pipelines.forms import PipelineRequest, Row, Wrap, order_of, request_of, similarities
from salver.transport.faults import HTTP, clean, json_headers
from salver.words.errors import Code, InvalidInput, SalverError
from salver.words.messages import InferResponse, Signature

#: Status and type of an error where TEI has its own; its messages for them begin alike.
_ERRORS: Final[Mapping[Code, tuple[int, str]]] = {
    **{code: (HTTP[code], "Backend") for code in Code},
    Code.INVALID_INPUT: (422, "Validation"),
    Code.TOO_LARGE: (413, "Validation"),
    Code.RATE_LIMITED: (429, "Overloaded"),
    Code.OVERLOADED: (429, "Overloaded"),
    Code.NOT_READY: (503, "Unhealthy"),
    Code.UNSUPPORTED: (424, "Backend"),
    Code.MODEL_FAILED: (424, "Backend"),
    Code.UNKNOWN: (424, "Backend"),
    Code.INTERNAL: (424, "Backend"),
}
_DIRECTION: Final = "Leave it out: texts are cut at the end, as the model's tokenizer says."
_Record = TypeVar("_Record", bound=msgspec.Struct)


class NothingAsked(InvalidInput):
    """Request without a text."""


def tei_fault(error: SalverError) -> HttpReply:
    """Return ``{"error", "error_type"}`` with TEI's status. Never raises."""
    status, kind = _ERRORS[error.code]
    if isinstance(error, NothingAsked):
        status, kind = 400, "Empty"
    body = {"error": clean(str(error)), "error_type": kind}
    return HttpReply(status, orjson.dumps(body), json_headers(error))


class Cut(msgspec.Struct, frozen=True):
    """Fields of every request about texts."""

    truncate: bool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"


class EmbedAllRequest(Cut, frozen=True, kw_only=True):
    """Body of ``/embed_all``."""

    inputs: Any


class EmbedRequest(Cut, frozen=True, kw_only=True):
    """Body of ``/embed``."""

    inputs: Any
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None


class PredictRequest(Cut, frozen=True, kw_only=True):
    """Body of ``/predict``."""

    inputs: Any
    raw_scores: bool = False


class RerankRequest(Cut, frozen=True, kw_only=True):
    """Body of ``/rerank``."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Comparison(msgspec.Struct, frozen=True):
    """``inputs`` of ``/similarity``."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Cut, frozen=True):
    """``parameters`` of ``/similarity``."""

    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, frozen=True):
    """Body of ``/similarity``."""

    inputs: Comparison
    parameters: SimilarityParameters | None = None


_EMBED: Final = msgspec.json.Decoder(EmbedRequest)
_EMBED_ALL: Final = msgspec.json.Decoder(EmbedAllRequest)
_PREDICT: Final = msgspec.json.Decoder(PredictRequest)
_RERANK: Final = msgspec.json.Decoder(RerankRequest)
_SIMILARITY: Final = msgspec.json.Decoder(SimilarityRequest)


def read_record(body: bytes | memoryview, decoder: "msgspec.json.Decoder[_Record]") -> _Record:
    """Return a body as a record. Raises InvalidInput."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        raise InvalidInput(text, field=path.strip(".`")) from error
    except UnicodeDecodeError as error:
        raise InvalidInput("the body is not valid UTF-8") from error


def _truncation(asked: Cut) -> dict[str, Any]:
    if asked.truncation_direction.lower() == "left":
        raise InvalidInput(
            "truncation_direction left is not supported", field="truncation_direction", fix=_DIRECTION
        )
    return {} if asked.truncate is None else {"truncation": asked.truncate}


def texts_of(inputs: Any, field: str = "inputs") -> list[str]:
    """Return a text or a list of texts as a list. Raises InvalidInput."""
    if type(inputs) is str:
        inputs = [inputs]
    if type(inputs) is not list:
        raise InvalidInput(f"`{field}` must be a text or a list of texts, not {kind_of(inputs)}", field=field)
    for index, text in enumerate(inputs):
        if type(text) is not str:
            fix = "Send the text: token ids are not taken." if type(text) in (int, list) else ""
            raise InvalidInput(
                f"`{field}[{index}]` must be a text, not {kind_of(text)}", field=f"{field}[{index}]", fix=fix
            )
    if not inputs or "" in inputs:
        raise NothingAsked(f"`{field}` cannot be empty")
    return inputs


def embed(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``/embed``; its answer is a list, also for one text."""
    asked = read_record(http.content, _EMBED)
    rows = [[text] for text in texts_of(asked.inputs)]
    width = signature.outputs[0].shape[-1]
    if asked.dimensions is not None and not 1 <= asked.dimensions <= (width if width > 0 else 1_000_000):
        raise InvalidInput(
            f"`dimensions` must be from 1 to the model's {width}, not {asked.dimensions}", field="dimensions"
        )
    parameters = {
        **_truncation(asked),
        "prompt_name": asked.prompt_name,
        "normalize_embeddings": asked.normalize,
    }
    if asked.dimensions is not None:
        parameters["truncate_dim"] = asked.dimensions
    return request_of(http, signature, rows, parameters, _vectors)


def embed_all(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``/embed_all``: the states of each token."""
    asked = read_record(http.content, _EMBED_ALL)
    rows = [[text] for text in texts_of(asked.inputs)]
    return request_of(http, signature, rows, _truncation(asked), _states)


def similarity(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``/similarity``."""
    asked = read_record(http.content, _SIMILARITY)
    how = asked.parameters or SimilarityParameters()
    if not asked.inputs.sentences:
        raise NothingAsked("`inputs.sentences` cannot be empty")
    texts = texts_of([asked.inputs.source_sentence, *asked.inputs.sentences])
    parameters = {**_truncation(how), "prompt_name": how.prompt_name}
    return request_of(http, signature, [[text] for text in texts], parameters, _similarities)


def predict(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``/predict``: a text, a pair ``["a", "b"]``, or a list of lists of one or two."""
    asked = read_record(http.content, _PREDICT)
    rows, wrap = _sequences(asked.inputs)
    parameters: dict[str, Any] = {**_truncation(asked), "top_k": None}
    if asked.raw_scores:
        parameters["function_to_apply"] = "none"
    return request_of(http, signature, rows, parameters, wrap)


def _sequences(inputs: Any) -> tuple[Sequence[Row], Wrap]:
    if type(inputs) is list and inputs and type(inputs[0]) is list:
        rows = [_sequence(each, f"inputs[{index}]") for index, each in enumerate(inputs)]
        if len({len(row) for row in rows}) > 1:
            raise InvalidInput(
                "`inputs` has single texts and pairs", field="inputs", fix="Send them in two requests."
            )
        return rows, _rows
    return [_sequence(inputs, "inputs")], _row


def _sequence(value: Any, field: str) -> Row:
    texts = texts_of(value, field)
    if len(texts) > 2:
        raise InvalidInput(
            f"`{field}` has {len(texts)} texts; a sequence is a text or a pair",
            field=field,
            fix='Send a batch as [["a"], ["b"], ["c"]].',
        )
    return texts


def rerank(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request of ``/rerank``."""
    asked = read_record(http.content, _RERANK)
    if not asked.texts:
        raise NothingAsked("`texts` cannot be empty")
    texts = asked.texts if asked.return_text else None
    return request_of(
        http,
        signature,
        [[asked.query, text] for text in asked.texts],
        {**_truncation(asked), "raw_scores": asked.raw_scores},
        lambda response: order_of(response, texts),
    )


def _vectors(response: InferResponse) -> bytes:
    return dumps(np.ascontiguousarray(response.outputs[0].array))


def _similarities(response: InferResponse) -> bytes:
    return dumps(similarities(response))


def _rows(response: InferResponse) -> bytes:
    return b"[%b]" % b",".join(response.outputs[0].array.tolist())


def _row(response: InferResponse) -> bytes:
    row: bytes = response.outputs[0].array[0]
    return row


def _states(response: InferResponse) -> bytes:
    # A pipeline puts a list around the states of a text.
    return b"[%b]" % b",".join(row[1:-1] for row in response.outputs[0].array.tolist())


#: Readers by path; ``/predict`` is the toolkit's, too.
READERS: Final[Mapping[str, Callable[[HttpBody, Signature], PipelineRequest]]] = {
    "/embed": embed,
    "/embed_all": embed_all,
    "/rerank": rerank,
    "/similarity": similarity,
}

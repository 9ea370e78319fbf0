"""Codecs of OpenAI's routes.

Codecs of one request each, for ``dataplane.stream``: :class:`Generating` of ``/v1/chat/completions`` and
``/v1/completions``, :class:`Embedding` of ``/v1/embeddings``. They know no route and no loaded model.

Pure.
"""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from salver.dialects.openai.answers import Answer, Usage, number_in, text_in
from salver.dialects.openai.faults import openai_fault
from salver.dialects.openai.inputs import fill, tensors_of
from salver.dialects.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from salver.dialects.openai.voice import Spoken, Voice
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps, loads
from salver.kernel.serving.ports import Codec
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor

_NOTHING = HttpReply(200, b"")


class Generating(Codec[HttpBody, HttpReply]):
    """Codec of one request for text: each reply is some events of a stream, or nothing but kept.

    Attributes:
        failed: The error that its caller has been told, or is to be told; None = there was none.
        prompt: That the model went on from, where it was made here.
        has_begun: There was a response.
    """

    protocol = "openai"

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        spoken: Spoken,
        id: str,
        created: int,
        new_id: Callable[[], str],
    ) -> None:
        self.request = request
        self.failed: HttpReply | None = None
        self.prompt: str | None = None
        self._spoken = spoken
        self._made = functools.partial(Answer, request, id=id, created=created, new_id=new_id)
        self._answer = self._made(spoken)
        self.has_begun = False

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """The model's inputs.

        Raises:
            InvalidInput: naming the field.
        """
        spoken = self._spoken.by(signature)
        if spoken is not self._spoken:
            self._spoken, self._answer = spoken, self._made(spoken)
        asked = fill(signature, self.request, spoken)
        self.prompt = asked.prompt
        return InferRequest(self._spoken.model, asked.inputs, http.version)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Events; without any where no stream was asked for.

        Raises:
            SalverError: the response is an error, and the answer ends with it.
        """
        if response.error is not None:
            raise response.error
        events = b"".join(self._answer.take(response))
        self.has_begun = True
        return HttpReply(200, events) if events else _NOTHING

    def fault(self, error: SalverError) -> HttpReply:
        """OpenAI's error object, once a stream has begun as an event of it."""
        self.failed = openai_fault(error)
        if self.request.stream and self.has_begun:
            return HttpReply(200, b"data: %s\n\n" % self.failed.body)
        return self.failed

    @property
    def voice(self) -> Voice:
        """Of the version that was asked last."""
        return self._spoken.voice

    @property
    def uncounted(self) -> tuple[str, str] | None:
        """Prompt and answer, where somebody has to count their tokens."""
        if self._answer.usage is not None or self.prompt is None or self._spoken.voice.count is None:
            return None
        is_wanted = self.request.wants_usage or not self.request.stream
        return (self.prompt, self._answer.text) if is_wanted else None

    def whole(self, counted: Usage | None) -> HttpReply:
        """The one answer, when the model has said all."""
        return HttpReply(200, self._answer.whole(self._answer.usage or counted))

    def end(self, counted: Usage | None) -> HttpReply:
        """The last events of a stream."""
        return HttpReply(200, b"".join(self._answer.end(self._answer.usage or counted)))


class Embedding(Codec[HttpBody, HttpReply]):
    """Codec of one run of a request for embeddings.

    Args:
        texts: Of this run.

    Attributes:
        vectors: FP32, one for each text; empty until they are there.
        tokens: Of the texts, as the model counts them; None where it does not.
    """

    protocol = "openai"

    def __init__(self, request: EmbeddingRequest, spoken: Spoken, texts: Sequence[str | list[int]]) -> None:
        self.vectors: list[Array] = []
        self.tokens: int | None = None
        self.failed: HttpReply | None = None
        self._request = request
        self._spoken = spoken
        self._texts = texts

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """The texts as the model's input.

        Raises:
            InvalidInput: the model takes no texts, or gives no embeddings.
        """
        model = self._spoken.model
        if takes_requests(signature):
            told: dict[str, Any] = {"input": self._texts[0], "pooling_params": {}}
            if self._request.dimensions is not None:
                told["pooling_params"] = {"dimensions": [self._request.dimensions]}
            counts = {"return_num_input_tokens": True, "return_num_output_tokens": True}
            values = {"embedding_request": dumps(told).decode(), "text_input": "", **counts}
            wanted = tuple(s for s in signature.inputs if s.name != "text_input" or not s.optional)
            return InferRequest(model, tensors_of(Signature(wanted, ()), values, model), http.version)
        spec = text_input(signature)
        if spec is None or vector_output(signature) is None:
            raise InvalidInput(
                f"model '{model}' gives no embeddings: it has no input embedding_request, and not one text "
                "input and one floating-point output either",
                field="model",
            )
        if not all(isinstance(text, str) for text in self._texts):
            raise InvalidInput(f"model '{model}' takes texts, and no tokens", field="input")
        shape = [1 if extent == -1 else extent for extent in spec.shape]
        if shape and spec.shape[0] == -1:
            shape[0] = len(self._texts)
        if np.prod(shape, dtype=np.int64) != len(self._texts):
            raise InvalidInput(
                f"input '{spec.name}' has the shape {list(spec.shape)}, and does not take "
                f"{len(self._texts)} texts",
                field="input",
            )
        array = np.array([str(text).encode() for text in self._texts], object).reshape(shape)
        inputs = [Tensor(spec.name, DataType.BYTES, array)]
        others = Signature(tuple(s for s in signature.inputs if s.name != spec.name), ())
        inputs += tensors_of(others, {"dimensions": self._request.dimensions}, model)
        return InferRequest(model, tuple(inputs), http.version)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Keeps the vectors.

        Raises:
            SalverError: the response is an error, or holds no vectors.
        """
        if response.error is not None:
            raise response.error
        outputs = {tensor.name: tensor for tensor in response.outputs}
        if not outputs:  # a last response with nothing in it
            return _NOTHING
        self.tokens = number_in(outputs.get("num_input_tokens"))
        if "text_output" in outputs:
            self.vectors.append(_listed(text_in(outputs["text_output"])))
            return _NOTHING
        floats = [tensor for tensor in response.outputs if tensor.datatype.is_float]
        if len(floats) != 1:
            raise ModelFailed("the model gave no embeddings")
        array = floats[0].array
        count = len(self._texts)
        if array.size % count or (array.ndim > 1 and array.shape[0] != count):
            raise ModelFailed(f"the model gave embeddings of shape {list(array.shape)} for {count} texts")
        self.vectors += list(array.reshape(count, -1).astype(np.float32))
        width = self.vectors[0].size
        if self._request.dimensions not in (None, width):
            raise InvalidInput(
                f"model '{self._spoken.model}' gives embeddings of {width} dimensions", field="dimensions"
            )
        return _NOTHING

    def fault(self, error: SalverError) -> HttpReply:
        """OpenAI's error object."""
        self.failed = openai_fault(error)
        return self.failed


def embeddings(request: EmbeddingRequest, vectors: Sequence[Array], tokens: int | None) -> HttpReply:
    """The answer: a vector for each text."""
    if request.encoding_format == "base64":
        told: list[Any] = [base64.b64encode(v.astype("<f4").tobytes()).decode() for v in vectors]
    else:
        told = list(vectors)
    data = [{"object": "embedding", "index": at, "embedding": v} for at, v in enumerate(told)]
    usage = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}
    return HttpReply(200, dumps({"object": "list", "data": data, "model": request.model, "usage": usage}))


def takes_requests(signature: Signature) -> bool:
    """As Triton's vLLM backend: one text a request, in JSON."""
    return any(spec.name == "embedding_request" for spec in signature.inputs)


def rows_of(signature: Signature) -> int:
    """Texts that a model takes in one run; 0 = as many as one likes."""
    spec = text_input(signature)
    if takes_requests(signature) or spec is None or not spec.shape or spec.shape[0] != -1:
        return 1
    return signature.max_rows if signature.batched else 0


def text_input(signature: Signature) -> TensorSpec | None:
    """Where texts go: ``text_input``, or the only input that has to be given."""
    needed = [spec for spec in signature.inputs if not spec.optional] or list(signature.inputs)
    named = [spec for spec in signature.inputs if spec.name == "text_input"]
    found = named[0] if named else needed[0] if len(needed) == 1 else None
    return found if found is not None and found.datatype is DataType.BYTES else None


def vector_output(signature: Signature) -> TensorSpec | None:
    """Where embeddings come from: the only output of floating-point numbers."""
    floats = [spec for spec in signature.outputs if spec.datatype.is_float]
    return floats[0] if len(floats) == 1 else None


def _listed(text: str) -> Array:
    try:
        vector = np.array(loads(text.encode()), np.float32)
    except (InvalidInput, TypeError, ValueError) as error:
        raise ModelFailed(f"the model gave an embedding that is no list of numbers: {error}") from error
    if vector.ndim != 1:
        raise ModelFailed("the model gave an embedding that is no list of numbers")
    return vector

"""Codecs of OpenAI's routes, each for one request that ``dataplane.stream`` answers. Pure."""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from salver.dialects.openai.answers import Answer, Usage, number_in, text_in
from salver.dialects.openai.faults import openai_fault
from salver.dialects.openai.inputs import fill, tensors_of
from salver.dialects.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps, loads
from salver.kernel.serving.ports import Codec
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor

_NOTHING = HttpReply(200, b"")


class GenerationCodec(Codec[HttpBody, HttpReply]):
    """Codec of one request for text; without a stream, replies are empty until :meth:`whole`.

    Attributes:
        failed: Error that its caller gets; None = none.
        prompt: Prompt of the model, if it was made here.
        has_begun: Whether there was a response.
        charges_tokens: The caller has a limit of tokens, which have to be counted in any case.
    """

    protocol = "openai"
    charges_tokens = False

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        resolved: ResolvedModel,
        id: str,
        created: int,
        new_id: Callable[[], str],
    ) -> None:
        self.request = request
        self.failed: HttpReply | None = None
        self.prompt: str | None = None
        self._resolved = resolved
        self._new_answer = functools.partial(Answer, request, id=id, created=created, new_id=new_id)
        self._answer = self._new_answer(resolved)
        self.has_begun = False

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request to the model.

        Raises:
            InvalidInput: A field does not fit the model; the error names it.
        """
        resolved = self._resolved.for_version(signature)
        if resolved is not self._resolved:
            self._resolved, self._answer = resolved, self._new_answer(resolved)
        inputs, self.prompt = fill(signature, self.request, resolved)
        return InferRequest(self._resolved.model, inputs, http.version)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return the events of a response, empty unless the request asks for a stream.

        Raises:
            SalverError: The response is an error, which ends the answer.
        """
        if response.error is not None:
            raise response.error
        events = b"".join(self._answer.take(response))
        self.has_begun = True
        return HttpReply(200, events) if events else _NOTHING

    def fault(self, error: SalverError) -> HttpReply:
        """Return OpenAI's error object, as an event once a stream has begun."""
        self.failed = openai_fault(error)
        if self.request.stream and self.has_begun:
            return HttpReply(200, b"data: %s\n\n" % self.failed.body)
        return self.failed

    @property
    def settings(self) -> ChatSettings:
        """Return the settings of the version that was asked last."""
        return self._resolved.settings

    @property
    def usage(self) -> Usage | None:
        """Return the model's counts; None if it does not count."""
        return self._answer.usage

    @property
    def uncounted(self) -> tuple[str, str] | None:
        """Return prompt and answer if their tokens have yet to be counted, else None."""
        if self._answer.usage is not None or self.prompt is None or self._resolved.settings.count is None:
            return None
        if self.request.stream and not (self.request.wants_usage or self.charges_tokens):
            return None
        return self.prompt, self._answer.text

    def whole(self, counted: Usage | None) -> HttpReply:
        """Return the whole answer, after the last response."""
        return HttpReply(200, self._answer.whole(self._answer.usage or counted))

    def end(self, counted: Usage | None) -> HttpReply:
        """Return the last events of a stream."""
        return HttpReply(200, b"".join(self._answer.end(self._answer.usage or counted)))


class EmbeddingCodec(Codec[HttpBody, HttpReply]):
    """Codec of one run for a request for embeddings.

    Args:
        texts: Texts of this run.

    Attributes:
        vectors: One FP32 vector per text, once the model has answered.
        tokens: Tokens of the texts; None if the model does not count them.
    """

    protocol = "openai"

    def __init__(
        self, request: EmbeddingRequest, resolved: ResolvedModel, texts: Sequence[str | list[int]]
    ) -> None:
        self.vectors: list[Array] = []
        self.tokens: int | None = None
        self.failed: HttpReply | None = None
        self._request = request
        self._resolved = resolved
        self._texts = texts

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request to the model, with the texts as its input.

        Raises:
            InvalidInput: The model takes no texts or returns no embeddings.
        """
        model = self._resolved.model
        if takes_json_requests(signature):
            body: dict[str, Any] = {"input": self._texts[0], "pooling_params": {}}
            if self._request.dimensions is not None:
                body["pooling_params"] = {"dimensions": [self._request.dimensions]}
            counts = {"return_num_input_tokens": True, "return_num_output_tokens": True}
            values = {"embedding_request": dumps(body).decode(), "text_input": "", **counts}
            wanted = tuple(s for s in signature.inputs if s.name != "text_input" or not s.optional)
            return InferRequest(model, tensors_of(Signature(wanted, ()), values, model), http.version)
        spec = text_input(signature)
        if spec is None or vector_output(signature) is None:
            raise InvalidInput(
                f"model '{model}' returns no embeddings: it has no input embedding_request, and not one text "
                "input and one floating-point output either",
                field="model",
            )
        if not all(isinstance(text, str) for text in self._texts):
            raise InvalidInput(f"model '{model}' accepts texts, not tokens", field="input")
        shape = [abs(extent) for extent in spec.shape]  # a free extent, -1, becomes 1
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
        """Keep the vectors and return an empty reply.

        Raises:
            SalverError: The response is an error or holds no vectors.
        """
        if response.error is not None:
            raise response.error
        outputs = {tensor.name: tensor for tensor in response.outputs}
        if not outputs:  # an empty last response
            return _NOTHING
        self.tokens = number_in(outputs.get("num_input_tokens"))
        if "text_output" in outputs:
            self.vectors.append(_parse_vector(text_in(outputs["text_output"])))
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
                f"model '{self._resolved.model}' gives embeddings of {width} dimensions", field="dimensions"
            )
        return _NOTHING

    def fault(self, error: SalverError) -> HttpReply:
        """Return OpenAI's error object."""
        self.failed = openai_fault(error)
        return self.failed


def embeddings(request: EmbeddingRequest, vectors: Sequence[Array], tokens: int | None) -> HttpReply:
    """Return the answer, with one vector per text."""
    shown: list[Any] = list(vectors)
    if request.encoding_format == "base64":
        shown = [base64.b64encode(v.astype("<f4").tobytes()).decode() for v in vectors]
    data = [{"object": "embedding", "index": at, "embedding": v} for at, v in enumerate(shown)]
    usage = None
    if tokens is not None:
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return HttpReply(200, dumps({"object": "list", "data": data, "model": request.model, "usage": usage}))


def takes_json_requests(signature: Signature) -> bool:
    """Return whether a model takes one text as JSON, as Triton's vLLM backend does."""
    return any(spec.name == "embedding_request" for spec in signature.inputs)


def rows_of(signature: Signature) -> int:
    """Return how many texts a model takes in one run; 0 = any number."""
    spec = text_input(signature)
    if takes_json_requests(signature) or spec is None or not spec.shape or spec.shape[0] != -1:
        return 1
    return signature.max_rows if signature.batched else 0


def text_input(signature: Signature) -> TensorSpec | None:
    """Return the input for texts: ``text_input``, or the only required input."""
    named = [spec for spec in signature.inputs if spec.name == "text_input"]
    required = [spec for spec in signature.inputs if not spec.optional]
    found = named or required or list(signature.inputs)
    if (not named and len(found) != 1) or found[0].datatype is not DataType.BYTES:
        return None
    return found[0]


def vector_output(signature: Signature) -> TensorSpec | None:
    """Return the output for embeddings: the only one of floating-point numbers."""
    floats = [spec for spec in signature.outputs if spec.datatype.is_float]
    return floats[0] if len(floats) == 1 else None


def _parse_vector(text: str) -> Array:
    try:
        vector = np.array(loads(text.encode()), np.float32)
    except (InvalidInput, TypeError, ValueError) as error:
        raise ModelFailed(f"the model gave an embedding that is not a list of numbers: {error}") from error
    if vector.ndim != 1:
        raise ModelFailed("the model gave an embedding that is not a list of numbers")
    return vector

"""Codec of predictions over REST: any body in, any bytes out (TS-R3 to TS-R5, TS-R12 to TS-R17).

Routes are in ``front.py``. Pure.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from salver.dialects.torchserve.bodies import read_form
from salver.dialects.torchserve.faults import http_fault, no_model, no_version
from salver.dialects.torchserve.json_layout import TorchServeReply, handler_reply, read_reply
from salver.kernel.serving.ports import Codec
from salver.words.errors import NotFound, NotReady, NoVersion, SalverError, Unsupported
from salver.words.handlers import as_request
from salver.words.messages import InferRequest, InferResponse, Signature

_NO_HEADERS: Mapping[str, str] = {}


class HandlerQuery(msgspec.Struct, gc=False):
    """One request to a handler.

    Attributes:
        content_type: Empty = none.
        headers: Headers for the handler, spelled as they were sent.
        query: Parts that come from the path's query.
        id: Unique id of the call.
        sequence: Id of its sequence, and whether it is the first and the last request; None = no sequence.
    """

    body: bytes
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    query: Sequence[tuple[str, str]] = ()
    id: str = ""
    sequence: tuple[str, bool, bool] | None = None


class Prediction(Codec[HandlerQuery, TorchServeReply]):
    """Codec of the routes to one model.

    Args:
        knows: Returns whether a model of that name exists, in any version and state.
        most: Maximum bytes of an answer; 0 = no limit.
    """

    protocol = "ts-http"

    def __init__(self, model: str, version: str, knows: Callable[[str], bool], most: int = 0) -> None:
        self._model = model
        self._version = version
        self._knows = knows
        self._most = most

    def decode(self, query: HandlerQuery, signature: Signature) -> InferRequest:
        """Return the request. Raises Unsupported if the model is no handler; InvalidInput or NamedFault if
        the body is malformed.
        """
        if not signature.takes_forms:
            raise Unsupported(
                f"model '{self._model}' takes tensors and is no handler",
                fix=f"Send POST /v2/models/{self._model}/infer.",
            )
        form = read_form(query.body, query.content_type, query.headers, query.query)
        return as_request(self._model, form, self._version, query.sequence, query.id)

    def encode(self, request: InferRequest, response: InferResponse) -> TorchServeReply:
        """Return the reply, or a piece of it.

        Raises:
            HandlerFailed: the handler failed, or the reply is over the limit.
        """
        return handler_reply(read_reply(response, self._most), is_last=response.is_last)

    def fault(self, error: SalverError) -> TorchServeReply:
        """Return TorchServe's reply to an error. Never raises."""
        if isinstance(error, NoVersion) or type(error) is NotFound:
            if not self._knows(self._model):
                error = no_model(self._model)
            elif self._version:
                error = no_version(self._model, self._version)
            else:
                error = NotReady(error.message)
        return http_fault(error, self._model, self._version)

"""How is a handler asked over HTTP, and what of its answer goes back?

TorchServe's inference routes: any body in, any bytes out (TS-R3 to TS-R5, TS-R12 to TS-R17). It knows no
route and no socket.

Pure.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from salver.dialects.torchserve.bodies import form
from salver.dialects.torchserve.faults import http_fault, no_model, no_version
from salver.dialects.torchserve.json_layout import TorchServeReply, handed
from salver.dialects.torchserve.reply import read_reply
from salver.kernel.serving.ports import Codec
from salver.words.errors import NotFound, NotReady, NoVersion, SalverError, Unsupported
from salver.words.handlers import as_request
from salver.words.messages import InferRequest, InferResponse, Signature

_NO_HEADERS: Mapping[str, str] = {}


class Asking(msgspec.Struct, gc=False):
    """One request to a handler.

    Attributes:
        content_type: Empty = there was none.
        headers: For the handler, which sees them as they were sent.
        query: Parts that stand in the path.
        id: Of the call; no other's.
        sequence: Id of the sequence that it belongs to, whether it is its first one, and its last one.
    """

    body: bytes
    content_type: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    query: Sequence[tuple[str, str]] = ()
    id: str = ""
    sequence: tuple[str, bool, bool] | None = None


class Prediction(Codec[Asking, TorchServeReply]):
    """Codec of the routes that ask one model.

    Args:
        knows: Is there a model of that name, in whatever version and state?
        most: Bytes of an answer; 0 = as many as one likes.
    """

    protocol = "ts-http"

    def __init__(self, model: str, version: str, knows: Callable[[str], bool], most: int = 0) -> None:
        self._model = model
        self._version = version
        self._knows = knows
        self._most = most

    def decode(self, asking: Asking, signature: Signature) -> InferRequest:
        """The request. Raises Unsupported for a model that is no handler, or what its body is not."""
        if not signature.takes_forms:
            raise Unsupported(
                f"model '{self._model}' takes tensors, and is no handler",
                fix=f"Ask it by POST /v2/models/{self._model}/infer.",
            )
        asked = form(asking.body, asking.content_type, asking.headers, asking.query)
        return as_request(self._model, asked, self._version, asking.sequence, asking.id)

    def encode(self, request: InferRequest, response: InferResponse) -> TorchServeReply:
        """The reply, or a piece of it.

        Raises:
            HandlerFailed: that is what it says; or it is larger than may be.
        """
        return handed(read_reply(response, self._most), is_last=response.is_last)

    def fault(self, error: SalverError) -> TorchServeReply:
        """TorchServe's form of an error. Total: never raises."""
        if isinstance(error, NoVersion) or type(error) is NotFound:
            if not self._knows(self._model):
                error = no_model(self._model)
            elif self._version:
                error = no_version(self._model, self._version)
            else:
                error = NotReady(error.message)
        return http_fault(error, self._model, self._version)

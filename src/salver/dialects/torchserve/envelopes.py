"""How do callers of other protocols ask a handler?

By the routes of KServe's two protocols, on a port for everything (X-1, X-7): the handler gets the body as it
came, and its bytes are the answer. Errors have each protocol's own form.

Pure.
"""

from collections.abc import Callable

from salver.dialects.torchserve.bodies import form
from salver.dialects.torchserve.json_layout import JSON, handed
from salver.encoding.bodies import HttpBody, HttpReply
from salver.kernel.serving.ports import Codec
from salver.words.errors import HandlerFailed, SalverError, Unsupported
from salver.words.handlers import EXPLAIN, as_request, reply_of
from salver.words.messages import InferRequest, InferResponse, Signature


def asked(http: HttpBody, *, explains: bool = False) -> InferRequest:
    """What a handler is asked. Raises InvalidInput for a form that is none."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in http.headers.items()} | {
        "explain": "False"
    }
    if explains:
        headers |= EXPLAIN
    return as_request(http.model, form(http.body, headers.get("content-type", ""), headers), http.version)


def answered(response: InferResponse) -> HttpReply:
    """What it says.

    Raises:
        HandlerFailed: that it failed.
    """
    if response.error is not None:
        raise response.error
    outputs = response.outputs
    reply = reply_of(outputs[0].array if outputs else None, response.parameters)
    if reply.is_error:
        raise HandlerFailed(reply.body.decode("utf-8", "replace"), reply.status)
    said = handed(reply)
    typed = any(name == b"content-type" for name, _ in said.headers)
    return HttpReply(said.status, said.body, said.headers if typed else (JSON, *said.headers))


class Explanation(Codec[HttpBody, HttpReply]):
    """Codec of ``POST /v2/models/{m}/explain``.

    Args:
        told: The protocol's own form of an error.
    """

    protocol = "oip-http"

    def __init__(self, told: Callable[[SalverError], HttpReply]) -> None:
        self._told = told

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """The request. Raises Unsupported for models that have no explainer."""
        if not signature.takes_forms:
            raise no_explainer(http.model)
        return asked(http, explains=True)

    def fault(self, error: SalverError) -> HttpReply:
        """The protocol's own form of an error."""
        return self._told(error)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """What the handler says. Raises HandlerFailed."""
        return answered(response)


def no_explainer(model: str) -> Unsupported:
    """It is no handler."""
    return Unsupported(f"model '{model}' has no explainer", fix="Ask its predictions.")

"""Codec of ``POST /v2/models/{m}/explain``, for models that take forms.

Pure.
"""

from salver.dialects.oip.faults import http_fault
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.forms import Forms, no_explainer
from salver.kernel.serving.ports import Codec
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, InferResponse, Signature


class Explanation(Codec[HttpBody, HttpReply]):
    """Codec that passes the body to the model and the model's reply back, both unchanged."""

    protocol = "oip-http"

    def __init__(self, forms: Forms) -> None:
        self._forms = forms

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request. Raises Unsupported for models that have no explainer."""
        if not signature.takes_forms:
            raise no_explainer(http.model)
        return self._forms.read(http, explains=True)

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return the model's reply. Raises HandlerFailed."""
        return self._forms.write(response)

    def fault(self, error: SalverError) -> HttpReply:
        """Return an error of the Open Inference Protocol."""
        return http_fault(error)

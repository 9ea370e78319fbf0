"""Handlers for callers of other protocols.

On the routes of KServe's two protocols, on a port for everything, the handler gets the body as it
came, and its bytes are the answer; or it gets tensors (``tensors.py``). Pure.
"""

from salver.dialects.torchserve.bodies import read_form
from salver.dialects.torchserve.faults import fault_of
from salver.dialects.torchserve.json_layout import JSON, handler_reply, read_reply
from salver.dialects.torchserve.tensors import as_form, as_tensors
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.forms import FormFault
from salver.words.errors import SalverError
from salver.words.handlers import EXPLAIN, as_request
from salver.words.messages import InferRequest, InferResponse


class HandlerForms:
    """Implementation of :class:`salver.encoding.forms.Forms`."""

    def read(self, http: HttpBody, *, explains: bool = False) -> InferRequest:
        """Return the request in an HTTP body. Raises InvalidInput if its form is malformed."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in http.headers.items()}
        headers["explain"] = "False"
        if explains:
            headers |= EXPLAIN
        form = read_form(http.body, headers.get("content-type", ""), headers)
        return as_request(http.model, form, http.version)

    def write(self, response: InferResponse) -> HttpReply:
        """Return the handler's answer.

        Raises:
            HandlerFailed: the handler failed.
        """
        reply = handler_reply(read_reply(response))
        headers = reply.headers
        if all(name != b"content-type" for name, _ in headers):
            headers = (JSON, *headers)
        return HttpReply(reply.status, reply.body, headers)

    def from_tensors(self, request: InferRequest) -> InferRequest:
        """Return a request of tensors as a request for a handler."""
        return as_form(request)

    def to_tensors(self, response: InferResponse) -> InferResponse:
        """Return a handler's answer as tensors. Raises SalverError if the handler failed."""
        return as_tensors(response)

    def fault(self, error: SalverError, model: str) -> FormFault:
        """Return TorchServe's form of an error. Never raises."""
        fault = fault_of(error, model)
        return FormFault(fault.status, fault.kind, fault.message)


FORMS = HandlerForms()

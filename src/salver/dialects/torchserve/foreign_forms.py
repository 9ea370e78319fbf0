"""How callers of other protocols ask a handler.

By the routes of KServe's two protocols, on a port for everything (X-1, X-7): the handler gets the body as it
came, and its bytes are the answer; or it is asked by tensors (``tensors.py``).

Pure.
"""

from salver.dialects.torchserve.bodies import form
from salver.dialects.torchserve.faults import fault_of
from salver.dialects.torchserve.json_layout import JSON, handed
from salver.dialects.torchserve.tensors import as_form, as_tensors
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.forms import FormFault
from salver.words.errors import HandlerFailed, SalverError
from salver.words.handlers import EXPLAIN, as_request, reply_of
from salver.words.messages import InferRequest, InferResponse


class HandlerForms:
    """The handlers' side of :class:`salver.encoding.forms.Forms`."""

    def read(self, http: HttpBody, *, explains: bool = False) -> InferRequest:
        """Return the request in an HTTP body. Raises InvalidInput for a form that is none."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in http.headers.items()}
        headers["explain"] = "False"
        if explains:
            headers |= EXPLAIN
        return as_request(http.model, form(http.body, headers.get("content-type", ""), headers), http.version)

    def write(self, response: InferResponse) -> HttpReply:
        """Return what the handler says.

        Raises:
            HandlerFailed: it failed.
        """
        if response.error is not None:
            raise response.error
        outputs = response.outputs
        reply = reply_of(outputs[0].array if outputs else None, response.parameters)
        if reply.is_error:
            raise HandlerFailed(reply.body.decode("utf-8", "replace"), reply.status)
        whole = handed(reply)
        typed = any(name == b"content-type" for name, _ in whole.headers)
        return HttpReply(whole.status, whole.body, whole.headers if typed else (JSON, *whole.headers))

    def from_tensors(self, request: InferRequest) -> InferRequest:
        """Return a request of tensors as one for a handler."""
        return as_form(request)

    def to_tensors(self, response: InferResponse) -> InferResponse:
        """Return a handler's answer as tensors. Raises that the handler failed."""
        return as_tensors(response)

    def fault(self, error: SalverError, model: str) -> FormFault:
        """Return what TorchServe says of an error. Never raises."""
        fault = fault_of(error, model)
        return FormFault(fault.status, fault.kind, fault.message)


FORMS = HandlerForms()

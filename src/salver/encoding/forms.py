"""Requests of other protocols to models that take forms (``Signature.takes_forms``).

Only the dialect that brings such models knows how a form is asked. Codecs of other dialects get its
:class:`Forms` handed in.
"""

from typing import Final, NamedTuple, NoReturn, Protocol

from salver.encoding.bodies import HttpBody, HttpReply
from salver.words.errors import SalverError, Unsupported
from salver.words.messages import InferRequest, InferResponse


class FormFault(NamedTuple):
    """An error of such a model: an HTTP status, the name of its kind, and its text."""

    status: int
    kind: str
    message: str


class TensorForms(Protocol):
    """Conversion between tensors and forms."""

    def from_tensors(self, request: InferRequest) -> InferRequest:
        """Return the request of tensors as one of a form."""
        ...

    def to_tensors(self, response: InferResponse) -> InferResponse:
        """Return the reply as tensors. Raises the error in it."""
        ...


class Forms(TensorForms, Protocol):
    """Conversion of bodies and tensors to forms, and of replies to bodies and tensors."""

    def read(self, http: HttpBody, *, explains: bool = False) -> InferRequest:
        """Return the request in an HTTP body. Raises InvalidInput."""
        ...

    def write(self, response: InferResponse) -> HttpReply:
        """Return the reply as it is. Raises the error in it."""
        ...

    def fault(self, error: SalverError, model: str) -> FormFault:
        """Return what is said of an error. Never raises."""
        ...


class NoForms:
    """Forms of a server without models that take them."""

    def read(self, http: HttpBody, *, explains: bool = False) -> InferRequest:
        """Refuse. Raises Unsupported."""
        self._refuse()

    def write(self, response: InferResponse) -> HttpReply:
        """Refuse. Raises Unsupported."""
        self._refuse()

    def from_tensors(self, request: InferRequest) -> InferRequest:
        """Refuse. Raises Unsupported."""
        self._refuse()

    def to_tensors(self, response: InferResponse) -> InferResponse:
        """Refuse. Raises Unsupported."""
        self._refuse()

    def fault(self, error: SalverError, model: str) -> FormFault:
        """Return an internal error."""
        return FormFault(500, "InternalServerException", error.message)

    def _refuse(self) -> NoReturn:
        raise Unsupported("the model takes forms, which this server does not support")


NO_FORMS: Final = NoForms()


def no_explainer(model: str) -> Unsupported:
    """Return the error of a model that does not explain its answers."""
    return Unsupported(f"model '{model}' has no explainer", fix="Ask its predictions.")

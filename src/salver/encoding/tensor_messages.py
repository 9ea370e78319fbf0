"""Messages of requests of tensors over gRPC, as a service needs them that has another dialect's.

Pure.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from salver.words.messages import InferRequest, InferResponse, ModelId, Signature
from salver.words.tensor import Array, Tensor


class TensorMessage(Protocol):
    """A ModelInferRequest.

    Attributes:
        version: Empty = the default one.
    """

    model: str
    version: str
    id: str

    def request(self) -> InferRequest:
        """Return the request of tensors. Raises InvalidInput."""
        ...

    def entries(self) -> Sequence[tuple[str, str, list[int], Array | None]]:
        """Return name, datatype, shape and flat values of each input. Raises InvalidInput."""
        ...


class ModelMessages(Protocol):
    """The messages that ask about models."""

    def read_model(self, message: bytes) -> tuple[str, str]:
        """Return name and version of a request. Raises InvalidInput."""
        ...

    def write_ready(self, is_ready: bool) -> bytes:
        """Return a response that says whether something is ready or alive."""
        ...

    def write_metadata(self, id: ModelId, versions: Sequence[str], signature: Signature) -> bytes:
        """Return a ModelMetadataResponse."""
        ...


class TensorMessages(ModelMessages, Protocol):
    """All messages of the protocol (``dialects/oip/foreign_service.py``)."""

    def read_infer(self, message: bytes) -> TensorMessage:
        """Return a ModelInferRequest. Raises InvalidInput."""
        ...

    def is_dense(self, message: bytes) -> bool:
        """Return whether reading a large ModelInferRequest takes long."""
        ...

    def write_infer(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a ModelInferResponse, whose tensors are raw."""
        ...

    def write_values(self, names: tuple[str, str, str], outputs: Sequence[tuple[Tensor, list[Any]]]) -> bytes:
        """Return a ModelInferResponse of model, version and id, whose tensors are values."""
        ...

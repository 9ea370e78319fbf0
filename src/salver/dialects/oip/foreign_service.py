"""gRPC messages of the Open Inference Protocol, for services of other dialects that use them as well.

Pure.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from salver.dialects.oip import grpc_codec as wire
from salver.encoding.raw import from_raw
from salver.encoding.values import count_elements
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature
from salver.words.tensor import DATATYPES, Array, DataType, Tensor


class Entry(NamedTuple):
    """Input as it was sent; its values are not checked against its shape.

    Attributes:
        values: Flat values; None = no values, or an unknown datatype.
    """

    name: str
    datatype: str
    shape: list[int]
    values: Array | None


class InferMessage:
    """Parsed ModelInferRequest.

    Raises:
        InvalidInput: the message cannot be parsed.
    """

    def __init__(self, message: bytes) -> None:
        self._parsed = wire.parse_infer(message)
        self.model: str = self._parsed.model_name
        self.version: str = self._parsed.model_version
        self.id: str = self._parsed.id

    def request(self) -> InferRequest:
        """Return the decoded request. Raises as :func:`salver.dialects.oip.grpc_codec.decode_infer`."""
        return wire.read_infer(self._parsed)

    def entries(self) -> list[Entry]:
        """Return the inputs. Raises InvalidInput."""
        wire.check_counts(self._parsed)
        raws = self._parsed.raw_input_contents
        return [_entry(entry, at, raws) for at, entry in enumerate(self._parsed.inputs)]


def _entry(entry: Any, at: int, raws: Sequence[bytes]) -> Entry:
    datatype = DATATYPES.get(entry.datatype)
    shape: list[int] = entry.shape[:]
    values: Array | None = None
    if datatype is None:
        pass
    elif raws:
        if at >= len(raws):
            raise InvalidInput(f"raw_input_contents has no entry for input '{entry.name}'")
        count = count_elements(shape, f"inputs[{at}]")
        values = from_raw(raws[at], datatype, shape, count, f"inputs[{at}]")
    elif field := wire.CONTENTS.get(datatype):
        found = getattr(entry.contents, field)
        if datatype is DataType.BYTES:
            values = np.empty(len(found), dtype=object)
            values[:] = found
        else:
            values = np.array(found, wire.DTYPES[field])
    return Entry(entry.name, entry.datatype, shape, values)


class OpenInferenceMessages:
    """Reader and writer of the messages."""

    def read_infer(self, message: bytes) -> InferMessage:
        """Return a ModelInferRequest. Raises InvalidInput."""
        return InferMessage(message)

    def is_dense(self, message: bytes) -> bool:
        """Return whether reading a large ModelInferRequest takes long."""
        return wire.is_dense(message)

    def write_infer(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a ModelInferResponse with raw tensors."""
        return wire.encode_infer(request, response)

    def write_values(self, names: tuple[str, str, str], outputs: Sequence[tuple[Tensor, list[Any]]]) -> bytes:
        """Return a ModelInferResponse with tensors as typed values.

        Args:
            names: Model, version and id.
            outputs: Outputs with their values.
        """
        model, version, id = names
        made = wire.INFER_RESPONSE(model_name=model, model_version=version, id=id)
        for tensor, values in outputs:
            output = made.outputs.add(
                name=tensor.name, datatype=tensor.datatype.name, shape=tensor.array.shape
            )
            if field := wire.CONTENTS.get(tensor.datatype):
                getattr(output.contents, field).extend(values)
        return made.SerializeToString()  # type: ignore[no-any-return]

    def read_model(self, message: bytes) -> tuple[str, str]:
        """Return the model's name and version in a request about a model. Raises InvalidInput."""
        return wire.decode_model_request(message)

    def write_ready(self, is_ready: bool) -> bytes:
        """Return a ServerLiveResponse, ServerReadyResponse or ModelReadyResponse, which are identical."""
        return wire.encode_model_ready(is_ready)

    def write_metadata(self, id: ModelId, versions: Sequence[str], signature: Signature) -> bytes:
        """Return a ModelMetadataResponse."""
        return wire.encode_model_metadata(id, versions, signature)

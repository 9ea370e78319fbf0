"""How does TorchServe's own Open Inference service ask handlers?

``org.pytorch.serve.grpc.openinference.GRPCInferenceService`` (TS-G4), whose messages are those of
``inference.GRPCInferenceService``. Models of tensors get a request of it as one of that service (X-18).

Pure.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from salver.dialects.oip import grpc_codec as oip_grpc
from salver.dialects.oip.regions import NO_REGIONS, Regions
from salver.dialects.torchserve.faults import inference_status
from salver.dialects.torchserve.reply import read_reply
from salver.dialects.torchserve.tensors import answer_of, elements, form_of
from salver.encoding.bodies import GrpcStatus
from salver.encoding.raw import from_raw
from salver.encoding.values import count_elements
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, SalverError
from salver.words.handlers import as_request, is_form
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import DATATYPES, DataType, Tensor

_NOT_FOUND: Final = 5


class TensorPrediction(Codec[None, bytes | GrpcStatus]):
    """One ModelInferRequest, and the codec of its reply.

    Args:
        message: The request.
        regions: Where tensors of models of tensors may lie that are not in it.
        most: Bytes of a handler's answer; 0 = as many as it likes.

    Raises:
        InvalidInput: it is none, or names no model.
    """

    protocol = "ts-grpc"

    def __init__(self, message: bytes, regions: Regions = NO_REGIONS, most: int = 0) -> None:
        self._parsed = oip_grpc.parse_infer(message)
        self._regions = regions
        self._most = most
        self.model: str = self._parsed.model_name
        #: Empty = the default one.
        self.version: str = self._parsed.model_version
        if not self.model:
            raise InvalidInput("Parameter model_name is required.")

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """The request. Raises InvalidInput."""
        parsed = self._parsed
        if not signature.takes_forms:
            return oip_grpc.read_infer(parsed, self._regions)
        oip_grpc.check_counts(parsed)
        raws = parsed.raw_input_contents
        inputs = [_input(entry, at, raws) for at, entry in enumerate(parsed.inputs)]
        return as_request(self.model, form_of(self.model, parsed.id, inputs), self.version)

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """A ModelInferResponse, with the contents of its tensors as values.

        Raises:
            SalverError: that the handler failed, or is none for such requests.
        """
        if not is_form(request):
            return oip_grpc.encode_infer(request, response, self._regions)
        answer = answer_of(read_reply(response, self._most))
        made = oip_grpc.INFER_RESPONSE()
        made.model_name = answer.model or response.model
        made.model_version = answer.version or response.version
        made.id = answer.id or self._parsed.id
        for tensor in answer.outputs:
            output = made.outputs.add(
                name=tensor.name, datatype=tensor.datatype.name, shape=tensor.array.shape
            )
            if field := oip_grpc.CONTENTS.get(tensor.datatype):
                getattr(output.contents, field).extend(_values(tensor))
        return made.SerializeToString()  # type: ignore[no-any-return]

    def fault(self, error: SalverError) -> GrpcStatus:
        """The status that ends the call."""
        return inference_status(error, self.model, self.version)


def _input(entry: Any, at: int, raws: Sequence[bytes]) -> dict[str, Any]:
    """An input as the handler's JSON has it; whether its values fit its shape is the handler's to say."""
    told = {"name": entry.name, "shape": entry.shape[:], "datatype": entry.datatype}
    datatype = DATATYPES.get(entry.datatype)
    if datatype is None:
        return told
    if raws:
        if at >= len(raws):
            raise InvalidInput(f"raw_input_contents has no entry for input '{entry.name}'")
        shape = entry.shape[:]
        count = count_elements(shape, f"inputs[{at}]")
        told["data"] = elements(datatype, from_raw(raws[at], datatype, shape, count, f"inputs[{at}]"))
    elif field := oip_grpc.CONTENTS.get(datatype):
        values = getattr(entry.contents, field)
        if datatype is not DataType.BYTES:  # as an array, so that FP32 is written in its own digits
            told["data"] = np.array(values, oip_grpc.DTYPES[field])
        else:
            told["data"] = [base64.b64encode(each).decode() for each in values]
    return told


def _values(tensor: Tensor) -> list[Any]:
    values: list[Any] = tensor.array.reshape(-1).tolist()
    if tensor.datatype is not DataType.BYTES:
        return values
    # TorchServe's have their quotes: its clients read each as JSON.
    return [orjson.dumps(each.decode("utf-8", "replace")) for each in values]


def encode_metadata(model: str, versions: Sequence[str]) -> bytes:
    """A ModelMetadataResponse of a handler, which has no tensors of its own."""
    made = oip_grpc.METADATA_RESPONSE(name=model, versions=versions)
    return made.SerializeToString()  # type: ignore[no-any-return]


def status_of_model(error: SalverError) -> GrpcStatus:
    """How a call that asks about a model ends with that error."""
    status = inference_status(error)
    return GrpcStatus(_NOT_FOUND, status.message) if error.code is Code.NOT_FOUND else status

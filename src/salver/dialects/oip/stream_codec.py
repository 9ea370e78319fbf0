"""Codec of one request of a ModelStreamInfer call, and of its replies.

A request may have any number of replies, including errors, and the last one is marked (TR-G2, TR-G9, TR-G11).

Pure.
"""

from typing import Any

import msgspec

from salver.dialects.oip import grpc_codec as wire
from salver.dialects.oip.classification import with_classes
from salver.dialects.oip.faults import grpc_status
from salver.dialects.oip.keywords import with_keywords
from salver.dialects.oip.regions import NO_REGIONS, Regions
from salver.encoding.bodies import GrpcStatus
from salver.encoding.forms import NO_FORMS, Forms
from salver.kernel.serving.ports import Codec
from salver.words.errors import DeadlineExceeded, Internal, InvalidInput, ModelFailed, SalverError
from salver.words.handlers import is_form
from salver.words.messages import InferRequest, InferResponse, Signature

#: Errors that name the model even if they occur before it is asked.
_LATE = (ModelFailed, DeadlineExceeded, Internal)


class StreamedInfer(Codec[None, bytes | GrpcStatus]):
    """One request and the codec of its replies, which are messages or a status that ends the call.

    Args:
        message: A ModelInferRequest, or the request decoded from it.
        regions: Shared memory in which tensors may be.
        ignores_surplus: See :func:`salver.dialects.oip.grpc_codec.read_infer`.
        forms: Converts requests for models that take forms.
        wants_status: End the call at an error of the model (``triton_grpc_error``) instead of sending a
            message.

    Attributes:
        is_decoupled: The model sends any number of responses; else each response is the last.

    Raises:
        InvalidInput: the message is not a ModelInferRequest.
    """

    protocol = "oip-grpc"
    refused: bytes | GrpcStatus | None = None
    farewell: GrpcStatus | None = None
    __slots__ = (
        "_forms",
        "_has_answered",
        "_has_ended",
        "_ignores_surplus",
        "_parsed",
        "_regions",
        "_request",
        "_wants_end",
        "_wants_status",
        "is_decoupled",
    )

    def __init__(
        self,
        message: "bytes | InferRequest",
        regions: Regions = NO_REGIONS,
        wants_status: bool = False,
        *,
        ignores_surplus: bool = False,
        forms: Forms = NO_FORMS,
    ) -> None:
        self._forms = forms
        self._request = None if isinstance(message, bytes) else message
        self._parsed = wire.parse_infer(message) if isinstance(message, bytes) else _heading(message)
        self._ignores_surplus = ignores_surplus
        self._regions = regions
        self._wants_status = wants_status
        self._wants_end = False
        self._has_answered = False
        self._has_ended = False
        self.is_decoupled = False

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self._parsed.model_name)

    @property
    def version(self) -> str:
        """Version; empty = the server's choice."""
        return str(self._parsed.model_version)

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """Decode the request, without the parameters that concern only its replies.

        Raises:
            InvalidInput: a field is invalid; the error names it.
            TooLarge: a declared shape is absurd.
            NotFound, Unsupported: a tensor in shared memory cannot be read.
        """
        request = self._read() if self._request is None else self._without_wish(self._request)
        if signature.converts:
            if signature.takes_forms:
                return self._forms.from_tensors(request)
            request = with_keywords(request, signature)
        if request.outputs:
            return with_classes(request, signature)
        return request

    def _without_wish(self, request: InferRequest) -> InferRequest:
        if wire.ENABLE_FINAL not in request.parameters:
            return request
        parameters = dict(request.parameters)
        self._wants_end = bool(parameters.pop(wire.ENABLE_FINAL))
        return msgspec.structs.replace(request, parameters=parameters)

    def _read(self) -> InferRequest:
        parameters = self._parsed.parameters
        if wire.ENABLE_FINAL in parameters:
            parameter = parameters[wire.ENABLE_FINAL]
            if parameter.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInput(
                    f"invalid value type for '{wire.ENABLE_FINAL}' parameter, expected bool_param."
                )
            self._wants_end = parameter.bool_param
            del parameters[wire.ENABLE_FINAL]
        return wire.read_infer(self._parsed, self._regions, ignores_surplus=self._ignores_surplus)

    def encode(self, request: InferRequest, response: InferResponse) -> bytes | GrpcStatus:
        """Return a reply; after an error, further replies of a stream may follow."""
        self._has_answered = True
        self._has_ended = response.is_last or not self.is_decoupled
        if response.error is not None:
            return self._error(response.error)
        if is_form(request):
            response = self._forms.to_tensors(response)
        return wire.encode_stream(request, response, self._has_ended, self._regions)

    def fault(self, error: SalverError) -> bytes | GrpcStatus:
        """Return the reply that ends the request. A rejected request's has no model name, as in Triton."""
        self._has_ended = True
        if self._has_answered or error.is_late or isinstance(error, _LATE):
            return self._error(error)
        return wire.encode_stream_mark(self._parsed.id, error=grpc_status(error).message)

    def end(self) -> bytes | None:
        """Return an empty final reply, if the request wants a final marker and no reply has carried it."""
        if self._has_ended or not self._wants_end:
            return None
        self._has_ended = True
        return self._mark("")

    def _error(self, error: SalverError) -> bytes | GrpcStatus:
        status = grpc_status(error)
        if self._wants_status:
            return status
        return self._mark(status.message)

    def _mark(self, error: str) -> bytes:
        parsed = self._parsed
        return wire.encode_stream_mark(
            parsed.id, parsed.model_name, parsed.model_version, is_final=self._has_ended, error=error
        )


def _heading(request: InferRequest) -> Any:
    """Return a ModelInferRequest with the model's name, version and id only."""
    return wire.parse_infer(wire.encode_heading(request))

"""How is a ``TritonPythonModel`` asked, understood and closed?

Each request of a run is handed over by itself and answered by itself: an error object costs its own
caller the answer and nobody else. Knows no wire and no process but its own.
"""

import asyncio
import inspect
import json
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from salver.backends.outputs import Outputs
from salver.backends.protocol import Answer
from salver.dialects.triton.python_backend import pb_utils
from salver.dialects.triton.python_backend.requests import OnlyResponse
from salver.dialects.triton.python_backend.values import KINDS, as_texts
from salver.words.artifacts import Manifest
from salver.words.errors import ModelFailed, SalverError
from salver.words.messages import InferRequest, Parameter, RequestedOutput, Signature
from salver.words.tensor import Array, Tensor

_LONGEST_PARAMETERS: Final = 1 << 20  # characters of a response's, as JSON


class Instance:
    """An instance of the owner's class, and what every way of asking it shares.

    Args:
        name: Its name, for messages.

    Attributes:
        wants_trace: See :class:`~salver.kernel.engine.control.LoadResult`.
    """

    wants_trace = False
    _may_omit = False  # a response may lack outputs

    def __init__(self, model: Any, signature: Signature, manifest: Manifest, name: str) -> None:
        self.signature = signature
        self._model = model
        self._id = manifest.id
        self._name = name
        self._outputs = Outputs(signature, manifest.id.name)
        self._all = tuple(RequestedOutput(spec.name) for spec in signature.outputs)
        self._iterates = manifest.config.sequences.iterative
        self._loop: asyncio.AbstractEventLoop | None = None
        if callable(getattr(model, "is_ready", None)):
            self.is_ready = self._opinion  # as ReadyModel has it

    def _opinion(self) -> bool:
        """What the owner's ``is_ready`` says."""
        said = self._model.is_ready()
        return bool(asyncio.run(_awaited(said)) if inspect.isawaitable(said) else said)

    def close(self) -> None:
        """Call the owner's ``finalize``."""
        model, self._model = self._model, None
        if hasattr(model, "finalize"):
            model.finalize()
        if self._loop is not None:
            self._loop.close()

    def request(self, inputs: Mapping[str, Array]) -> InferRequest:
        """One that wants every output."""
        types = {spec.name: spec.datatype for spec in self.signature.inputs}
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items())
        return InferRequest(self._id.name, tensors, self._id.version, outputs=self._all)

    def execute(self, asked: list[pb_utils.InferenceRequest]) -> Any:
        """What the owner's ``execute`` returns.

        Raises:
            ModelFailed: it raised.
        """
        try:
            said = self._model.execute(asked)
            if inspect.isawaitable(said):
                said = self._own_loop().run_until_complete(said)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            traceback.print_exception(error)  # for the log: the caller is not told the owner's paths
            raise self.failed(f"{type(error).__name__}: {error}") from error
        return said

    def understand(self, request: InferRequest, response: Any) -> Answer | SalverError:
        """What a response means."""
        if not isinstance(response, pb_utils.InferenceResponse):
            return self.failed(
                "Expected an 'InferenceResponse' object in the execute function return list, found type "
                f"'{type(response).__name__}'"
            )
        error = response.error()
        if error is not None:
            return KINDS[error.code()](error.message())
        outputs = {tensor.name(): as_texts(tensor.as_numpy()) for tensor in response.output_tensors()}
        inputs = {tensor.name: tensor.array for tensor in request.inputs}
        wanted = {output.name for output in request.outputs}
        if self._may_omit:
            wanted &= outputs.keys()
        try:
            return Answer(self._outputs.check(outputs, inputs, wanted), _parameters(response.parameters()))
        except ModelFailed as failed:
            return failed

    def again(self, asked: pb_utils.InferenceRequest, response: Any) -> Answer | SalverError | None:
        """What it means that the model wants a request once more; None = it does not."""
        if asked.release_flags != pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE:
            return None
        if response is not None:
            return self.failed(
                "Expected a None object in the execute function return list for reschduled request, "  # so
                f"found type '{type(response)}'."
            )
        if not self._iterates:
            return ModelFailed(
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, which model "
                f"'{self._id.name}' may not",
                fix="Set sequence_batching { iterative_sequence: true } in its configuration.",
            )
        return Answer({}, again=True)

    def failed(self, text: str) -> ModelFailed:
        """A run that went wrong, in Triton's words."""
        return ModelFailed(f"Failed to process the request(s) for model '{self._name}', message: {text}")

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = self._loop or asyncio.new_event_loop()
        return self._loop


class TritonModel(Instance):
    """One that returns a response to each request of a run."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`: as one request."""
        (answer,) = self.answer([self.request(inputs)])
        if isinstance(answer, SalverError):
            raise answer
        return answer.outputs

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        asked = [pb_utils.InferenceRequest.given(request) for request in requests]
        responses = self.execute(asked)
        if responses is None and all(own.only for own in asked):
            responses = [None] * len(asked)
        if not isinstance(responses, list):
            raise self.failed(
                f"Expected a list in the execute return, found type '{type(responses).__name__}'"
            )
        if len(responses) != len(requests):
            raise self.failed(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(requests)}, "
                f"and InferenceResponse(s) size is:{len(responses)}"
            )
        answers = [  # what was sent is the answer, whatever is returned besides
            own.only
            if own.only and (said is None or own.only.response)
            else self.again(own, said) or self.understand(request, said)
            for own, request, said in zip(asked, requests, responses, strict=True)
        ]
        del asked  # and with them senders that nobody keeps: those have nothing more to say
        return [
            self._sent(request, answer.wait()) if isinstance(answer, OnlyResponse) else answer
            for request, answer in zip(requests, answers, strict=True)
        ]

    def _sent(
        self, request: InferRequest, response: pb_utils.InferenceResponse | None
    ) -> Answer | SalverError:
        """What a sender sent, perhaps from another thread, and after execute had returned."""
        return self.understand(request, response) if response else self.failed("no response was sent")


async def _awaited(said: Awaitable[object]) -> object:
    return await said


def _parameters(text: str) -> dict[str, Parameter]:
    if not text:
        return {}
    if len(text) > _LONGEST_PARAMETERS:
        raise ModelFailed(f"the parameters of a response are longer than {_LONGEST_PARAMETERS} characters")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFailed(f"the parameters of a response are no JSON: {error}") from error
    if not isinstance(said, dict) or not all(isinstance(v, bool | int | float | str) for v in said.values()):
        raise ModelFailed("the parameters of a response are no JSON object of texts, numbers and booleans")
    for name, value in said.items():
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise ModelFailed(f"the parameter '{name}' of a response is beyond 64 bits")
    return said

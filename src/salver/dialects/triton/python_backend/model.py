"""Calls of a ``TritonPythonModel``: requests in, responses out, and its end.

Each request of a run has its own response, so that an error fails that request alone.
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
from salver.dialects.triton.python_backend.requests import SingleResponse
from salver.dialects.triton.python_backend.values import KINDS, as_texts
from salver.words.artifacts import Manifest
from salver.words.errors import ModelFailed, SalverError
from salver.words.messages import InferRequest, Parameter, RequestedOutput, Signature
from salver.words.tensor import Array, Tensor

_LONGEST_PARAMETERS: Final = 1 << 20  # limit of a response's parameters, in characters of JSON


class Instance:
    """Instance of the owner's class, with what all ways of calling it share.

    Args:
        name: Name of the instance, for messages.

    Attributes:
        wants_trace: See :class:`~salver.kernel.engine.control.LoadResult`.
    """

    wants_trace = False
    _may_omit = False  # whether a response may lack outputs

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
            self.is_ready = self._ask_ready  # makes it a ReadyModel

    def _ask_ready(self) -> bool:
        """Return what the owner's ``is_ready`` returns."""
        ready = self._model.is_ready()
        if inspect.isawaitable(ready):
            ready = asyncio.run(_wait_for(ready))
        return bool(ready)

    def close(self) -> None:
        """Call the owner's ``finalize``."""
        model, self._model = self._model, None
        if hasattr(model, "finalize"):
            model.finalize()
        if self._loop is not None:
            self._loop.close()

    def request(self, inputs: Mapping[str, Array]) -> InferRequest:
        """Return a request for every output."""
        types = {spec.name: spec.datatype for spec in self.signature.inputs}
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items())
        return InferRequest(self._id.name, tensors, self._id.version, outputs=self._all)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> Any:
        """Return what the owner's ``execute`` returns. Raises ModelFailed if it raises."""
        try:
            returned = self._model.execute(requests)
            if inspect.isawaitable(returned):
                self._loop = self._loop or asyncio.new_event_loop()
                returned = self._loop.run_until_complete(returned)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            traceback.print_exception(error)  # for the log alone: it shows paths of the owner
            raise self.failure(f"{type(error).__name__}: {error}") from error
        return returned

    def interpret(self, request: InferRequest, response: Any) -> Answer | SalverError:
        """Return the answer or the error that a response of the model stands for."""
        if not isinstance(response, pb_utils.InferenceResponse):
            return self.failure(
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

    def reschedule(self, request: pb_utils.InferenceRequest, response: Any) -> Answer | SalverError | None:
        """Return the answer for a request that the model wants to run again; None if it does not."""
        if request.release_flags != pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE:
            return None
        if response is not None:
            return self.failure(
                "Expected a None object in the execute function return list for reschduled request, "  # sic
                f"found type '{type(response)}'."
            )
        if not self._iterates:
            return ModelFailed(
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, which model "
                f"'{self._id.name}' may not",
                fix="Set sequence_batching { iterative_sequence: true } in its configuration.",
            )
        return Answer({}, again=True)

    def failure(self, text: str) -> ModelFailed:
        """Return the error of a failed run, with Triton's text."""
        return ModelFailed(f"Failed to process the request(s) for model '{self._name}', message: {text}")


class TritonModel(Instance):
    """Instance that returns a response to each request of a run."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        (answer,) = self.answer([self.request(inputs)])
        if isinstance(answer, SalverError):
            raise answer
        return answer.outputs

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        executed = [pb_utils.InferenceRequest.from_server(request) for request in requests]
        responses = self.execute(executed)
        if responses is None and all(request.single for request in executed):
            responses = [None] * len(executed)
        if not isinstance(responses, list):
            raise self.failure(
                f"Expected a list in the execute return, found type '{type(responses).__name__}'"
            )
        if len(responses) != len(requests):
            raise self.failure(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(requests)}, "
                f"and InferenceResponse(s) size is:{len(responses)}"
            )
        answers = list(map(self._answer, executed, requests, responses))
        del executed  # with it go senders that the model has not kept, which ends what they send
        return [
            self._wait(request, answer) if isinstance(answer, SingleResponse) else answer
            for request, answer in zip(requests, answers, strict=True)
        ]

    def _answer(
        self, executed: pb_utils.InferenceRequest, request: InferRequest, response: Any
    ) -> "Answer | SalverError | SingleResponse":
        """Return the answer to a request; a response that was sent counts more than one returned."""
        sent = executed.single
        if sent and (response is None or sent.response):
            return sent
        return self.reschedule(executed, response) or self.interpret(request, response)

    def _wait(self, request: InferRequest, sent: SingleResponse) -> Answer | SalverError:
        """Wait for a response that is sent, perhaps from another thread and after execute has returned."""
        response = sent.wait()
        if response:
            return self.interpret(request, response)
        return self.failure("no response was sent")


async def _wait_for(result: Awaitable[object]) -> object:
    return await result


def _parameters(text: str) -> dict[str, Parameter]:
    if not text:
        return {}
    if len(text) > _LONGEST_PARAMETERS:
        raise ModelFailed(f"the parameters of a response are longer than {_LONGEST_PARAMETERS} characters")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFailed(f"the parameters of a response are no JSON: {error}") from error
    if not isinstance(parsed, dict) or not all(
        isinstance(value, bool | int | float | str) for value in parsed.values()
    ):
        raise ModelFailed("the parameters of a response are no JSON object of texts, numbers and booleans")
    for name, value in parsed.items():
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise ModelFailed(f"the parameter '{name}' of a response is beyond 64 bits")
    return parsed

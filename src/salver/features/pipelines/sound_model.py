"""Model of a Hugging Face directory for sounds: files in, the answers of its task out.

The sounds of all requests in a batch are decoded beside one another and heard together. A request with an
error fails alone.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from salver.backends.protocol import Answer, run_alone
from salver.features.pipelines.liveness import abandoned, is_abandoned
from salver.features.pipelines.parameters import SpeechParameters, from_request
from salver.features.pipelines.sounds import load, plain_bytes
from salver.features.pipelines.tasks.scores import OUTPUT, json_rows
from salver.words.errors import SalverError
from salver.words.messages import HUGGING_FACE, InferRequest, Signature, TensorSpec
from salver.words.tensor import Array, DataType

SOUND: Final = TensorSpec("sound", DataType.BYTES, (-1,))


class Hearing:
    """A sound of a run.

    Attributes:
        samples: FP32, one channel, at the rate of the network.
        is_gone: Returns whether nobody waits for its answer any more.
        answer: What the task answers; None = not yet, or nobody waits.
    """

    __slots__ = ("answer", "is_gone", "parameters", "samples")

    def __init__(self, samples: Array, parameters: SpeechParameters, is_gone: Callable[[], bool]) -> None:
        self.samples = samples
        self.parameters = parameters
        self.is_gone = is_gone
        self.answer: dict[str, Any] | SalverError | None = None


class Recogniser(Protocol):
    """Network for speech.

    Attributes:
        rate: Samples a second that it takes.
    """

    rate: int

    def check(self, parameters: SpeechParameters) -> None:
        """Raise InvalidInput if a parameter does not fit the network."""
        ...

    def hear(self, sounds: Sequence[Hearing]) -> None:
        """Set the answer of each sound."""
        ...

    def close(self) -> None:
        """Release the network."""
        ...


class _Job:
    """A request of a run."""

    __slots__ = ("error", "heard", "request")

    def __init__(self, request: InferRequest) -> None:
        self.request = request
        self.heard: list[Hearing] = []
        self.error: SalverError | None = None


class SoundModel:
    """Network and decoding of a directory.

    Args:
        most_seconds: Longer sounds are refused.
        threads: Sounds that are decoded at the same time.
    """

    def __init__(self, recogniser: Recogniser, task: str, most_seconds: float, threads: int = 1) -> None:
        rows = 4 * max(1, threads)
        self.signature = Signature((SOUND,), (OUTPUT,), True, HUGGING_FACE + task, rows, converts=True)
        self._recogniser = recogniser
        self._most_seconds = most_seconds
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        return run_alone(self, inputs)

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        jobs = [_Job(request) for request in requests]
        files = [(job, file) for job in jobs for file in self._files(job)]
        samples = map(self._samples, files) if self._pool is None else self._pool.map(self._samples, files)
        for (job, _), found in zip(files, list(samples), strict=True):
            if isinstance(found, SalverError):
                job.error = job.error or found
            else:
                job.heard.append(found)
        self._recogniser.hear([heard for job in jobs if job.error is None for heard in job.heard])
        return [self._answer(job) for job in jobs]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        if self._pool is not None:
            self._pool.shutdown()
        self._recogniser.close()

    def _files(self, job: _Job) -> list[tuple[bytes | str, SpeechParameters]]:
        try:
            parameters = from_request(job.request.parameters, SpeechParameters)
            self._recogniser.check(parameters)
        except SalverError as error:
            job.error = error
            return []
        return [(file, parameters) for file in job.request.inputs[0].array.tolist()]

    def _samples(self, place: tuple[_Job, tuple[bytes | str, SpeechParameters]]) -> Hearing | SalverError:
        job, (file, parameters) = place
        try:
            samples = load(plain_bytes(file), self._recogniser.rate, self._most_seconds)
        except SalverError as error:
            return error
        return Hearing(samples, parameters, lambda: is_abandoned(job.request))

    def _answer(self, job: _Job) -> Answer | SalverError:
        answers = [heard.answer for heard in job.heard]
        error = job.error or next((each for each in answers if isinstance(each, SalverError)), None)
        if error is not None:
            return error
        if any(answer is None for answer in answers):
            return abandoned(job.request)
        return Answer({"output": json_rows(answers)})

"""Model of a Hugging Face directory: texts in, the answers of its task out.

The requests of a batch are tokenized together, and the network runs on texts of similar length. A request
with an error fails alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from salver.backends.protocol import Answer, RunnableModel, run_alone
from salver.features.pipelines.parameters import from_request
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.texts import MOST_TOKENS, Piece, TextEncoder, decoded, grouped
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import InferRequest, Signature
from salver.words.tensor import Array, Tensor

_MOST_NUMBERS: Final = 64 << 20  # of all outputs of a run
_TEXT_BYTES: Final = 64  # that take as long as what each text costs beside its length


class _Job:
    """A request of a run that is valid so far."""

    __slots__ = ("columns", "parameters", "pieces", "scored")

    def __init__(self, columns: Columns, parameters: Any, pieces: Sequence[Piece]) -> None:
        self.columns = columns
        self.parameters = parameters
        self.pieces = pieces
        self.scored: list[list[Scored]] = []


class PipelineModel:
    """Network, tokenizer and task of a directory.

    Args:
        most_rows: Rows that the network takes in one run; 0 = any number.
    """

    def __init__(
        self,
        network: RunnableModel,
        encoder: TextEncoder,
        task: Task,
        signature: Signature,
        most_rows: int = 0,
    ) -> None:
        self.signature = signature
        self._network = network
        self._encoder = encoder
        self._task = task
        self._most_rows = most_rows
        self._names = [spec.name for spec in network.signature.outputs]
        #: A run's outputs take memory, above all where each token has a score for each word.
        numbers = sum(max(1, spec.shape[-1]) for spec in network.signature.outputs)
        self._most_tokens = max(1, min(MOST_TOKENS, _MOST_NUMBERS // numbers))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        return run_alone(self, inputs)

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        jobs = [self._job(request) for request in requests]
        valid = [job for job in jobs if isinstance(job, _Job)]
        failed = self._score(valid)
        return [
            self._answer(request, failed.get(id(job), job))
            for request, job in zip(requests, jobs, strict=True)
        ]

    def size_of(self, request: InferRequest) -> int:
        """See :class:`~salver.backends.protocol.SizedModel`: the bytes of its texts, and some for each text.

        Parameters may multiply the work, such as labels to compare with.
        """
        if request.parameters:
            return 0
        return sum(_TEXT_BYTES + len(text) for tensor in request.inputs for text in tensor.array.tolist())

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._network.close()

    def _job(self, request: InferRequest) -> "_Job | SalverError":
        try:
            columns = _columns(request.inputs)
            parameters = from_request(request.parameters, self._task.parameters)
            return _Job(columns, parameters, self._task.pieces(columns, parameters))
        except SalverError as error:
            return error

    def _answer(self, request: InferRequest, job: "_Job | SalverError") -> Answer | SalverError:
        if isinstance(job, SalverError):
            return job
        try:
            outputs = self._task.answer(job.columns, job.parameters, job.scored)
        except SalverError as error:
            return error
        wanted = {output.name for output in request.outputs}
        return Answer({name: array for name, array in outputs.items() if name in wanted or not wanted})

    def _score(self, jobs: Sequence[_Job]) -> dict[int, SalverError]:
        """Run the network on the texts of all requests; return the errors of those that have one."""
        pieces = [piece for job in jobs for piece in job.pieces]
        if not pieces:
            return {}
        windows = iter(self._encoder.encode(pieces))
        failed: dict[int, SalverError] = {}
        rows: list[tuple[_Job, list[Scored], Any]] = []
        for job in jobs:
            found = [next(windows) for _ in job.pieces]
            error = next((each for each in found if isinstance(each, SalverError)), None)
            if error is None and any(not len(encoding) for each in found for encoding in each):
                error = InvalidInput(
                    "a text has no tokens", field="inputs", fix="Send a text that is not empty."
                )
            if error is not None:
                failed[id(job)] = error
                continue
            for encodings in found:
                scored: list[Scored] = []
                job.scored.append(scored)
                rows += [(job, scored, encoding) for encoding in encodings]
        results = self._run([(encoding, job.parameters) for job, _, encoding in rows])
        for (job, scored, encoding), outputs in zip(rows, results, strict=True):
            if isinstance(outputs, SalverError):
                failed.setdefault(id(job), outputs)
            else:
                scored.append(Scored(encoding, outputs))
        return failed

    def _run(self, texts: Sequence[tuple[Any, Any]]) -> "list[tuple[Array, ...] | SalverError]":
        """Return what is kept of the network's outputs for each encoding and its request's parameters."""
        results: list[tuple[Array, ...] | SalverError] = [()] * len(texts)
        for group in grouped([len(encoding) for encoding, _ in texts], self._most_tokens):
            most = self._most_rows or len(group)
            for start in range(0, len(group), most):
                part = group[start : start + most]
                for index, kept in zip(part, self._run_group([texts[i] for i in part]), strict=True):
                    results[index] = kept
        return results

    def _run_group(self, texts: Sequence[tuple[Any, Any]]) -> "list[tuple[Array, ...] | SalverError]":
        encodings = [encoding for encoding, _ in texts]
        given = self._network.run(self._encoder.arrays(encodings))
        outputs = [given[name] for name in self._names]
        width = max(map(len, encodings))
        if any(output.shape[:1] != (len(texts),) for output in outputs):
            raise ModelFailed("the network's outputs do not have a row for each text", fix="Export it again.")
        found: list[tuple[Array, ...] | SalverError] = []
        for row, (encoding, parameters) in enumerate(texts):
            own = tuple(output[row] for output in outputs)
            if self._task.is_per_token:
                place = self._encoder.place(encoding, width)
                own = tuple(output[place] for output in own)
            try:
                found.append(self._task.kept(encoding, own, parameters))
            except SalverError as error:
                found.append(error)
        return found


def _columns(tensors: Sequence[Tensor]) -> Columns:
    """Return the texts of a request's inputs.

    Raises:
        InvalidInput: one is not UTF-8.
    """
    texts = {tensor.name: decoded(tensor.name, tensor.array) for tensor in tensors}
    return Columns(texts, len(tensors[0].array) if tensors else 0)

"""Inputs and outputs of a run of a model with sequences: a row for each request, or none. Pure."""

from collections.abc import Hashable, Mapping

import numpy as np
from msgspec.structs import replace

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import Admission
from salver.kernel.engine.sequence_tensors import ServerTensors
from salver.kernel.engine.sequences import SequenceBatch, Turn
from salver.words.artifacts import Sequences
from salver.words.errors import InvalidOutput
from salver.words.messages import InferRequest, ModelId, RequestedOutput, Signature
from salver.words.tensor import Array, Tensor


class SequenceRows:
    """Merger and splitter of the requests of one model.

    Args:
        own: The model's signature.
        seen: The callers' signature, without the tensors that the server adds.

    Attributes:
        admission: Checks requests.
        added: Tensors that the server adds.
        types: Datatypes of all tensors, by name.
    """

    def __init__(self, id: ModelId, own: Signature, seen: Signature, config: Sequences) -> None:
        self._id = id
        self._batched = own.batched
        self.admission = Admission(id.name, seen)
        self.added = ServerTensors(config, own.batched)
        self.types = {spec.name: spec.datatype for spec in (*own.inputs, *own.outputs)}

    def key(self, turn: Turn) -> Hashable:
        """Return a key that is equal for requests that can be stacked."""
        return (turn.payload.bound.key, self.added.key(turn))

    def request(self, turn: Turn) -> InferRequest:
        """Return a request as the model receives it."""
        ask = turn.payload
        asked = self.admission.asked(ask.bound, self._id, ask.deadline, ask.future.done)
        added = self.added.of(turn, ask.id)
        inputs = (*asked.inputs, *self._as_tensors(added))
        outputs = (*asked.outputs, *map(RequestedOutput, self.added.outputs))
        return replace(asked, inputs=inputs, outputs=outputs, parameters=ask.parameters)

    def _as_tensors(self, arrays: Mapping[str, Array]) -> list[Tensor]:
        return [Tensor(name, self.types[name], array) for name, array in arrays.items()]

    def requests(self, company: SequenceBatch) -> list[InferRequest]:
        """Return the requests of a run, with one for each empty row."""
        requests = [None if turn is None else self.request(turn) for turn in company.turns]
        pattern = next(request for request in requests if request is not None)
        return [self._nobody(pattern) if request is None else request for request in requests]

    def _nobody(self, pattern: InferRequest) -> InferRequest:
        """Return an empty row shaped like another request."""
        added = self.added.of(None, 0)
        arrays = {t.name: _blank(t.array) for t in pattern.inputs if t.name not in added} | added
        inputs = tuple(self._as_tensors(arrays))
        return InferRequest(pattern.model, inputs, pattern.version, outputs=pattern.outputs)

    def stacked(self, company: SequenceBatch) -> dict[str, Array]:
        """Return the inputs of a run."""
        requests = self.requests(company)
        if len(requests) == 1:
            return {tensor.name: tensor.array for tensor in requests[0].inputs}
        return {
            part[0].name: np.concatenate([tensor.array for tensor in part])
            for part in zip(*(request.inputs for request in requests), strict=True)
        }

    def cut(self, outputs: Mapping[str, Array], company: SequenceBatch) -> list[Answer]:
        """Split the outputs into one row per request."""
        rows = len(company.turns)
        if not self._batched:
            return [Answer(outputs)]
        for name, array in outputs.items():
            if not array.ndim or array.shape[0] != rows:
                raise InvalidOutput(
                    f"model '{self._id.name}' gave output '{name}' of shape {list(array.shape)} "
                    f"for {rows} rows",
                    fix="Its first dimension must be the batch.",
                )
        if rows == 1:
            return [Answer(outputs)]
        return [
            Answer({name: array[row : row + 1] for name, array in outputs.items()})
            for row, turn in enumerate(company.turns)
            if turn is not None
        ]


def _blank(array: Array) -> Array:
    if array.dtype.kind == "O":
        return np.full(array.shape, b"", object)
    return np.zeros_like(array)

"""Step models from programs with states as inputs and outputs.

A recurrent network, or a transformer with a cache of fixed size, as a plain graph of any framework::

    inputs   tokens    INT64 [batch, time]        time free, or fixed at 1
             position  INT64 [batch]              optional: tokens that the row has read before
             any others: states, [batch, ...]     zeros for a new sequence
    outputs  scores    FP32 [batch, vocabulary]   or [batch, time, vocabulary]: the last position counts
             the next states, in the order of the inputs

:class:`StatefulSteps` keeps the states in slots and runs the program for the slots of a step. It knows no
framework.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from salver.backends.protocol import RunnableModel
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

_LOG = logging.getLogger("salver.backends")
_SHAPE_OF_IT = (
    "A step-wise program takes tokens [batch, time] and states [batch, ...], and gives scores [batch, "
    "vocabulary] and then the states in the same order; see docs/how-to/streaming.md."
)


class StatefulSteps:
    """A step model (:mod:`salver.backends.protocol`) around a runnable one.

    A step that raises is run again in halves, until the failing sequences are isolated.

    Args:
        context: Maximum tokens of a sequence. A state with one axis of this extent has a place for each token
            there, if the program knows the position; 0 = unknown.

    Raises:
        LoadFailed: the model's tensors do not have the form above.
    """

    def __init__(self, model: RunnableModel, name: str, slots: int, context: int = 0) -> None:
        inputs = {spec.name: spec for spec in model.signature.inputs}
        outputs = model.signature.outputs
        tokens = inputs.pop("tokens", None)
        if tokens is None or tokens.datatype is not DataType.INT64 or len(tokens.shape) != 2:
            raise LoadFailed(f"model '{name}' has no input tokens, INT64 [batch, time]", fix=_SHAPE_OF_IT)
        if tokens.shape[1] not in (1, -1):
            raise LoadFailed(
                f"model '{name}' takes tokens of shape {list(tokens.shape)}; the time must be free or 1",
                fix="Export it with a free time, or with one token.",
            )
        self._has_position = inputs.pop("position", None) is not None
        if not outputs or len(outputs) != len(inputs) + 1:
            raise LoadFailed(
                f"model '{name}' has the states {list(inputs)} and the outputs {[s.name for s in outputs]}",
                fix=_SHAPE_OF_IT,
            )
        self._model = model
        self._name = name
        self._takes_many = tokens.shape[1] == -1
        self._scores = outputs[0].name
        self._following = dict(zip(inputs, (spec.name for spec in outputs[1:]), strict=True))
        self._states = {spec.name: self._zeros(spec, slots) for spec in inputs.values()}
        self._read = np.zeros(slots, np.int64)
        self._width = 1  # of the scores
        self._places = {name: self._axis_of_places(states, context) for name, states in self._states.items()}

    def _zeros(self, spec: TensorSpec, slots: int) -> Array:
        if spec.shape[:1] != (-1,) or -1 in spec.shape[1:]:
            raise LoadFailed(
                f"state '{spec.name}' of model '{self._name}' has the shape {list(spec.shape)}; all but its "
                "first extent, the batch, must be fixed",
                fix="Export a cache of fixed size, or give the shape in salver.toml ([[inputs]]).",
            )
        size = math.prod(spec.shape[1:]) * slots * (spec.datatype.itemsize or 8)
        if size > (most := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
            raise LoadFailed(
                f"state '{spec.name}' of model '{self._name}' takes {size} bytes for {slots} sequences, and "
                f"there are {most} bytes of memory",
                field="steps.max_sequences",
                fix="Set fewer max_sequences of [steps].",
            )
        return np.zeros((slots, *spec.shape[1:]), spec.datatype.dtype)

    def _axis_of_places(self, states: Array, context: int) -> int | None:
        """Return the axis of one slot's state that has a place for each token; None = there is none."""
        axes = [axis for axis, extent in enumerate(states.shape[1:]) if extent == context]
        if self._has_position and len(axes) == 1:
            return axes[0]
        return None

    def prefill(self, slot: int, tokens: Array) -> Array:
        """See :class:`~salver.backends.protocol.StepModel`."""
        where = np.array((slot,))
        pieces = tokens[None, :] if self._takes_many else tokens[:, None, None]
        for piece in (pieces,) if self._takes_many else pieces:
            scores = self._run(where, piece)
        last: Array = scores[0]
        return last

    def step(self, slots: Array, tokens: Array) -> Array:
        """See :class:`~salver.backends.protocol.StepModel`."""
        try:
            return self._run(slots, tokens[:, None])
        except Exception as error:
            if len(slots) == 1:
                _LOG.warning("model %s: a sequence failed", self._name, exc_info=error)
                return np.full((1, self._width), np.nan, np.float32)
        middle = len(slots) // 2
        return np.concatenate(
            [self.step(slots[:middle], tokens[:middle]), self.step(slots[middle:], tokens[middle:])]
        )

    def _run(self, slots: Array, tokens: Array) -> Array:
        """Advance these slots by the tokens ``[slots, time]``; nothing has changed if it raises."""
        feed: dict[str, Array] = {"tokens": np.ascontiguousarray(tokens)}
        if self._has_position:
            feed["position"] = self._read[slots]
        for name, states in self._states.items():
            feed[name] = states[slots]
        outputs: Mapping[str, Array] = self._model.run(feed)
        scores = outputs[self._scores]
        if scores.ndim == 3:
            scores = scores[:, -1]
        if scores.ndim != 2 or scores.shape[0] != len(slots):
            raise ModelFailed(f"scores of shape {list(scores.shape)} for {len(slots)} sequences")
        for name, after in self._following.items():
            self._states[name][slots] = outputs[after]
        self._read[slots] += tokens.shape[1]
        self._width = scores.shape[1]
        return scores

    def save(self, slot: int, start: int, end: int) -> tuple[Array, ...]:
        """See :class:`~salver.backends.protocol.ResumableSteps`."""
        return tuple(self._part(name, slot, start, end).copy() for name in self._states)

    def resume(self, slot: int, parts: Sequence[tuple[Array, ...]], tokens: int) -> None:
        """See :class:`~salver.backends.protocol.ResumableSteps`."""
        for index, (name, axis) in enumerate(self._places.items()):
            if axis is None:
                self._states[name][slot] = parts[-1][index]
                continue
            at = 0
            for part in parts:
                end = at + part[index].shape[axis]
                self._part(name, slot, at, end)[...] = part[index]
                at = end
        self._read[slot] = tokens

    def _part(self, name: str, slot: int, start: int, end: int) -> Array:
        """Return a view of a slot's state: the places of these tokens, or the whole."""
        state, axis = self._states[name][slot], self._places[name]
        part: Array = state[...]
        if axis is not None:
            part = state[(slice(None),) * axis + (slice(start, end),)]
        return part

    def release(self, slot: int) -> None:
        """See :class:`~salver.backends.protocol.StepModel`."""
        for states in self._states.values():
            states[slot] = 0
        self._read[slot] = 0

    def close(self) -> None:
        """Close the program."""
        self._states.clear()
        self._model.close()

"""Whether the table ``ragged`` of a model configuration fits the rest of it (TR-C4, TR-C6). Pure."""

from typing import Final

from salver.words.artifacts import ModelConfig, Ragged, Reshape
from salver.words.tensor import DataType

#: Datatypes of the inputs that describe ragged ones.
_EXTRA_TYPES: Final = (DataType.INT32, DataType.FP32)


def misfit(config: ModelConfig) -> tuple[str, str] | None:
    """Return key and message of the first error in the table ``ragged``; None if there is none."""
    ragged = config.ragged
    if ragged == Ragged():
        return None
    inputs = {spec.name for spec in config.inputs}
    outputs = {spec.name for spec in config.outputs}
    objective = config.objective
    rules = (
        (set(ragged.inputs) <= inputs, "inputs", "names a tensor that is not among `inputs`"),
        ({e.source for e in ragged.extra} <= inputs, "extra.source", "is not among `inputs`"),
        ({e.target for e in ragged.extra}.isdisjoint(inputs), "extra.target", "is among `inputs`"),
        (
            all(e.datatype in _EXTRA_TYPES for e in ragged.extra),
            "extra.datatype",
            "must be INT32 or FP32",
        ),
        (set(ragged.scatter) <= outputs, "scatter", "names a tensor that is not among `outputs`"),
        (set(ragged.scatter.values()) <= inputs, "scatter", "names a tensor that is not among `inputs`"),
        (config.reshape == Reshape(), "inputs", "cannot be used with `reshape`"),
        (
            not (objective.latency_p99_ms or objective.deadline_ms or objective.throughput),
            "inputs",
            "cannot be used with an `objective`: the length of requests is not known in advance",
        ),
        (not config.steps.vocabulary, "inputs", "is not for models that answer token by token"),
    )
    return next(((f"ragged.{key}", message) for holds, key, message in rules if not holds), None)

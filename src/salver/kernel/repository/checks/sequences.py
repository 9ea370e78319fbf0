"""Whether the table ``sequences`` of a model configuration is right.

Pure; messages are Triton's where it has one.
"""

import math
from typing import Final

from salver.words.artifacts import ModelConfig, Ragged, Sequences, SequenceState
from salver.words.tensor import DATATYPES, DataType

_IDS: Final = tuple(DATATYPES[name] for name in ("UINT64", "INT64", "UINT32", "INT32", "BYTES"))
_FLAGS: Final = (DataType.INT32, DataType.FP32, DataType.BOOL)


def misfit(sequences: Sequences) -> str:
    """Return what is wrong with the sequences; empty if nothing is."""
    if not 0 <= sequences.min_fill <= 1:
        return "sequence batching minimum slot utilization must be in range [0.0, 1.0]"
    kinds = [control.kind for control in sequences.controls]
    names = [control.name for control in sequences.controls] + [state.input for state in sequences.states]
    for kind in kinds:
        if kinds.count(kind) > 1:
            return f"sequence batching specifies multiple {control_name(kind)} tensors"
    for name in names:
        if not name:
            return "sequence batching control tensor must have a name"
        if names.count(name) > 1:
            return f"sequence batching control tensor '{name}' is specified for multiple control kinds"
    for control in sequences.controls:
        wanted = _IDS if control.kind == "corrid" else _FLAGS
        if control.datatype not in wanted:
            known = ", ".join(datatype.name for datatype in wanted)
            return (
                f"unexpected data type {control.datatype.name} for control {control_name(control.kind)}, "
                f"expected one of {known}"
            )
    outputs = [state.output for state in sequences.states]
    if len(set(outputs)) < len(outputs) or "" in outputs:
        return "sequence batching states must have outputs of their own"
    return next((problem for problem in map(_state_misfit, sequences.states) if problem), "")


def content_misfit(state: SequenceState) -> str:
    """Return what is wrong with the content of a state's file; empty if nothing is."""
    if state.datatype is DataType.BYTES:
        return ""
    count = math.prod(state.initial_shape or (abs(extent) for extent in state.shape))
    wanted, found = count * state.datatype.itemsize, len(state.content)
    if found >= wanted:
        return ""
    return (
        f"initial_state setting expects {wanted} bytes, but the data provided from {state.initial_file} only "
        f"has {found} bytes."
    )


def conflict(config: ModelConfig) -> str:
    """Return the part of the configuration that models with sequences cannot have; empty if there is none."""
    if not config.sequences.strategy:
        return ""
    objective = config.objective
    if objective.latency_p99_ms or objective.deadline_ms or objective.throughput:
        return "objective"
    if config.ragged != Ragged():
        return "ragged"
    if config.steps.vocabulary:
        return "steps"
    return ""


def _state_misfit(state: SequenceState) -> str:
    name, initial = state.input, state.initial_shape
    if any(extent == 0 or extent < -1 for extent in state.shape) or any(extent == 0 for extent in initial):
        return f"the dims of state '{name}' must be positive, or -1 for any"
    if initial and len(initial) != len(state.shape):
        return (
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state "
            f"input '{name}'. {len(initial)} != {len(state.shape)}"
        )
    for given, wanted in zip(initial, state.shape, strict=False):
        if given < 0:
            return f"'initial_state' field for state input name '{name}' contains variable dimensions."
        if wanted not in (-1, given):
            return (
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description. "
                f"{given} != {wanted}"
            )
    file = state.initial_file
    if file.startswith("/") or ".." in file.split("/"):
        return f"the initial_state file of state '{name}' must lie in the model's folder initial_state"
    return ""


def control_name(kind: str) -> str:
    """Return a control's kind as Triton spells it."""
    return f"CONTROL_SEQUENCE_{kind.upper()}"

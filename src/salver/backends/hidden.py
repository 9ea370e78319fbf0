"""Tensors of models with sequences that callers do not see (TR-C9).

Those that the server fills in, and those that it keeps for each sequence. Pure.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from salver.words.artifacts import Sequences
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec


def hidden_inputs(sequences: Sequences, batched: bool) -> tuple[TensorSpec, ...]:
    """Return the server's own inputs: controls of one element per row, then states.

    >>> from salver.words.artifacts import Control
    >>> [spec.shape for spec in hidden_inputs(Sequences("direct", controls=(Control("S", "start"),)), True)]
    [(-1, 1)]
    """
    rows = (-1,) if batched else ()
    controls = [TensorSpec(control.name, control.datatype, (*rows, 1)) for control in sequences.controls]
    return (*controls, *(TensorSpec(s.input, s.datatype, (*rows, *s.shape)) for s in sequences.states))


def hidden_outputs(sequences: Sequences, batched: bool) -> tuple[TensorSpec, ...]:
    """Return the states as outputs of the model."""
    rows = (-1,) if batched else ()
    return tuple(TensorSpec(s.output, s.datatype, (*rows, *s.shape)) for s in sequences.states)


def seen(own: Signature, sequences: Sequences, model: str) -> Signature:
    """Return the signature that callers see.

    Raises:
        LoadFailed: the model lacks a tensor of its configuration, or has it with another datatype.
    """
    batched = own.batched
    inputs = _without(own.inputs, hidden_inputs(sequences, batched), "input", model)
    outputs = _without(own.outputs, hidden_outputs(sequences, batched), "output", model)
    return replace(own, inputs=tuple(inputs), outputs=tuple(outputs))


def _without(
    specs: tuple[TensorSpec, ...], hidden: tuple[TensorSpec, ...], side: str, model: str
) -> Iterator[TensorSpec]:
    datatypes = {spec.name: spec.datatype for spec in specs}
    for spec in hidden:
        if datatypes.get(spec.name) is not spec.datatype:
            has = datatypes[spec.name].name if spec.name in datatypes else "none"
            raise LoadFailed(
                f"the sequences of model '{model}' need the {side} '{spec.name}' of {spec.datatype.name}, "
                f"and the model has {has}",
                field=f"sequences.{spec.name}",
            )
    names = {spec.name for spec in hidden}
    return (spec for spec in specs if spec.name not in names)

"""Check that the tensors of an ensemble can flow from its inputs to its outputs (TR-C10).

Pure. The texts are Triton's if it has one. Inputs and outputs of the models are not known here.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from salver.words.artifacts import Ensemble, EnsembleStep

_MOST_STEPS: Final = 1000


def misfit(name: str, ensemble: Ensemble, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> str:
    """Return why the ensemble's tensors cannot flow; empty if they can.

    Args:
        inputs, outputs: Names of the ensemble's own tensors, as configured; empty = those that no step
            writes, or none reads.
    """
    steps = ensemble.steps
    if not steps:
        return f"must specify 'step' for ensemble '{name}'"
    if len(steps) > _MOST_STEPS:
        return f"ensemble '{name}' has {len(steps)} steps; at most {_MOST_STEPS} are taken"
    writers: dict[str, EnsembleStep] = {}
    twice: set[str] = set()
    for index, step in enumerate(steps):
        if problem := _step_misfit(step, f"step {index} of ensemble '{name}'"):
            return problem
        for tensor in step.outputs.values():
            # Two steps may write the same tensor only if their conditions exclude each other.
            if tensor in twice or (tensor in writers and not _are_alternatives(writers[tensor], step)):
                return (
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' "
                    f"step {index}"
                )
            if tensor in writers:
                twice.add(tensor)
            if tensor in inputs:
                return f"input '{tensor}' of ensemble '{name}' is written by step {index}"
            writers[tensor] = step
    read = {tensor for step in steps for tensor in step.reads}
    for tensor in inputs:
        if tensor not in read and tensor not in outputs:
            return f"ensemble input '{tensor}' for ensemble {name}' is not used"  # Triton's own slip
    sources = inputs or [tensor for tensor in read if tensor not in writers]
    # An output is reachable only if a chain of steps from the inputs writes it.
    ready = _flow(steps, sources)
    sinks = outputs or [tensor for tensor in writers if tensor not in read]
    for tensor in sinks:
        if tensor not in ready:
            return f"output '{tensor}' for ensemble '{name}' is not written{_reason(tensor, writers)}"
    # Triton refuses tensors that nobody reads, which are mostly misspelt names.
    for tensor in sorted({*read, *writers}):
        if tensor not in sinks and (tensor not in ready or tensor not in read):
            said = f"ensemble tensor '{tensor}' is unused in ensemble '{name}'"
            if tensor in ready:
                return said
            return said + _reason(tensor, writers)
    if not sinks:
        return f"ensemble '{name}' has no output: all that its steps write is read by others"
    return ""


def _step_misfit(step: EnsembleStep, where: str) -> str:
    for value, key in ((step.model, "model_name"), (step.inputs, "input_map"), (step.outputs, "output_map")):
        if not value:
            return f"must specify '{key}' in {where}"
    if not all((*step.inputs.values(), *step.outputs.values())):
        return f"an ensemble tensor without a name in {where}"
    if len(set(step.outputs.values())) < len(step.outputs):
        return f"multiple outputs are mapped to the same ensemble tensor in {where}"
    if step.when and step.unless:
        return f"`when` and `unless` in {where}: give it one of them"
    return ""


def _are_alternatives(one: EnsembleStep, other: EnsembleStep) -> bool:
    """Return whether at most one of the two steps ever runs."""
    return bool(
        (one.when and one.when == other.unless and one.unless == other.when == "")
        or (one.unless and one.unless == other.when and one.when == other.unless == "")
    )


def _flow(steps: Iterable[EnsembleStep], sources: Iterable[str]) -> set[str]:
    """Return the tensors that become available, given the sources."""
    ready, waiting = set(sources), list(steps)
    while due := [step for step in waiting if ready.issuperset(step.reads)]:
        waiting = [step for step in waiting if step not in due]
        ready.update(tensor for step in due for tensor in step.outputs.values())
    return ready


def _reason(tensor: str, writers: Iterable[str]) -> str:
    if tensor in writers:
        return ": the step that writes it waits for a tensor that never comes, or for its own"
    return ": it is neither an input nor written by a step"

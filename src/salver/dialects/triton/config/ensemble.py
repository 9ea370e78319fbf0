"""What does an ensemble's configuration ask for, and can its tensors flow (TR-C10)?

Pure, and the same for ``salver.toml`` and ``config.pbtxt``; the texts are Triton's where it has one. What the
models take and give is not known here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from salver.words.artifacts import Ensemble, EnsembleStep

PLATFORM: Final = "ensemble"
_MOST_STEPS: Final = 1000


def of_message(message: Any) -> Ensemble:
    """The ensemble in a ModelConfig message (its steps' ``model_version``: -1 or nothing for the newest)."""
    scheduling = message.ensemble_scheduling
    steps = [
        EnsembleStep(
            step.model_name,
            str(step.model_version) if step.HasField("model_version") and step.model_version != -1 else "",
            dict(sorted(step.input_map.items())),
            dict(sorted(step.output_map.items())),
        )
        for step in scheduling.step
    ]
    return Ensemble(tuple(steps), scheduling.max_inflight_requests)


def misplaced(message: Any) -> str:
    """Why a ModelConfig message with an ensemble cannot be one; empty if it can."""
    if message.platform != PLATFORM:
        return (
            f"ensemble scheduling cannot be set for model '{message.name}' whose platform is not {PLATFORM}"
        )
    if message.backend not in ("", PLATFORM):
        return f"ensemble '{message.name}' has no backend, and '{message.backend}' is given"
    if message.instance_group:
        return f"instance group should not be specified for ensemble '{message.name}'"
    if message.HasField("optimization"):
        return f"optimization should not be specified for ensemble '{message.name}'"
    if message.model_warmup:
        return f"model_warmup can not be specified for ensemble '{message.name}'"
    return ""


def unfit(name: str, ensemble: Ensemble, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> str:
    """Why its tensors cannot flow; empty if they can.

    Args:
        inputs, outputs: The ensemble's own, as configured; none = those that no step writes, or none reads.
    """
    steps = ensemble.steps
    if not steps:
        return f"must specify 'step' for ensemble '{name}'"
    if len(steps) > _MOST_STEPS:
        return f"ensemble '{name}' has {len(steps)} steps; at most {_MOST_STEPS} are taken"
    writers: dict[str, EnsembleStep] = {}
    twice: set[str] = set()
    for index, step in enumerate(steps):
        if problem := _unfit_step(step, f"step {index} of ensemble '{name}'"):
            return problem
        for tensor in step.outputs.values():
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
    ready = _flow(steps, sources)
    sinks = outputs or [tensor for tensor in writers if tensor not in read]
    for tensor in sinks:
        if tensor not in ready:
            return f"output '{tensor}' for ensemble '{name}' is not written{_reason(tensor, writers)}"
    for tensor in sorted({*read, *writers}):
        if tensor not in sinks and (tensor not in ready or tensor not in read):
            said = f"ensemble tensor '{tensor}' is unused in ensemble '{name}'"
            return said if tensor in ready else said + _reason(tensor, writers)
    if not sinks:
        return f"ensemble '{name}' has no output: all that its steps write is read by others"
    return ""


def _unfit_step(step: EnsembleStep, where: str) -> str:
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
    """Never do both run."""
    return bool(
        (one.when and one.when == other.unless and one.unless == other.when == "")
        or (one.unless and one.unless == other.when and one.when == other.unless == "")
    )


def _flow(steps: Iterable[EnsembleStep], sources: Iterable[str]) -> set[str]:
    """The tensors that come, if those do."""
    ready, waiting = set(sources), list(steps)
    while due := [step for step in waiting if ready.issuperset(step.reads)]:
        waiting = [step for step in waiting if step not in due]
        ready.update(tensor for step in due for tensor in step.outputs.values())
    return ready


def _reason(tensor: str, writers: Iterable[str]) -> str:
    if tensor in writers:
        return ": the step that writes it waits for a tensor that never comes, or for its own"
    return ": it is neither an input nor written by a step"

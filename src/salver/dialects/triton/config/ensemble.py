"""Ensembles in a Triton model configuration (TR-C10). Pure."""

from typing import Any, Final

from salver.words.artifacts import Ensemble, EnsembleStep

PLATFORM: Final = "ensemble"


def of_message(message: Any) -> Ensemble:
    """Return the ensemble of a ModelConfig message; ``model_version`` -1 or none means the newest."""
    scheduling = message.ensemble_scheduling
    steps = []
    for step in scheduling.step:
        version = ""
        if step.HasField("model_version") and step.model_version != -1:
            version = str(step.model_version)
        inputs, outputs = (dict(sorted(names.items())) for names in (step.input_map, step.output_map))
        steps.append(EnsembleStep(step.model_name, version, inputs, outputs))
    return Ensemble(tuple(steps), scheduling.max_inflight_requests)


def misplaced(message: Any) -> str:
    """Return why a ModelConfig message with an ensemble cannot be one; empty if it can."""
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

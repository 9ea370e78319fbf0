"""Translation of a Triton model configuration into Salver's.

A field that is set takes effect through :class:`ModelConfig`, or gets a notice that it has no effect; if
answers would be wrong without it, the model is refused. ``docs/reference/config.md`` has the same table.
Pure, but for the number of GPUs of the machine.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from salver.dialects.triton.config import ensemble
from salver.dialects.triton.config.ensemble import PLATFORM
from salver.dialects.triton.config.instances import instances_of
from salver.dialects.triton.config.parameters import PLAIN, chat_of, environment_of, parameters_of
from salver.dialects.triton.config.queueing import limited, priorities_of, queue_of
from salver.dialects.triton.config.raggedness import ragged_of
from salver.dialects.triton.config.sequences import sequences_of
from salver.dialects.triton.config.warmup import warmup_of
from salver.dialects.triton.metrics import FIRST_RESPONSE
from salver.dialects.triton.model_config import datatype_numbered
from salver.encoding.set_fields import set_fields
from salver.kernel.repository.checks import ensemble as ensemble_checks
from salver.kernel.repository.checks import reshape
from salver.words.artifacts import Batching, ModelConfig, Ragged, Reshape, Versions
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec


class Translation(NamedTuple):
    """A Triton model configuration as Salver's.

    Attributes:
        labels: Label files by output.
        message: The original, serialised.
    """

    config: ModelConfig
    labels: dict[str, str]
    notices: tuple[str, ...]
    message: bytes


_BACKENDS: Final[Mapping[str, str]] = {
    "onnxruntime": "onnx",
    "onnxruntime_onnx": "onnx",
    "pytorch": "torch",
    "pytorch_libtorch": "torch",
    "torch_aoti": "torch",
    "tensorflow": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "python": "python",
    "openvino": "openvino",
    "fil": "",  # XGBoost or LightGBM, by the file
    PLATFORM: PLATFORM,
}
_FOREIGN: Final = frozenset(
    {"tensorrt", "tensorrt_plan", "tensorrtllm", "dali", "vllm", "tensorflow_graphdef"}
)

_POLICY: Final = "max_queue_size default_timeout_microseconds timeout_action allow_timeout_override"
#: Names of the fields with an effect, by parent.
_HONOURED: Final[Mapping[str, str]] = {
    "": "name platform backend runtime default_model_filename max_batch_size version_policy dynamic_batching "
    "model_warmup model_transaction_policy instance_group response_cache metric_tags batch_input "
    "batch_output ensemble_scheduling",
    "ensemble_scheduling": "step max_inflight_requests",
    "ensemble_scheduling.step": "model_name model_version input_map output_map",
    "version_policy": "latest all specific",
    "version_policy.latest": "num_versions",
    "version_policy.specific": "versions",
    "input": "name data_type dims optional reshape allow_ragged_batch",
    "input.reshape": "shape",
    "output": "name data_type dims label_filename reshape",
    "output.reshape": "shape",
    "batch_input": "kind target_name data_type source_input",
    "batch_output": "kind target_name source_input",
    "instance_group": "name count kind gpus passive",
    "instance_group.rate_limiter": "priority",
    "instance_group.rate_limiter.resources": "name global count",
    "dynamic_batching": "preferred_batch_size max_queue_delay_microseconds default_queue_policy "
    "priority_levels default_priority_level preserve_ordering priority_queue_policy",
    "dynamic_batching.default_queue_policy": _POLICY,
    "dynamic_batching.priority_queue_policy": _POLICY,
    "optimization.graph": "level",
    "model_warmup": "name batch_size count",
    "model_warmup.inputs": "data_type dims zero_data random_data input_data_file",
    "model_transaction_policy": "decoupled",
    "response_cache": "enable",
    "model_metrics.metric_control.metric_identifier": "family",
    "model_metrics.metric_control.histogram_options": "buckets",
    "model_repository_agents.agents": "name parameters",
    "sequence_batching": "direct oldest max_sequence_idle_microseconds iterative_sequence",
    "sequence_batching.direct": "max_queue_delay_microseconds minimum_slot_utilization",
    "sequence_batching.oldest": "max_candidate_sequences preferred_batch_size max_queue_delay_microseconds "
    "preserve_ordering",
    "sequence_batching.control_input": "name",
    "sequence_batching.control_input.control": "kind int32_false_true fp32_false_true "
    "bool_false_true data_type",
    "sequence_batching.state": "input_name output_name data_type dims use_same_buffer_for_input_output "
    "use_growable_memory",
    "sequence_batching.state.initial_state": "name data_type dims zero_data data_file",
}
HONOURED: Final = frozenset(
    f"{parent}.{name}".lstrip(".") for parent, names in _HONOURED.items() for name in names.split()
)

_AGENTS: Final = ("checksum",)
#: Fields about devices that Salver does not have, with all fields below them.
_ACCEPTED: Final = (
    "optimization",
    "instance_group.secondary_devices",
    "instance_group.profile",
    "instance_group.host_policy",
    "input.is_shape_tensor",
    "input.is_non_linear_format_io",
    "output.is_shape_tensor",
    "output.is_non_linear_format_io",
)


def translate(message: Any, origin: str, name: str) -> Translation:
    """Return a ModelConfig message as Salver's record.

    Args:
        origin: Its source, for messages.
        name: The model's folder, which a name in the message must equal.

    Raises:
        InvalidInput: It contradicts itself or the folder, or has a field that must be refused.
    """
    notices: list[str] = []
    # Tell the operator about every field without effect, instead of ignoring it silently.
    for path in dict.fromkeys(set_fields(message)):
        if path not in HONOURED and path.split(".")[0] != "parameters":
            notices.append(_notice(path))
    is_ensemble = message.HasField("ensemble_scheduling") or message.platform == PLATFORM
    if message.model_transaction_policy.decoupled and _backend(message, origin) in PLAIN:
        raise InvalidInput(
            f"{origin}: field `model_transaction_policy.decoupled` cannot be honoured: "
            "only models of the Python backend can send several responses",
            field="model_transaction_policy.decoupled",
        )
    if message.name and message.name != name:
        raise InvalidInput(
            f"{origin}: the file names the model '{message.name}', but its folder is '{name}'",
            field="name",
            fix="Make the two equal, or leave `name` out",
        )
    _require_agents(message, origin)
    is_batched = message.max_batch_size > 0
    if message.max_batch_size < 0:
        raise InvalidInput(f"{origin}: `max_batch_size` must not be negative", field="max_batch_size")
    backend = "" if is_ensemble else _backend(message, origin)
    instances = instances_of(message, origin, notices)
    threads, options = parameters_of(message, backend, notices)
    if is_ensemble and (problem := _unfit_ensemble(message, name)):
        raise InvalidInput(f"{origin}: {problem}", field="ensemble_scheduling")
    runner: Literal["process", "auto"] = "process" if "module" in options else "auto"
    config = ModelConfig(
        backend=backend,
        filename=message.default_model_filename,
        inputs=tuple(_spec(t, f"input[{i}]", is_batched, origin) for i, t in enumerate(message.input)),
        outputs=tuple(_spec(t, f"output[{i}]", is_batched, origin) for i, t in enumerate(message.output)),
        only_outputs=bool(message.output),
        batching=_batching(message, origin, name),
        priorities=priorities_of(message.dynamic_batching, origin, name),
        queue=queue_of(message.dynamic_batching, origin, name),
        instances=msgspec.structs.replace(instances, threads=threads, runner=runner),
        environment=environment_of(message, backend, origin),
        options=options,
        chat=chat_of(message, origin),
        versions=_versions(message, origin, name),
        warmup=warmup_of(message, origin),
        sequences=sequences_of(message, origin, name),
        reshape=Reshape(
            _reshape(message.input, "input", is_batched, origin),
            _reshape(message.output, "output", is_batched, origin),
        ),
        response_cache=message.response_cache.enable,
        ensemble=ensemble.of_message(message),
    )
    ragged = ragged_of(message, origin)
    # The Python backend passes requests one by one, so there is no concatenated batch to describe.
    if ragged is not None and config.backend == "python" and (ragged.extra or ragged.scatter):
        notices.append(
            "config.pbtxt: field `batch_input` has no effect: a Python model gets each request by itself"
        )
        ragged = Ragged(ragged.inputs)
    if ragged is not None and config.sequences.strategy and config.backend != "python":
        raise InvalidInput(
            f"{origin}: `sequence_batching` cannot be honoured with `allow_ragged_batch` or `batch_input`: "
            "each row of a run belongs to a sequence",
            field="sequence_batching",
        )
    config = msgspec.structs.replace(config, ragged=ragged or Ragged())
    if config.queue is not None:
        config = limited(config, config.queue, message.model_transaction_policy.decoupled, notices)
    _check_metrics(message, origin, notices)
    labels = {o.name: o.label_filename for o in message.output if o.label_filename}
    return Translation(config, labels, tuple(dict.fromkeys(notices)), message.SerializeToString())


def _unfit_ensemble(message: Any, name: str) -> str:
    """Return why it cannot be an ensemble; empty if it can."""
    message.name = message.name or name  # Triton's error texts contain the name
    inputs, outputs = ([tensor.name for tensor in side] for side in (message.input, message.output))
    return ensemble.misplaced(message) or ensemble_checks.misfit(
        name, ensemble.of_message(message), inputs, outputs
    )


def _notice(path: str) -> str:
    for accepted in _ACCEPTED:
        if path == accepted or path.startswith(f"{accepted}."):
            return f"config.pbtxt: field `{accepted}` is accepted, and has no effect here"
    return f"config.pbtxt: field `{path}` has no effect yet"


def _check_metrics(message: Any, origin: str, notices: list[str]) -> None:
    for control in message.model_metrics.metric_control:
        family, bounds = control.metric_identifier.family, list(control.histogram_options.buckets)
        if family != FIRST_RESPONSE:
            notices.append(f"config.pbtxt: field `model_metrics` of {family!r} has no effect yet")
        elif bounds != sorted(set(bounds)) or not all(0 < bound < float("inf") for bound in bounds):
            raise InvalidInput(
                f"{origin}: the buckets of {family} must be ascending numbers above 0", field="model_metrics"
            )


def _require_agents(message: Any, origin: str) -> None:
    # An agent may verify or decrypt the files, so an unknown one cannot be skipped.
    for agent in message.model_repository_agents.agents:
        if agent.name not in _AGENTS:
            raise InvalidInput(
                f"{origin}: field `model_repository_agents` cannot be honoured: there is no agent "
                f"'{agent.name}', and the files would be loaded without its check or change",
                field="model_repository_agents",
                fix=f"There is: {', '.join(_AGENTS)}",
            )


def missing_backend(name: str) -> str:
    """Return why models of a backend need a program to serve them; empty if they do not.

    >>> missing_backend("dali").partition(".")[0]
    "there is no backend for 'dali'"
    """
    if name not in _FOREIGN:
        return ""
    return (
        f"there is no backend for '{name}'. Known are: {', '.join(_BACKENDS)}; and, with the option "
        f"--backend-directory of --compat triton, the program {name}/model.py in that folder"
    )


def _backend(message: Any, origin: str) -> str:
    names: list[str] = [n for n in (message.backend, message.platform) if n]
    for name in names:
        if name in _FOREIGN:
            return name  # a program may have that name
    found = [_BACKENDS.get(n, n) for n in names]
    if len(set(found)) > 1:
        raise InvalidInput(
            f"{origin}: `backend` '{message.backend}' and `platform` '{message.platform}' differ",
            field="platform",
        )
    return found[0] if found else ""


def _spec(tensor: Any, path: str, is_batched: bool, origin: str) -> TensorSpec:
    datatype = datatype_numbered(tensor.data_type)
    if not tensor.name or datatype is None:
        missing = "data_type" if tensor.name else "name"
        raise InvalidInput(f"{origin}: `{path}` has no `{missing}`", field=f"{path}.{missing}")
    if any(n < -1 or n == 0 for n in tensor.dims):
        raise InvalidInput(
            f"{origin}: `{path}.dims` of '{tensor.name}' must be positive, or -1 for any",
            field=f"{path}.dims",
        )
    shape = (*[-1] * is_batched, *tensor.dims)
    return TensorSpec(tensor.name, datatype, shape, optional=bool(getattr(tensor, "optional", False)))


def _reshape(tensors: Any, field: str, is_batched: bool, origin: str) -> dict[str, tuple[int, ...]]:
    """Return the model's own shapes of the tensors with a `reshape`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.HasField("reshape"):
            problem = reshape.misfit(tensor.dims, tensor.reshape.shape)
            if not tensor.reshape.shape and not is_batched:
                problem = "has empty reshape for non-batching model as scalar tensors are not supported"
            if problem:
                raise InvalidInput(
                    f"{origin}: model {field} '{tensor.name}' {problem}", field=f"{field}[{index}].reshape"
                )
            shapes[tensor.name] = (*[-1] * is_batched, *tensor.reshape.shape)
    return shapes


def _batching(message: Any, origin: str, name: str) -> Batching:
    dynamic = message.dynamic_batching
    for size in dynamic.preferred_batch_size:
        if size < 1 or 0 < message.max_batch_size < size:
            problem = "positive" if size < 1 else "<= max batch size"
            raise InvalidInput(
                f"{origin}: dynamic batching preferred batch size must be {problem} for {name}",
                field="dynamic_batching.preferred_batch_size",
            )
    is_given = message.HasField("max_batch_size") or message.HasField("ensemble_scheduling")
    has_rows = not is_given or message.max_batch_size > 0
    return Batching(
        enabled=has_rows,
        has_rows=has_rows,
        max_rows=message.max_batch_size or Batching().max_rows,
        max_delay_ms=dynamic.max_queue_delay_microseconds / 1000,
        preferred_rows=tuple(sorted({n for n in dynamic.preferred_batch_size if n > 0})),
        preserve_order=dynamic.preserve_ordering,
    )


def _versions(message: Any, origin: str, name: str) -> Versions:
    policy = message.version_policy
    kind = policy.WhichOneof("policy_choice")
    if (kind == "latest" and not policy.latest.num_versions) or (
        kind == "specific" and not policy.specific.versions
    ):
        raise InvalidInput(
            f"{origin}: at least one version must be available under the version policy of model '{name}'",
            field=f"version_policy.{kind}",
            fix="Give their number, or list them.",
        )
    if policy.HasField("specific"):
        return Versions(specific=tuple(str(v) for v in policy.specific.versions))
    if policy.HasField("all"):
        return Versions(all=True)
    return Versions(latest=policy.latest.num_versions or 1)

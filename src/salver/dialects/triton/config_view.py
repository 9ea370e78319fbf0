"""Configuration of a loaded model, as Triton's clients see it.

The owner's ``config.pbtxt``, completed from the model and its placement (TR-R7, TR-C16), as a message and in
Triton's JSON, which has every field and writes 64-bit integers as numbers. Pure.
"""

from typing import Any, Final

import msgspec

from salver.dialects.triton.datatypes import type_name
from salver.dialects.triton.metrics import FIRST_BOUNDS, FIRST_RESPONSE
from salver.dialects.triton.model_config import model_config_class
from salver.words.artifacts import Ensemble, Sequences
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType

#: Salver's backend -> Triton's names of backend and platform.
_BACKENDS: Final = {
    "onnx": ("onnxruntime", "onnxruntime_onnx"),
    "torch": ("pytorch", "pytorch_libtorch"),
    "tensorflow": ("tensorflow", "tensorflow_savedmodel"),
    "openvino": ("openvino", ""),
    "xgboost": ("fil", ""),
    "lightgbm": ("fil", ""),
}
#: The only 64-bit integers that Triton writes as JSON strings.
_AS_TEXT: Final = frozenset({"inference.ModelSequenceBatching.InitialState.dims"})


class Facts(msgspec.Struct, frozen=True):
    """Properties of a loaded version beside its signature.

    Attributes:
        backend: Salver's name of the backend.
        filename: Name of the artefact.
        max_rows: Limit of a run's rows; 0 = no batch dimension, or not batched.
        max_delay_ms, preferred_rows: See :class:`salver.words.artifacts.Batching`.
        instances: Concurrent runs.
        versions: Number of latest versions that are wanted; 0 = all.
        decoupled: Whether a request may have any number of responses.
        sequences: Sequences that it keeps.
        ensemble: Steps of an ensemble.
    """

    backend: str
    filename: str
    max_rows: int = 0
    max_delay_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    instances: int = 1
    versions: int = 1
    decoupled: bool = False
    sequences: Sequences = Sequences()
    ensemble: Ensemble = Ensemble()


# In all functions, ``config`` is the owner's ModelConfig, serialised; empty = none.


def metric_tags(config: bytes) -> tuple[tuple[str, str], ...]:
    """Return the owner's labels for the model's metrics (TR-M8)."""
    if config:
        return tuple(_parse(config).metric_tags.items())
    return ()


def first_response_bounds(config: bytes) -> tuple[float, ...]:
    """Return the owner's buckets of the time to the first response (TR-C15), or the default ones."""
    if config:
        for control in _parse(config).model_metrics.metric_control:
            if control.metric_identifier.family == FIRST_RESPONSE and control.histogram_options.buckets:
                return tuple(control.histogram_options.buckets)
    return FIRST_BOUNDS


def parameters(config: bytes) -> dict[str, str]:
    """Return the owner's parameters for the backend."""
    if not config:
        return {}
    return {name: parameter.string_value for name, parameter in _parse(config).parameters.items()}


def _parse(config: bytes) -> Any:
    return model_config_class().FromString(config)


def complete(config: bytes, id: ModelId, signature: Signature, facts: Facts) -> bytes:
    """Return the whole ModelConfig, serialised."""
    message = _parse(config)
    message.name = id.name
    if facts.ensemble.steps:
        _complete_ensemble(message, facts)
    else:
        _complete_model(message, id, facts)
    if not message.HasField("max_batch_size"):
        message.max_batch_size = facts.max_rows
    elif facts.backend == "python" and signature.batched:  # its code may allow more than its owner
        message.max_batch_size = max(message.max_batch_size, signature.max_rows)
    if message.version_policy.WhichOneof("policy_choice") is None:
        if facts.versions:
            message.version_policy.latest.num_versions = facts.versions
        else:
            message.version_policy.all.SetInParent()
    if facts.decoupled:
        message.model_transaction_policy.decoupled = True
    batch_axes = int(message.max_batch_size > 0)
    _complete_tensors(message.input, signature.inputs, batch_axes)
    _complete_tensors(message.output, signature.outputs, batch_axes)
    content: bytes = message.SerializeToString()
    return content


def _complete_ensemble(message: Any, facts: Facts) -> None:
    """Add an ensemble's steps; it has no settings of how a model is run."""
    message.platform = "ensemble"
    message.model_transaction_policy.SetInParent()
    scheduling = message.ensemble_scheduling
    if not scheduling.step:
        for step in facts.ensemble.steps:
            scheduling.step.add(
                model_name=step.model,
                model_version=int(step.version) if step.version.isdecimal() else -1,
                input_map=step.inputs,
                output_map=step.outputs,
            )
        scheduling.max_inflight_requests = facts.ensemble.max_inflight_requests


def _complete_model(message: Any, id: ModelId, facts: Facts) -> None:
    """Add how and where a model is run."""
    backend, platform = _BACKENDS.get(facts.backend, (facts.backend, ""))
    message.backend = message.backend or backend
    message.platform = message.platform or platform
    message.default_model_filename = message.default_model_filename or facts.filename
    # A Python model with max_batch_size asks for dynamic batching in its code, if it wants it.
    decides_itself = facts.backend == "python" and message.HasField("max_batch_size")
    if facts.sequences.strategy:
        _complete_sequences(message, facts.sequences, facts.max_rows)
    elif message.WhichOneof("scheduling_choice") is None and facts.max_rows > 1 and not decides_itself:
        dynamic = message.dynamic_batching
        dynamic.max_queue_delay_microseconds = round(facts.max_delay_ms * 1000)
        dynamic.preferred_batch_size.extend(facts.preferred_rows)
    if message.HasField("dynamic_batching"):
        preferred = message.dynamic_batching.preferred_batch_size
        if facts.max_rows and not preferred:
            preferred.append(facts.max_rows)
    for pinned in (message.optimization.input_pinned_memory, message.optimization.output_pinned_memory):
        if not pinned.HasField("enable"):
            pinned.enable = True
    if not message.instance_group:
        message.instance_group.add(name=id.name, count=facts.instances)
    for index, group in enumerate(message.instance_group):
        group.name = group.name or f"{id.name}_{index}"
        group.kind = group.kind or "KIND_CPU"
        group.count = max(group.count, 1)


def _complete_sequences(message: Any, sequences: Sequences, rows: int) -> None:
    """Add what the owner left out of ``sequence_batching``, or all of it."""
    is_owners = message.HasField("sequence_batching")
    batching = message.sequence_batching
    batching.max_sequence_idle_microseconds = round(sequences.idle_ms * 1000)
    if sequences.strategy == "oldest" and not batching.oldest.preferred_batch_size and rows:
        batching.oldest.preferred_batch_size.extend(sequences.preferred_rows or (rows,))
    if is_owners:
        return
    batching.iterative_sequence = sequences.iterative
    if sequences.strategy == "oldest":
        strategy = batching.oldest
        strategy.max_candidate_sequences = sequences.candidates
    else:
        strategy = batching.direct
        strategy.minimum_slot_utilization = sequences.min_fill
    strategy.max_queue_delay_microseconds = round(sequences.max_delay_ms * 1000)
    for control in sequences.controls:
        added = batching.control_input.add(name=control.name).control.add()
        added.kind = f"CONTROL_SEQUENCE_{control.kind.upper()}"
        if control.kind == "corrid":
            added.data_type = type_name(control.datatype)
        elif control.datatype is DataType.INT32:
            added.int32_false_true.extend(map(int, control.values))
        elif control.datatype is DataType.FP32:
            added.fp32_false_true.extend(control.values)
        else:
            added.bool_false_true.extend(control.values)
    for state in sequences.states:
        added = batching.state.add(input_name=state.input, output_name=state.output)
        added.data_type = type_name(state.datatype)
        added.dims.extend(state.shape)
        shape = state.initial_shape or [abs(extent) for extent in state.shape]
        initial = added.initial_state.add(name="initial", data_type=added.data_type, dims=shape)
        if state.initial_file:
            initial.data_file = state.initial_file
        else:
            initial.zero_data = True


def _complete_tensors(tensors: Any, specs: tuple[TensorSpec, ...], batch_axes: int) -> None:
    """Add what the owner left out of inputs or outputs."""
    known = {tensor.name: tensor for tensor in tensors}
    for spec in specs:
        tensor = known.get(spec.name)
        if tensor is None:
            tensor = tensors.add(name=spec.name)
            if spec.optional and hasattr(tensor, "optional"):
                tensor.optional = True
        if not tensor.data_type:
            tensor.data_type = type_name(spec.datatype)
        if not tensor.dims:
            tensor.dims.extend(spec.shape[batch_axes:])


def as_json(config: bytes) -> dict[str, Any]:
    """Return Triton's JSON form of a serialised ModelConfig."""
    return _as_dict(model_config_class("proto3").FromString(config))


def _as_dict(message: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            entry = kind.fields_by_name["value"]
            shown[field.name] = {str(key): _value(entry, value[key]) for key in value}
        elif field.is_repeated:
            shown[field.name] = [_value(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _value(field, value)
    return shown


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _as_dict(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.full_name in _AS_TEXT:
        return str(value)
    return value

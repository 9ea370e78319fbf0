"""Configuration of a loaded model, as Triton's clients see it.

What its owner said in ``config.pbtxt``, completed from the model itself and from how it was placed (TR-R7,
TR-C16), as a message and in Triton's JSON: every field is there, 64-bit integers are numbers.

Pure.
"""

from typing import Any, Final

import msgspec

from salver.dialects.triton.model_config import model_config_class
from salver.words.artifacts import Ensemble, Sequences
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType

#: Our backend -> Triton's name of the backend, and of the platform where it has one.
_BACKENDS: Final = {
    "onnx": ("onnxruntime", "onnxruntime_onnx"),
    "torch": ("pytorch", "pytorch_libtorch"),
    "tensorflow": ("tensorflow", "tensorflow_savedmodel"),
    "openvino": ("openvino", ""),
    "xgboost": ("fil", ""),
    "lightgbm": ("fil", ""),
}
#: Triton writes these 64-bit integers as JSON strings.
_AS_TEXT: Final = frozenset({"inference.ModelSequenceBatching.InitialState.dims"})
_INT64: Final = frozenset({3, 4, 6, 16, 18})  # FieldDescriptor.TYPE_*: the 64-bit integers


class Facts(msgspec.Struct, frozen=True):
    """What is known of a loaded version beside its signature.

    Attributes:
        backend: Ours.
        filename: Of the artefact.
        max_rows: Most rows of a run; 0 = it has no batch dimension, or is not batched.
        max_delay_ms, preferred_rows: As in :class:`salver.words.artifacts.Batching`.
        instances: Runs at the same time.
        versions: Versions that are wanted: the latest so many; 0 = all.
        decoupled: It gives any number of responses to a request.
        sequences: Whose requests it answers.
        ensemble: Its steps, of an ensemble.
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


def metric_tags(told: bytes) -> tuple[tuple[str, str], ...]:
    """The owner's labels for the model's metrics (TR-M8).

    Args:
        told: The owner's ModelConfig, serialised; empty = there is none.
    """
    return tuple(model_config_class().FromString(told).metric_tags.items()) if told else ()


#: Triton's histogram of the time to the first response, and its usual bounds, in milliseconds (TR-M3).
FIRST_RESPONSE: Final = "nv_inference_first_response_histogram_ms"
_FIRST_BOUNDS: Final = (100.0, 500.0, 2000.0, 5000.0)


def first_response_bounds(told: bytes) -> tuple[float, ...]:
    """The owner's buckets of that histogram (TR-C15), or the usual ones.

    Args:
        told: The owner's ModelConfig, serialised; empty = there is none.
    """
    for control in model_config_class().FromString(told).model_metrics.metric_control if told else ():
        if control.metric_identifier.family == FIRST_RESPONSE and control.histogram_options.buckets:
            return tuple(control.histogram_options.buckets)
    return _FIRST_BOUNDS


def parameters(told: bytes) -> dict[str, str]:
    """The owner's parameters for the backend.

    Args:
        told: The owner's ModelConfig, serialised; empty = there is none.
    """
    found = model_config_class().FromString(told).parameters if told else {}
    return {name: parameter.string_value for name, parameter in found.items()}


def complete(told: bytes, id: ModelId, signature: Signature, facts: Facts) -> bytes:
    """The whole ModelConfig, serialised.

    Args:
        told: The owner's, serialised; empty = there is none.
    """
    message = model_config_class().FromString(told)
    message.name = id.name
    if facts.ensemble.steps:
        _complete_ensemble(message, facts)
    else:
        _complete_model(message, id, facts)
    if not message.HasField("max_batch_size"):
        message.max_batch_size = facts.max_rows
    elif facts.backend == "python" and signature.batched:  # its code may say more than its owner
        message.max_batch_size = max(message.max_batch_size, signature.max_rows)
    if message.version_policy.WhichOneof("policy_choice") is None:
        if facts.versions:
            message.version_policy.latest.num_versions = facts.versions
        else:
            message.version_policy.all.SetInParent()
    if facts.decoupled:
        message.model_transaction_policy.decoupled = True
    skip = 1 if message.max_batch_size > 0 else 0
    _tensors(message.input, signature.inputs, skip)
    _tensors(message.output, signature.outputs, skip)
    content: bytes = message.SerializeToString()
    return content


def _complete_ensemble(message: Any, facts: Facts) -> None:
    """An ensemble has steps, and nothing that says how a model is run."""
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
    """How and where it is run."""
    backend, platform = _BACKENDS.get(facts.backend, (facts.backend, ""))
    message.backend = message.backend or backend
    message.platform = message.platform or platform
    message.default_model_filename = message.default_model_filename or facts.filename
    # A Python model asks for it in its code, which may run only where this is not said.
    is_told = facts.backend == "python" and message.HasField("max_batch_size")
    if facts.sequences.strategy:
        _sequences(message, facts.sequences, facts.max_rows)
    elif message.WhichOneof("scheduling_choice") is None and facts.max_rows > 1 and not is_told:
        dynamic = message.dynamic_batching
        dynamic.max_queue_delay_microseconds = round(facts.max_delay_ms * 1000)
        dynamic.preferred_batch_size.extend(facts.preferred_rows)
    if (
        message.HasField("dynamic_batching")
        and facts.max_rows
        and not message.dynamic_batching.preferred_batch_size
    ):
        message.dynamic_batching.preferred_batch_size.append(facts.max_rows)
    for pinned in (message.optimization.input_pinned_memory, message.optimization.output_pinned_memory):
        if not pinned.HasField("enable"):
            pinned.enable = True
    if not message.instance_group:
        message.instance_group.add(name=id.name, count=facts.instances)
    for index, group in enumerate(message.instance_group):
        group.name = group.name or f"{id.name}_{index}"
        group.kind = group.kind or "KIND_CPU"
        group.count = max(group.count, 1)


def _sequences(message: Any, known: Sequences, rows: int) -> None:
    """What the owner did not say of sequences in Triton's form."""
    is_told = message.HasField("sequence_batching")
    batching = message.sequence_batching
    batching.max_sequence_idle_microseconds = round(known.idle_ms * 1000)
    if known.strategy == "oldest" and not batching.oldest.preferred_batch_size and rows:
        batching.oldest.preferred_batch_size.extend(known.preferred_rows or (rows,))
    if is_told:
        return
    batching.iterative_sequence = known.iterative
    strategy = batching.oldest if known.strategy == "oldest" else batching.direct
    strategy.max_queue_delay_microseconds = round(known.max_delay_ms * 1000)
    if known.strategy == "oldest":
        batching.oldest.max_candidate_sequences = known.candidates
    else:
        batching.direct.minimum_slot_utilization = known.min_fill
    for control in known.controls:
        made = batching.control_input.add(name=control.name).control.add()
        made.kind = f"CONTROL_SEQUENCE_{control.kind.upper()}"
        if control.kind == "corrid":
            made.data_type = _type(control.datatype)
        else:
            field = {"INT32": made.int32_false_true, "FP32": made.fp32_false_true}
            values = map(int, control.values) if control.datatype is DataType.INT32 else control.values
            field.get(control.datatype.name, made.bool_false_true).extend(values)
    for state in known.states:
        made = batching.state.add(input_name=state.input, output_name=state.output)
        made.data_type = _type(state.datatype)
        made.dims.extend(state.shape)
        shape = state.initial_shape or [abs(extent) for extent in state.shape]
        initial = made.initial_state.add(name="initial", data_type=made.data_type, dims=shape)
        if state.initial_file:
            initial.data_file = state.initial_file
        else:
            initial.zero_data = True


def _type(datatype: DataType) -> str:
    return f"TYPE_{'STRING' if datatype is DataType.BYTES else datatype.name}"


def _tensors(tensors: Any, specs: tuple[TensorSpec, ...], skip: int) -> None:
    """What the owner did not say of inputs or outputs."""
    known = {tensor.name: tensor for tensor in tensors}
    for spec in specs:
        tensor = known.get(spec.name)
        if tensor is None:
            tensor = tensors.add(name=spec.name)
            if spec.optional and hasattr(tensor, "optional"):
                tensor.optional = True
        if not tensor.data_type:
            tensor.data_type = _type(spec.datatype)
        if not tensor.dims:
            tensor.dims.extend(spec.shape[skip:])


def as_json(config: bytes) -> dict[str, Any]:
    """Triton's JSON form of a serialised ModelConfig."""
    return _as_dict(model_config_class("proto3").FromString(config))


def _as_dict(message: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            below = kind.fields_by_name["value"].message_type
            made[field.name] = {str(k): _as_dict(value[k]) if below else value[k] for k in value}
        elif field.is_repeated:
            made[field.name] = [_value(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            made[field.name] = _value(field, value)
    return made


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _as_dict(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.type in _INT64 and field.full_name in _AS_TEXT:
        return str(value)
    return value

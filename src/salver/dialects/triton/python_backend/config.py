"""Configuration of a Triton Python model (TR-C16, TR-A2).

The dictionary that ``initialize`` reads as JSON, the object that ``auto_complete_config`` fills, and the
:class:`~salver.words.messages.Signature` that follows from both.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from salver.backends.hidden import hidden_inputs, hidden_outputs
from salver.backends.loading import is_batched
from salver.dialects.triton.datatypes import datatype_named, type_name
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec

_INPUT = {
    "name": "",
    "data_type": "TYPE_INVALID",
    "format": "FORMAT_NONE",
    "dims": [],
    "is_shape_tensor": False,
    "allow_ragged_batch": False,
    "optional": False,
    "is_non_linear_format_io": False,
}
_OUTPUT = {
    "name": "",
    "data_type": "TYPE_INVALID",
    "dims": [],
    "label_filename": "",
    "is_shape_tensor": False,
    "is_non_linear_format_io": False,
}
_BATCHING = {
    "max_queue_delay_microseconds": 0,
    "preserve_ordering": False,
    "priority_levels": 0,
    "default_priority_level": 0,
    "priority_queue_policy": {},
}


class ModelConfig:
    """Argument and result of ``auto_complete_config``.

    Args:
        config: The configuration so far, which is filled in place; or its JSON text.
    """

    def __init__(self, config: dict[str, Any] | str) -> None:
        self._config: dict[str, Any] = json.loads(config) if isinstance(config, str) else config
        self._name = self._config["name"]

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration so far."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set the limit of a run's rows; 0 for a model without a batch dimension.

        Raises:
            ValueError: The owner's configuration has a larger one.
        """
        configured = self._config["max_batch_size"]
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in auto-complete-config function "
                f"for model '{self._name}' specified max_batch_size {max_batch_size}"
            )
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Let requests share a run.

        Raises:
            ValueError: The owner's configuration chose another scheduler.
        """
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{other}', but auto-complete-config "
                    f"function for model '{self._name}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._config.setdefault("dynamic_batching", {})

    def add_input(self, input: Mapping[str, Any]) -> None:
        """Add an input with ``name``, ``data_type``, ``dims`` and perhaps ``optional``.

        Raises:
            ValueError: A property is missing or unknown, or contradicts the owner's configuration.
        """
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output: Mapping[str, Any]) -> None:
        """Add an output with ``name``, ``data_type`` and ``dims``. Raises as :meth:`add_input`."""
        self._add("output", output, ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, Any]) -> None:
        """Set ``decoupled``: whether the model sends its responses one by one.

        Raises:
            ValueError: There is another property, or it contradicts the owner's configuration.
        """
        if unknown := set(transaction_policy_dict) - {"decoupled"}:
            raise ValueError(
                f"model transaction property in auto-complete-config function for model '{self._name}' "
                f"contains property other than 'decoupled': {', '.join(sorted(unknown))}"
            )
        policy = self._config.setdefault("model_transaction_policy", {})
        decoupled = transaction_policy_dict.get("decoupled", policy.get("decoupled", False))
        if policy.get("decoupled", decoupled) != decoupled:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{self._name}', "
                f"which is already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = decoupled

    def _add(self, side: str, tensor: Mapping[str, Any], known: tuple[str, ...]) -> None:
        whose = f"in auto-complete-config function for model '{self._name}'"
        name = tensor.get("name")
        if name is None:
            raise ValueError(f"{side} {whose} is missing 'name' property.")
        if any(key not in known for key in tensor):
            named = ", ".join(f"'{key}'" for key in known[:-1]) + f" and '{known[-1]}'"
            raise ValueError(f"{side} '{name}' {whose} contains property other than {named}.")
        for key in ("data_type", "dims"):
            if key not in tensor:
                raise ValueError(f"{side} '{name}' {whose} is missing '{key}' property.")
        for configured in self._config[side]:
            if configured["name"] == name:
                self._match(side, configured, tensor)
                configured.update(tensor)
                return
        self._config[side].append({**(_INPUT if side == "input" else _OUTPUT), **tensor})

    def _match(self, side: str, configured: Mapping[str, Any], tensor: Mapping[str, Any]) -> None:
        """Check that the model's description of a tensor agrees with the owner's configuration."""
        name = tensor["name"]
        if configured["data_type"] not in ("TYPE_INVALID", tensor["data_type"]):
            raise ValueError(
                f"unable to load model '{self._name}', configuration expects datatype "
                f"{configured['data_type']} for {side} '{name}', model provides {tensor['data_type']}"
            )
        for key in ("dims", "optional"):
            if key in tensor and configured.get(key) not in ([], None) and configured[key] != tensor[key]:
                raise ValueError(
                    f"model '{self._name}', tensor '{name}': the model expects {key} {tensor[key]} but the "
                    f"model configuration specifies {key} {configured[key]}"
                )


def initial_config(manifest: Manifest, text: str) -> dict[str, Any]:
    """Return the configuration before ``auto_complete_config``.

    Args:
        text: The configuration in Triton's JSON; empty = take it from the manifest.
    """
    if text:
        parsed: dict[str, Any] = json.loads(text)
        return parsed
    config = manifest.config
    batched = is_batched(config.inputs, config.outputs, config) and config.batching.enabled
    return {
        "name": manifest.id.name,
        "backend": "python",
        "max_batch_size": config.batching.max_rows if batched else 0,
        "input": [_INPUT | _described(spec, batched) | {"optional": spec.optional} for spec in config.inputs],
        "output": [_OUTPUT | _described(spec, batched) for spec in config.outputs],
    }


def _described(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": type_name(spec.datatype),
        "dims": list(spec.shape[int(batched) :]),
    }


def add_defaults(config: dict[str, Any]) -> None:
    """Add what Triton adds at last: values of ``dynamic_batching``, if it is there."""
    dynamic = config.get("dynamic_batching")
    if dynamic is not None:
        dynamic.setdefault("preferred_batch_size", [config["max_batch_size"]])
        for key, value in _BATCHING.items():
            dynamic.setdefault(key, value)


def signature_of(config: Mapping[str, Any], manifest: Manifest) -> Signature:
    """Return the signature that the finished configuration describes.

    Raises:
        LoadFailed: It names no inputs or outputs, or asks for something unsupported.
    """
    name = config["name"]
    reshape = manifest.config.reshape
    if (reshape.inputs or reshape.outputs) and config.get("model_transaction_policy", {}).get("decoupled"):
        raise LoadFailed(
            f"model '{name}' is decoupled, and its tensors cannot have other shapes than callers see",
            field="reshape",
            fix="Take reshape out of its configuration, and reshape in execute.",
        )
    if not config["input"] and not config["output"]:
        raise LoadFailed(
            f"the inputs and outputs of model '{name}' are not described",
            fix="Write a config.pbtxt beside its versions, or an auto_complete_config into its class.",
        )
    batched = config["max_batch_size"] > 0
    sides = []
    for side, known in (("input", manifest.config.inputs), ("output", manifest.config.outputs)):
        labels = {spec.name: spec.labels for spec in known}
        specs = [_spec(part, batched, name, labels.get(part["name"], ())) for part in config[side]]
        sides.append(tuple(specs))
    sequences = manifest.config.sequences
    inputs = sides[0] + hidden_inputs(sequences, batched)
    outputs = sides[1] + hidden_outputs(sequences, batched)
    return Signature(inputs, outputs, batched, "python", config["max_batch_size"])


def _spec(part: Mapping[str, Any], batched: bool, model: str, labels: tuple[str, ...]) -> TensorSpec:
    datatype = datatype_named(str(part["data_type"]))
    if not part["dims"]:
        raise LoadFailed(f"model tensor '{part['name']}' must specify 'dims' for {model}")
    dims = part["reshape"]["shape"] if "reshape" in part else part["dims"]
    if datatype is None or not _are_extents(dims):
        raise LoadFailed(
            f"model '{model}': tensor '{part['name']}' has data_type {part['data_type']!r} and dims {dims!r}",
            fix='Write for example: {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 16]}',
        )
    shape = (*[-1] * batched, *map(int, dims))
    return TensorSpec(str(part["name"]), datatype, shape, bool(part.get("optional", False)), labels)


def _are_extents(dims: object) -> bool:
    return isinstance(dims, Sequence) and all(isinstance(n, int) and (n == -1 or n > 0) for n in dims)

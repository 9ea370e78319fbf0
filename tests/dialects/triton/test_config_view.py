"""Configurations of models as Triton's clients get them; expectations are a real server's answers."""

import json
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from salver.dialects.triton.config_view import Facts, as_json, complete
from salver.dialects.triton.model_config import model_config_class
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType

SIGNATURE = Signature(
    (
        TensorSpec("INPUT0", DataType.INT32, (-1, 4)),
        TensorSpec("INPUT1", DataType.INT32, (-1, 4), optional=True),
    ),
    (TensorSpec("OUTPUT0", DataType.BYTES, (-1, 4)),),
    batched=True,
)
FIXED = Signature((TensorSpec("X", DataType.FP32, (2,)),), (TensorSpec("Y", DataType.FP32, (2,)),))
ONNX = Facts("onnx", "model.onnx", max_rows=8)


def seen(text: str = "", signature: Signature = SIGNATURE, facts: Facts = ONNX) -> dict[str, Any]:
    told = text_format.Parse(text, model_config_class()()).SerializeToString()
    return as_json(complete(told, ModelId("addsub", "1"), signature, facts))


@pytest.mark.clause("TR-S8")
@pytest.mark.parametrize("decoupled", [True, False])
def test_clients_learn_that_a_model_gives_any_number_of_responses(decoupled: bool) -> None:
    shown = seen(facts=Facts("python", "model.py", decoupled=decoupled))
    assert shown.get("model_transaction_policy", {}).get("decoupled", False) is decoupled


def test_a_model_without_a_file_is_told_whole() -> None:
    assert seen() == {
        "name": "addsub",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [
            {
                "name": name,
                "data_type": "TYPE_INT32",
                "format": "FORMAT_NONE",
                "dims": [4],
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": name == "INPUT1",
                "is_non_linear_format_io": False,
            }
            for name in ("INPUT0", "INPUT1")
        ],
        "output": [
            {
                "name": "OUTPUT0",
                "data_type": "TYPE_STRING",
                "dims": [4],
                "label_filename": "",
                "is_shape_tensor": False,
                "is_non_linear_format_io": False,
            }
        ],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        "dynamic_batching": {
            "preferred_batch_size": [8],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        },
        "instance_group": [
            {
                "name": "addsub",
                "kind": "KIND_CPU",
                "count": 1,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    }


def test_without_a_batch_dimension_shapes_are_whole_and_nothing_is_batched() -> None:
    config = seen(signature=FIXED, facts=Facts("python", "model.py"))
    assert (config["max_batch_size"], config["platform"], config["backend"]) == (0, "", "python")
    assert config["input"][0]["dims"] == [2]
    assert "dynamic_batching" not in config


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("max_batch_size: 0", "max_batch_size", 0),
        (
            "version_policy { specific { versions: [1, 3] } }",
            "version_policy",
            {"specific": {"versions": [1, 3]}},
        ),
        ("version_policy { all {} }", "version_policy", {"all": {}}),
        ('backend: "pytorch"', "backend", "pytorch"),
        ('default_model_filename: "other.onnx"', "default_model_filename", "other.onnx"),
        (
            "dynamic_batching { preferred_batch_size: [2, 4] }",
            "dynamic_batching.preferred_batch_size",
            [2, 4],
        ),
        ("dynamic_batching { }", "dynamic_batching.preferred_batch_size", [8]),
        ("instance_group [ { count: 3 } ]", "instance_group.0.count", 3),
        ('instance_group [ { name: "mine" }, { } ]', "instance_group.1.name", "addsub_1"),
        ("instance_group [ { kind: KIND_MODEL } ]", "instance_group.0.kind", "KIND_MODEL"),
        (
            "optimization { input_pinned_memory { enable: false } }",
            "optimization.input_pinned_memory.enable",
            False,
        ),
        ('input [ { name: "INPUT0" dims: [2, 2] reshape { shape: [] } } ]', "input.0.reshape", {"shape": []}),
        ('input [ { name: "INPUT0" dims: [2, 2] } ]', "input.0.data_type", "TYPE_INT32"),
        ('input [ { name: "INPUT1" data_type: TYPE_INT32 dims: [4] } ]', "input.1.name", "INPUT0"),
        ('parameters { key: "a" value { string_value: "b" } }', "parameters", {"a": {"string_value": "b"}}),
        ("response_cache { enable: true }", "response_cache", {"enable": True}),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled", True),
        (
            "dynamic_batching { priority_queue_policy "
            "{ key: 3 value { max_queue_size: 1 timeout_action: DELAY } } }",
            "dynamic_batching.priority_queue_policy.3",
            {
                "timeout_action": "DELAY",
                "default_timeout_microseconds": 0,
                "allow_timeout_override": False,
                "max_queue_size": 1,
            },
        ),
        (
            'sequence_batching { state [ { initial_state { name: "z" dims: [1] zero_data: true } } ] }',
            "sequence_batching.state.0.initial_state",
            [{"data_type": "TYPE_INVALID", "dims": ["1"], "name": "z", "zero_data": True}],
        ),
    ],
)
def test_what_the_owner_said_stays(text: str, path: str, value: object) -> None:
    found: Any = seen(text)
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert found == value


def test_tritonclient_reads_the_same() -> None:
    told = complete(b"", ModelId("addsub", "1"), SIGNATURE, ONNX)
    theirs = model_config_pb2.ModelConfig.FromString(told)
    again = json_format.Parse(json.dumps(as_json(told)), model_config_pb2.ModelConfig())
    assert again == theirs

"""Messages compared with TensorFlow's and TensorFlow Serving's client, all in one process."""

import os
import subprocess
import sys
from typing import Any

import pytest
import savedmodels
from google.protobuf import text_format

from salver.dialects.tensorflow.tf_schema import DATA_TYPES, build

#: Not in the client: they are only written in files, or read from a model's folder.
_IN_FILES = frozenset(
    (
        "BatchingParameters",
        "MonitoringConfig",
        "PrometheusConfig",
        "SSLConfig",
        "ModelWarmupOptions",
        "SessionBundleConfig",
        "SavedModelBundleSourceAdapterConfig",
        "SessionBundleSourceAdapterConfig",
        "SessionOverrides",
        "SavedModelConfig",
    )
)


#: Those that lack fields which Salver does not read.
_PARTIAL = frozenset(
    (
        "TensorInfo.CompositeTensor",
        "MetaGraphDef",
        "MetaGraphDef.MetaInfoDef",
        "GPUOptions",
        "GraphOptions",
        "ConfigProto",
        "RunOptions",
        "RunMetadata",
    )
)
_FILE = build()["ModelSpec"].DESCRIPTOR.file
_ENUMS = sorted(
    enum.full_name
    for name in ("error.proto", "tensorflow.proto", "serving.proto")
    for owner in (_FILE.pool.FindFileByName(name), *(c.DESCRIPTOR for c in build().values()))
    if name == getattr(owner, "name", "") or getattr(owner, "file", None) is _FILE.pool.FindFileByName(name)
    for enum in owner.enum_types_by_name.values()
)


def _theirs(full_name: str) -> Any:
    """A descriptor out of the pool that the unmodified packages fill."""
    import tensorflow_serving.apis.model_service_pb2
    import tensorflow_serving.apis.prediction_log_pb2
    import tensorflow_serving.apis.prediction_service_pb2
    import tensorflow_serving.config.platform_config_pb2  # noqa: F401
    from google.protobuf import descriptor_pool
    from tensorflow.core.example import example_pb2  # noqa: F401
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: F401

    return descriptor_pool.Default().FindMessageTypeByName(full_name)


def _kind(field: Any) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return [(f.name, f.number, _kind(f)) for f in field.message_type.fields]
    named = field.message_type or field.enum_type
    return named.full_name if named else None


def _fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    return {
        f.name: (
            f.number,
            f.type,
            f.is_repeated,
            f.is_packed,
            _kind(f),
            f.containing_oneof and f.containing_oneof.name,
        )
        for f in descriptor.fields
    }


@pytest.mark.parametrize("name", sorted(c.DESCRIPTOR.full_name for c in build().values()))
def test_fields_are_tensorflows(name: str) -> None:
    short = name.removeprefix("tensorflow.").removeprefix("serving.")
    ours = _fields(build()[short].DESCRIPTOR)
    assert build()[short].DESCRIPTOR.full_name == name
    if short in _IN_FILES:
        with pytest.raises(KeyError):
            _theirs(name)
        return
    theirs = _fields(_theirs(name))
    assert ours == ({k: v for k, v in theirs.items() if k in ours} if short in _PARTIAL else theirs)
    assert (len(ours) < len(theirs)) == (short in _PARTIAL)


def test_the_table_is_whole() -> None:
    pool = _theirs("tensorflow.serving.ModelSpec").file.pool
    for file in ("predict", "classification", "regression", "inference", "input", "get_model_metadata"):
        found = pool.FindFileByName(f"tensorflow_serving/apis/{file}.proto").message_types_by_name
        assert set(found) <= build().keys()
    for file in ("model_server_config", "logging_config", "log_collector_config", "platform_config"):
        found = pool.FindFileByName(f"tensorflow_serving/config/{file}.proto").message_types_by_name
        assert set(found) <= build().keys()


@pytest.mark.parametrize("name", _ENUMS)
def test_enums_are_tensorflows(name: str) -> None:
    theirs = _theirs("tensorflow.serving.ModelSpec").file.pool.FindEnumTypeByName(name)
    ours = build()["ModelSpec"].DESCRIPTOR.file.pool.FindEnumTypeByName(name)
    assert {v.name: v.number for v in ours.values} == {v.name: v.number for v in theirs.values}


def test_every_enum_is_compared() -> None:
    assert {"tensorflow.DataType", "tensorflow.error.Code", "tensorflow.serving.ModelType"} < set(_ENUMS)
    assert len(_ENUMS) == 7


def test_data_types_stand_at_their_numbers() -> None:
    assert (DATA_TYPES.split()[1], DATA_TYPES.split()[7], DATA_TYPES.split()[19]) == (
        "DT_FLOAT",
        "DT_STRING",
        "DT_HALF",
    )


@pytest.mark.parametrize(
    "order",
    [
        "salver.dialects.tensorflow.tf_schema tensorflow_serving.apis",
        "tensorflow_serving.apis salver.dialects.tensorflow.tf_schema",
    ],
)
def test_beside_the_client_in_either_order(order: str) -> None:
    names = order.split()
    code = "; ".join(f"import {name}" for name in names)
    code += "; from tensorflow_serving.apis import predict_pb2 as theirs"
    code += "; from salver.dialects.tensorflow.tf_schema import build; ours = build()"
    code += "; made = ours['PredictRequest'](); made.inputs['x'].float_val.append(2)"
    code += "; assert theirs.PredictRequest.FromString(made.SerializeToString()).inputs['x'].float_val == [2]"
    environment = {**os.environ, **savedmodels.SOONER}  # the client imports TensorFlow
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)


def test_text_of_configuration_files() -> None:
    config = text_format.Parse(
        """model_config_list { config {
            name: "m" base_path: "/models/m" model_platform: "tensorflow"
            model_version_policy { specific { versions: 42 versions: 43 } }
            version_labels { key: "stable" value: 42 }
            logging_config {
                log_collector_config { type: "file" filename_prefix: "/tmp/log" }
                sampling_config { sampling_rate: 0.5 }
            }
        } }""",
        build()["ModelServerConfig"](),
    ).model_config_list.config[0]
    assert list(config.model_version_policy.specific.versions) == [42, 43]
    assert dict(config.version_labels) == {"stable": 42}
    assert config.logging_config.sampling_config.sampling_rate == 0.5
    batching = text_format.Parse(
        "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8",
        build()["BatchingParameters"](),
    )
    assert (batching.max_batch_size.value, list(batching.allowed_batch_sizes)) == (8, [4, 8])
    assert not batching.HasField("batch_timeout_micros")


def test_text_of_a_platform_file_with_any() -> None:
    cls = build()["PlatformConfigMap"]
    config = text_format.Parse(
        """platform_configs { key: "tensorflow" value { source_adapter_config {
            [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
                legacy_config { session_config { intra_op_parallelism_threads: 2 } saved_model_tags: "serve" }
            } } } }""",
        cls(),
        descriptor_pool=cls.DESCRIPTOR.file.pool,
    ).platform_configs["tensorflow"]
    adapter = build()["SavedModelBundleSourceAdapterConfig"]()
    assert config.source_adapter_config.Unpack(adapter)
    assert adapter.legacy_config.session_config.intra_op_parallelism_threads == 2
    assert list(adapter.legacy_config.saved_model_tags) == ["serve"]

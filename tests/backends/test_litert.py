"""LiteRT models as TensorFlow Serving has them: of any batch, with the names of their metadata (TF-F18)."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.backends.litert import LiteRtBackend, LiteRtModel
from salver.backends.protocol import LoadOptions
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId


@pytest.fixture(scope="module", autouse=True)
def tf() -> Any:
    """TensorFlow, which takes long to import."""
    pytest.importorskip("ai_edge_litert")
    return pytest.importorskip("tensorflow")


class _Octets(bytes):
    """Bytes that FlexBuffers' builder takes as the text that C++ makes of them."""

    def encode(self, _: str) -> bytes:
        return self


def convert(path: Path, shape: list[int | None], function: Callable[..., object]) -> Path:
    """A model without signatures: its tensors are called ``x`` and ``y``."""
    import tensorflow as tf

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32, "x"))
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def described(path: Path, signatures: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]]) -> Path:
    """The model with ``signature_defs_metadata``, of names and the tensors that they mean."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    builder = flexbuffers.Builder()
    with builder.Map():
        for name, (inputs, outputs) in sorted(signatures.items()):
            made = SignatureDef(method_name="tensorflow/serving/predict")
            for told, into in ((inputs, made.inputs), (outputs, made.outputs)):
                for alias, tensor in told.items():
                    into[alias].name = tensor
                    into[alias].tensor_shape.dim.add(size=1)
            builder.Key(name)
            builder.String(_Octets(made.SerializeToString()))
    return with_metadata(path, bytes(builder.Finish()), schema, flatbuffers)


def with_metadata(path: Path, content: bytes, schema: Any, flatbuffers: Any) -> Path:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    model.signatureDefs = None
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = b"signature_defs_metadata", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    packer = flatbuffers.Builder(1024)
    packer.Finish(model.Pack(packer), b"TFL3")
    path.write_bytes(packer.Output())
    return path


def tensors_of(path: Path) -> tuple[str, str]:
    """What the model itself calls its input and its output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_input_details()[0]["name"], interpreter.get_output_details()[0]["name"]


def load(path: Path) -> LiteRtModel:
    manifest = Manifest(id=ModelId("m", "1"), path=path, format="tflite", backend="litert")
    return LiteRtBackend().load(manifest, LoadOptions())


@pytest.mark.clause("TF-F18")
def test_a_model_of_one_row_takes_more(tmp_path: Path) -> None:
    model = load(convert(tmp_path / "m.tflite", [1, 3], lambda x: {"y": x / 2.0 + 2.0}))
    (source,), (sink,) = model.signature.inputs, model.signature.outputs
    assert (source.shape, sink.shape, model.signature.batched) == ((-1, 3), (-1, 3), False)
    for rows in (1, 4, 2, 1):
        sent = np.arange(rows * 3, dtype="f4").reshape(rows, 3)
        np.testing.assert_array_equal(model.run({source.name: sent})[sink.name], sent / 2 + 2)
    flat = np.arange(5, dtype="f4")  # TensorFlow Serving compares no shape with the signature's
    np.testing.assert_array_equal(model.run({source.name: flat})[sink.name], flat / 2 + 2)


@pytest.mark.clause("TF-F18")
@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ([1, 4], lambda tf, x: {"y": tf.reshape(x, [2, 2])}),
        ([1, 4], lambda tf, x: {"y": tf.reduce_sum(x)}),
        ([1, 4], lambda tf, x: {"y": tf.reshape(x, [1, 2, 2])}),
        ([3, 4], lambda tf, x: {"y": x + 1.0}),
    ],
)
def test_a_model_that_cannot_take_more_keeps_its_shape(
    tf: Any, tmp_path: Path, shape: list[int | None], function: Callable[..., object]
) -> None:
    model = load(convert(tmp_path / "m.tflite", shape, functools.partial(function, tf)))
    (source,), (sink,) = model.signature.inputs, model.signature.outputs
    assert source.shape == tuple(shape)
    sent = np.ones([extent or 1 for extent in shape], "f4")
    assert model.run({source.name: sent})[sink.name].shape == sink.shape


@pytest.mark.clause("TF-F18")
def test_names_are_those_of_the_metadata(tmp_path: Path) -> None:
    path = convert(tmp_path / "m.tflite", [1, 1], lambda x: {"y": x / 2.0 + 2.0})
    source, sink = tensors_of(path)
    other = ({"other": source}, {"another": sink})
    described(path, {"also": other, "serving_default": ({"in": f"{source}:0"}, {"out" * 60: sink})})
    model = load(path)
    assert [(spec.name, spec.tensor) for spec in model.signature.inputs] == [("in", source)]
    assert [(spec.name, spec.tensor) for spec in model.signature.outputs] == [("out" * 60, sink)]
    answer = model.run({"in": np.array([[2], [4]], "f4")})
    np.testing.assert_array_equal(answer["out" * 60], [[3], [4]])
    described(path, {"also": other})  # the first that is there
    assert load(path).signature.inputs[0].name == "in"


@pytest.mark.clause("TF-F18")
def test_metadata_without_the_default_counts_too(tmp_path: Path) -> None:
    path = convert(tmp_path / "m.tflite", [None, 1], lambda x: {"y": x + 1.0})
    source, sink = tensors_of(path)
    signature = load(described(path, {"also": ({"in": source}, {"out": sink})})).signature
    assert (signature.inputs[0].name, signature.outputs[0].name) == ("in", "out")
    assert signature.batched  # it was made for any number of rows


@pytest.mark.clause("TF-F18")
def test_a_signature_of_unknown_tensors_is_refused(tmp_path: Path) -> None:
    path = convert(tmp_path / "m.tflite", [1, 1], lambda x: {"y": x + 1.0})
    _, sink = tensors_of(path)
    described(path, {"serving_default": ({"in": "nowhere:0"}, {"out": sink})})
    with pytest.raises(LoadFailed, match="signature input in references an unknown tensor: nowhere:0"):
        load(path)


@pytest.mark.clause("TF-F18")
@pytest.mark.parametrize("content", [b"junk", b"\0", b"\xff" * 40, bytes(2 << 20)])
def test_broken_metadata_is_told(tmp_path: Path, content: bytes) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    path = convert(tmp_path / "m.tflite", [1, 1], lambda x: {"y": x + 1.0})
    with_metadata(path, content, schema, flatbuffers)
    with pytest.raises(LoadFailed, match=r"signature_defs_metadata of m\.tflite cannot be read"):
        load(path)

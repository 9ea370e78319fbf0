"""Program that converts a SavedModel to ONNX and verifies the answers.

``python -m salver.features.twins.conversion ORDER FOLDER``, a separate process, so that TensorFlow's memory
is released when it ends. Each signature becomes a graph, is run on the same inputs as in TensorFlow, and is
kept if the answers are close enough. The results are written beside the graphs;
:mod:`salver.features.twins.backend` serves them.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import numpy as np

from salver.backends.protocol import SIGNATURE, LoadOptions, RunnableModel
from salver.backends.tensorflow import TensorFlowBackend, TensorFlowModel
from salver.features.twins.backend import FILE, SAMPLES, Part, Twin, load_part
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType

_OPSET: Final = 18
_ROWS: Final = (1, 3, 8)
_FREE: Final = 2  # extent of free dimensions other than the batch
_SUPPORTED_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
#: Absolute and relative tolerance of answers.
_NEAR: Final = {DataType.FP16: (1e-2, 1e-2), DataType.BF16: (5e-2, 5e-2), DataType.FP64: (1e-6, 1e-5)}
_USUALLY_NEAR: Final = (1e-4, 1e-3)
_LONGEST: Final = 300


class Order(msgspec.Struct, frozen=True):
    """A SavedModel and its configuration."""

    id: ModelId
    path: str
    config: ModelConfig

    def manifest(self) -> Manifest:
        """Return the manifest for its backend."""
        return Manifest(self.id, Path(self.path), "savedmodel", "tensorflow", self.config)


_read_order: Final = msgspec.json.Decoder(Order).decode


def main(arguments: Sequence[str]) -> int:
    """Make a twin, or report why there is none; return the exit status."""
    order, folder = _read_order(Path(arguments[0]).read_bytes()), Path(arguments[1])
    logging.disable(logging.CRITICAL)  # converters are verbose; the index has a summary
    backend = TensorFlowBackend()
    try:
        _check_installed()
        model = backend.load(order.manifest(), LoadOptions(own_process=True))
    except LoadFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    twin = Twin(tuple(_parts(model, folder)))
    model.close()
    (folder / FILE).write_bytes(msgspec.json.encode(twin))
    return 0


def _check_installed() -> None:
    for module in ("tf2onnx", "onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise LoadFailed(
                f"this needs the package {module!r}, which is not installed",
                fix="Install it with: pip install 'salver[tf2onnx]'",
            )


def _parts(model: TensorFlowModel, folder: Path) -> Iterator[Part]:
    for index, whole in enumerate((model.signature, *model.signature.others)):
        # a graph checks only the shapes that it declares
        signature = msgspec.structs.replace(whole, others=(), judges_shapes=False)
        part = Part(signature, f"{index}.onnx")
        try:
            _check_convertible(signature)
            (folder / part.file).write_bytes(_graph(model, signature))
            yield _compared(model, index, part, folder)
        except Exception as error:  # a converter may raise anything
            (folder / part.file).unlink(missing_ok=True)
            words = str(error).strip().partition("\n")[0][:_LONGEST]
            yield Part(msgspec.structs.replace(whole, others=()), why=words or type(error).__name__)


def _check_convertible(signature: Signature) -> None:
    if signature.is_stateful:
        raise LoadFailed("it changes variables or tables")
    names = [spec.name for spec in (*signature.inputs, *signature.outputs)]
    if len(set(names)) < len(names):
        raise LoadFailed("an input and an output have the same name")
    if any(spec.any_rank for spec in signature.inputs):
        raise LoadFailed("the rank of an input is unknown")
    if any(spec.optional for spec in signature.inputs):
        raise LoadFailed("an input has a default value")
    if not signature.inputs:
        raise LoadFailed("it has no input")


def _graph(model: TensorFlowModel, signature: Signature) -> bytes:
    """Return an ONNX model of one signature, whose tensors have the names for callers."""
    import tensorflow as tf
    import tf2onnx
    from tf2onnx import tf_loader

    v1 = tf.compat.v1
    frozen = v1.graph_util.convert_variables_to_constants(
        model.session,
        model.session.graph.as_graph_def(),
        sorted({spec.tensor.partition(":")[0] for spec in signature.outputs}),
    )
    sources = [f"in_{i}:0" for i in range(len(signature.inputs))]
    sinks = [f"out_{i}:0" for i in range(len(signature.outputs))]
    with tf.Graph().as_default() as graph:
        given = {s.tensor: _placeholder(tf, s, n) for s, n in zip(signature.inputs, sources, strict=True)}
        wanted = [spec.tensor for spec in signature.outputs]
        # identity operations, because requested outputs are not optimised away
        for found, name in zip(tf.import_graph_def(frozen, given, wanted, name="m"), sinks, strict=True):
            tf.identity(found, name.partition(":")[0])
    flat = _without_calls(tf, graph.as_graph_def(), (*sources, *sinks))
    with tf.Graph().as_default():  # without collections, as the optimiser requires
        small = tf_loader.tf_optimize(sources, sinks, flat)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(small, name="")
        with tf_loader.tf_session(graph=graph):
            aliases = [spec.name for spec in (*signature.inputs, *signature.outputs)]
            made = tf2onnx.tfonnx.process_tf_graph(
                graph,
                opset=_OPSET,
                input_names=sources,
                output_names=sinks,
                tensors_to_rename=dict(zip((*sources, *sinks), aliases, strict=True)),
            )
    proto = tf2onnx.optimizer.optimize_graph(made).make_model(signature.name)
    _check_known(proto)
    return bytes(proto.SerializeToString())


def _without_calls(tf: Any, graph: Any, ends: Iterable[str]) -> Any:
    """Return the graph with function calls inlined."""
    from tensorflow.python.grappler import tf_optimizer

    for function in graph.library.function:
        function.attr.pop("api_implements", None)  # alternative implementations for other devices
    with tf.Graph().as_default():
        meta = tf.compat.v1.train.export_meta_graph(graph_def=graph)
    meta.collection_def["train_op"].node_list.value.extend(ends)
    config = tf.compat.v1.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.min_graph_nodes = -1  # inline functions of any size
    rewriting.optimizers.append("function")
    rewriting.function_optimization = rewriting.AGGRESSIVE
    return tf_optimizer.OptimizeGraph(config, meta)


def _placeholder(tf: Any, spec: TensorSpec, name: str) -> Any:
    kind = {DataType.BYTES: tf.string, DataType.BF16: tf.bfloat16}.get(spec.datatype)
    shape = [None if extent < 0 else extent for extent in spec.shape]
    return tf.compat.v1.placeholder(kind or spec.datatype.dtype, shape, name.partition(":")[0])


def _check_known(proto: Any) -> None:
    """Check for operations that the converter does not know, which it leaves unchanged."""
    import onnx

    def unknown(nodes: Iterable[Any]) -> Iterator[str]:
        for node in nodes:
            if node.domain not in _SUPPORTED_DOMAINS or not onnx.defs.has(node.op_type, node.domain):
                yield node.op_type
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from unknown(attribute.g.node)

    if names := sorted(set(unknown(proto.graph.node))):
        raise LoadFailed(f"ONNX has no {', '.join(names[:5])}")


def _compared(model: TensorFlowModel, index: int, part: Part, folder: Path) -> Part:
    """Return the part if its graph answers as TensorFlow does.

    Raises:
        LoadFailed: it does not, or TensorFlow answers none of the samples.
    """
    signature = part.signature
    id = ModelId(signature.name, "1")
    twin = load_part(Manifest(id, folder, "", ""), part, LoadOptions())
    mark = {SIGNATURE: np.array(index - 1)} if index else {}
    apart, count = 0.0, 0
    for inputs in (*_kept(folder, signature.name), *_drawn(signature)):
        try:
            expected = model.run({**inputs, **mark})
        except InvalidInput as error:  # generated numbers may be invalid for it
            _check_refused(twin, inputs, str(error))
            continue
        got = twin.run(inputs)
        apart = max(apart, *(_distance(s, got[s.name], expected[s.name]) for s in signature.outputs))
        count += 1
    twin.close()
    if not count:
        raise LoadFailed("TensorFlow takes none of the inputs that were tried; give it warm-up requests")
    return msgspec.structs.replace(part, apart=apart, samples=count)


def _check_refused(twin: RunnableModel, inputs: Mapping[str, Array], why: str) -> None:
    """Check that invalid input is rejected, because ONNX has no assertions. Raises LoadFailed."""
    try:
        twin.run(inputs)
    except Exception:
        return
    raise LoadFailed(f"it takes an input that TensorFlow refuses ({why})")


def _distance(spec: TensorSpec, got: Array, expected: Array) -> float:
    """Return the difference of two answers. Raises LoadFailed if it is too large."""
    where = f"its answer {spec.name!r}"
    if got.dtype != expected.dtype or got.shape != expected.shape:
        raise LoadFailed(
            f"{where} is {got.dtype}{list(got.shape)} in place of {expected.dtype}{list(expected.shape)}"
        )
    if not spec.datatype.is_float:
        if got.tolist() != expected.tolist():
            raise LoadFailed(f"{where} is another")
        return 0.0
    if not got.size:
        return 0.0
    one, other = (_as_doubles(spec, array) for array in (got, expected))
    absolute, relative = _NEAR.get(spec.datatype, _USUALLY_NEAR)
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    apart = np.where(same, 0.0, apart)
    worst = float(np.max(apart))
    if not np.all(same | (np.isfinite(apart) & (apart <= absolute + relative * np.abs(other)))):
        raise LoadFailed(f"{where} is {worst:.3g} off")
    return worst


def _as_doubles(spec: TensorSpec, array: Array) -> Array:
    if spec.datatype is DataType.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def _kept(folder: Path, name: str) -> list[Mapping[str, Array]]:
    """Return the model's sample requests."""
    if not (folder / SAMPLES).is_file():
        return []
    requests: dict[str, dict[str, Array]] = {}
    with np.load(folder / SAMPLES, allow_pickle=False) as kept:
        for key in kept.files:
            number, whose, what = map(unquote, key.split("/"))
            if whose == name:
                requests.setdefault(number, {})[what] = kept[key]
    return list(requests.values())


def _drawn(signature: Signature) -> Iterator[Mapping[str, Array]]:
    """Return random numbers of moderate size, the same each time."""
    random = np.random.default_rng(0)
    for rows in _ROWS if signature.batched else _ROWS[:1]:
        yield {spec.name: _invented(spec, rows, random, signature.batched) for spec in signature.inputs}


def _invented(spec: TensorSpec, rows: int, random: np.random.Generator, batched: bool) -> Array:
    shape = tuple(_FREE if extent < 0 else extent for extent in spec.shape)
    if batched:
        shape = (rows, *shape[1:])
    kind = spec.datatype
    if kind is DataType.BYTES:
        words = np.array([b"", b"a", b"some words", "caf\xe9".encode()], object)
        return np.asarray(words[random.integers(0, len(words), shape)], object)
    if kind is DataType.BF16:
        return np.asarray(random.normal(size=shape).astype(np.float32).view(np.uint32) >> 16, np.uint16)
    if kind.is_float:
        return np.asarray(random.normal(size=shape), kind.dtype)
    return np.asarray(random.integers(0, 2, shape), kind.dtype)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

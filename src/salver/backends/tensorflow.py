"""Backend for TensorFlow SavedModels, with all signatures; the default is ``serving_default``.

Uses a session, which reads SavedModels of TensorFlow 1 and 2 (including those whose Keras optimizer is
unknown to the current Keras), has thread pools of its own, and releases its memory when closed. TensorFlow
Serving does the same. It knows nothing of batching.
"""

import importlib
import logging
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from salver.backends.content import is_file, protobuf_fields
from salver.backends.loading import (
    choice_of,
    count_of,
    framework,
    gpu_limit,
    is_batched,
    loading,
    no_gpu,
    options_of,
    override,
)
from salver.backends.protocol import SIGNATURE, LoadOptions, Traits
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, LoadFailed, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType, datatype_of

with lazy_imports():
    from salver.backends.outputs import Outputs


_LOG = logging.getLogger("salver.backends.tensorflow")
_DEFAULT: Final = "serving_default"
#: Methods whose tensors have a row per Example, regardless of their declared shapes.
_OF_EXAMPLES: Final = frozenset({"tensorflow/serving/classify", "tensorflow/serving/regress"})
#: Prefixes of operations after which later runs may answer differently.
_WRITES: Final = (
    *(
        "Assign",
        "ResourceScatter",
        "ResourceApply",
        "ResourceSparseApply",
        "LookupTableInsert",
        "QueueEnqueue",
    ),
    *("ScatterUpdate", "ScatterAdd", "ScatterSub", "ScatterMul", "ScatterDiv", "ScatterNdUpdate"),
    *("LookupTableRemove", "StackPush", "Barrier"),
)
_TRIAL_ROWS: Final = 3
#: Libraries whose operations TensorFlow Serving has and TensorFlow has not.
_LIBRARIES: Final = ("tensorflow_text", "tensorflow_decision_forests")
_UNREGISTERED: Final = re.compile(r"Op type not registered '([^']{1,200})'")
_PLATFORM: Final = "tensorflow_savedmodel"


class TensorFlowBackend:
    """Backend for SavedModel folders.

    Options: ``signature``, the key of the default signature; ``tags``, those of the meta graph, separated by
    commas; ``intra_op_threads`` and ``inter_op_threads``, threads inside an operation, and concurrent
    operations. ``prefer`` is read by the loader of models before this backend.
    """

    name = "tensorflow"
    extra = "tensorflow"
    modules: tuple[str, ...] = ("tensorflow",)
    #: Isolated because memory is not released when its last model is gone. Operations of a graph read and
    #: write files.
    traits = Traits(isolate=True, repeatable=True, gpu=True, harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``savedmodel`` for a folder that holds a ``saved_model.pb`` with a meta graph."""
        proto = path / "saved_model.pb"
        if not is_file(proto):
            return None
        fields = [(number, kind) for number, kind, _ in protobuf_fields(proto, 8)]
        if (2, 2) in fields and set(fields) <= {(1, 0), (2, 2)}:
            return "savedmodel"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.tensorflow:preload",)

    def load(self, manifest: Manifest, options: LoadOptions) -> "TensorFlowModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, ("signature", "tags", "intra_op_threads", "inter_op_threads", "prefer"))
        choice_of(wish, "prefer", ("tensorflow", "onnx"))
        tf = _import(self, own_process=options.own_process)
        tags = [tag.strip() for tag in wish.get("tags", "serve").split(",")]
        v1 = tf.compat.v1
        pools = v1.ConfigProto(
            intra_op_parallelism_threads=count_of(wish, "intra_op_threads", options.threads),
            inter_op_parallelism_threads=count_of(wish, "inter_op_threads", 1),
            use_per_session_threads=True,
            allow_soft_placement=True,
            **_devices(v1, tf, manifest, options.gpu),
        )
        with loading(manifest):
            session, graph = _opened(tf, pools, tags, manifest.path)
        try:
            with loading(manifest):
                told = {k: s for k, s in graph.signature_def.items() if not k.startswith("__")}
                found, refused, defaults = {}, {}, {}
                for key in sorted(told):
                    defaults[key] = {n: tf.make_ndarray(value) for n, value in told[key].defaults.items()}
                    try:
                        found[key] = _signature(tf, key, told[key])
                    except LoadFailed as error:
                        refused[key] = str(error)
                first = _first(manifest, found, refused, wish.get("signature", ""))
                if refused:
                    words = "; ".join(
                        f"signature {key!r} is not served: {why}" for key, why in refused.items()
                    )
                    _LOG.warning("%s: %s", manifest.id, words)
                signatures = _ordered(found, first)
                return TensorFlowModel(tf, session, graph.graph_def, signatures, defaults, manifest)
        except BaseException:
            session.close()
            raise


def _devices(v1: Any, tf: Any, manifest: Manifest, gpu: int | None) -> dict[str, Any]:
    """Return the settings of a session for a GPU; without one it sees none, or it would take them all."""
    if gpu is None:
        return {"device_count": {"GPU": 0}}
    if (count := len(tf.config.list_physical_devices("GPU"))) <= gpu:
        raise no_gpu("TensorFlow", gpu, f"it sees {count} GPUs", "Install tensorflow[and-cuda]")
    limit = gpu_limit(manifest)
    options = v1.GPUOptions(visible_device_list=str(gpu), allow_growth=not limit)
    if limit:
        options.experimental.virtual_devices.add(memory_limit_mb=[limit / (1 << 20)])
    return {"gpu_options": options}


def preload() -> None:
    """Import in a fork server what loading a model imports."""
    tf = _import(TensorFlowBackend(), own_process=True)
    v1 = tf.compat.v1
    # Modules of TensorFlow are imported when they are used. Nothing runs: no fork would survive that.
    for used in (v1.ConfigProto, v1.Session, v1.saved_model.load, tf.make_ndarray, tf.Graph, tf.dtypes):
        assert used is not None


def _import(backend: "TensorFlowBackend", *, own_process: bool) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if own_process:  # a graph needs no Keras, which is half of TensorFlow's import
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    tf = framework(backend, "tensorflow")
    tf.get_logger().setLevel("ERROR")  # it recommends a loader that cannot read all SavedModels
    return tf


def _opened(tf: Any, pools: Any, tags: list[str], path: Path, *, is_second: bool = False) -> tuple[Any, Any]:
    """Return a session with the graph of a SavedModel, and the graph's description.

    Libraries of operations are imported if the graph needs one.

    Raises:
        LoadFailed: no library that is installed has an operation of the graph.
    """
    session = tf.compat.v1.Session(graph=tf.Graph(), config=pools)
    try:
        return session, tf.compat.v1.saved_model.load(session, tags, str(path))
    except BaseException as error:
        session.close()
        unknown = _UNREGISTERED.search(str(error))
        if unknown is None:
            raise
        if is_second or not _import_libraries():
            raise LoadFailed(
                f"{path} needs the operation {unknown[1]}, which TensorFlow itself does not have",
                fix="Install the library that has it, such as tensorflow-text or "
                "tensorflow-decision-forests, in the version of TensorFlow.",
            ) from error
    return _opened(tf, pools, tags, path, is_second=True)


def _import_libraries() -> bool:
    """Import the libraries of operations that are installed; return whether there is one."""
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # some import Keras, in the version that is installed
    found = False
    for library in _LIBRARIES:
        try:
            importlib.import_module(library)
            found = True
        except ModuleNotFoundError:
            continue
        except Exception as error:
            _LOG.warning("%s is installed but cannot be imported: %s", library, error)
    return found


class TensorFlowModel:
    """All signatures of a SavedModel, in one session.

    Args:
        graph: The GraphDef that the session runs.
        signatures: By key, the default first.
        defaults: By key, the default values of optional inputs.
    """

    def __init__(
        self,
        tf: Any,
        session: Any,
        graph: Any,
        signatures: Mapping[str, Signature],
        defaults: Mapping[str, Mapping[str, Array]],
        manifest: Manifest,
    ) -> None:
        writers = _Writers(graph)
        half, name = tf.bfloat16.as_numpy_dtype, manifest.id.name
        self._calls: list[_Call] = []
        served: list[Signature] = []
        for told in signatures.values():
            signature = _with_words(told, manifest, is_first=not served)
            if writers.reach(
                signature
            ):  # a failed batch is run again in parts, and a run with side effects must not be
                signature = msgspec.structs.replace(signature, is_stateful=True, batched=False)
            call = _Call(session, signature, half, name, defaults[told.name])
            if signature.batched and signature.method not in _OF_EXAMPLES and not call.keeps_rows(signature):
                signature = msgspec.structs.replace(signature, batched=False)
                call = _Call(session, signature, half, name, defaults[told.name])
            self._calls.append(call)
            served.append(signature)
        self.signature = msgspec.structs.replace(served[0], others=tuple(served[1:]))
        self.session: Any = session
        self._refusals = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)
        self._error = tf.errors.OpError
        self._name = name

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        mark = inputs.get(SIGNATURE)
        call = self._calls[0 if mark is None else int(mark) + 1]
        try:
            return call(inputs)
        except self._error as error:
            said = error.message.partition("\n")[0]
            if isinstance(error, self._refusals):
                raise InvalidInput(said) from error
            raise ModelFailed(f"model '{self._name}' raised {type(error).__name__}: {said}") from error

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        for call in self._calls:
            call.close()
        self.session.close()


class _Call:
    """Execution of one signature.

    Args:
        half: The numpy dtype that TensorFlow uses for bfloat16.
        defaults: Default values of optional inputs.
    """

    def __init__(
        self, session: Any, signature: Signature, half: Any, model: str, defaults: Mapping[str, Array]
    ) -> None:
        # as a callable of these names, because Session.run compares shapes with those of the graph, which
        # may be only typical, and takes three times as long
        callable_options = _options(signature)
        self._run: Any = session._make_callable_from_options(callable_options)
        self._inputs = [(s.name, half if s.datatype is DataType.BF16 else None) for s in signature.inputs]
        self._outputs = [s.name for s in signature.outputs]
        self._defaults = defaults
        self._check = Outputs(signature, model).check

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs = self._run(*self._feed(inputs))
        return self._check(dict(zip(self._outputs, outputs, strict=True)), inputs)

    def _feed(self, inputs: Mapping[str, Array]) -> list[Array]:
        if self._defaults:
            inputs = {**self._defaults, **inputs}
        return [inputs[n] if view is None else inputs[n].view(view) for n, view in self._inputs]

    def keeps_rows(self, signature: Signature) -> bool:
        """Return whether every output has as many rows as the inputs, tested with zeros.

        A signature that rejects zeros is assumed to.
        """
        inputs = {spec.name: _zeros(spec) for spec in signature.inputs}
        try:
            outputs = self._run(*self._feed(inputs))
        except Exception:
            return True
        return all(np.shape(output)[:1] == (_TRIAL_ROWS,) for output in outputs)

    def close(self) -> None:
        self._run = None


def _zeros(spec: TensorSpec) -> Array:
    shape = (_TRIAL_ROWS, *(max(extent, 1) for extent in spec.shape[1:]))
    if spec.datatype is DataType.BYTES:
        return np.full(shape, b"", object)
    return np.zeros(shape, spec.datatype.dtype)


def _options(signature: Signature) -> Any:
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    return CallableOptions(
        feed=[spec.tensor for spec in signature.inputs], fetch=[spec.tensor for spec in signature.outputs]
    )


def _signature(tf: Any, key: str, told: Any) -> Signature:
    """Return the signature of a SignatureDef. Raises LoadFailed for a tensor that cannot be served."""
    method = told.method_name or "tensorflow/serving/predict"
    inputs, outputs = _specs(tf, told.inputs, told.defaults), _specs(tf, told.outputs)
    return Signature(inputs, outputs, False, _PLATFORM, name=key, method=method, judges_shapes=True)


def _specs(tf: Any, tensors: Mapping[str, Any], defaults: Container[str] = ()) -> tuple[TensorSpec, ...]:
    specs = []
    for name, info in sorted(tensors.items()):
        if info.WhichOneof("encoding") != "name":
            kind = "ragged, sparse or otherwise composite"
            if info.HasField("coo_sparse"):
                kind = "sparse"
            raise LoadFailed(f"tensor {name!r} is {kind}", fix="Give its parts as outputs of their own.")
        kind = tf.dtypes.as_dtype(info.dtype)
        try:
            datatype = DataType.BYTES if kind.name == "string" else datatype_of(kind.as_numpy_dtype)
        except (TypeError, ValueError) as error:
            raise LoadFailed(f"tensor {name!r} is a {kind.name}, which no datatype holds") from error
        any_rank = info.tensor_shape.unknown_rank
        shape = (-1,) if any_rank else tuple(int(d.size) for d in info.tensor_shape.dim)
        optional = name in defaults
        specs.append(TensorSpec(name, datatype, shape, optional, tensor=info.name, any_rank=any_rank))
    return tuple(specs)


def _first(manifest: Manifest, found: Mapping[str, Signature], refused: Mapping[str, str], wish: str) -> str:
    """Return the key of the default signature.

    Raises:
        LoadFailed: there is none, or not the configured one.
    """
    key = wish or _DEFAULT
    if key in found:
        return key
    if refused and (key in refused if wish else not found):
        why = "; ".join(f"{k!r}: {said}" for k, said in refused.items() if not wish or k == key)
        raise LoadFailed(f"{manifest.path} has no signature that can be served: {why}")
    if wish or not found:
        known = ", ".join(found) or "none"
        raise LoadFailed(
            f"{manifest.path} has no signature {key!r}",
            field="options.signature",
            fix=f'It has: {known}. Name one in salver.toml: [options] signature = "…".',
        )
    first = min(found)
    _LOG.info("%s: has no %r; %r answers requests that name no signature", manifest.id, _DEFAULT, first)
    return first


def _ordered(found: Mapping[str, Signature], first: str) -> dict[str, Signature]:
    return {first: found[first], **found}


def _with_words(signature: Signature, manifest: Manifest, *, is_first: bool) -> Signature:
    """Return the first signature with configured tensors, and whether it has rows."""
    config = manifest.config
    inputs, outputs = signature.inputs, signature.outputs
    if is_first:
        inputs = override(_with_ranks(inputs, config.inputs), config.inputs, "inputs")
        outputs = override(_with_ranks(outputs, config.outputs), config.outputs, "outputs")
    has_rows = signature.method in _OF_EXAMPLES or not any(spec.any_rank for spec in (*inputs, *outputs))
    batched = has_rows and is_batched(inputs, outputs, config)
    return msgspec.structs.replace(signature, inputs=inputs, outputs=outputs, batched=batched)


def _with_ranks(said: Iterable[TensorSpec], wished: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    shapes = {spec.name: spec.shape for spec in wished}
    return tuple(
        msgspec.structs.replace(spec, shape=shapes[spec.name], any_rank=False)
        if spec.any_rank and spec.name in shapes
        else spec
        for spec in said
    )


class _Writers:
    """Finder of signatures whose runs change variables or tables."""

    def __init__(self, graph: Any) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function.node_def for function in graph.library.function}
        self._known: dict[str, bool] = {}

    def reach(self, signature: Signature) -> bool:
        """Return whether a run writes."""
        seen = {_node_of(spec.tensor) for spec in signature.inputs}
        ahead = [_node_of(spec.tensor) for spec in signature.outputs]
        while ahead:
            name = ahead.pop()
            if name in seen or name not in self._nodes:
                continue
            seen.add(name)
            node = self._nodes[name]
            if self._writes(node):
                return True
            ahead += [_node_of(source) for source in node.input]
        return False

    def _writes(self, node: Any) -> bool:
        return node.op.startswith(_WRITES) or any(map(self._function_writes, _called(node)))

    def _function_writes(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = False  # for a recursive function
            self._known[name] = any(map(self._writes, self._functions.get(name, ())))
        return self._known[name]


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _node_of(tensor: str) -> str:
    """Return the operation that produces a tensor, or a control dependency.

    >>> _node_of("^read"), _node_of("x:0")
    ('read', 'x')
    """
    return tensor.removeprefix("^").partition(":")[0]

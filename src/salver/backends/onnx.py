"""Backend for ONNX models, run with ONNX Runtime on the CPU, or on one of NVIDIA's GPUs.

One session serves all threads concurrently. It knows nothing of batching: a batch is one call.
"""

import ctypes
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salver.backends.content import head, protobuf_fields
from salver.backends.loading import (
    choice_of,
    count_of,
    framework,
    gpu_limit,
    is_at_least,
    is_batched,
    loading,
    no_gpu,
    options_of,
    override,
)
from salver.backends.protocol import Cost, LoadOptions, RunnableModel, Traits
from salver.backends.sharing import SHARE, shared, wants_sharing
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidOutput, LoadFailed, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType, as_bytes

with lazy_imports():
    from salver.backends.onnx_cost import cost_of, product_graph
    from salver.backends.onnx_strings import bytes_of, value_of


_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH_FIELDS = {1, 2, 5, 10, 11, 12, 13, 14, 15, 16}
_TYPES = {
    "tensor(float)": DataType.FP32,
    "tensor(double)": DataType.FP64,
    "tensor(float16)": DataType.FP16,
    "tensor(bfloat16)": DataType.BF16,
    "tensor(string)": DataType.BYTES,
    "tensor(bool)": DataType.BOOL,
} | {f"tensor({t.name.lower()})": t for t in DataType if t.is_integer}
_MAPS = {"seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))"}
#: Options of Triton's backend: session switches, numbers, and a run option.
_SWITCHES = {"enable_mem_arena": "enable_cpu_mem_arena", "enable_mem_pattern": "enable_mem_pattern"}
_COUNTS = ("inter_op_thread_count", "execution_mode")
_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
#: From this version on, files cannot refer to data outside their folder or in the process's memory.
_STRICT = (1, 28)
_HOW_TO_SHARE = "Save the weights beside the graph: onnx.save_model(model, path, save_as_external_data=True)."
_BF16 = 16  # TensorProto.BFLOAT16
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxBackend:
    """Backend for ONNX and ORT-format models."""

    name = "onnx"
    extra = "onnx"
    modules: tuple[str, ...] = ("onnxruntime",)

    def __init__(self) -> None:
        is_strict = is_at_least("onnxruntime", _STRICT)
        self.traits = Traits(
            native=True,
            repeatable=True,
            gpu=True,
            harmless_formats=frozenset({"onnx", "ort"} if is_strict else ()),
        )

    def recognise(self, path: Path) -> str | None:
        """Return ``onnx`` (a ModelProto with a version and a graph) or ``ort`` (its flat form).

        Also for a folder ``*.onnx`` that contains such a ``model.onnx``, as in Triton.
        """
        path = _file(path)
        start = head(path, 8)
        if start[4:8] == b"ORTM":
            return "ort"
        if start[:1] not in (b"\x08", b"\x12", b"\x3a", b"\x42"):
            return None
        has_version = False
        for number, kind, value in protobuf_fields(path):
            if _MODEL_FIELDS.get(number) != kind:
                return None
            if number == 1:
                has_version = 0 < int.from_bytes(value, "little") < 100
            if number == 7 and value and (value[0] & 7 != 2 or value[0] >> 3 not in _GRAPH_FIELDS):
                return None
            if number == 7 and has_version:
                return "onnx"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.onnx", "onnxruntime")

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, (*_SWITCHES, *_COUNTS, "graph_optimization_level", _SHRINKAGE, SHARE))
        sharing = wants_sharing(wish, manifest, options, "prepacked")
        # From 1.29 it reports model names and hashes to its maker unless disabled before its import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        ort = framework(self, "onnxruntime")
        ort.disable_telemetry_events()
        with loading(manifest):
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = options.threads
            settings.inter_op_num_threads = 1
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
            settings.log_severity_level = 4
            _apply(ort, settings, wish)
            if sharing == "true":  # packed weights are copies, unless they were saved
                settings.add_session_config_entry("session.disable_prepacking", "1")
            path = str(_file(manifest.path))
            if options.gpu is None:
                session = ort.InferenceSession(path, settings, providers=[_CPU])
            else:
                session = _on_gpu(ort, path, settings, manifest, options.gpu)
            shrinks = ort.RunOptions() if wish.get(_SHRINKAGE) else None
            if shrinks:
                shrinks.add_run_config_entry(_SHRINKAGE, wish[_SHRINKAGE])
            model = OnnxModel(session, manifest, shrinks)
            return shared(model, manifest, _HOW_TO_SHARE) if sharing else model

    def cost(self, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
        """See :class:`~salver.backends.protocol.CountingBackend`."""
        return cost_of(_file(manifest.path), shapes)

    def product(self, int8: bool) -> tuple[Callable[[], object], float]:
        """See :class:`~salver.backends.protocol.CountingBackend`."""
        model, feed, operations = product_graph(int8)
        ort = framework(self, "onnxruntime")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = ort.InferenceSession(model, settings, providers=[_CPU])
        return lambda: session.run(None, feed), operations


class OnnxModel:
    """Model with one session."""

    def __init__(self, session: Any, manifest: Manifest, run_options: Any = None) -> None:
        inputs = override(_specs(session.get_inputs(), "input"), manifest.config.inputs, "inputs")
        outputs = override(_specs(session.get_outputs(), "output"), manifest.config.outputs, "outputs")
        batched = is_batched(inputs, outputs, manifest.config)
        self.signature = Signature(inputs, outputs, batched, "onnxruntime_onnx")
        self._session: Any = session
        self._model = manifest.id.name
        self._names = [spec.name for spec in outputs]
        self._first = inputs[0].name if inputs and self.signature.batched else ""
        # calling the inner object saves a fifth of a small model's time by skipping checks already done
        self._run: Callable[..., Sequence[Any]] = getattr(session, "_sess", session).run
        self._run_options: Any = run_options
        self._texts = [s.name for s in inputs if s.datatype is DataType.BYTES]
        maps = {meta.name for meta in session.get_outputs() if meta.type in _MAPS}
        self._special = {
            s.name: _from_maps if s.name in maps else as_bytes
            for s in outputs
            if s.name in maps or s.datatype is DataType.BYTES
        }
        self._halves = {s.name for s in (*inputs, *outputs) if s.datatype is DataType.BF16}
        #: One output of numbers with a rank, and no strings among the inputs: the way of most small models.
        self._is_plain = (
            len(outputs) == 1
            and bool(outputs[0].shape)
            and not (self._halves or self._texts or self._special)
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        feed = inputs if type(inputs) is dict else dict(inputs)
        if self._is_plain:
            (output,) = self._run(self._names, feed, self._run_options)
            if not self._first or output.shape[:1] == feed[self._first].shape[:1]:
                return {self._names[0]: output}
            return self._whole({self._names[0]: output}, inputs)
        if self._halves:
            return self._run_values(feed)
        try:
            texts = {n: _to_text(feed[n]) for n in self._texts} if self._texts else {}
            given = self._run(self._names, feed | texts if texts else feed, self._run_options)
        except UnicodeDecodeError:  # in an input or an output
            return self._run_values(feed)
        outputs = dict(zip(self._names, given, strict=True))
        for name, convert in self._special.items():
            outputs[name] = convert(outputs[name])
        return self._whole(outputs, inputs)

    def _run_values(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run with OrtValues, for bfloat16 and bytes, which have no numpy form in ONNX Runtime."""
        import onnxruntime as ort

        values = {}
        for name, array in feed.items():
            if name in self._halves:
                values[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BF16)
            elif name in self._texts:
                values[name] = value_of(ort, array)
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(array)
        outputs: dict[str, Array] = {}
        for name, value in zip(
            self._names,
            self._session.run_with_ort_values(self._names, values, self._run_options),
            strict=True,
        ):
            if name not in self._halves:
                convert = self._special.get(name)
                outputs[name] = bytes_of(value) if convert is as_bytes else value.numpy()
                continue
            raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
            outputs[name] = np.frombuffer(raw, np.uint16).reshape(value.shape())
        return self._whole(outputs, feed)

    def _whole(self, outputs: dict[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._first:
            rows = inputs[self._first].shape[0]
            for name, array in outputs.items():
                if array.shape[:1] != (rows,):
                    raise InvalidOutput(
                        f"output {name!r} of model '{self._model}' has shape {list(array.shape)} for a batch "
                        f"of {rows}",
                        fix="If its axis 0 is no batch, give its inputs fixed shapes in salver.toml.",
                    )
        return outputs

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._session = None
        self._run = _closed


def _on_gpu(ort: Any, path: str, settings: Any, manifest: Manifest, gpu: int) -> Any:
    """Return a session on a GPU, with the CPU for operations that the GPU has not."""
    device = {"device_id": gpu, "arena_extend_strategy": "kSameAsRequested"}  # else it doubles
    if limit := gpu_limit(manifest):
        device["gpu_mem_limit"] = limit
    if hasattr(ort, "preload_dlls"):  # from 1.21: CUDA of NVIDIA's packages
        ort.preload_dlls()
    providers = [(_CUDA, device), _CPU]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the provider that is missing, which is an error here
        session = ort.InferenceSession(path, settings, providers=providers, enable_fallback=0)
    if _CUDA not in session.get_providers():
        known = ", ".join(ort.get_available_providers())
        fix = "Install onnxruntime-gpu in place of onnxruntime, with the CUDA and cuDNN that it names"
        raise no_gpu("ONNX Runtime", gpu, f"CUDA does not start, or is not built in ({known})", fix)
    return session


def _apply(ort: Any, settings: Any, wish: dict[str, str]) -> None:
    """Apply options named as in Triton's ONNX Runtime backend."""
    for key, attribute in _SWITCHES.items():
        if key in wish:
            setattr(settings, attribute, choice_of(wish, key, ("1", "0", "true", "false")) in ("1", "true"))
    if count_of(wish, "execution_mode", 0, least=0):
        settings.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    settings.inter_op_num_threads = count_of(wish, "inter_op_thread_count", 1, least=0)
    level = choice_of(wish, "graph_optimization_level", ("all", "extended", "basic", "disabled"))
    name = "ORT_DISABLE_ALL" if level == "disabled" else f"ORT_ENABLE_{level.upper()}"
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, name)


def _file(path: Path) -> Path:
    if path.suffix == ".onnx" and path.is_dir():
        return path / "model.onnx"
    return path


def _closed(*_: object) -> Sequence[Any]:
    raise ModelFailed("the model is closed")


def _specs(metas: Sequence[Any], kind: str) -> tuple[TensorSpec, ...]:
    specs = []
    for meta in metas:
        if kind == "output" and meta.type in _MAPS:
            specs.append(TensorSpec(meta.name, DataType.FP32, (-1, -1)))
            continue
        datatype = _TYPES.get(meta.type)
        if datatype is None:
            raise LoadFailed(
                f"{kind} {meta.name!r} is a {meta.type}, which no datatype of the protocol holds",
                fix="Export the model with plain tensors as inputs and outputs.",
            )
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in meta.shape)
        specs.append(TensorSpec(meta.name, datatype, shape))
    return tuple(specs)


def _from_maps(rows: Sequence[Mapping[Any, float]]) -> Array:
    """Convert ZipMap's list of {class: probability} per row to a matrix in the order of the classes."""
    return np.array(
        [[row[key] for key in sorted(row, key=lambda k: (str(type(k)), k))] for row in rows], "f4"
    )


def _to_text(array: Array) -> Array:
    out = np.empty(array.size, dtype=object)
    out[:] = [value.decode() for value in array.ravel().tolist()]
    return out.reshape(array.shape)

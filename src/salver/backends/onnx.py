"""How does an ONNX file become a runnable model?

With ONNX Runtime on the CPU. Recognition walks the first fields of the protobuf by hand; nothing
is imported before ``load``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salver.artifacts import Manifest
from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.errors import LoadFailed, MissingExtra
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType

_TYPES = {
    "tensor(bool)": DataType.BOOL,
    "tensor(uint8)": DataType.UINT8,
    "tensor(uint16)": DataType.UINT16,
    "tensor(uint32)": DataType.UINT32,
    "tensor(uint64)": DataType.UINT64,
    "tensor(int8)": DataType.INT8,
    "tensor(int16)": DataType.INT16,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(float16)": DataType.FP16,
    "tensor(float)": DataType.FP32,
    "tensor(double)": DataType.FP64,
    "tensor(bfloat16)": DataType.BF16,
    "tensor(string)": DataType.BYTES,
}
_MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")


class OnnxBackend:
    """ONNX Runtime."""

    name = "onnx"
    extra = "onnx"
    modules = ("onnxruntime",)
    traits = Traits(releases_gil=True, concurrent=True, native=True)

    def recognise(self, path: Path) -> str | None:
        """``onnx`` for a serialised ModelProto."""
        try:
            if not path.is_file():
                return None
            with path.open("rb") as file:
                return "onnx" if _looks_like_model(file.read(4096)) else None
        except OSError:
            return None

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """See :class:`~salver.backends.protocol.Backend`."""
        # From 1.29 on it reports model names and hashes to its maker, unless told not to before its import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra(self.name, self.extra, "onnxruntime") from error
        onnxruntime.disable_telemetry_events()
        unknown = sorted(manifest.config.options)
        if unknown:
            raise LoadFailed(f"the onnx backend knows no option {unknown[0]!r}", field=f"options.{unknown[0]}")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        # Spinning helper threads would take the cores from other models and from the front.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(manifest.path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise LoadFailed(f"ONNX Runtime cannot load {manifest.path}: {error}") from error
        return OnnxModel(session, manifest)


class OnnxModel:
    """A session and what its tensors are called."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session = session
        maps = [o.name for o in session.get_outputs() if o.type in _MAPS]
        self.signature = _signature(session, manifest)
        self._outputs = [spec.name for spec in self.signature.outputs]
        self._maps = frozenset(maps)
        self._bf16 = any(s.datatype is DataType.BF16 for s in (*self.signature.inputs, *self.signature.outputs))
        self._strings = any(
            s.datatype is DataType.BYTES for s in (*self.signature.inputs, *self.signature.outputs)
        )
        # One call less than InferenceSession.run, whose checks the engine has already done.
        self._run = session._sess.run

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        if self._bf16:
            return self._run_ort_values(inputs)
        if self._strings:
            inputs = {n: _to_text(a) if a.dtype == object else a for n, a in inputs.items()}
        results = self._run(self._outputs, inputs, None)
        outputs = dict(zip(self._outputs, results, strict=True))
        if self._maps or self._strings:
            for name, value in outputs.items():
                if name in self._maps:
                    rows = [list(row.values()) for row in value]
                    outputs[name] = np.array(rows, np.float32)
                elif value.dtype == object:
                    outputs[name] = _to_bytes(value)
        return outputs

    def _run_ort_values(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        from onnxruntime import OrtValue

        types = {s.name: s.datatype for s in self.signature.inputs}
        values = {
            n: OrtValue.ortvalue_from_numpy_with_onnx_type(a, 16)
            if types[n] is DataType.BF16
            else OrtValue.ortvalue_from_numpy(a)
            for n, a in inputs.items()
        }
        results = self._session.run_with_ort_values(self._outputs, values)
        outputs = {}
        for spec, value in zip(self.signature.outputs, results, strict=True):
            array = np.asarray(value.numpy())
            outputs[spec.name] = array.view(np.uint16) if spec.datatype is DataType.BF16 else array
        return outputs

    def close(self) -> None:
        """Drop the session."""
        self._session = None
        self._run = None


def _signature(session: Any, manifest: Manifest) -> Signature:
    inputs = tuple(_spec(node, manifest) for node in session.get_inputs())
    outputs = tuple(_spec(node, manifest) for node in session.get_outputs())
    batched = bool(inputs and outputs) and all(
        spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs)
    )
    labels = {spec.name: spec.labels for spec in manifest.config.outputs}
    outputs = tuple(TensorSpec(s.name, s.datatype, s.shape, False, labels.get(s.name, ())) for s in outputs)
    return Signature(inputs, outputs, batched, "onnx_onnxv1")


def _spec(node: Any, manifest: Manifest) -> TensorSpec:
    if node.type in _MAPS:
        return TensorSpec(node.name, DataType.FP32, (-1, -1))
    datatype = _TYPES.get(node.type)
    if datatype is None:
        raise LoadFailed(f"{manifest.path}: tensor {node.name!r} has the type {node.type}, which has no wire form")
    shape = tuple(extent if isinstance(extent, int) else -1 for extent in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _to_text(array: Array) -> Array:
    return np.array([v.decode() for v in array.ravel()], dtype=object).reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    return np.array([v.encode() for v in array.ravel()], dtype=object).reshape(array.shape)


def _looks_like_model(head: bytes) -> bool:
    """ModelProto: ``ir_version`` first, then only known fields up to ``graph`` or the end of the look."""
    if len(head) < 8 or head[0] != 0x08 or not 1 <= head[1] <= 64:
        return False
    at, seen = 2, 0
    while at < len(head):
        tag = head[at]
        field, wire = tag >> 3, tag & 7
        at += 1
        if wire == 0:
            if field not in (1, 5):
                return False
            size, at = _varint(head, at)
        elif wire == 2:
            if field not in (2, 3, 4, 6, 7, 8, 14, 20, 25):
                return False
            size, at = _varint(head, at)
            if field == 7:
                return True
            at += size
        else:
            return False
        seen += 1
    return seen > 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
        shift += 7
    return value, at

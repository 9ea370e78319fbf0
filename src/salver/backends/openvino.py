"""Backend for OpenVINO models, run with its CPU plugin in full precision.

A compiled model serves all threads concurrently: each run takes a free infer request. It knows nothing of
batching.
"""

import queue
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salver.backends.content import head
from salver.backends.loading import framework, is_batched, loading, options_of, override
from salver.backends.protocol import LoadOptions, Traits
from salver.lazy import lazy_imports
from salver.machine import usable_cores
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

with lazy_imports():
    from salver.backends.outputs import Outputs


_NET = re.compile(rb'\s*(<\?xml[^>]*\?>\s*)?<net\s[^>]*\bversion="1[01]"')
_TYPES = {"f32": DataType.FP32, "f64": DataType.FP64, "f16": DataType.FP16, "boolean": DataType.BOOL} | {
    t.name.lower().replace("uint", "u").replace("int", "i"): t for t in DataType if t.is_integer
}


class OpenVinoBackend:
    """Backend for OpenVINO's intermediate representation (``.xml`` with ``.bin``), and ONNX if configured.

    The ``.bin`` has the name of its ``.xml``.
    """

    name = "openvino"
    extra = "openvino"
    modules: tuple[str, ...] = ("openvino",)
    #: For ONNX files its reader accepts external data by addresses in the process's memory.
    traits = Traits(native=True, repeatable=True, harmless_formats=frozenset({"openvino-ir"}))

    def recognise(self, path: Path) -> str | None:
        """Return ``openvino-ir`` for XML that begins with a ``net`` of version 10 or 11."""
        if _NET.match(head(path, 1024)):
            return "openvino-ir"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.openvino:preload",)

    def load(self, manifest: Manifest, options: LoadOptions) -> "OpenVinoModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        options_of(manifest, ())
        openvino = _import()
        weights = manifest.path.with_suffix(".bin")
        files = [str(manifest.path)]
        if manifest.format == "openvino-ir" and weights.is_file():
            files.append(str(weights))
        streams = max(1, usable_cores() // options.threads)
        with loading(manifest):
            core = openvino.Core()
            model = core.read_model(*files)
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "f32",  # otherwise BF16 if the processor supports it
                    "INFERENCE_NUM_THREADS": streams * options.threads,
                    "NUM_STREAMS": streams,
                    "ENABLE_CPU_PINNING": False,  # other models run on this machine too
                },
            )
            return OpenVinoModel(compiled, manifest)


def preload() -> None:
    """Import OpenVINO in a fork server."""
    _import()


def _import() -> Any:
    return framework(OpenVinoBackend(), "openvino", without=("openvino_telemetry",))


class OpenVinoModel:
    """One compiled model."""

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        said = [_spec(port, "input") for port in compiled.inputs]
        gives = [_spec(port, "output") for port in compiled.outputs]
        inputs = override(tuple(said), manifest.config.inputs, "inputs")
        outputs = override(tuple(gives), manifest.config.outputs, "outputs")
        batched = is_batched(inputs, outputs, manifest.config)
        bounds = [bound for bound in map(_most, compiled.inputs) if bound and batched]
        most = min(bounds, default=0)
        self.signature = Signature(inputs, outputs, batched, "openvino", max_rows=most)
        self._names = [spec.name for spec in gives]
        self._order = [spec.name for spec in said]
        self._check = Outputs(self.signature, manifest.id.name).check
        self._compiled: Any = compiled
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            if self._compiled is None:
                raise ModelFailed("the model is closed") from None
            request = self._compiled.create_infer_request()
        answer = request.infer([inputs[name] for name in self._order], share_inputs=True)
        outputs = dict(zip(self._names, answer.to_tuple(), strict=True))
        self._requests.put(request)
        return self._check(outputs, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._compiled = None
        self._requests = queue.SimpleQueue()


def _spec(port: Any, kind: str) -> TensorSpec:
    name = min(port.names) if port.names else port.node.friendly_name
    datatype = _TYPES.get(port.element_type.get_type_name())
    if datatype is None:
        raise LoadFailed(
            f"{kind} {name!r} is {port.element_type.get_type_name()}, which is not served by this backend",
            fix="Let the model take and give numbers or booleans; BF16 and texts it keeps inside.",
        )
    partial = port.partial_shape
    if partial.rank.is_dynamic:
        raise LoadFailed(
            f"{kind} {name!r} has any number of dimensions", fix="Give it a rank when the model is converted."
        )
    return TensorSpec(name, datatype, tuple(-1 if d.is_dynamic else d.get_length() for d in partial))


def _most(port: Any) -> int:
    """Return the rows that an input accepts at once; 0 = any number."""
    most = int(port.partial_shape[0].max_length)
    return most if 0 < most < 1 << 31 else 0

"""How does a LiteRT (TensorFlow Lite) model run? Through one interpreter, which one thread uses at a time.

Models with a free first extent are resized to each batch. It knows nothing of batching itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salver.artifacts import Manifest
from salver.backends.content import head
from salver.backends.loading import framework, is_batched, loading, options_of, override
from salver.backends.outputs import Outputs
from salver.backends.protocol import LoadOptions, Traits
from salver.errors import LoadFailed
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType, datatype_of


class LiteRtBackend:
    """TFLite flatbuffers. Names are those of the model's only signature, else of its tensors."""

    name = "litert"
    extra = "litert"
    modules: tuple[str, ...] = ("ai_edge_litert",)
    #: Its operations know no files, and no delegate or operation is loaded from outside.
    traits = Traits(concurrent=False, harmless_formats=frozenset({"tflite"}))

    def recognise(self, path: Path) -> str | None:
        """``tflite`` by the flatbuffer's identifier."""
        return "tflite" if head(path, 8)[4:] == b"TFL3" else None

    def load(self, manifest: Manifest, options: LoadOptions) -> "LiteRtModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        options_of(manifest, ())
        litert = framework(self, "ai_edge_litert.interpreter")
        with loading(manifest):
            interpreter = litert.Interpreter(model_path=str(manifest.path), num_threads=options.threads)
            interpreter.allocate_tensors()
            return LiteRtModel(interpreter, manifest)


class LiteRtModel:
    """One interpreter."""

    def __init__(self, interpreter: Any, manifest: Manifest) -> None:
        self._interpreter: Any = interpreter
        signatures = interpreter.get_signature_list()
        if len(signatures) == 1:
            runner = interpreter.get_signature_runner()
            takes, gives = runner.get_input_details(), runner.get_output_details()
        else:
            takes = {detail["name"]: detail for detail in interpreter.get_input_details()}
            gives = {detail["name"]: detail for detail in interpreter.get_output_details()}
        inputs = override(_specs(takes), manifest.config.inputs, "inputs")
        outputs = override(_specs(gives), manifest.config.outputs, "outputs")
        batched = is_batched(inputs, outputs, manifest.config)
        self.signature = Signature(inputs, outputs, batched, "tensorflow_tflite")
        self._takes = {name: int(detail["index"]) for name, detail in takes.items()}
        self._gives = {name: int(detail["index"]) for name, detail in gives.items()}
        self._shapes = {name: tuple(map(int, detail["shape"])) for name, detail in takes.items()}
        self._check = Outputs(self.signature, manifest.id.name).check

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        interpreter = self._interpreter
        changed = {n: a.shape for n, a in inputs.items() if a.shape != self._shapes[n]}
        if changed:
            self._shapes.update(dict.fromkeys(changed, ()))  # unknown, should the resizing fail
            for name, shape in changed.items():
                interpreter.resize_tensor_input(self._takes[name], list(shape))
            interpreter.allocate_tensors()
            self._shapes.update(changed)
        for name, array in inputs.items():
            interpreter.set_tensor(self._takes[name], array)
        interpreter.invoke()
        answer = {name: interpreter.get_tensor(index) for name, index in self._gives.items()}
        return self._check(answer, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._interpreter = None


def _specs(details: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, detail in details.items():
        try:
            datatype = datatype_of(detail["dtype"])
        except (TypeError, ValueError) as error:
            raise LoadFailed(f"tensor {name!r}: {error}") from error
        if datatype is DataType.BYTES:
            raise LoadFailed(f"tensor {name!r} holds text, which LiteRT models cannot be served with")
        shape = tuple(map(int, detail.get("shape_signature", detail["shape"])))
        specs.append(TensorSpec(name, datatype, shape if shape else tuple(map(int, detail["shape"]))))
    return tuple(specs)

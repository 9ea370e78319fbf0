"""Backend for LiteRT (TensorFlow Lite) models, with one interpreter used by one thread at a time.

Models with a free first extent are resized to each batch; so are those of one row that support it, as in
TensorFlow Serving. It knows nothing of batching itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from salver.backends.content import head
from salver.backends.loading import framework, is_batched, loading, options_of, override
from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.backends.sharing import SHARE, shared, wants_sharing
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType, datatype_of

with lazy_imports():
    from salver.backends.litert_signatures import NamedSignature, read_signature
    from salver.backends.outputs import Outputs


class LiteRtBackend:
    """Backend for TFLite flatbuffers.

    Names are taken from ``signature_defs_metadata``, else from the only signature, else from the tensors.
    """

    name = "litert"
    extra = "litert"
    modules: tuple[str, ...] = ("ai_edge_litert",)
    #: Its operations use no files, and no delegate or operation is loaded from outside.
    traits = Traits(concurrent=False, repeatable=True, harmless_formats=frozenset({"tflite"}))

    def recognise(self, path: Path) -> str | None:
        """Return ``tflite`` by the flatbuffer's identifier."""
        return "tflite" if head(path, 8)[4:] == b"TFL3" else None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.litert", "ai_edge_litert.interpreter")

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """See :class:`~salver.backends.protocol.Backend`."""
        sharing = wants_sharing(options_of(manifest, (SHARE,)), manifest, options)
        litert = framework(self, "ai_edge_litert.interpreter")
        kernels = litert.OpResolverType.AUTO
        if sharing:  # XNNPACK, the default delegate, packs copies of the weights
            kernels = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with loading(manifest):
            interpreter = litert.Interpreter(
                model_path=str(manifest.path),
                num_threads=options.threads,
                experimental_op_resolver_type=kernels,
            )
            interpreter.allocate_tensors()
            model = LiteRtModel(interpreter, manifest, read_signature(manifest.path))
            return shared(model, manifest, "Remove the option.") if sharing else model


class LiteRtModel:
    """Model with one interpreter.

    Args:
        named: Tensor names from the model's metadata.
    """

    def __init__(self, interpreter: Any, manifest: Manifest, named: NamedSignature | None = None) -> None:
        self._interpreter: Any = interpreter
        takes, gives = _details(interpreter, named)
        is_stretched = _can_stretch(interpreter)
        said = [_specs(takes), _specs(gives)]
        if is_stretched:
            said = [tuple([_of_any_batch(spec) for spec in specs]) for specs in said]
        inputs = override(said[0], manifest.config.inputs, "inputs")
        outputs = override(said[1], manifest.config.outputs, "outputs")
        # A graph made for one row may mix rows, so rows of different callers are not combined.
        batched = not is_stretched and is_batched(inputs, outputs, manifest.config)
        self.signature = Signature(inputs, outputs, batched, "tensorflow_tflite", judges_shapes=True)
        self._takes = {name: int(detail["index"]) for name, detail in takes.items()}
        self._gives = {name: int(detail["index"]) for name, detail in gives.items()}
        self._shapes = {name: tuple(map(int, detail["shape"])) for name, detail in takes.items()}
        self._check = Outputs(self.signature, manifest.id.name).check

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        interpreter = self._interpreter
        changed = {n: a.shape for n, a in inputs.items() if a.shape != self._shapes[n]}
        if changed:
            self._shapes.update(dict.fromkeys(changed, ()))  # unknown if the resize fails
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


def _details(interpreter: Any, named: NamedSignature | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs by the names that callers use.

    Raises:
        LoadFailed: the metadata names a tensor that does not exist.
    """
    takes = {detail["name"]: detail for detail in interpreter.get_input_details()}
    gives = {detail["name"]: detail for detail in interpreter.get_output_details()}
    if named is not None:
        return _named(named.inputs, takes, "input"), _named(named.outputs, gives, "output")
    if len(interpreter.get_signature_list()) == 1:
        runner = interpreter.get_signature_runner()
        return runner.get_input_details(), runner.get_output_details()
    return takes, gives


def _named(names: Mapping[str, str], details: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = {}
    for name, tensor in names.items():
        detail = details.get(tensor) or details.get(tensor.partition(":")[0])  # older converters remove it
        if detail is None:
            raise LoadFailed(f"signature {kind} {name} references an unknown tensor: {tensor}")
        found[name] = detail
    return found


def _can_stretch(interpreter: Any) -> bool:
    """Return whether a model of one fixed row accepts more; it is unchanged afterwards."""
    inputs = interpreter.get_input_details()
    details = (*inputs, *interpreter.get_output_details())
    if not inputs or any(tuple(detail["shape_signature"])[:1] != (1,) for detail in details):
        return False
    wanted = {detail["index"]: (2, *map(int, detail["shape"][1:])) for detail in details}
    try:
        for detail in inputs:
            interpreter.resize_tensor_input(detail["index"], wanted[detail["index"]])
        interpreter.allocate_tensors()
        now = {d["index"]: tuple(map(int, d["shape"])) for d in interpreter.get_output_details()}
        return all(wanted[index] == shape for index, shape in now.items())
    except (RuntimeError, ValueError):  # an operation in it fixes the number of rows
        return False
    finally:
        for detail in inputs:
            interpreter.resize_tensor_input(detail["index"], list(map(int, detail["shape"])))
        interpreter.allocate_tensors()


def _of_any_batch(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, shape=(-1, *spec.shape[1:]))


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
        shape = shape if shape else tuple(map(int, detail["shape"]))
        specs.append(TensorSpec(name, datatype, shape, tensor=detail["name"]))
    return tuple(specs)

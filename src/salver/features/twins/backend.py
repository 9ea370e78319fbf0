"""Backend for SavedModels converted to ONNX graphs, without TensorFlow.

A *twin* is a folder with a graph for each signature that could be converted, and an index file. It is created
once by :mod:`salver.features.twins.conversion`; serving needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import SIGNATURE, LoadOptions, RunnableModel, Traits
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import Signature
from salver.words.tensor import Array

FILE: Final = "twin.json"
#: Sample requests supplied with the model: arrays ``NUMBER/SIGNATURE/INPUT``, names quoted as in URLs.
SAMPLES: Final = "samples.npz"
FORMAT: Final = "savedmodel-twin"
_MOST_BYTES: Final = 16 << 20


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Result of converting a signature.

    Attributes:
        file: File of its graph in the twin's folder; empty = it needs TensorFlow.
        why: Why there is no graph.
        apart: Largest difference between its answers and TensorFlow's, over the samples.
    """

    signature: Signature
    file: str = ""
    why: str = ""
    apart: float = 0.0
    samples: int = 0


class Twin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Results of all signatures, in the model's order."""

    parts: tuple[Part, ...]

    def signature(self) -> Signature:
        """Return the signature of the whole model."""
        first, *others = (part.signature for part in self.parts)
        return msgspec.structs.replace(first, others=tuple(others))


_read: Final = msgspec.json.Decoder(Twin).decode


def read_twin(folder: Path) -> Twin:
    """Read the index of a twin. Raises LoadFailed."""
    try:
        with (folder / FILE).open("rb") as file:
            twin = _read(file.read(_MOST_BYTES))
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{folder} is not a twin of a SavedModel: {error}") from error
    if not twin.parts:
        raise LoadFailed(f"{folder} is the twin of a SavedModel without signatures")
    return twin


class TwinBackend:
    """Backend for twins, which exist only in Salver's state directory. It has no options.

    Args:
        rest: The SavedModel, for signatures without graph; None = all have one.
        runs: Signatures with a graph, the default first.
    """

    name = "onnx"
    extra = "onnx"
    modules: tuple[str, ...] = ("onnxruntime",)
    traits = Traits(native=True, repeatable=True)

    def __init__(self, rest: Manifest | None = None, runs: Sequence[bool] = ()) -> None:
        self.rest = rest
        self.runs = runs

    def recognise(self, path: Path) -> str | None:
        """Return None: twins are not found in repositories."""
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> "TwinModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        return TwinModel(read_twin(manifest.path), manifest, options)


class TwinModel:
    """The graphs, each in a session of its own."""

    def __init__(self, twin: Twin, manifest: Manifest, options: LoadOptions) -> None:
        self.signature = twin.signature()
        self._models = [load_part(manifest, part, options) if part.file else None for part in twin.parts]

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        mark = inputs.get(SIGNATURE)
        if mark is None:
            model = self._models[0]
        else:
            model = self._models[int(mark) + 1]
            inputs = {name: array for name, array in inputs.items() if name != SIGNATURE}
        if model is None:
            raise ModelFailed("this signature is run by TensorFlow")
        return model.run(inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        for model in self._models:
            if model is not None:
                model.close()


def load_part(manifest: Manifest, part: Part, options: LoadOptions) -> RunnableModel:
    """Load the graph of one signature.

    Args:
        manifest: Manifest of the twin.
    """
    batching = Batching(has_rows=part.signature.batched)
    alone = msgspec.structs.replace(
        manifest, path=manifest.path / part.file, format="onnx", config=ModelConfig(batching=batching)
    )
    return OnnxBackend().load(alone, options)

"""Backend of a pipeline's step in a host process: opens the step that its parent names."""

from pathlib import Path
from typing import Final

import msgspec

from salver.backends.protocol import LoadOptions, Traits
from salver.features.pipelines.chains import StepModel, specs
from salver.features.pipelines.edges import edge_type
from salver.features.pipelines.steps.step import Step
from salver.kernel.engine.hosting import named
from salver.words.artifacts import Manifest
from salver.words.messages import Signature, TensorSpec

_TYPES: Final = msgspec.json.Decoder(dict[str, str])


class StepHost:
    """Backend that a host process loads a step by, and nothing else: it recognises no file."""

    name = "pipeline step"
    extra = ""
    modules: tuple[str, ...] = ()
    traits = Traits(harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """See :class:`~salver.backends.protocol.Backend`."""
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> StepModel:
        """See :class:`~salver.backends.protocol.Backend`.

        Options: ``step`` (module and class), ``options`` of it, and the types of its ``inputs`` and
            ``outputs``, as JSON.
        """
        told = manifest.config.options
        kind: type[Step] = named(told["step"])
        step = msgspec.convert(msgspec.json.decode(told["options"]), kind)
        signature = Signature(_specs(told["inputs"]), _specs(told["outputs"]), True)
        return StepModel(signature, step.open_many(manifest.path))


def _specs(told: str) -> tuple[TensorSpec, ...]:
    return specs({name: edge_type(text) for name, text in _TYPES.decode(told).items()})

"""Parts of twins: SavedModels that run as ONNX graphs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from salver.backends.protocol import Backend
from salver.features.twins import TwinsConfig
from salver.kernel.serving.loading import Additions, SamplesOf
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, Parts
from salver.words.artifacts import Manifest
from salver.words.tensor import Array

with lazy_imports():
    from salver.features.twins.twins import Twins


def _no_samples(folder: Path) -> Mapping[str, Sequence[Mapping[str, Array]]]:
    return {}


async def build(kernel: Kernel, config: TwinsConfig) -> Parts:
    """Return what loads the ONNX graphs in place of SavedModels."""
    samples = kernel.services.find(SamplesOf) or _no_samples
    by_default = config.prefer == "onnx"
    twins = lazily(Twins, kernel.config.state_dir, by_default=by_default, samples_of=samples)
    return Parts(additions=Additions(substitutes=[_SavedModelsOnly(twins)]))


class _SavedModelsOnly:
    """Twins, which other models do not have to wait for."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    async def find(self, manifest: Manifest) -> tuple[Backend, Manifest] | None:
        """See :class:`~salver.kernel.serving.loading.Substitute`."""
        if manifest.backend == "tensorflow":
            return await self._twins.find(manifest)
        return None

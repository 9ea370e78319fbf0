"""Parts of twins: SavedModels that run as ONNX graphs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from salver.features.twins.config import TwinsConfig
from salver.features.twins.twins import Twins
from salver.kernel.serving.loading import Additions, SamplesOf
from salver.parts import Kernel, Parts
from salver.words.tensor import Array


def _no_samples(folder: Path) -> Mapping[str, Sequence[Mapping[str, Array]]]:
    return {}


async def build(kernel: Kernel, config: TwinsConfig) -> Parts:
    """Return what loads the ONNX graphs in place of SavedModels."""
    samples = kernel.services.find(SamplesOf) or _no_samples
    twins = Twins(kernel.config.state_dir, by_default=config.prefer == "onnx", samples_of=samples)
    return Parts(additions=Additions(substitutes=[twins]))

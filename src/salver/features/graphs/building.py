"""Parts that the feature of ensembles adds to a server."""

from salver.features.graphs.loading import EnsembleLoader
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the loader of ensembles."""
    return Parts(
        additions=Additions({"ensemble": EnsembleLoader(kernel.inner, kernel.bus.emit, kernel.clock)})
    )

"""Parts that the feature of ensembles adds to a server."""

from salver.kernel.serving.loading import Additions
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, Parts

with lazy_imports():
    from salver.features.graphs.loading import EnsembleLoader


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the loader of ensembles."""
    return Parts(
        additions=Additions({"ensemble": lazily(EnsembleLoader, kernel.inner, kernel.bus.emit, kernel.clock)})
    )

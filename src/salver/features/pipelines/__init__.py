"""Pipelines: graphs of models that answer as one."""

from salver.feature import Feature
from salver.lazy import lazily, lazy_imports

with lazy_imports():
    from salver.features.pipelines.loading import EnsembleLoader
    from salver.kernel.serving.loading import Additions
    from salver.parts import Kernel, Parts


async def build(kernel: "Kernel", config: None) -> "Parts":
    """Return the loader of ensembles."""
    return Parts(
        additions=Additions({"ensemble": lazily(EnsembleLoader, kernel.inner, kernel.bus.emit, kernel.clock)})
    )


feature = Feature("pipelines", "salver.features.pipelines:build")

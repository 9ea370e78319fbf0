"""Routing: models that other servers answer, balanced by measurement, and kept up while some fail.

``choosing`` decides from the instances' loads and health which one gets a request; ``engine`` carries it
out. ``docs/adr/0018-routing.md`` has the reasons.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.feature import Feature
from salver.lazy import lazy_imports
from salver.words.errors import LoadFailed

with lazy_imports():
    from salver.features.routing.fallbacks import FallbackLoader
    from salver.features.routing.figures import InstanceFigures
    from salver.features.routing.loading import InstancesLoader
    from salver.features.routing.operations import instance_operations
    from salver.kernel.serving.loading import Additions
    from salver.parts import Kernel, Parts
if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from salver.features.routing.engine import RoutedModel
    from salver.kernel.serving.fetching import Loads
    from salver.kernel.serving.servable import Servable
    from salver.transport.operations import Operation
    from salver.words.artifacts import Manifest

FORMAT: Final = "instances"
_FILE: Final = "instances.toml"


class InstancesBackend:
    """Backend of models that other servers run; a server loads them by its own loader."""

    name = FORMAT
    extra = ""
    modules: tuple[str, ...] = ()
    #: A model that a request brings must not make this server ask others.
    traits = Traits(harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``instances`` for a folder with an ``instances.toml``."""
        return FORMAT if (path / _FILE).is_file() else None

    def load(self, manifest: "Manifest", options: LoadOptions) -> RunnableModel:
        """Refuse to run it here. Raises LoadFailed."""
        raise LoadFailed(
            f"{manifest.path} has instances, which only a server can ask", fix="Use salver serve."
        )


class _Guarding:
    """Loader of which models without fallbacks see nothing."""

    def __init__(self, loader: "Loads", kernel: "Kernel") -> None:
        self._loader = loader
        self._kernel = kernel
        self._guarded: FallbackLoader | None = None

    async def load(self, manifest: "Manifest") -> "Servable":
        if not manifest.config.fallbacks:
            return await self._loader.load(manifest)
        if self._guarded is None:
            self._guarded = FallbackLoader(self._loader, self._kernel.inner, self._kernel.clock)
        return await self._guarded.load(manifest)

    def collect(self) -> "Iterator[Metric]":
        if self._guarded is not None:
            yield from self._guarded.collect()


class _Routing(Sequence["Operation"]):
    """Loader, metrics and operations, of which nothing is imported before a model has instances."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._loader: InstancesLoader | None = None
        self._operations: list[Operation] = []
        self._guarding: _Guarding | None = None

    @property
    def models(self) -> "Sequence[RoutedModel]":
        return () if self._loader is None else self._loader.models

    async def load(self, manifest: "Manifest") -> "Servable":
        if self._loader is None:
            self._loader = InstancesLoader(self._kernel.bus.emit, self._kernel.clock)
        return await self._loader.load(manifest)

    def collect(self) -> "Iterator[Metric]":
        if self._loader is not None:
            yield from InstanceFigures(lambda: self.models, self._kernel.clock).collect()
        if self._guarding is not None:
            yield from self._guarding.collect()

    def guard(self, loader: "Loads") -> "Loads":
        self._guarding = _Guarding(loader, self._kernel)
        return self._guarding

    def _all(self) -> "list[Operation]":
        if not self._operations:
            self._operations = instance_operations(lambda: self.models, self._kernel.clock)
        return self._operations

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]


async def build(kernel: "Kernel", config: None) -> "Parts":
    """Return the loader of models with instances, and what puts fallbacks before others."""
    routing = _Routing(kernel)
    return Parts(
        additions=Additions({FORMAT: routing}),
        wrap_loader=routing.guard,
        collectors=[routing],
        operations=routing,
    )


feature = Feature("routing", "salver.features.routing:build")

"""Routing: models that other servers answer, balanced by measurement, and kept up while some fail; rules.

``choosing`` decides from the instances' loads and health which one gets a request; ``engine`` carries it
out. ``docs/adr/0018-routing.md`` has the reasons.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.feature import Feature
from salver.lazy import LazySequence, is_made, lazily, lazy_imports
from salver.words.errors import LoadFailed

with lazy_imports():
    from salver.features.routing.fallbacks import FallbackLoader
    from salver.features.routing.figures import InstanceFigures
    from salver.features.routing.loading import InstancesLoader
    from salver.features.routing.operations import instance_operations
    from salver.kernel.serving.loading import Additions
    from salver.parts import Kernel, Parts, ServerList
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import Metric

    from salver.features.routing.choosing import Routed
    from salver.kernel.serving.fetching import Loads
    from salver.kernel.serving.servable import Servable
    from salver.words.artifacts import Manifest
    from salver.words.messages import ModelId

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

        def ready() -> "Iterator[ModelId]":
            return (servable.manifest.id for servable in kernel.models.servables())

        self.guarded = lazily(FallbackLoader, loader, kernel.inner, kernel.clock, ready)

    async def load(self, manifest: "Manifest") -> "Servable":
        loader = self.guarded if manifest.config.fallbacks else self._loader
        return await loader.load(manifest)


class Routing:
    """Loaders and metrics, of which nothing is imported before a model has instances or fallbacks.

    Attributes:
        others: Each returns models whose instances another feature runs, to be shown like these.
    """

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self.loader = lazily(
            InstancesLoader,
            kernel.bus.emit,
            kernel.clock,
            servers=lambda: kernel.services.find(ServerList),
        )
        self._guarding: _Guarding | None = None
        self.others: list[Callable[[], Sequence[Routed]]] = []

    def models(self) -> "Sequence[Routed]":
        """Return the loaded models that have instances."""
        own = self.loader.models if is_made(self.loader) else ()
        return [*own, *(model for models in self.others for model in models())]

    def guard(self, loader: "Loads") -> "Loads":
        """Return the loader with fallbacks before the models that name some."""
        self._guarding = _Guarding(loader, self._kernel)
        return self._guarding

    def collect(self) -> "Iterator[Metric]":
        """Return the metric families; called by the Prometheus registry."""
        if is_made(self.loader) or self.others:
            yield from InstanceFigures(self.models, self._kernel.clock).collect()
        if self._guarding is not None and is_made(self._guarding.guarded):
            yield from self._guarding.guarded.collect()


async def build(kernel: "Kernel", config: None) -> "Parts":
    """Return the loader of models with instances, and what puts fallbacks before others."""
    routing = Routing(kernel)
    kernel.services.offer(Routing, routing)
    return Parts(
        additions=Additions({FORMAT: routing.loader}),
        wrap_loader=routing.guard,
        collectors=[routing],
        operations=LazySequence(lambda: instance_operations(routing.models, kernel.clock)),
    )


class RulesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of rules.

    Attributes:
        file: TOML file of rules on requests; empty = there are none.
    """

    file: str = ""


feature = Feature("routing", "salver.features.routing:build")
#: After releases, whose stage and headers it puts its own before.
rules_feature = Feature(
    "rules",
    "salver.features.routing.rules.building:build",
    config=RulesConfig,
    has_table=False,
    is_used=lambda config: bool(config.file),
    after=("registry",),
)

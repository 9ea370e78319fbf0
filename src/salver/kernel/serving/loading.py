"""What packages outside the kernel add to the loading of models.

The server's composition collects them in :class:`Additions`. Without any, the loader knows every backend, and
no ensembles, handlers, objectives or response cache.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from salver.backends.protocol import Backend
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.kernel.engine.turns import ResourcePool
from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Instances, Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

with lazy_imports():
    from salver.kernel.engine.learned import LearnedRule
    from salver.kernel.engine.spawn import Interpreter
    from salver.kernel.serving.model_callbacks import ModelCallbacks


_NO_WISH = Instances()


class Terms(msgspec.Struct, frozen=True):
    """Limits and defaults for all models of this process.

    Attributes:
        cores: Cores that it may use.
        trust_pickle: See :class:`~salver.backends.protocol.LoadOptions`.
        wish: Applies where a model's configuration is silent.
        callbacks: Answers what models ask of the server while they run; None = they cannot.
        pool: Resources that models share; None = they are not counted.
    """

    cores: int
    trust_pickle: bool = False
    wish: Instances = _NO_WISH
    callbacks: ModelCallbacks | None = None
    pool: ResourcePool | None = None

    def wish_of(self, manifest: Manifest) -> Instances:
        """Return what a model wants, completed by the defaults.

        A model from a request runs in a process of its own: frameworks check little of what they read, and a
        file made for it ends the process.
        """
        wish, fallback = manifest.config.instances, self.wish
        is_strange = manifest.brought in ("files", "path") and not self.trust_pickle
        return msgspec.structs.replace(
            wish,
            runner="process" if is_strange else wish.runner,
            count=wish.count or fallback.count,
            threads=wish.threads or fallback.threads,
        )


class VersionLoader(Protocol):
    """Loads versions of one backend in a way of its own."""

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run. Raises LoadFailed."""
        ...


class SamplesOf(Protocol):
    """Reads the requests that the owner of a model gave."""

    def __call__(self, folder: Path, /) -> Mapping[str, Sequence[Mapping[str, Array]]]:
        """Return them by signature; inputs by name."""
        ...


class Substitute(Protocol):
    """Has another artefact loaded in place of a version's own, such as a converted one."""

    async def find(self, manifest: Manifest) -> tuple[Backend, Manifest] | None:
        """Return what to load, and the backend that does; None = the version as it is."""
        ...


class Attachment(Protocol):
    """Gives servables something that is not the engine's, such as a response cache."""

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """Prepare for a version before it is loaded; return what attaches it to the servable.

        The function that is returned must not raise.

        Raises:
            LoadFailed: a file of the version is wrong.
        """
        ...


class Programs(Protocol):
    """Knows the surroundings of models that read their configuration (``Traits.reads_config``)."""

    def config(self, manifest: Manifest, instances: int) -> str:
        """Return the configuration as the model reads it."""
        ...

    async def interpreter(self, manifest: Manifest) -> Interpreter | None:
        """Return the Python that the model brings; None = this process's own. Raises LoadFailed."""
        ...


class Opened(NamedTuple):
    """A loaded runner, and what it runs with.

    Attributes:
        runner: The receiver closes it.
        config: The model's, its batch limit as it was tuned.
        laws: Where the engine's batch laws start; None = nothing is known.
        remember: Called at the end with the engine's laws.
    """

    runner: Runner
    placement: Placement
    config: ModelConfig
    laws: ShapeLaws | None = None
    remember: Callable[[ShapeLaws], Awaitable[None]] | None = None


class Lessons(NamedTuple):
    """Training of the rule of one model whose policy is ``learned``.

    Attributes:
        laws: For the engine to start with.
        start: Called when the engine is there.
        close: Called when it is closed.
    """

    laws: ShapeLaws
    start: Callable[[], None]
    close: Callable[[], Awaitable[None]]


class Tuning(Protocol):
    """Finds settings for models that have an objective, and trains rules."""

    async def open(
        self,
        manifest: Manifest,
        backend: Backend,
        wish: Instances,
        placement: Placement,
        open_runner: Callable[[Placement], Awaitable[Runner]],
    ) -> Opened | None:
        """Load a model where it meets its objective best; None = it has no objective.

        Args:
            placement: Where it runs without an objective.

        Raises:
            LoadFailed: it cannot be loaded.
        """
        ...

    async def teach(
        self, manifest: Manifest, batching: Batching, rule: LearnedRule, laws: ShapeLaws
    ) -> Lessons:
        """Return the training of a rule."""
        ...


class Additions(msgspec.Struct, frozen=True):
    """What packages add to the loader.

    Attributes:
        loaders: By backend, or ``ensemble``; all other versions are loaded by the kernel's own.
        substitutes: The first one that finds something decides.
    """

    loaders: Mapping[str, VersionLoader] = {}
    substitutes: Sequence[Substitute] = ()
    attachments: Sequence[Attachment] = ()
    tuning: Tuning | None = None
    programs: Programs | None = None

    def joined(self, other: "Additions") -> "Additions":
        """Return both; of what there can be one of, the first."""
        return Additions(
            {**other.loaders, **self.loaders},
            (*self.substitutes, *other.substitutes),
            (*self.attachments, *other.attachments),
            self.tuning or other.tuning,
            self.programs or other.programs,
        )


def refuse_cache(manifest: Manifest, kind: str) -> None:
    """Raise LoadFailed for a model that wants a response cache and is of a kind that cannot have one."""
    if manifest.config.response_cache:
        raise LoadFailed(
            f"Response Cache does not currently support model {manifest.id.name} {kind}. "
            "Please disable the response cache.",
            field="response_cache",
        )

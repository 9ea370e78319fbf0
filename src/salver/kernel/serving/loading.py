"""Extension points of model loading, for packages outside the kernel.

The server collects the extensions in :class:`Additions`. Without any, the loader knows every backend, but no
ensembles, handlers, objectives or response cache.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from salver.backends.protocol import Backend, ForkableBackend, LoadOptions, StepModel
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import RestartingRunner, Runner
from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Instances, Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

with lazy_imports():
    from salver.kernel.engine.fork_client import ForkServers
    from salver.kernel.engine.learned import LearnedRule
    from salver.kernel.engine.spawn import Starter
    from salver.kernel.engine.turns import ResourcePool
    from salver.kernel.environments.service import Environments
    from salver.kernel.serving.model_callbacks import ModelCallbacks


_NO_WISH = Instances()


class Terms(msgspec.Struct, frozen=True):
    """Limits and defaults for all models of this process.

    Attributes:
        cores: Cores that the process may use.
        trust_pickle: See :class:`~salver.backends.protocol.LoadOptions`.
        wish: Defaults for models that do not configure their instances.
        callbacks: Answers the calls of models to the server; None = they cannot call it.
        pool: Resources that models share; None = not limited.
        forks: Fork servers of host processes; None = hosts are executed.
        environments: Opens the environments of models; None = no model may have one.
    """

    cores: int
    trust_pickle: bool = False
    wish: Instances = _NO_WISH
    callbacks: ModelCallbacks | None = None
    pool: ResourcePool | None = None
    forks: ForkServers | None = None
    environments: Environments | None = None

    def starter(self, backend: Backend, manifest: Manifest) -> Starter | None:
        """Return what starts a model's host processes; None = they are executed.

        Hosts are forked if the backend says what they may inherit, unless the model is configured
        otherwise. A model from a request is executed: forks share the addresses of their memory, which
        helps an attacker.
        """
        wish = manifest.config.instances
        if self.forks is None or manifest.brought in ("files", "path") or not wish.forks:
            return None
        if not isinstance(backend, ForkableBackend):
            return None
        return functools.partial(self.forks.start, names=backend.preloads(manifest))

    def wish_of(self, manifest: Manifest) -> Instances:
        """Return a model's instance settings, completed by the defaults.

        A model from a request runs in a host process: frameworks validate little of what they read, and a
        malicious file can crash the process. One with an environment needs a process of that Python.
        """
        wish, fallback = manifest.config.instances, self.wish
        is_strange = manifest.brought in ("files", "path") and not self.trust_pickle
        needs_process = is_strange or manifest.config.environment.path
        return msgspec.structs.replace(
            wish,
            runner="process" if needs_process else wish.runner,
            count=wish.count or fallback.count,
            threads=wish.threads or fallback.threads,
        )


class VersionLoader(Protocol):
    """Loader of the versions of one backend."""

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run. Raises LoadFailed."""
        ...


class SamplesOf(Protocol):
    """Reader of sample requests that a model's owner supplied."""

    def __call__(self, folder: Path, /) -> Mapping[str, Sequence[Mapping[str, Array]]]:
        """Return the samples by signature, each with its inputs by name."""
        ...


class CacheCover(Protocol):
    """Service that puts the server's response cache before a part of a model, such as a pipeline's step."""

    def __call__(self, servable: Servable, /) -> None:
        """Answer equal requests to it from the cache."""
        ...


class Substitute(Protocol):
    """Replacement of a version's artefact by another one, such as a converted graph."""

    async def find(self, manifest: Manifest) -> tuple[Backend, Manifest] | None:
        """Return the backend and the manifest to load instead; None = no replacement."""
        ...


class Attachment(Protocol):
    """Addition to servables that is independent of the engine, such as a response cache."""

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """Prepare for a version before it is loaded; return a function that attaches it to the servable.

        The returned function must not raise.

        Raises:
            LoadFailed: a file of the version is invalid.
        """
        ...


class StepWrapper(Protocol):
    """Addition to step-wise models, such as a cache of the states after the beginnings of prompts."""

    def __call__(self, manifest: Manifest, model: StepModel, /) -> StepModel:
        """Return the model with the addition, or the model itself. Must not raise."""
        ...


class Programs(Protocol):
    """Configuration of models that read their own (``Traits.reads_config``)."""

    def config(self, manifest: Manifest, instances: int) -> str:
        """Return the configuration in the form that the model reads."""
        ...


class RunnerSource(Protocol):
    """Machines other than this one on which models may run."""

    async def open(self, backend: str, manifest: Manifest, options: LoadOptions) -> RestartingRunner | None:
        """Load a version there; None = it has to run here.

        Args:
            backend: ``module:attribute`` of its backend.

        Raises:
            LoadFailed: it cannot be loaded there.
        """
        ...


class Opened(NamedTuple):
    """Loaded runner with its settings.

    Attributes:
        runner: Runner; the receiver closes it.
        config: Configuration of the model, with the tuned batch limit.
        laws: Initial batch laws of the engine; None = unknown.
        remember: Called with the engine's laws when it closes.
    """

    runner: Runner
    placement: Placement
    config: ModelConfig
    laws: ShapeLaws | None = None
    remember: Callable[[ShapeLaws], Awaitable[None]] | None = None


class Lessons(NamedTuple):
    """Training of the batching rule of one model, whose policy is ``learned``.

    Attributes:
        laws: Initial batch laws of the engine.
        start: Called when the engine exists.
        close: Called when the engine is closed.
    """

    laws: ShapeLaws
    start: Callable[[], None]
    close: Callable[[], Awaitable[None]]


class Tuning(Protocol):
    """Search for settings of models with an objective, and training of batching rules."""

    async def open(
        self,
        manifest: Manifest,
        backend: Backend,
        wish: Instances,
        placement: Placement,
        open_runner: Callable[[Placement], Awaitable[Runner]],
    ) -> Opened | None:
        """Load a model with the settings that meet its objective best; None = it has no objective.

        Args:
            placement: Placement without an objective.

        Raises:
            LoadFailed: the model cannot be loaded.
        """
        ...

    async def teach(
        self, manifest: Manifest, batching: Batching, rule: LearnedRule, laws: ShapeLaws
    ) -> Lessons:
        """Return the training of a model's rule."""
        ...


class Additions(msgspec.Struct, frozen=True):
    """Extensions of the loader.

    Attributes:
        loaders: Loaders by backend, or ``ensemble``; the kernel loads all other versions.
        substitutes: Replacements of artefacts; the first that applies wins.
        elsewhere: Machines that run models instead of this one; None = there are none.
    """

    loaders: Mapping[str, VersionLoader] = {}
    substitutes: Sequence[Substitute] = ()
    attachments: Sequence[Attachment] = ()
    tuning: Tuning | None = None
    programs: Programs | None = None
    steps: StepWrapper | None = None
    elsewhere: RunnerSource | None = None

    def joined(self, other: "Additions") -> "Additions":
        """Return both sets of extensions; for single ones, the first set has precedence."""
        return Additions(
            {**other.loaders, **self.loaders},
            (*self.substitutes, *other.substitutes),
            (*self.attachments, *other.attachments),
            self.tuning or other.tuning,
            self.programs or other.programs,
            self.steps or other.steps,
            self.elsewhere or other.elsewhere,
        )


def refuse_cache(manifest: Manifest, kind: str) -> None:
    """Raise LoadFailed if a model is configured with a response cache that its kind does not support."""
    if manifest.config.response_cache:
        raise LoadFailed(
            f"Response Cache does not currently support model {manifest.id.name} {kind}. "
            "Please disable the response cache.",
            field="response_cache",
        )

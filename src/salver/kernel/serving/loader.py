"""Loading of model versions: from a manifest to a servable.

Picks the backend, places the model on threads or in a host process, and creates the engine. Additions of
packages outside the kernel are in :mod:`salver.kernel.serving.loading`. The lifecycle decides when to load.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakValueDictionary

from msgspec.structs import replace

from salver.backends import reshaped
from salver.backends.protocol import (
    Backend,
    LoadOptions,
    PartialBackend,
    RequestModel,
    RunnableModel,
    SizedModel,
)
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.placement import Placement, place
from salver.kernel.engine.ports import Runner, StreamRunner
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.schedule import PriorKnowledge
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loading import Additions, Opened, Terms, refuse_cache
from salver.kernel.serving.servable import Servable, within
from salver.lazy import lazy_imports
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Manifest, Objective
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import Signature

with lazy_imports():
    from salver.kernel.engine.decoupled import DecoupledEngine
    from salver.kernel.engine.learned import LearnedRule
    from salver.kernel.engine.process import ProcessRunner
    from salver.kernel.engine.request_thread import RequestThreadRunner, SizedThreadRunner
    from salver.kernel.engine.sequences import Register
    from salver.kernel.engine.signatures import Signatures, SplitRunner
    from salver.kernel.engine.spawn import Interpreter
    from salver.kernel.serving.sequences import load_sequences
    from salver.kernel.serving.steps import load_steps


_LOG = logging.getLogger("salver.loader")
_NOTHING_ADDED = Additions()
_NO_OBJECTIVE = Objective()


class Loader:
    """Loader of versions.

    Args:
        backends: Backends by name.
        bus: Receives the engines' events.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        bus: Bus,
        clock: Callable[[], float],
        terms: Terms,
        additions: Additions = _NOTHING_ADDED,
    ) -> None:
        self._backends = backends
        self._bus = bus
        self._clock = clock
        self._terms = terms
        self._additions = additions
        self._registers: WeakValueDictionary[str, Register] = WeakValueDictionary()  # by model

    def add(self, additions: Additions) -> None:
        """Add a package's loaders and hooks, before the first version is loaded."""
        self._additions = self._additions.joined(additions)

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        prepared = [await attachment.prepare(manifest) for attachment in self._additions.attachments]
        kind = manifest.backend
        if manifest.config.ensemble.steps and kind not in self._additions.loaders:
            kind = "ensemble"
        loader = self._additions.loaders.get(kind)
        has_environment = bool(manifest.config.environment.path)
        if has_environment and (loader is not None or manifest.config.steps.vocabulary):
            raise LoadFailed(
                f"model '{manifest.id.name}' cannot have an environment of its own: it has no host processes",
                field="environment",
                fix="Give it to the models that it consists of, or leave it out.",
            )
        servable = await (self._load(manifest) if loader is None else loader.load(manifest))
        for attach in prepared:
            if attach is not None:
                attach(servable)
        if manifest.config.response_cache and servable.capabilities.uncached is None:
            _LOG.warning("model %s wants a response cache, and this server has none", manifest.id)
        return servable

    async def _load(self, manifest: Manifest) -> Servable:
        backend, manifest = await self._choose(manifest)
        wish = self._terms.wish_of(manifest)
        placement = place(backend.traits, wish, self._terms.cores)
        if manifest.config.steps.vocabulary:
            refuse_cache(manifest, "that answers token by token")
            counts = [wish.threads] if wish.threads else sorted({1, self._terms.cores})
            trials = [LoadOptions(threads, self._terms.trust_pickle) for threads in counts]
            placed = replace(manifest, config=replace(manifest.config, instances=wish))
            steps, threads = await load_steps(
                backend, placed, trials, self._clock, self._bus.emit, self._additions.steps
            )
            return Servable(manifest, steps, Placement("thread", 1, threads))
        if manifest.config.sequences.strategy:
            return await self._with_sequences(backend, manifest, placement)
        open_at = functools.partial(self.open_runner, backend, manifest)
        tuning = self._additions.tuning
        tuned = None
        if tuning is not None and manifest.config.objective != _NO_OBJECTIVE:
            tuned = await tuning.open(manifest, backend, wish, placement, open_at)
        opened = tuned or Opened(await open_at(placement), placement, manifest.config)
        try:
            servable = await self._servable(manifest, opened)
            servable.hear([opened.runner])
            if tuned is None:
                servable.adjustment.placed = functools.partial(self._place, backend)
            return servable
        except BaseException:
            await opened.runner.close()
            raise

    async def _choose(self, manifest: Manifest) -> tuple[Backend, Manifest]:
        """Return the backend for a version, and the manifest that it loads."""
        substitutes = () if manifest.config.environment.path else self._additions.substitutes
        for substitute in substitutes:
            if (found := await substitute.find(manifest)) is not None:
                return found
        backend = self._backends.get(manifest.backend)
        if backend is None:
            raise LoadFailed(
                f"model '{manifest.id.name}' asks for the backend {manifest.backend!r}, which does not exist",
                fix=f"There are: {', '.join(sorted(self._backends))}.",
            )
        return backend, manifest

    def _place(self, backend: Backend, manifest: Manifest) -> Placement:
        return place(backend.traits, self._terms.wish_of(manifest), self._terms.cores)

    async def _with_sequences(self, backend: Backend, manifest: Manifest, placement: Placement) -> Servable:
        refuse_cache(manifest, "with 'sequence_batching' scheduling")
        open_one = functools.partial(self.open_runner, backend, manifest, placement)
        engine = await load_sequences(
            manifest, backend.traits, placement, open_one, self._clock, self._bus.emit
        )
        engine.join(self._registers.setdefault(manifest.id.name, Register()))
        try:
            if self._terms.pool is not None:
                engine.share(self._terms.pool, manifest.config.instances.rate_limits)
        except LoadFailed:
            await engine.close()
            raise
        servable = Servable(manifest, engine, placement)
        servable.hear(engine.runners)
        return servable

    async def _servable(self, manifest: Manifest, opened: Opened) -> Servable:
        """Create the engine and servable of a runner."""
        runner, placement, config, laws, remember = opened
        placement = replace(placement, slots=runner.slots)  # a cluster may have given it another number
        config = within(config, runner.signature)
        manifest = replace(manifest, config=within(manifest.config, runner.signature))
        if isinstance(runner, StreamRunner):
            refuse_cache(manifest, "with 'decoupled' transaction policy")
            streaming = DecoupledEngine(manifest.id, runner, config, clock=self._clock, emit=self._bus.emit)
            return Servable(manifest, streaming, placement)
        batching = config.batching
        ends: list[Callable[[], Awaitable[None]]] = []
        laws, rule, lessons = laws or ShapeLaws(), None, None
        if batching.policy == "learned" and batching.enabled and runner.signature.batched:
            rule = LearnedRule(None, batching, runner.slots)
            if self._additions.tuning is not None:
                lessons = await self._additions.tuning.teach(manifest, batching, rule, laws)
                laws = lessons.laws
                ends.append(lessons.close)
        if remember is not None:
            ends.append(functools.partial(remember, laws))
        engine = Engine(
            manifest.id,
            runner,
            config,
            clock=self._clock,
            emit=self._bus.emit,
            known=PriorKnowledge(laws, rule),
        )
        several = None
        if runner.signature.others:
            several = Signatures.of(engine, runner, config, self._clock, self._bus.emit)
        if self._terms.pool is not None and config.instances.rate_limits:
            for one in (engine, *(several.others.values() if several else ())):
                one.share(self._terms.pool, config.instances.rate_limits)
        if lessons is not None:
            lessons.start()
        return Servable(manifest, engine, placement, ends, several)

    async def open_runner(
        self, backend: Backend, manifest: Manifest, placement: Placement, instance: int | None = None
    ) -> Runner:
        """Load a version without an engine; the caller closes the runner.

        Args:
            instance: Slot that the runner runs; None = all slots.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        runner = await self._open_runner(backend, manifest, placement, instance)
        if not isinstance(backend, PartialBackend) or backend.rest is None:
            return runner
        try:
            other = self._backends[backend.rest.backend]
            rest = await self._open_runner(other, backend.rest, self._place(other, backend.rest), instance)
        except BaseException:
            await runner.close()
            raise
        return SplitRunner(runner.signature, [runner if is_own else rest for is_own in backend.runs])

    async def _interpreter(self, backend: Backend, manifest: Manifest) -> Interpreter:
        if self._terms.environments is None:
            raise LoadFailed(
                f"model '{manifest.id.name}': there are no environments here", field="environment"
            )
        return await self._terms.environments.open(manifest, is_program=backend.traits.reads_config)

    async def _open_runner(
        self, backend: Backend, manifest: Manifest, placement: Placement, instance: int | None
    ) -> Runner:
        programs = None
        if backend.traits.reads_config:
            programs = self._additions.programs
        config = ""
        if programs is not None:
            config = programs.config(manifest, placement.slots)
        first, slots = (0, placement.slots) if instance is None else (instance, 1)
        options = LoadOptions(placement.threads, self._terms.trust_pickle, instance=first, config=config)
        has_gpus = bool(manifest.config.instances.gpus)
        if has_gpus and not backend.traits.gpu:
            raise LoadFailed(
                f"model '{manifest.id.name}' asks for a GPU, and the {backend.name} backend uses none",
                field="instances.gpus",
                fix="Leave it out.",
            )
        kind = backend if isinstance(backend, type) else type(backend)
        reference = f"{kind.__module__}:{kind.__qualname__}"
        interpreter = None
        if manifest.config.environment.path:
            interpreter = await self._interpreter(backend, manifest)
        is_bound = interpreter is not None or has_gpus  # to this machine
        if self._additions.elsewhere is not None and instance is None and not is_bound:
            there = await self._additions.elsewhere.open(reference, manifest, options)
            if there is not None:
                there.reruns = _reruns(backend, manifest, there.signature)
                return there
        if placement.runner == "process":
            callbacks = None
            if backend.traits.reads_config:
                callbacks = self._terms.callbacks
            runner = await ProcessRunner.start(
                reference,
                manifest,
                options,
                slots=slots,
                memory_limit_mb=manifest.config.instances.memory_limit_mb,
                run_timeout_s=manifest.config.instances.run_timeout_s,
                server=callbacks.admit(manifest.id) if callbacks else None,
                interpreter=interpreter,
                starter=self._terms.starter(backend, manifest),
            )
            runner.reruns = _reruns(backend, manifest, runner.signature)
            return runner
        models: list[RunnableModel] = []
        try:
            for _ in range(1 if backend.traits.concurrent else slots):
                models.append(await asyncio.to_thread(reshaped.load, backend, manifest, options))
        except BaseException as error:
            for model in models:
                model.close()
            if isinstance(error, SalverError) or not isinstance(error, Exception):
                raise
            raise LoadFailed(
                f"{manifest.path} could not be loaded by the {backend.name} backend: "
                f"{type(error).__name__}: {error}"
            ) from error
        more = functools.partial(reshaped.load, backend, manifest, options)
        runner_type = ThreadRunner
        if backend.traits.concurrent and isinstance(models[0], RequestModel):
            is_sized = isinstance(models[0], SizedModel)
            runner_type = SizedThreadRunner if is_sized else RequestThreadRunner
        return runner_type(
            models,
            backend.traits,
            slots=slots,
            threads=placement.threads,
            name=manifest.id.name,
            more=None if backend.traits.concurrent else more,
            limit=RunLimit(manifest.config.instances.run_timeout_s),
        )


def _reruns(backend: Backend, manifest: Manifest, signature: Signature) -> bool:
    """Return whether requests may be rerun after their host process died."""
    wish = manifest.config.instances.reruns
    if wish is not None:
        return wish
    # A program beside the artefact may have side effects, so its requests must not be rerun.
    is_graph = manifest.code is None and "module" not in manifest.config.options
    is_data = backend.traits.repeatable and manifest.format not in backend.traits.unrepeatable
    return is_data and is_graph and not signature.is_stateful

"""How does a manifest become something that answers?

Picks the backend, places the model on threads or in a host process, puts an engine around
it. The lifecycle decides when; it calls :meth:`Loader.load` off any request's path.
"""

import asyncio
import functools
import itertools
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from salver.backends import reshaped
from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.dialects.openai.voice import Voice
from salver.dialects.openai.voices import voice_of
from salver.dialects.tensorflow.recording import Sampling
from salver.dialects.tensorflow.replay import Replay, read_records, samples_in
from salver.dialects.torchserve.engine.engine import HandlerEngine, HandlerTerms, Heard
from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.engine.worker_pool import FIRST_ID, WorkerFactory
from salver.dialects.triton.environments import Environments
from salver.dialects.triton.version_config import told
from salver.features.cache.caching import CachedModel, Caching
from salver.features.graphs.ensemble import DecoupledEnsemble, Ensemble
from salver.features.graphs.graph import Member, connect
from salver.features.tuning.choose import is_set
from salver.features.tuning.grid import Placed
from salver.features.tuning.online_training import Teacher, ThinkingProcess
from salver.features.tuning.profiles import ProfileStore
from salver.features.tuning.profiling import Found, Profiler, limits_of
from salver.features.twins.backend import TwinBackend
from salver.features.twins.twins import Twins
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.engine import Engine, Knowledge
from salver.kernel.engine.learned import LearnedRule
from salver.kernel.engine.placement import Placement, place
from salver.kernel.engine.ports import Runner, StreamRunner
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.sequences import Register
from salver.kernel.engine.signatures import Signatures, SplitRunner
from salver.kernel.engine.spawn import HostPlan
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.turns import Pool
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.inner import ALONE, Inner
from salver.kernel.serving.model_callbacks import Calls
from salver.kernel.serving.sequences import load_sequences, within
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.steps import load_steps
from salver.stats.batch_law import LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Instances, Manifest, ModelConfig
from salver.words.errors import LoadFailed, SalverError
from salver.words.handlers import FORMAT as HANDLERS
from salver.words.handlers import Workers
from salver.words.messages import Signature

_LOG = logging.getLogger("salver.loader")
_NO_WISH = Instances()
_SAVEDMODEL = "savedmodel"


class Terms(msgspec.Struct, frozen=True):
    """On what terms this process loads models.

    Attributes:
        cores: How many it may use.
        trust_pickle: See :class:`~salver.backends.protocol.LoadOptions`.
        wish: Stands in where a model's configuration is silent.
        caching: Keeps answers of models that want it; None = there is no cache.
        calls: What models ask of the server while they run; None = nothing.
        pool: Resources that models share; None = they are not counted.
        voice: How models are spoken to that say nothing of it.
        twins: Makes ONNX graphs of SavedModels, for those who prefer them; None = nobody does.
        chance: Chooses the requests that are written down; None = none is, whatever models say.
        heard: Told of what handlers' metrics write; None = nobody wants it.
        first_worker: Number of the first worker of a handler.
        gpus: For workers of handlers.
        hides: Environment variables that handlers do not see (:class:`~salver.kernel.engine.spawn.HostPlan`).
    """

    cores: int
    trust_pickle: bool = False
    wish: Instances = _NO_WISH
    caching: Caching | None = None
    calls: Calls | None = None
    pool: Pool | None = None
    voice: Voice = Voice()
    twins: Twins | None = None
    chance: Callable[[], float] | None = None
    heard: Heard | None = None
    hides: str = ""
    first_worker: int = FIRST_ID
    gpus: int = 0


class Loader:
    """Loads versions.

    Args:
        backends: By name.
        bus: The engines' events go there.
        clock: Monotonic seconds.
        profiles: What was measured of models with an objective is kept there, and the tables of the
            policy ``learned``.
        inner: By which a model asks others.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        bus: Bus,
        clock: Callable[[], float],
        terms: Terms,
        profiles: ProfileStore | None = None,
        inner: Inner = ALONE,
    ) -> None:
        self._backends = backends
        self._bus = bus
        self._clock = clock
        self._terms = terms
        self._inner = inner
        self._registers: WeakValueDictionary[str, Register] = WeakValueDictionary()  # by model
        # One, so that no two workers have the same number, and GPUs go round among all of them.
        self._factory = WorkerFactory(itertools.count(terms.first_worker), Gpus(terms.gpus))
        self._environments = Environments(Path(tempfile.gettempdir()))
        self._profiles = profiles or ProfileStore()
        self._profiler = Profiler(self._profiles, clock, terms.cores)

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        voice = await asyncio.to_thread(voice_of, manifest, self._terms.voice)
        servable = await self._load(manifest)
        servable.voice = voice
        servable.sampled = self._sampled
        servable.logging = self._sampled(manifest)
        return servable

    def _sampled(self, manifest: Manifest) -> Sampling | None:
        wish = manifest.config.logging
        if not wish.rate:
            return None
        if self._terms.chance is None:
            _LOG.warning("%s wants requests to be written down; --prediction-log says where", manifest.id)
            return None
        return Sampling(wish, self._terms.chance)

    async def _load(self, manifest: Manifest) -> Servable:
        if manifest.config.ensemble.steps:
            return self._ensemble(manifest)
        savedmodel = manifest.path if manifest.format == _SAVEDMODEL else None
        backend, manifest = await self._choose(manifest)
        if manifest.backend == HANDLERS:
            return self._handler(backend, manifest)
        wish = self._wish(manifest)
        placement = place(backend.traits, wish, self._terms.cores)
        if manifest.config.steps.vocabulary:
            _refuse_cache(manifest.config, manifest, "that answers token by token")
            counts = [wish.threads] if wish.threads else sorted({1, self._terms.cores})
            trials = [LoadOptions(threads, self._terms.trust_pickle) for threads in counts]
            steps, threads = await load_steps(backend, manifest, trials, self._clock, self._bus.emit)
            return Servable(manifest, steps, Placement("thread", 1, threads))
        if manifest.config.sequences.strategy:
            return await self._with_sequences(backend, manifest, placement)
        if is_set(manifest.config.objective):
            found = await self._find(backend, manifest, wish, placement)
        else:
            runner = await self.open_runner(backend, manifest, placement)
            found = Found(runner, Placed(placement.slots, placement.threads), manifest.config)
        try:
            servable = await self._servable(manifest, placement.runner, found)
            servable.hear([found.runner])
            if savedmodel is not None:
                servable.replay = Replay(manifest.id, savedmodel, self._clock, self._bus.emit)
            if not is_set(manifest.config.objective):
                servable.placed = functools.partial(self._place, backend)
            return servable
        except BaseException:
            await found.runner.close()
            raise

    def _handler(self, backend: Backend, manifest: Manifest) -> Servable:
        """Whose workers come up in the background."""
        config = manifest.config
        _refuse_cache(config, manifest, "that is a handler")
        workers = config.workers or Workers()
        threads = self._wish(manifest).threads or max(1, self._terms.cores // max(1, workers.least))
        kind = backend if isinstance(backend, type) else type(backend)
        plan = HostPlan(
            f"{kind.__module__}:{kind.__qualname__}",
            manifest,
            LoadOptions(threads, self._terms.trust_pickle),
            config.instances.memory_limit_mb,
            forks=config.options.get("share_weights", "true") != "false",
            hides=self._terms.hides,
        )
        terms = HandlerTerms(self._clock, self._bus.emit, self._terms.heard, self._factory)
        engine = HandlerEngine(plan, workers, terms)
        servable = Servable(manifest, engine, Placement("process", workers.least, threads))
        servable.is_ready = engine.is_ready
        return servable

    async def _choose(self, manifest: Manifest) -> tuple[Backend, Manifest]:
        """Who loads it, and what."""
        twins = self._terms.twins
        if twins is not None and twins.is_wanted(manifest):
            samples = await asyncio.to_thread(lambda: samples_in(read_records(manifest.path)))
            if (found := await twins.find(manifest, samples)) is not None:
                return found
        backend = self._backends.get(manifest.backend)
        if backend is None:
            raise LoadFailed(
                f"model '{manifest.id.name}' asks for the backend {manifest.backend!r}, which does not exist",
                fix=f"There are: {', '.join(sorted(self._backends))}.",
            )
        return backend, manifest

    def _wish(self, manifest: Manifest) -> Instances:
        wish, fallback = manifest.config.instances, self._terms.wish
        return msgspec.structs.replace(
            wish, count=wish.count or fallback.count, threads=wish.threads or fallback.threads
        )

    def _place(self, backend: Backend, manifest: Manifest) -> Placement:
        return place(backend.traits, self._wish(manifest), self._terms.cores)

    def _ensemble(self, manifest: Manifest) -> Servable:
        """Of the models that answer now."""
        config = manifest.config
        try:
            inner = self._inner.hold(config.ensemble.models)
        except SalverError as error:
            raise LoadFailed(f"ensemble '{manifest.id.name}' cannot ask its models: {error}") from error
        try:
            members = {
                pair: Member(inner.signature(*pair), inner.is_decoupled(*pair), inner.gives_parts(*pair))
                for pair in config.ensemble.models
            }
            graph = connect(manifest.id.name, config, members)
            if graph.is_decoupled:
                _refuse_cache(config, manifest, "with 'decoupled' transaction policy")
        except BaseException:
            inner.release()
            raise
        make = DecoupledEnsemble if graph.is_decoupled else Ensemble
        engine = make(manifest.id, graph, inner, config, self._clock, self._bus.emit)
        cached = None
        if config.response_cache:
            cached = self._cached(manifest, engine, sees_parameters=True)
        ends = [cached.close] if cached is not None else []
        return Servable(manifest, engine, Placement("thread", 0, 0), None, ends, cached)

    async def _with_sequences(self, backend: Backend, manifest: Manifest, placement: Placement) -> Servable:
        _refuse_cache(manifest.config, manifest, "with 'sequence_batching' scheduling")
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

    async def _find(
        self, backend: Backend, manifest: Manifest, wish: Instances, placement: Placement
    ) -> Found:
        """Where it meets its objective best, by measurement."""

        async def open_runner(placed: Placed) -> Runner:
            place = Placement(placement.runner, placed.instances, placed.threads)
            return await self.open_runner(backend, manifest, place)

        limits = limits_of(manifest.config, wish, placement, backend, self._terms.cores)
        default = Placed(placement.slots, placement.threads)
        return await self._profiler.find(manifest, backend, limits, default, open_runner)

    async def _servable(self, manifest: Manifest, kind: str, found: Found) -> Servable:
        """An engine around the runner, and those who learn from its runs."""
        runner, placed, config, setting, laws, profile = found
        config = within(config, runner.signature)
        manifest = msgspec.structs.replace(manifest, config=within(manifest.config, runner.signature))
        if isinstance(runner, StreamRunner):
            _refuse_cache(config, manifest, "with 'decoupled' transaction policy")
            streaming = DecoupledEngine(manifest.id, runner, config, clock=self._clock, emit=self._bus.emit)
            return Servable(manifest, streaming, Placement(kind, placed.instances, placed.threads))
        batching = config.batching
        ends: list[Callable[[], Awaitable[None]]] = []
        laws, rule, teacher = laws or ShapeLaws(), None, None
        if batching.policy == "learned" and batching.enabled and runner.signature.batched:
            key = await asyncio.to_thread(self._profiles.table_key, manifest, batching)
            kept = await asyncio.to_thread(self._profiles.read_table, key)
            if not laws.usual.is_known and kept is not None:
                laws = ShapeLaws(LiveLaw(kept.law))
            rule = LearnedRule(None, batching, runner.slots)
            save = functools.partial(self._profiles.write_table, key)
            teacher = Teacher(rule, laws.usual, batching, ThinkingProcess(), kept, save)
            ends.append(teacher.close)
        if profile is not None:

            async def remember() -> None:
                await self._profiler.remember(profile, placed, laws)

            ends.append(remember)
        engine = Engine(
            manifest.id, runner, config, clock=self._clock, emit=self._bus.emit, known=Knowledge(laws, rule)
        )
        several = None
        if runner.signature.others:
            several = Signatures.of(engine, runner, config, self._clock, self._bus.emit)
        if self._terms.pool is not None and config.instances.rate_limits:
            for one in (engine, *(several.others.values() if several else ())):
                one.share(self._terms.pool, config.instances.rate_limits)
        if teacher is not None:
            teacher.start()
        place = Placement(kind, placed.instances, placed.threads)
        each, front = engine.answers_each, several or engine
        cached = self._cached(manifest, front, sees_parameters=each) if config.response_cache else None
        if cached is not None:
            ends.append(cached.close)
        servable = Servable(manifest, engine, place, setting, ends, cached or several)
        servable.signatures = several
        return servable

    def _cached(
        self, manifest: Manifest, engine: Engine | Signatures | Ensemble, *, sees_parameters: bool
    ) -> CachedModel | None:
        if self._terms.caching is None:
            _LOG.warning("model %s wants a response cache, and this server has none", manifest.id)
            return None
        return self._terms.caching.before(
            engine.infer, manifest.id, manifest.fingerprint, sees_parameters=sees_parameters
        )

    async def open_runner(
        self, backend: Backend, manifest: Manifest, placement: Placement, instance: int | None = None
    ) -> Runner:
        """Load a version and nothing around it; the runner is the caller's.

        Args:
            instance: The runner is to run only this one of the slots; None = all of them.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        runner = await self._open_runner(backend, manifest, placement, instance)
        if not isinstance(backend, TwinBackend) or backend.rest is None:
            return runner
        try:
            other = self._backends[backend.rest.backend]
            rest = await self._open_runner(other, backend.rest, self._place(other, backend.rest), instance)
        except BaseException:
            await runner.close()
            raise
        return SplitRunner(runner.signature, [runner if is_graph else rest for is_graph in backend.graphs])

    async def _open_runner(
        self, backend: Backend, manifest: Manifest, placement: Placement, instance: int | None
    ) -> Runner:
        config = told(manifest, placement.slots) if backend.traits.reads_config else ""
        first, slots = (0, placement.slots) if instance is None else (instance, 1)
        options = LoadOptions(placement.threads, self._terms.trust_pickle, instance=first, config=config)
        if placement.runner == "process":
            kind = backend if isinstance(backend, type) else type(backend)
            calls = self._terms.calls if backend.traits.reads_config else None
            runner = await ProcessRunner.start(
                f"{kind.__module__}:{kind.__qualname__}",
                manifest,
                options,
                slots=slots,
                memory_limit_mb=manifest.config.instances.memory_limit_mb,
                run_timeout_s=manifest.config.instances.run_timeout_s,
                server=calls.admit(manifest.id) if calls else None,
                interpreter=await self._environments.open(manifest) if backend.traits.reads_config else None,
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
        return ThreadRunner(
            models,
            backend.traits,
            slots=slots,
            threads=placement.threads,
            name=manifest.id.name,
            more=None if backend.traits.concurrent else more,
            limit=RunLimit(manifest.config.instances.run_timeout_s),
        )


def _reruns(backend: Backend, manifest: Manifest, signature: Signature) -> bool:
    """Requests may be run once more when their host died; a program beside the artefact may do anything."""
    wish = manifest.config.instances.reruns
    if wish is not None:
        return wish
    is_graph = manifest.code is None and "module" not in manifest.config.options
    return backend.traits.repeatable and is_graph and not signature.is_stateful


def _refuse_cache(config: ModelConfig, manifest: Manifest, kind: str) -> None:
    if config.response_cache:
        raise LoadFailed(
            f"Response Cache does not currently support model {manifest.id.name} {kind}. "
            "Please disable the response cache.",
            field="response_cache",
        )

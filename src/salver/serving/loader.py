"""How does a manifest become something that answers?

Picks the backend, places the model on threads or in a host process, puts an engine around
it. The lifecycle decides when; it calls :meth:`Loader.load` off any request's path.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from salver.artifacts import Instances, Manifest, ModelConfig
from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.engine.engine import Engine
from salver.engine.placement import Placement, place
from salver.engine.ports import Runner
from salver.engine.process import ProcessRunner
from salver.engine.stepper import StepEngine
from salver.engine.thread import ThreadRunner
from salver.engine.warmup import samples
from salver.errors import LoadFailed, SalverError
from salver.messages import Signature
from salver.serving.bus import Bus
from salver.serving.steps import load_steps
from salver.wire.bodies import HttpBody
from salver.wire.oip_json import OpenInferenceHttp

_LOG = logging.getLogger("salver.loader")
_NO_WISH = Instances()
_MAX_WARMUP_FILE = 64 << 20


class Servable:
    """A loaded version: its engine, and what the lifecycle asks of it."""

    def __init__(self, manifest: Manifest, engine: Engine | StepEngine, placement: Placement) -> None:
        self.manifest = manifest
        self.engine = engine
        self.placement = placement
        self.signature: Signature = engine.signature
        self.bytes = manifest.bytes
        self.infer = engine.infer  # the engine's own method: nothing in between
        self.stream = engine.stream if isinstance(engine, StepEngine) else None

    def __repr__(self) -> str:
        return f"<Servable {self.manifest.id} on {self.placement.slots} {self.placement.runner}(s)>"

    async def warm(self, config: ModelConfig) -> None:
        """Run it before there is traffic.

        Zeros may be nonsense to a model, so an error from them is only logged; an error from the
        owner's own warm-up request is a reason not to serve.

        Raises:
            LoadFailed: the owner's warm-up request failed.
        """
        if isinstance(self.engine, StepEngine):
            return  # tried out already
        wish = config.warmup
        if wish.file:
            await self._warm_from_file(wish.file, wish.rounds)
            return
        try:
            for inputs in samples(self.signature, wish):
                await self.engine.run_alone(inputs)
        except Exception as error:
            _LOG.info("model %s does not take zeros as a warm-up: %s", self.manifest.id, error)

    async def _warm_from_file(self, name: str, rounds: int) -> None:
        path = self.manifest.path.parent / name
        try:
            if path.stat().st_size > _MAX_WARMUP_FILE:
                raise LoadFailed(f"warm-up request {path} is larger than {_MAX_WARMUP_FILE} bytes")
            body = await asyncio.to_thread(path.read_bytes)
            http = HttpBody(self.manifest.id.name, self.manifest.id.version, body)
            request = OpenInferenceHttp().decode(http, self.signature)
            for _ in range(rounds):
                await self.engine.infer(request)
        except OSError as error:
            raise LoadFailed(f"cannot read the warm-up request {path}: {error.strerror}") from error
        except SalverError as error:
            raise LoadFailed(f"the warm-up request {path} failed: {error}") from error

    async def close(self) -> None:
        """End the runs under way and give everything back."""
        await self.engine.close()


class Loader:
    """Loads versions.

    Args:
        backends: By name.
        bus: The engines' events go there.
        clock: Monotonic seconds.
        cores: How many this process may use.
        trust_pickle: See :class:`~salver.backends.protocol.LoadOptions`.
        wish: Stands in where a model's configuration is silent.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        bus: Bus,
        clock: Callable[[], float],
        cores: int,
        trust_pickle: bool = False,
        wish: Instances = _NO_WISH,
    ) -> None:
        self._backends = backends
        self._bus = bus
        self._clock = clock
        self._cores = cores
        self._trust_pickle = trust_pickle
        self._wish = wish

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        backend = self._backends.get(manifest.backend)
        if backend is None:
            raise LoadFailed(
                f"model '{manifest.id.name}' asks for the backend {manifest.backend!r}, which does not exist",
                fix=f"There are: {', '.join(sorted(self._backends))}.",
            )
        wish = manifest.config.instances
        wish = msgspec.structs.replace(
            wish, count=wish.count or self._wish.count, threads=wish.threads or self._wish.threads
        )
        placement = place(backend.traits, wish, self._cores)
        if manifest.config.steps.vocabulary:
            options = LoadOptions(placement.threads, self._trust_pickle)
            steps = await load_steps(backend, manifest, options, self._clock, self._bus.emit)
            return Servable(manifest, steps, Placement("thread", 1, placement.threads))
        runner = await self._runner(backend, manifest, placement)
        try:
            engine = Engine(
                manifest.id,
                runner,
                manifest.config,
                clock=self._clock,
                emit=self._bus.emit,
            )
        except BaseException:
            await runner.close()
            raise
        return Servable(manifest, engine, placement)

    async def _runner(self, backend: Backend, manifest: Manifest, placement: Placement) -> Runner:
        options = LoadOptions(placement.threads, self._trust_pickle)
        if placement.runner == "process":
            kind = backend if isinstance(backend, type) else type(backend)
            return await ProcessRunner.start(
                f"{kind.__module__}:{kind.__qualname__}",
                manifest,
                options,
                slots=placement.slots,
                memory_limit_mb=manifest.config.instances.memory_limit_mb,
            )
        models: list[RunnableModel] = []
        try:
            for _ in range(1 if backend.traits.concurrent else placement.slots):
                models.append(await asyncio.to_thread(backend.load, manifest, options))
        except BaseException as error:
            for model in models:
                model.close()
            if isinstance(error, SalverError) or not isinstance(error, Exception):
                raise
            raise LoadFailed(
                f"{manifest.path} could not be loaded by the {backend.name} backend: "
                f"{type(error).__name__}: {error}"
            ) from error
        return ThreadRunner(
            models,
            backend.traits,
            slots=placement.slots,
            threads=placement.threads,
            name=manifest.id.name,
        )

"""Loader of TorchServe's handlers, whose workers come up in the background."""

import itertools
from collections.abc import Callable
from typing import Final

import msgspec

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.engine.engine import HandlerEngine, HandlerTerms, Heard
from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.engine.worker_pool import FIRST_ID, WorkerFactory
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.spawn import HostPlan
from salver.kernel.serving.loading import Terms, refuse_cache
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.events import BatchRan, WorkerReady
from salver.words.handlers import Workers

_BACKEND: Final = "salver.dialects.torchserve.backend:TorchServeBackend"


class HandlerRules(msgspec.Struct, frozen=True):
    """Settings for the workers of all handlers.

    Attributes:
        heard: Receives what handlers' metrics write; None = nothing does.
        first_worker: Number of the first worker.
        gpus: Number of GPUs that workers share.
        hides: Environment variables that handlers do not see (:class:`~salver.kernel.engine.spawn.HostPlan`).
    """

    heard: Heard | None = None
    first_worker: int = FIRST_ID
    gpus: int = 0
    hides: str = ""


class HandlerLoader:
    """Loads handlers.

    Args:
        emit: Receives the engines' events.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        terms: Terms,
        emit: Callable[[BatchRan | WorkerReady], None],
        clock: Callable[[], float],
        rules: HandlerRules,
    ) -> None:
        self._terms = terms
        self._hides = rules.hides
        # One for all handlers: no two workers have the same number, and GPUs go round among all of them.
        factory = WorkerFactory(itertools.count(rules.first_worker), Gpus(rules.gpus))
        self._shared = HandlerTerms(clock, emit, rules.heard, factory)

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`."""
        refuse_cache(manifest, "that is a handler")
        config, terms = manifest.config, self._terms
        workers = config.workers or Workers()
        threads = terms.wish_of(manifest).threads or max(1, terms.cores // max(1, workers.least))
        plan = HostPlan(
            _BACKEND,
            manifest,
            LoadOptions(threads, terms.trust_pickle),
            config.instances.memory_limit_mb,
            forks=config.options.get("share_weights", "true") != "false",
            hides=self._hides,
        )
        engine = HandlerEngine(plan, workers, self._shared)
        servable = Servable(manifest, engine, Placement("process", workers.least, threads))
        servable.is_ready = servable.is_staffed = engine.is_ready

        def rescale(manifest: Manifest) -> bool:
            """Start or stop workers in the background; only their number can be changed."""
            before = servable.manifest.config.workers or Workers()
            workers = manifest.config.workers or Workers()
            if msgspec.structs.replace(before, least=workers.least, most=workers.most) != workers:
                return False
            engine.scale(workers.least, workers.most)
            servable.manifest = msgspec.structs.replace(manifest, path=servable.manifest.path)
            return True

        servable.rescale = rescale
        return servable

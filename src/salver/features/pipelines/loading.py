"""Loader of ensembles: connects the models of a graph."""

from collections.abc import Callable

from salver.features.pipelines.ensemble import DecoupledEnsemble, Ensemble
from salver.features.pipelines.graph import Member, connect
from salver.kernel.engine.placement import Placement
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.loading import refuse_cache
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, SalverError
from salver.words.events import BatchRan


class EnsembleLoader:
    """Loads ensembles of the models that answer at that moment.

    Args:
        inner: Asks the models.
        emit: Receives the ensembles' events.
        clock: Monotonic seconds.
    """

    def __init__(self, inner: Inner, emit: Callable[[BatchRan], None], clock: Callable[[], float]) -> None:
        self._inner = inner
        self._emit = emit
        self._clock = clock

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`."""
        config = manifest.config
        try:
            inner = self._inner.hold(config.ensemble.models)
        except SalverError as error:
            raise LoadFailed(f"ensemble '{manifest.id.name}' cannot ask its models: {error}") from error
        try:
            members = {}
            for pair in config.ensemble.models:
                can = inner.capabilities(*pair)
                members[pair] = Member(inner.signature(*pair), can.is_decoupled, can.gives_parts)
            graph = connect(manifest.id.name, config, members)
            if graph.is_decoupled:
                refuse_cache(manifest, "with 'decoupled' transaction policy")
        except BaseException:
            inner.release()
            raise
        make = Ensemble
        if graph.is_decoupled:
            make = DecoupledEnsemble
        engine = make(manifest.id, graph, inner, config, self._clock, self._emit)
        return Servable(manifest, engine, Placement("thread", 0, 0))

"""Warm-up records of SavedModels and sampling for the prediction log, attached to loaded models."""

import logging
from collections.abc import Callable

from salver.kernel.engine.engine import Engine
from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.words.artifacts import Logging, Manifest
from salver.words.events import Lineage, Replayed

with lazy_imports():
    from salver.dialects.tensorflow.replay import Replay


_LOG = logging.getLogger("salver.loader")


class ReplayAttachment:
    """Makes SavedModels warm up with the records beside them.

    Args:
        emit: Receives events about what was run.
        clock: Returns monotonic seconds.
    """

    def __init__(self, emit: Callable[[Replayed | Lineage], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        if manifest.format != "savedmodel":
            return None
        replay = Replay(manifest.id, manifest.path, self._clock, self._emit)

        def attach(servable: Servable) -> None:
            if isinstance(servable.engine, Engine):
                servable.warmer.replay = replay

        return attach


class Sampling:
    """Random choice of a share of a model's requests.

    Args:
        chance: Returns numbers from 0 up to 1.
    """

    def __init__(self, wish: Logging, chance: Callable[[], float]) -> None:
        self.wish = wish
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Sampling of {self.wish.rate:g}>"

    def takes(self) -> bool:
        """Return whether to log the next request."""
        return self._chance() < self.wish.rate


class RecordingAttachment:
    """Makes requests to models with ``logging`` in their configuration be logged.

    Args:
        chance: Returns numbers from 0 up to 1; None = there is no prediction log.
    """

    def __init__(self, chance: Callable[[], float] | None) -> None:
        self._chance = chance
        self._is_on = True

    def switch(self, is_on: bool) -> None:
        """Start to log no request, or to log again."""
        self._is_on = is_on

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        return self._attach

    def _attach(self, servable: Servable) -> None:
        servable.adjustment.sampled = self._sampling
        servable.declare(recording=self._sampling(servable.manifest))

    def _sampling(self, manifest: Manifest) -> Sampling | None:
        logging = manifest.config.logging
        if not logging.rate:
            return None
        chance = self._chance
        if chance is None:
            _LOG.warning("requests to %s are not logged: set --prediction-log to a folder", manifest.id)
            return None
        return Sampling(logging, lambda: chance() if self._is_on else 1.0)

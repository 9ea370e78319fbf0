"""What SavedModels bring for their warm-up, and which requests are written to the prediction log."""

import logging
from collections.abc import Callable

from salver.dialects.tensorflow.recording import Sampling
from salver.dialects.tensorflow.replay import Replay
from salver.kernel.engine.engine import Engine
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.events import Lineage, Replayed

_LOG = logging.getLogger("salver.loader")


class ReplayAttachment:
    """Has SavedModels warmed up with the records that lie beside them.

    Args:
        emit: Receives what was run.
        clock: Monotonic seconds.
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


class RecordingAttachment:
    """Has requests written down of models whose configuration says ``logging``.

    Args:
        chance: Gives numbers from 0 up to 1; None = there is no prediction log.
    """

    def __init__(self, chance: Callable[[], float] | None) -> None:
        self._chance = chance

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        return self._attach

    def _attach(self, servable: Servable) -> None:
        servable.sampled = self._sampled
        servable.declare(recording=self._sampled(servable.manifest))

    def _sampled(self, manifest: Manifest) -> Sampling | None:
        wish = manifest.config.logging
        if not wish.rate:
            return None
        if self._chance is None:
            _LOG.warning("%s wants requests to be written down; --prediction-log says where", manifest.id)
            return None
        return Sampling(wish, self._chance)

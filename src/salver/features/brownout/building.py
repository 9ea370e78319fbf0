"""Parts of the brown-out."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from salver.features import BrownoutConfig
from salver.features.brownout.levels import Brownout, strain
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import InvalidInput

_LOG: Final = logging.getLogger("salver.brownout")
_TICK_S: Final = 0.25


class BrownoutSwitch:
    """Switches what is optional, by the level."""

    def __init__(self, kernel: Kernel, config: BrownoutConfig) -> None:
        self._kernel = kernel
        self._config = config
        self._optional: list[tuple[str, Callable[[bool], None]]] = []
        self._brownout = Brownout(config, 0)

    async def prepare(self) -> None:
        """Find what the features of this server may go without.

        Raises:
            InvalidInput: the configuration names something else.
        """
        found = {name: switch for part in self._kernel.parts for name, switch in part.optional.items()}
        for name in self._config.off:
            if name not in found:
                raise InvalidInput(
                    f"nothing here is called {name!r}",
                    field="brownout.off",
                    fix=f"This server may go without: {', '.join(sorted(found)) or 'nothing'}.",
                )
        self._optional = [(name, found[name]) for name in self._config.off]
        self._brownout = Brownout(self._config, len(self._optional))

    async def tick(self) -> None:
        """Look at all models, and switch if the level has changed."""
        strains = [
            strain(servable.manifest.config, engine.queued, servable.placement.slots, engine.insight())
            for servable in self._kernel.models.servables()
            for engine in servable.engines
        ]
        before = self._brownout.level
        level = self._brownout.observe(max(strains, default=0.0), self._kernel.clock())
        if level == before:
            return
        name, switch = self._optional[min(level, before)]
        is_on = level < before
        switch(is_on)
        strained = round(self._brownout.strain, 2)
        _LOG.warning({"event": "brown-out", "level": level, "what": name, "on": is_on, "strain": strained})

    def collect(self) -> Iterator[Metric]:
        """Return the metric family; called by the Prometheus registry."""
        yield GaugeMetricFamily(
            "salver_brownout_level",
            "How much of what is optional is switched off.",
            value=self._brownout.level,
        )


async def build(kernel: Kernel, config: BrownoutConfig) -> Parts:
    """Return what watches the models and switches."""
    switch = BrownoutSwitch(kernel, config)
    tick = Tick("brown-out", _TICK_S, switch.tick)
    return Parts(collectors=[switch], ticks=[tick], prepare=switch.prepare)

"""Parts of the memory budget."""

import sys
from typing import Final

from salver.features import MemoryConfig
from salver.features.memory.estimates import parse_size
from salver.features.memory.figures import MemoryFigures
from salver.features.memory.operations import operations
from salver.features.memory.processes import ProcessMeter
from salver.features.memory.residence import Residence
from salver.kernel.lifecycle.memory import memory_bytes
from salver.parts import Kernel, Parts, Tick
from salver.words.errors import Unsupported

_TICK_S: Final = 1.0
_SHARE: Final = 0.9  # of the machine: the rest is for files and others
_RESERVE, _LEAST_RESERVE = 1 / 32, 16 << 20


async def build(kernel: Kernel, config: MemoryConfig) -> Parts:
    """Keep what is loaded within a budget.

    Raises:
        InvalidInput: the budget is no size.
        Unsupported: the machine does not tell how much memory its processes use.
    """
    if sys.platform != "linux":
        raise Unsupported("a memory budget needs Linux, which tells what processes use", field="--memory")
    if config.budget == "auto":
        budget = int(memory_bytes() * _SHARE)
    else:
        budget = parse_size(config.budget, "--memory")
    residence = Residence(budget, kernel.models, kernel.clock, ProcessMeter(), kernel.plane.refresh)
    residence.reserve = max(_LEAST_RESERVE, int(budget * _RESERVE))
    return Parts(
        observers=[residence],
        collectors=[MemoryFigures(residence)],
        operations=operations(residence),
        residence=residence,
        ticks=[Tick("memory", _TICK_S, residence.tick)],
        prepare=residence.begin,
        stop=residence.close,
    )

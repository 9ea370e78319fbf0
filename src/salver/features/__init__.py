"""Capabilities beside the kernel, a package each."""

import msgspec

from salver.feature import Feature
from salver.words.errors import InvalidInput

_MOST_FRONTS = 256


class FrontsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of front processes.

    Attributes:
        count: Processes that answer at the port, the home process included.
        channel: Descriptor of the socket to the home process; -1 = this is the home process.
    """

    count: int = 1
    channel: int = -1

    def __post_init__(self) -> None:
        """Raises InvalidInput for a number that no machine can bear."""
        if not 1 <= self.count <= _MOST_FRONTS:
            raise InvalidInput(f"there may be 1 to {_MOST_FRONTS} fronts", field="--fronts")


class MemoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the memory budget.

    Attributes:
        budget: Memory of the server with its host processes, such as ``8GiB``; ``auto`` = nine tenths of what
            the machine or the control group has; empty = no budget, and every model stays in memory.
    """

    budget: str = ""


# Described here, so that a server that uses neither imports nothing of them.
fronts_feature = Feature(
    "fronts",
    "salver.features.fronts.building:build",
    config=FrontsConfig,
    has_table=False,
    is_used=lambda config: config.count > 1 or config.channel >= 0,
)
memory_feature = Feature(
    "memory",
    "salver.features.memory.building:build",
    config=MemoryConfig,
    has_table=False,
    is_used=lambda config: bool(config.budget),
)

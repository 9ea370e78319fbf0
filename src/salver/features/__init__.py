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


#: Described here, so that a server with one front imports nothing of it.
fronts_feature = Feature(
    "fronts",
    "salver.features.fronts.building:build",
    config=FrontsConfig,
    has_table=False,
    is_used=lambda config: config.count > 1 or config.channel >= 0,
)

"""Capabilities beside the kernel, a package each."""

import msgspec

from salver.feature import Feature


class FrontsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of front processes.

    Attributes:
        count: Processes that answer at the port, the home process included.
        channel: Descriptor of the socket to the home process; -1 = this is the home process.
    """

    count: int = 1
    channel: int = -1


#: Described here, so that a server with one front imports nothing of it.
fronts_feature = Feature(
    "fronts",
    "salver.features.fronts.building:build",
    config=FrontsConfig,
    has_table=False,
    is_used=lambda config: config.count > 1 or config.channel >= 0,
)

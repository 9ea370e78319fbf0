"""Parts of front processes: those of the home process, and those of a front."""

import msgspec

from salver.features import FrontsConfig
from salver.features.fronts.front import FrontSide
from salver.features.fronts.home import HomeSide
from salver.features.fronts.remote_engine import BACKEND
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts, Tick
from salver.transport.server import bind
from salver.words.errors import InvalidInput

_LOOK_S = 1.0


async def build(kernel: Kernel, config: FrontsConfig) -> Parts:
    """Return the parts of this process.

    Raises:
        Conflict: another program has the port.
        InvalidInput: the port cannot be shared.
    """
    if config.channel >= 0:
        side = FrontSide(kernel)
        await side.connect(config.channel)
        return Parts(
            [side],
            additions=Additions(loaders={BACKEND: side.loader}),
            enclose=side.enclose,
            opened=side.opened,
            changes=side,
            close=side.close,
        )
    if not kernel.config.opens_ports:
        return Parts()
    front = kernel.config.front
    if not front.shares_port or front.path:
        raise InvalidInput("several fronts need a TCP port that they share", field="--fronts")
    if front.port:  # fronts share it, so that the kernel refuses nobody else of this user
        bind(msgspec.structs.replace(front, shares_port=False)).close()
    home = HomeSide(kernel, config)
    return Parts(
        [home],
        [home],
        enclose=home.enclose,
        opened=home.opened,
        ticks=[Tick("copies", _LOOK_S, home.tick)],
        leave=home.leave,
        parted=home.parted,
    )

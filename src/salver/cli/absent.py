"""Models whose folder is mounted after the server has started (KServe's ModelCar, a sidecar that fetches)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from salver.terminal.output import remark

#: Seconds that a pod of KServe's may take to bring its models, if nothing else is said.
KSERVE_S: Final = 600.0
_LOOK_S = 0.2


def wait_for(
    paths: Sequence[str],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until every local path exists; what is absent after that is reported where it is read.

    A path may be a link into another process's root, which comes and goes: nothing of it is kept.
    """
    until = clock() + seconds
    absent = [path for path in paths if "://" not in path and not Path(path).exists()]
    if absent:
        remark(f"waiting for {', '.join(absent)}, {seconds:g} s at most")
    while absent and clock() < until:
        sleep(_LOOK_S)
        absent = [path for path in absent if not Path(path).exists()]

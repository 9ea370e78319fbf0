"""Which GPU does a worker of a handler use?

TorchServe's rule (TS-Y2): they go round, among the workers of all models, or among those of a model whose
owner has named some. How many there are is read from the system, without a library. It knows no process.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from salver.words.handlers import Workers, on_machine

_DEVICE: Final = re.compile(r"nvidia\d+")
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class Gpus:
    """Those that workers may use, numbered from 0 on.

    >>> gpus = Gpus(3)
    >>> mine, other = gpus.turns(Workers()), gpus.turns(Workers())
    >>> named = gpus.turns(Workers(device_ids=(2, 0)))
    >>> next(mine), next(other), next(mine), next(mine)
    (0, 1, 2, 0)
    >>> next(named), next(named), next(named), next(gpus.turns(Workers(device="cpu")))
    (2, 0, 2, None)
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count
        self._all = itertools.cycle(range(count))

    def __repr__(self) -> str:
        return f"<Gpus {self._count}>"

    def turns(self, workers: Workers) -> Iterator[int | None]:
        """The one of each worker of a model, as they come; None = it uses none."""
        here = on_machine(workers, self._count)
        if here.device == "cpu":
            return itertools.repeat(None)
        return itertools.cycle(here.device_ids) if here.device_ids else self._all


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """NVIDIA's that CUDA would show to a process with this environment."""
    try:
        there = sum(_DEVICE.fullmatch(entry.name) is not None for entry in devices.iterdir())
    except OSError:
        return 0
    visible = environment.get(_VISIBLE)
    if visible is None:
        return there
    shown = itertools.takewhile(lambda name: _is_there(name, there), map(str.strip, visible.split(",")))
    return min(there, len(list(shown)))


def _is_there(name: str, count: int) -> bool:
    """A number of one, or a name; CUDA shows none from the first on that is not."""
    return name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < count)

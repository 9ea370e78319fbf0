"""Assignment of GPUs to workers of handlers.

TorchServe's rule (TS-Y2): round-robin among the workers of all models, or among those of a model that names
its devices. The number of GPUs is read from the system, without a library.
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
    """GPUs that workers may use, numbered from 0.

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
        """Return the GPUs of a model's workers, in the order of their start; None = no GPU."""
        here = on_machine(workers, self._count)
        if here.device == "cpu":
            return itertools.repeat(None)
        if here.device_ids:
            return itertools.cycle(here.device_ids)
        return self._all


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """Count NVIDIA GPUs that CUDA would show to a process with this environment."""
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
    """Return whether a device is a valid index or a name; CUDA ignores all after the first invalid one."""
    return name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < count)

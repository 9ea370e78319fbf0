"""Assignment of GPUs to workers of handlers.

TorchServe's rule (TS-Y2): round-robin among the workers of all models, or among those of a model that names
its devices.
"""

import itertools
from collections.abc import Iterator

from salver.words.handlers import Workers, on_machine


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

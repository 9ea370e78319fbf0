"""On what does a model run, how often at once, and on how many threads?

Pure: a backend's traits, the owner's wishes and the number of cores in; a :class:`Placement` out.
"""

import msgspec

from salver.backends.protocol import Traits
from salver.words.artifacts import Instances


class Placement(msgspec.Struct, frozen=True):
    """How one model version runs.

    Attributes:
        runner: ``thread`` or ``process``.
        slots: Batches at the same time.
        threads: Threads inside one run.
    """

    runner: str
    slots: int
    threads: int


def place(traits: Traits, wish: Instances, cores: int) -> Placement:
    """Choose where the owner left the choice.

    One run at a time that may use every core: what waits meanwhile becomes the next batch, so runs
    are larger and fewer, and a lone request is answered by all cores. (Measured on two cores, a
    512-2048-2048-10 network, 1 to 64 callers: 1.1 to 1.5 times the rate of two runs of one thread.)
    Who asks for fewer threads a run gets as many runs as there are cores for them, if the
    framework lets other threads work meanwhile and several of them share a model.

    >>> place(Traits(), Instances(), cores=2)
    Placement(runner='thread', slots=1, threads=2)
    >>> place(Traits(), Instances(threads=1), cores=2)
    Placement(runner='thread', slots=2, threads=1)
    >>> place(Traits(isolate=True), Instances(), cores=2)
    Placement(runner='process', slots=1, threads=2)
    """
    runner = wish.runner
    if runner == "auto":
        runner = "process" if traits.isolate else "thread"
    shares = traits.releases_gil and traits.concurrent and runner == "thread"
    slots = wish.count or (max(1, cores // wish.threads) if wish.threads and shares else 1)
    threads = wish.threads or max(1, cores // slots)
    return Placement(runner, slots, threads)

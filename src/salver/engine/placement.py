"""On what does a model run, how often at once, and on how many threads?

Pure: a backend's traits, the owner's wishes and the number of cores in; a :class:`Placement` out.
"""

import msgspec

from salver.artifacts import Instances
from salver.backends.protocol import Traits


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

    A framework that releases the interpreter lock and shares one model between threads gets
    one single-threaded run a core: requests then never wait for one another while a
    core is idle, and no run pays for waking helper threads. Everything else gets one instance
    that may use every core.

    >>> place(Traits(), Instances(), cores=2)
    Placement(runner='thread', slots=2, threads=1)
    >>> place(Traits(isolate=True), Instances(), cores=2)
    Placement(runner='process', slots=1, threads=2)
    """
    runner = wish.runner
    if runner == "auto":
        runner = "process" if traits.isolate else "thread"
    shares = traits.releases_gil and traits.concurrent and runner == "thread"
    slots = wish.count or (cores if shares and not wish.threads else max(1, cores // (wish.threads or cores)))
    threads = wish.threads or max(1, cores // slots)
    return Placement(runner, slots, threads)

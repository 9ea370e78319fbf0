"""Choice of runner, concurrency and threads of a model.

Pure: maps a backend's traits, the configuration and the number of cores to a :class:`Placement`.
"""

import msgspec

from salver.backends.protocol import Traits
from salver.words.artifacts import Instances


class Placement(msgspec.Struct, frozen=True):
    """Runner, slots and threads of one model version.

    Attributes:
        runner: ``thread`` or ``process``.
        slots: Concurrent batches.
        threads: Threads inside one run.
    """

    runner: str
    slots: int
    threads: int


def place(traits: Traits, wish: Instances, cores: int) -> Placement:
    """Choose what the configuration leaves open.

    By default one run at a time uses all cores: requests that wait meanwhile form the next batch, so runs are
    larger and fewer, and a single request is answered by all cores. (Measured on two cores, a
    512-2048-2048-10 network, 1 to 64 callers: 1.1 to 1.5 times the rate of two runs of one thread.) With
    fewer threads per run, as many runs as the cores allow are concurrent, if the framework releases the
    interpreter lock and threads can share a model.

    >>> place(Traits(), Instances(), cores=2)
    Placement(runner='thread', slots=1, threads=2)
    >>> place(Traits(), Instances(threads=1), cores=2)
    Placement(runner='thread', slots=2, threads=1)
    >>> place(Traits(isolate=True), Instances(), cores=2)
    Placement(runner='process', slots=1, threads=2)
    """
    runner = wish.runner
    is_confined = bool(wish.cpus or wish.cpu_quota or wish.gpus)
    if runner == "auto":
        runner = "process" if traits.isolate or is_confined else "thread"
    if wish.cpus:
        cores = min(cores, len(wish.cpus))
    shares = traits.releases_gil and traits.concurrent and runner == "thread"
    slots = wish.count or len(wish.gpus)
    if not slots:
        slots = max(1, cores // wish.threads) if wish.threads and shares else 1
    threads = wish.threads or max(1, cores // slots)
    return Placement(runner, slots, threads)

"""Loading of models with sequences: each sequence stays with one instance."""

from collections.abc import Awaitable, Callable

from salver.backends.protocol import Traits
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner, StreamRunner
from salver.kernel.serving.servable import within
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.events import BatchRan

with lazy_imports():
    from salver.kernel.engine.sequence_engine import SequenceEngine
    from salver.kernel.engine.sequence_streams import SequenceStreamEngine


#: Opens a runner of the instance with a number, or of all instances for None.
OpenRunner = Callable[[int | None], Awaitable[Runner]]


async def load_sequences(
    manifest: Manifest,
    traits: Traits,
    placement: Placement,
    open_runner: OpenRunner,
    clock: Callable[[], float],
    emit: Callable[[BatchRan], None],
) -> SequenceEngine:
    """Return an engine on as many instances as the placement has slots.

    Raises:
        LoadFailed: the reason, in words for the owner.
    """
    runners: list[Runner] = []
    try:
        if traits.concurrent and placement.runner == "thread":  # the instances share one model
            runners = [await open_runner(None)] * placement.slots
        else:
            for instance in range(placement.slots):
                runners.append(await open_runner(instance))
        kind = SequenceEngine
        if isinstance(runners[0], StreamRunner):
            kind = SequenceStreamEngine
        config = within(manifest.config, runners[0].signature)
        return kind(manifest.id, runners, config, clock=clock, emit=emit, remembers=not traits.native)
    except BaseException:
        for runner in dict.fromkeys(runners):
            await runner.close()
        raise

"""Loading of models with sequences: each sequence stays with one instance."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from salver.backends.protocol import Traits
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner, StreamRunner
from salver.kernel.engine.sequence_engine import SequenceEngine
from salver.kernel.engine.sequence_streams import SequenceStreamEngine
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.events import BatchRan
from salver.words.messages import Signature

#: Opens a runner of one instance, given its number; of all, given None.
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
        if traits.concurrent and placement.runner == "thread":  # its instances are one model
            runners = [await open_runner(None)] * placement.slots
        else:
            for instance in range(placement.slots):
                runners.append(await open_runner(instance))
        kind = SequenceStreamEngine if isinstance(runners[0], StreamRunner) else SequenceEngine
        config = within(manifest.config, runners[0].signature)
        return kind(manifest.id, runners, config, clock=clock, emit=emit, remembers=not traits.native)
    except BaseException:
        for runner in dict.fromkeys(runners):
            await runner.close()
        raise


def within(config: ModelConfig, signature: Signature) -> ModelConfig:
    """Return the configuration, its batches no larger than the model takes."""
    most = signature.max_rows
    if not most or config.batching.max_rows <= most:
        return config
    sizes = tuple(size for size in config.batching.sizes if size <= most)
    return replace(config, batching=replace(config.batching, max_rows=most, sizes=sizes))

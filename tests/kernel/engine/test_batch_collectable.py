import gc
import weakref

from salver.kernel.engine.waiting import Batch


def test_a_batch_in_a_cycle_is_collected() -> None:
    """A failed run ties future, error, traceback and batch into a ring."""

    class Future:
        ring: object = None

    future = Future()
    future.ring = Batch([future], 1, "drain", [])  # type: ignore[list-item]
    gone = weakref.ref(future)
    del future
    gc.collect()
    assert gone() is None

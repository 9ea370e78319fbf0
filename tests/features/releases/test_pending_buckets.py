"""Buckets wait until they are written down."""

import numpy as np

from salver.features.releases.experiments.pending import Pending
from salver.words.releases import Bucket, BucketObservations, UnitObservations


def seen(release: str, start: float) -> BucketObservations:
    return BucketObservations(release, Bucket(start, 10, 0, 0.1))


def test_they_are_kept_in_their_order_until_they_are_kept_elsewhere() -> None:
    pending = Pending()
    for start in (10.0, 20.0, 30.0):
        pending.write(seen("a", start))
    pending.write(seen("b", 10.0))
    assert [each.bucket.start for each in pending.of("a")] == [10.0, 20.0, 30.0]
    pending.kept("a", 2)
    assert [each.bucket.start for each in pending.of("a")] == [30.0]
    pending.forget("a")
    assert pending.of("a") == () and len(pending.of("b")) == 1
    pending.kept("nobody", 0)
    assert repr(pending) == "<Pending 1 buckets>"


class Log(list[str]):
    """Messages for the operator."""

    def error(self, text: str, *values: object) -> None:
        self.append(text % values)


def test_memory_is_bounded_and_a_loss_is_told() -> None:
    log = Log()
    pending = Pending(most=2, warn=log.error)
    for start in (10.0, 20.0, 30.0):
        pending.write(seen("a", start))
    assert len(pending.of("a")) == 2
    assert log == ["release a: a bucket is lost, because earlier ones have not been stored"]


def test_a_flood_of_units_is_bounded_too_and_what_is_small_still_fits() -> None:
    log = Log()
    pending = Pending(most_rows=5, warn=log.error)
    met = UnitObservations(np.arange(3), np.zeros(3, np.uint8), np.zeros(3))
    large = BucketObservations("a", Bucket(10.0, 10, 0, 0.1), firsts={"errors": met})
    for each in (large, large, seen("a", 20.0)):
        pending.write(each)
    assert [each.rows for each in pending.of("a")] == [3, 0]
    assert len(log) == 1
    pending.kept("a", 1)
    pending.write(large)
    assert [each.rows for each in pending.of("a")] == [0, 3]
    pending.forget("a")
    pending.write(large)
    assert [each.rows for each in pending.of("a")] == [3]
    assert len(log) == 1

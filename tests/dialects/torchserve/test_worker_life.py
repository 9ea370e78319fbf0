"""Restarts of a worker: pauses, and the end of restarts."""

import pytest

from salver.dialects.torchserve.engine.worker_life import PAUSES, Stage, WorkerLife


@pytest.mark.clause("TS-B7")
def test_the_pauses_grow_as_torchserves_do() -> None:
    life = WorkerLife(1e9)
    assert [life.failed(float(n)) for n in range(13)] == [*PAUSES, 55.0, 55.0]


@pytest.mark.clause("TS-B7")
def test_a_worker_that_was_there_for_a_while_begins_anew() -> None:
    life = WorkerLife(300.0)
    assert not life.has_tried
    assert [life.failed(0.0), life.failed(1.0), life.failed(2.0)] == [0.0, 1.0, 1.0]
    life.ready(4.0)
    assert (life.stage, life.has_tried, life.deaths) == (Stage.READY, True, 0)
    assert life.failed(5.0) == 2.0, "it was there too short a time"
    life.ready(10.0)
    assert life.failed(15.0) == 0.0
    assert life.deaths == 2


@pytest.mark.clause("TS-B7", "TS-R1")
@pytest.mark.parametrize("limit", [0.0, 10.0])
def test_it_is_given_up_after_that_time_and_unhealthy_then(limit: float) -> None:
    life = WorkerLife(limit)
    assert life.is_healthy(1e9), "nothing has failed yet"
    assert life.failed(100.0) == 0.0
    assert life.is_healthy(100.0 + limit)
    assert not life.is_healthy(100.1 + limit)
    assert life.failed(100.1 + limit) is None
    assert life.stage is Stage.LOST
    assert not life.is_healthy(100.1 + limit)
    life.leave()
    assert life.stage is Stage.UNLOADING
    assert life.is_healthy(1e9)

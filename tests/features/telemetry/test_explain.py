"""What is remembered of the last minutes, and that it stays bounded."""

import random
import sys
from collections.abc import Sequence

import pytest

from salver.features.telemetry.explain import RECENT, SLICE_S, SLICES, SLOWEST, Explanations
from salver.kernel.serving.present import Load, LossCounts
from salver.words.errors import NotFound
from salver.words.events import BatchRan, Event, Served
from salver.words.messages import ModelId, Timing, VersionStatus


class Rig:
    """A clock to set, and two instances of ``m:1``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told = Explanations(lambda: self.now, self)

    def statuses(self) -> Sequence[VersionStatus]:
        return []

    def loads(self) -> Sequence[Load]:
        return [Load(ModelId("other", "1"), 0, 0, 9), Load(ModelId("m", "1"), 3, 1, 2)]

    def losses(self) -> LossCounts:
        return LossCounts()

    def cache(self) -> None:
        return None

    def see(self, *events: Event) -> None:
        self.told.observe(events)


def ok(
    latency: float,
    queue: float = 0.0,
    inference: float = 0.0,
    *,
    id: str = "",
    rows: int = 1,
    version: str = "1",
) -> Served:
    timing = Timing(queue, 0.0, inference, 8, 3, "drain")
    return Served("m", version, "oip-http", "ok", latency, timing, rows, id, size=100)


def test_typical_and_slow_requests_are_told_apart() -> None:
    rig = Rig()
    rig.see(*[ok(0.010, queue=0.001, inference=0.008) for _ in range(990)])
    rig.see(*[ok(0.200, queue=0.180, inference=0.008) for _ in range(10)])
    found = rig.told.model("m", "1")
    assert (found["model"], found["version"], found["outcomes"]) == ("m", "1", {"ok": 1000})
    assert found["typical"]["latency_ms"] == pytest.approx(10)
    assert found["typical"]["inference_ms"] == pytest.approx(8)
    assert found["slow"]["latency_ms"] == pytest.approx(200)
    assert found["slow"]["queue_ms"] == pytest.approx(180)
    assert found["verdict"]["phase"] == "queue"
    assert found["verdict"]["share"] == pytest.approx(0.9)


def test_switched_off_it_counts_nothing() -> None:
    rig = Rig()
    for is_on in (True, False, True):
        rig.told.switch(is_on)
        rig.see(ok(0.010))
    assert rig.told.model("m", "1")["outcomes"] == {"ok": 2}


def test_every_group_adds_up() -> None:
    rig, chance = Rig(), random.Random(7)
    for _ in range(500):
        queue, inference, rest = [chance.expovariate(100) for _ in range(3)]
        rig.see(ok(queue + inference + rest, queue, inference))
    found = rig.told.model("m", "1")
    for split in (found["typical"], found["slow"], *found["slowest"]):
        phases = sum(split[f"{name}_ms"] for name in ("queue", "formation", "inference", "rest"))
        assert phases == pytest.approx(split["latency_ms"], abs=1e-5)
        assert split["rest_ms"] > 0


def test_the_slowest_are_named_once_each_slowest_first() -> None:
    rig = Rig()
    for number in range(100):
        rig.see(ok(number / 1000, id=f"r{number}"))
        rig.now += 0.5
    found = rig.told.model("m", "1")
    assert [entry["request_id"] for entry in found["slowest"]] == [f"r{n}" for n in range(99, 89, -1)]
    assert found["slowest"][0]["seconds_ago"] == 0.5
    assert (found["slowest"][0]["closed_by"], found["slowest"][0]["ahead"]) == ("drain", 3)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    rig = Rig()
    rig.see(ok(5.0, id="old"))
    rig.now += SLICE_S * (SLICES - 1)
    rig.see(ok(0.001, id="new"))
    assert rig.told.model("m", "1")["slowest"][0]["request_id"] == "old"
    rig.now += SLICE_S
    found = rig.told.model("m", "1")
    assert [entry["request_id"] for entry in found["slowest"]] == ["new"]
    assert found["outcomes"] == {"ok": 1}
    rig.now += 10 * SLICE_S * SLICES
    assert rig.told.model("m", "1")["verdict"] is None


def test_refusals_are_counted_by_outcome_and_reason_and_have_no_phases() -> None:
    rig = Rig()
    refused = Served("m", "1", "oip-http", "overloaded", 0.0001, Timing(), 4, "no", why="limit")
    rig.see(refused, refused, ok(0.01))
    found = rig.told.model("m", "1")
    assert (found["outcomes"], found["refused"]) == ({"overloaded": 2, "ok": 1}, {"limit": 2})
    assert found["typical"]["requests"] == 1
    told = rig.told.request("m", "no")
    assert (told["outcome"], told["why"], told["rows"]) == ("overloaded", "limit", 4)
    assert "verdict" not in told


def test_what_was_asked_and_what_is_possible() -> None:
    rig = Rig()
    run = BatchRan("m", "1", 32, 32, 0.036, 0.0, 0.0, "full")
    rig.see(*[run] * 10, BatchRan("m", "1", 1, 1, 0.005, 0.0, 0.0, "drain"))
    rig.see(BatchRan("m", "1", 64, 64, 0.0, 0.0, 0.0, "full", ok=False))
    for _ in range(5):
        rig.see(*[ok(0.1, queue=0.09, rows=4) for _ in range(600)])
        rig.now += 1
    found = rig.told.model("m", "1")
    assert found["capacity_rows_per_second"] == pytest.approx(2 * 32 / 0.036, abs=0.1)
    assert found["offered_rows_per_second"] == pytest.approx(2400)
    assert "every instance was busy: 2400 rows/s came, batches of 32" in found["verdict"]["cause"]


def test_one_request_by_its_id() -> None:
    rig = Rig()
    rig.see(*[ok(0.010, inference=0.008) for _ in range(99)], ok(0.1, queue=0.09, id="a/b"))
    found = rig.told.request("m", "a/b")
    assert (found["latency_ms"], found["queue_ms"]) == pytest.approx((100, 90))
    assert found["typical"]["latency_ms"] == pytest.approx(10)
    assert found["verdict"]["phase"] == "queue"
    for model, id in (("m", "none"), ("other", "a/b")):
        with pytest.raises(NotFound, match="no recent request"):
            rig.told.request(model, id)


def test_a_slow_request_is_known_longer_than_the_quick_ones() -> None:
    rig = Rig()
    rig.see(ok(9.0, id="slow"), ok(0.001, id="quick"))
    rig.see(*[ok(0.002, id=str(n)) for n in range(RECENT)])
    assert rig.told.request("m", "slow")["latency_ms"] == 9000
    with pytest.raises(NotFound):
        rig.told.request("m", "quick")


def test_requests_for_unknown_models_leave_nothing() -> None:
    rig = Rig()
    rig.see(Served("", "", "oip-http", "not_found", 0.001, Timing(), request_id="x"))
    assert repr(rig.told) == "<Explanations of 0 versions, 0 requests>"
    assert rig.told.model("m", "1")["outcomes"] == {}


def test_many_versions_and_latencies_stay_bounded() -> None:
    rig, chance = Rig(), random.Random(1)
    for number in range(300):
        rig.see(*[ok(chance.lognormvariate(-4, 3), version=str(number)) for _ in range(50)])
        rig.now += SLICE_S
    assert repr(rig.told) == f"<Explanations of {SLICES} versions, {RECENT} requests>"
    for _ in range(3 * SLICES):
        rig.see(*[ok(chance.lognormvariate(-4, 9)) for _ in range(500)], ok(0.0), ok(sys.float_info.max))
        rig.now += SLICE_S
    (slices,) = [s for pair, s in rig.told._versions.items() if pair == ("m", "1")]
    assert len(slices) == SLICES
    assert max(len(s.slowest) for s in slices) == SLOWEST


@pytest.mark.clause("TR-S6")
def test_the_time_of_an_ensemble_is_that_of_its_models() -> None:
    rig = Rig()
    rig.see(BatchRan("m", "1", 1, 1, 0.004, 0.0, 0.0, "steps"), ok(0.1, inference=0.09))
    found = rig.told.model("m", "1")
    assert found["capacity_rows_per_second"] == 0
    assert found["verdict"]["cause"].startswith("its steps took 90 ms")
    assert list(found["verdict"]["advice"]) == ["ask the same about its models: `salver explain MODEL`"]

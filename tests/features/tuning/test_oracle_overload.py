"""Overload: goodput, fairness, the door, the adaptive limit and recovery, against the kept tables.

Rules alone run in the simulator; what a whole :class:`Schedule` adds (the switch between rules, the door,
what it learns) runs on simulated time around the real object. The tables are means over 12 runs of 120 000
arrivals, computed by an independent simulation of the rules' definitions.
"""

import math

import msgspec
import numpy as np
import pytest
from exact_overload import (
    CAPACITY,
    LARGEST,
    LAW,
    Floats,
    bursts_at,
    fluid_ceiling,
    in_time,
    poisson_at,
    serve,
    service,
    settled,
)
from scheduled import Outcome, drive
from soaking import one_in

from salver.kernel.engine.schedule import Schedule
from salver.stats.batch_law import LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Bulk, Limit, ModelConfig, Objective, Policy
from salver.words.messages import Standing

# S in s, load: ceiling, then goodput per second by rule.
GOODPUT = [
    (0.05, 1.2, 856, 798, 852, 852),
    (0.05, 1.5, 868, 802, 865, 865),
    (0.05, 2.0, 880, 801, 878, 878),
    (0.05, 3.0, 889, 800, 888, 888),
    (0.02, 1.2, 674, 606, 662, 662),
    (0.02, 2.0, 719, 659, 710, 710),
    (0.02, 3.0, 744, 695, 736, 736),
    (0.1, 1.2, 889, 808, 887, 888),
    (0.1, 2.0, 889, 801, 889, 888),
    (0.1, 3.0, 889, 800, 889, 888),
]
RULES = ("half-floor", "newest-feasible", "drop-then-drain")


def known() -> ShapeLaws:
    return ShapeLaws(LiveLaw(LAW))


@pytest.mark.parametrize(("within", "load", "ceiling"), [row[:3] for row in GOODPUT])
def test_the_fluid_ceiling_is_the_known_one(within: float, load: float, ceiling: float) -> None:
    assert fluid_ceiling(load * CAPACITY, within) == pytest.approx(ceiling, abs=0.51)


@pytest.mark.parametrize(
    ("within", "load", "rule", "expected"),
    one_in(4, [(row[0], row[1], rule, row[3 + i]) for row in GOODPUT for i, rule in enumerate(RULES)]),
)
def test_goodput_in_overload(within: float, load: float, rule: str, expected: float) -> None:
    rate = load * CAPACITY
    latencies = settled(serve(rule, poisson_at(rate, 25_000, 3), within))
    goodput = rate * in_time(latencies, within)
    assert goodput == pytest.approx(expected, rel=0.01)
    assert goodput <= fluid_ceiling(rate, within) * 1.01  # the last batches come after the last arrival
    assert np.nanmax(latencies) <= within + 1e-6  # nothing is begun that comes too late


@pytest.mark.parametrize(
    ("rule", "mean", "p99", "share"),
    [
        ("half-floor", 42.6, 49.9, 0.749),
        ("newest-feasible", 38.5, 49.6, 0.799),
        ("drop-then-drain", 38.5, 49.6, 0.799),
    ],
)
def test_latency_in_overload(rule: str, mean: float, p99: float, share: float) -> None:
    latencies = settled(serve(rule, poisson_at(1.2 * CAPACITY, 40_000, 4), 0.05))
    assert 1e3 * np.nanmean(latencies) == pytest.approx(mean, rel=0.01)
    assert 1e3 * np.nanpercentile(latencies, 99) == pytest.approx(p99, rel=0.005)
    assert in_time(latencies, 0.05) == pytest.approx(share, abs=0.004)


def test_a_plain_queue_answers_everything_too_late() -> None:
    latencies = settled(serve("drain", poisson_at(1.2 * CAPACITY, 40_000, 4), 0.05))
    assert in_time(latencies, 0.05) == 0.0
    assert np.mean(latencies[-1000:]) > 5.0  # seconds, and growing


@pytest.mark.parametrize(("load", "goodput"), [(1.2, 278), (1.5, 254), (2.0, 231)])
def test_shrinking_until_the_oldest_fits_is_a_trap(load: float, goodput: float) -> None:
    rate = load * CAPACITY
    shrunk = serve("shrink", poisson_at(rate, 40_000, 6), 0.05)
    assert rate * in_time(settled(shrunk), 0.05) == pytest.approx(goodput, rel=0.03)
    assert shrunk.rows.mean() < 4


def test_the_trap_is_worse_than_draining_before_saturation_already() -> None:
    arrivals = poisson_at(0.95 * CAPACITY, 60_000, 2)
    shares = [
        in_time(settled(serve(rule, arrivals, 0.05)), 0.05) for rule in ("shrink", "drain", "half-floor")
    ]
    assert shares[0] < 0.5 < shares[1] < shares[2]


# Gamma gaps with a squared coefficient of variation of 16: load, then goodput by rule.
BURSTS = [(1.2, 649, 752, 759, 760), (1.5, 630, 794, 814, 815), (2.0, 571, 818, 856, 856)]


@pytest.mark.parametrize(
    ("load", "rule", "expected"),
    one_in(5, [(row[0], rule, row[1 + i]) for row in BURSTS for i, rule in enumerate(("shrink", *RULES))]),
)
def test_goodput_under_bursts(load: float, rule: str, expected: float) -> None:
    rate = load * CAPACITY
    goodput = rate * in_time(settled(serve(rule, bursts_at(rate, 40_000, 1), 0.05)), 0.05)
    assert goodput == pytest.approx(expected, rel=0.05 if rule == "shrink" else 0.02)


# Largest rate with at least 99 % within S under such bursts; known to 10 %.
BURST_RATES = [
    (0.05, {"drain": 168, "half-floor": 273, "newest-feasible": 234, "drop-then-drain": 237}),
    (0.1, {"drain": 480, "half-floor": 594, "newest-feasible": 437, "drop-then-drain": 552}),
]


@pytest.mark.parametrize(
    ("within", "rule", "rate"),
    one_in(3, [(s, rule, rate) for s, rates in BURST_RATES for rule, rate in rates.items()]),
)
def test_the_largest_rate_within_the_objective_under_bursts(within: float, rule: str, rate: float) -> None:
    shares = [
        in_time(settled(serve(rule, bursts_at(factor * rate, 40_000, 2), within)), within)
        for factor in (0.85, 1.15)
    ]
    assert shares[0] >= 0.99 > shares[1]


# -- a whole schedule ------------------------------------------------------------------------------


def schedule(policy: Policy = "auto", within: float = 0.05, slots: int = 1) -> Schedule:
    config = ModelConfig(
        objective=Objective(latency_p99_ms=within * 1e3),
        batching=Batching(policy=policy, max_rows=LARGEST, max_queue=1 << 30),
    )
    return Schedule(config, slots, known())


def measured(policy: Policy, arrivals: Floats, within: float = 0.05) -> Outcome:
    outcome = drive(schedule(policy, within), arrivals.tolist(), service)
    return outcome.part(np.arange(len(arrivals)) >= len(arrivals) // 20)


@pytest.mark.parametrize("load", one_in(2, [0.8, 0.95, 1.2, 2.0]))
def test_auto_is_as_good_as_the_better_of_its_two_rules(load: float) -> None:
    arrivals = poisson_at(load * CAPACITY, 20_000, 7)
    below, above, auto = (
        measured(policy, arrivals).in_time(0.05) for policy in ("half-floor", "drop-then-drain", "auto")
    )
    assert auto >= max(below, above) - 0.001
    assert (below > above) == (load < 0.9)  # so that the switch matters, and stands in the right place


@pytest.mark.parametrize("load", [1.2, 2.0, 3.0])
def test_the_server_as_configured_keeps_97_per_cent_of_the_ceiling(load: float) -> None:
    rate = load * CAPACITY
    outcome = measured("auto", poisson_at(rate, 30_000, 8))
    assert rate * outcome.in_time(0.05) >= 0.985 * fluid_ceiling(rate, 0.05)
    assert outcome.percentile(99) <= 0.05
    bursts = measured("auto", bursts_at(rate, 30_000, 8))
    assert rate * bursts.in_time(0.05) >= 0.85 * fluid_ceiling(rate, 0.05)


def without_door(outcome_of: str, arrivals: Floats) -> float:
    return in_time(settled(serve(outcome_of, arrivals, 0.05)), 0.05)


@pytest.mark.parametrize("load", one_in(2, [0.95, 1.2, 2.0, 3.0]))
def test_the_door_costs_next_to_no_goodput(load: float) -> None:
    rate = load * CAPACITY
    for arrivals, price in ((poisson_at(rate, 15_000, 9), 0.01), (bursts_at(rate, 30_000, 9), 0.02)):
        guarded = measured("drop-then-drain", arrivals).in_time(0.05)
        assert guarded >= (1 - price) * without_door("drop-then-drain", arrivals)


@pytest.mark.parametrize(
    ("load", "at_once", "wait_ms"), [(2.0, 0.43, 12.0), (3.0, 0.53, 10.0), (5.0, 0.7, 6.0)]
)
def test_in_heavy_overload_refusals_come_at_once(load: float, at_once: float, wait_ms: float) -> None:
    """Without the door all who are given up have waited for 25 ms."""
    outcome = measured("auto", poisson_at(load * CAPACITY, 30_000, 10))
    refused = np.isnan(outcome.latency)
    waits = np.where(np.isnan(outcome.at_door), outcome.given_up, 0.0)[refused]
    assert not np.isnan(waits).any()  # everybody has one fate
    assert np.mean(waits == 0.0) >= at_once
    assert 1e3 * waits.mean() <= wait_ms


def test_below_saturation_the_door_is_open() -> None:
    outcome = measured("auto", poisson_at(0.8 * CAPACITY, 40_000, 7))
    assert np.mean(~np.isnan(outcome.at_door)) < 1e-4


def test_several_slots_keep_the_ceiling_too() -> None:
    rate = 2 * 1.5 * CAPACITY
    arrivals = poisson_at(rate, 40_000, 12)
    outcome = drive(schedule(slots=2), arrivals.tolist(), service, slots=2)
    goodput = rate * outcome.part(np.arange(40_000) >= 2_000).in_time(0.05)
    assert goodput >= 0.97 * 2 * fluid_ceiling(rate / 2, 0.05)


def test_a_law_learned_from_nothing_does_as_well() -> None:
    rate = 1.5 * CAPACITY
    config = ModelConfig(
        objective=Objective(latency_p99_ms=50), batching=Batching(max_rows=LARGEST, max_queue=1 << 30)
    )
    outcome = drive(Schedule(config, 1), poisson_at(rate, 40_000, 13).tolist(), service)
    late = outcome.part(outcome.arrivals > 5.0)
    assert rate * late.in_time(0.05) >= 0.97 * fluid_ceiling(rate, 0.05)
    assert late.percentile(99) <= 0.05


# -- fairness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["auto", "half-floor", "drop-then-drain"])
@pytest.mark.parametrize(("share", "tolerance"), one_in(2, [(0.25, 0.002), (0.4, 0.01)]))
def test_a_small_tenant_keeps_its_success_beside_one_that_offers_ten_times_as_much(
    policy: Policy, share: float, tolerance: float
) -> None:
    """S = 100 ms: a run under way and the next one take 72, so that whoever is served first is in time."""
    within, seconds = 0.1, 10
    rate = share * CAPACITY
    own = poisson_at(rate, int(rate * seconds), 21)
    others = poisson_at(10 * rate, int(10 * rate * seconds), 22)
    arrivals = np.concatenate([own, others])
    order = np.argsort(arrivals)
    is_small = order < len(own)
    standings = [Standing("small") if small else Standing("big") for small in is_small]
    alone = drive(schedule(policy, within), own.tolist(), service)
    outcome = drive(schedule(policy, within), arrivals[order].tolist(), service, standings=standings)
    small, big = outcome.part(is_small), outcome.part(~is_small)
    assert alone.in_time(within) == 1.0
    assert small.in_time(within) >= 1.0 - tolerance
    assert small.percentile(99) <= within  # a full run under way, then its own; alone it shares with nobody
    assert small.percentile(50) <= 0.072
    goodput = rate * (small.in_time(within) + 10 * big.in_time(within))
    assert goodput >= (0.87 if policy == "half-floor" else 0.97) * CAPACITY  # and nobody pays


def test_without_fairness_the_small_one_drowns() -> None:
    """The same traffic in one queue: so it is fairness that saves it."""
    config = ModelConfig(
        objective=Objective(latency_p99_ms=100), batching=Batching(max_rows=LARGEST, max_queue=1 << 30)
    )
    rate = 11 * 0.25 * CAPACITY
    outcome = drive(Schedule(config, 1, known()), poisson_at(rate, 40_000, 23).tolist(), service)
    assert outcome.in_time(0.1) < 0.4


# -- levels and services -------------------------------------------------------------------------------


def test_urgent_work_goes_before_all_and_waits_for_one_run_at_most() -> None:
    arrivals = poisson_at(1.5 * CAPACITY, 30_000, 24)
    is_urgent = np.random.default_rng(1).random(len(arrivals)) < 0.01
    standings = [Standing(service="urgent") if urgent else Standing() for urgent in is_urgent]
    outcome = drive(schedule(within=0.1), arrivals.tolist(), service, standings=standings)
    urgent = outcome.part(is_urgent)
    assert urgent.in_time(0.1) == 1.0
    assert np.nanmax(urgent.latency) <= service(LARGEST) + 2 * service(3)


def test_bulk_work_delays_normal_work_by_one_bounded_run_at_most() -> None:
    bound = 0.02
    config = ModelConfig(
        objective=Objective(latency_p99_ms=50), batching=Batching(max_rows=LARGEST, max_queue=1 << 30)
    )
    arrivals = poisson_at(0.3 * CAPACITY, 10_000, 25)
    alone = drive(Schedule(config, 1, known()), arrivals.tolist(), service)
    flood = np.sort(np.concatenate([arrivals, np.zeros(20_000)]))
    is_bulk = flood == 0.0
    standings = [Standing(service="bulk") if bulk else Standing() for bulk in is_bulk]

    bounded = msgspec.structs.replace(config, bulk=Bulk(max_rows=256, max_run_ms=bound * 1e3))
    outcome = drive(Schedule(bounded, 1, known()), flood.tolist(), service, standings=standings)
    normal, bulk = outcome.part(~is_bulk), outcome.part(is_bulk)
    assert np.isfinite(bulk.latency).all()  # it is never refused, however long it waits
    assert normal.in_time(0.05) >= alone.in_time(0.05) - 0.01
    assert np.nanmean(normal.latency) <= np.nanmean(alone.latency) + bound
    assert max(outcome.rows) <= LARGEST


# -- the adaptive limit ----------------------------------------------------------------------------------


def limited(target_ms: float) -> Schedule:
    batching = Batching(max_rows=LARGEST, max_queue=4096)
    return Schedule(ModelConfig(batching=batching, limit=Limit(target_ms, 100.0)), 1)


def delays(outcome: Outcome, begin: float, end: float) -> Floats:
    return np.array([delay for at, delay in outcome.delays if begin <= at < end])


@pytest.mark.parametrize("target", [0.02, 0.05, 0.2, 0.4])
def test_the_queue_delay_converges_to_the_target_and_no_capacity_is_lost(target: float) -> None:
    rate = 3 * CAPACITY
    plan = limited(target * 1e3)
    outcome = drive(plan, poisson_at(rate, int(20 * rate), 26).tolist(), service)
    settled_delays = delays(outcome, 5.0, 20.0)
    assert np.mean(settled_delays) == pytest.approx(target, rel=0.15)
    assert np.percentile(settled_delays, 99) <= 1.6 * target
    served = np.isfinite(outcome.latency) & (outcome.arrivals > 5.0)
    assert served.sum() / 15.0 >= 0.985 * CAPACITY
    assert (
        np.sum([n for n, (at, _) in zip(outcome.rows, outcome.delays, strict=True) if at < 5])
        >= 4.9 * CAPACITY
    )
    # Little: as many as come in that time, and up to a batch, whose latest member sets the delay.
    limit = plan.insight(20.0).limit
    assert 0.6 * CAPACITY * target < limit < 1.2 * (CAPACITY * target + LARGEST)


def test_the_limit_lets_a_burst_pass_and_opens_again_after_the_overload() -> None:
    calm, storm = 0.5 * CAPACITY, 3 * CAPACITY
    arrivals = np.concatenate(
        [
            poisson_at(calm, int(5 * calm), 27),
            5 + poisson_at(storm, int(5 * storm), 28),
            10 + poisson_at(calm, int(10 * calm), 29),
        ]
    )
    outcome = drive(limited(50.0), arrivals.tolist(), service)
    assert np.isfinite(outcome.latency[arrivals < 5]).all()
    after = outcome.part(arrivals > 10.5)
    assert np.isfinite(after.latency).all()
    assert after.percentile(99) < 0.03


# -- recovery --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["auto", "half-floor", "newest-feasible", "drop-then-drain"])
def test_after_a_step_of_three_times_capacity_all_is_normal_within_two_seconds(policy: Policy) -> None:
    calm, storm = 0.5 * CAPACITY, 3 * CAPACITY
    arrivals = np.concatenate(
        [
            poisson_at(calm, int(10 * calm), 30),
            10 + poisson_at(storm, int(5 * storm), 31),
            15 + poisson_at(calm, int(10 * calm), 32),
        ]
    )
    outcome = drive(schedule(policy), arrivals.tolist(), service)
    before = outcome.part(arrivals < 10)
    during = outcome.part((arrivals >= 10) & (arrivals < 15))
    after = outcome.part((arrivals >= 15.2) & (arrivals < 17.2))
    assert after.percentile(99) == pytest.approx(before.percentile(99), rel=0.1)
    assert after.in_time(0.05) == 1.0
    assert storm * during.in_time(0.05) >= 0.85 * fluid_ceiling(storm, 0.05)
    assert not math.isnan(before.percentile(99))

"""Evidence in which units and blocks of time are clusters: what is proven of each piece."""

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.releases.judge.bets import AT_ONCE, Bets
from salver.features.releases.judge.blocks import ANEW, MOST, MOST_OF_BURST, Blocks, OpenBlock, Sides
from salver.features.releases.judge.units import GATE_LOOKS, HARM_LOOKS, MOST_COUNTED, Clusters
from salver.stats.binomial_evidence import HARM
from salver.words.releases import Counts, MetricPart, ServerPart

SIDES = Sides(0.1, 0.9)


def at_least(units: np.ndarray) -> tuple[float, ...]:
    return tuple(float((units > place).sum()) for place in range(MOST_COUNTED))


def clusters(canary: np.ndarray, control: np.ndarray) -> Clusters:
    mine, others = at_least(canary), at_least(control)
    return Clusters(1, (len(canary), len(control)), mine, others, others, mine)


# Units


@settings(max_examples=30)
@given(st.lists(st.integers(0, MOST_COUNTED), min_size=3, max_size=8), st.integers(1, 4))
def test_over_all_assignments_the_evidence_of_units_has_a_mean_of_one_at_most(
    units: list[int], number: int
) -> None:
    """Hoeffding's theorem, whatever units are like."""
    number = min(number, len(units) - 1)
    all_of_them = np.array(units)
    found: list[list[float]] = []
    for chosen in itertools.combinations(range(len(units)), number):
        mask = np.isin(np.arange(len(units)), chosen)
        seen = clusters(all_of_them[mask], all_of_them[~mask])
        found.append([*seen.log_harm(HARM, 0.0), *seen.log_gate((0.1, 1.0), 0.0)])
    assert (np.exp(np.array(found)).mean(axis=0) <= 1 + 1e-9).all()


@pytest.mark.parametrize("margin", [0.25, 2.0])
def test_what_a_margin_tolerates_is_no_evidence(margin: float) -> None:
    """The canary's failing blocks are thinned: at exactly the margin the mean is one at most."""
    rng, number = np.random.default_rng(3), 4000
    rates = rng.lognormal(-2, 1.5, 60)  # units that differ
    found = []
    for _ in range(number):
        is_canary = rng.permutation(60) < 15
        units = np.minimum(rng.poisson(rates * np.where(is_canary, 1 + margin, 1)), MOST_COUNTED)
        seen = clusters(units[is_canary], units[~is_canary])
        found.append([*seen.log_harm((1.25, 2.0), margin), *seen.log_gate((0.1, 0.8), margin)])
    e = np.exp(np.array(found))
    assert (e.mean(axis=0) <= 1 + 4 * e.std(axis=0) / math.sqrt(number)).all()


def test_frequent_users_who_go_on_failing_are_evidence() -> None:
    """Each has failed once before; those of the canary fail again and again."""
    canary, control = np.full(16, 10), np.ones(44, int)
    assert max(clusters(canary, control).log_harm(HARM, 0.0)) > 20
    assert max(clusters(np.ones(16, int), control).log_harm(HARM, 0.0)) == pytest.approx(0)


def test_looks_share_one_bet() -> None:
    assert sum(HARM_LOOKS.values()) == pytest.approx(1)
    looks = sorted(GATE_LOOKS)
    assert looks[:6] == [3, 4, 5, 6, 8, 10] and looks[-1] > 10**6


def test_what_is_beyond_the_usual_rate_of_the_control_promotes_nothing() -> None:
    burst = Clusters().add((Counts(canary=3, stable=100),), Counts(50, 50, 400), is_matched=False).closed(30)
    assert burst.control[0] == 100 and burst.trimmed[0] == pytest.approx(30)
    assert burst.canary[0] == burst.steady[0] == 3 and burst.blocks == 1 and not any(burst.open_control)


def test_a_burst_of_the_canary_is_no_evidence_of_units_and_bars_it_from_the_gate() -> None:
    seen = Clusters().add((Counts(canary=30, stable=2),), Counts(50, 50, 400), is_matched=False)
    burst = seen.closed(9, is_burst=True)
    assert burst.steady[0] == 0 and burst.canary[0] == 30
    assert max(burst.log_harm(HARM, 0.0)) < 0 < max(seen.closed(9).log_harm(HARM, 0.0))
    assert list(burst.log_gate((0.3,), 0.5)) == list(seen.closed(9).log_gate((0.3,), 0.5))


def test_units_that_nobody_counted_prove_nothing() -> None:
    nine = (9.0,) * MOST_COUNTED
    seen = Clusters(3, (0, 0), nine, steady=nine)
    assert list(seen.log_harm(HARM, 0.0)) == [0.0] * len(HARM)


def test_a_gate_leaves_out_bursts_of_single_servers_of_the_canary_as_far_as_the_control_has_them() -> None:
    def gate(of_canary: int, of_control: int) -> float:
        seen = Clusters(met=(100, 300))
        for _ in range(5):
            places = (Counts(canary=9 + of_canary, stable=27 + of_control),)
            cut = ([of_canary, *[0.0] * (MOST_COUNTED - 1)], [of_control, *[0.0] * (MOST_COUNTED - 1)])
            seen = seen.add(places, Counts(), is_matched=False).closed(27, cut)
        return max(seen.log_gate((0.3,), 0.5))

    assert gate(40, 120) == pytest.approx(gate(0, 0)) == pytest.approx(gate(0, 120))
    assert gate(40, 60) < gate(40, 100) < gate(40, 120)


# Blocks


def after(*counts: tuple[int, int], burst: bool = False, blocks: Blocks | None = None) -> Blocks:
    """Blocks of a canary of a tenth, with so many failing units of it and of its control."""
    blocks = blocks or Blocks()
    for canary, control in counts:
        opened = OpenBlock(0, 0, 0.1).add(
            (canary, control), canary, (10 * canary if not burst else canary, 900), 60
        )
        blocks = Blocks(
            **{name: getattr(blocks, name) for name in Blocks.__struct_fields__} | {"open": opened}
        )
        blocks = blocks.closed(SIDES, 60.0, counts=True)
    return blocks


def test_no_block_brings_more_than_its_bound() -> None:
    calm = after(*[(1, 9)] * 30)
    grown = after((20, 9), blocks=calm)
    assert max(np.subtract(grown.bets.log_sums, calm.bets.log_sums)) == pytest.approx(MOST)


def test_a_burst_is_one_event_of_a_process_until_it_is_longer_than_a_hiccup() -> None:
    calm, steps = after(*[(1, 9)] * 30), []
    blocks = calm
    for _ in range(4):
        longer = after((60, 9), burst=True, blocks=blocks)
        steps.append(max(np.subtract(longer.bets.log_sums, blocks.bets.log_sums)))
        blocks = longer
    assert steps == pytest.approx([MOST_OF_BURST, 0.0, MOST, MOST], abs=1e-9)
    alone = after((60, 9), burst=True, blocks=calm)
    next_one = after((60, 9), blocks=alone)
    assert max(np.subtract(next_one.bets.log_sums, alone.bets.log_sums)) <= 1e-12


def of_servers(blocks: Blocks, canary: tuple[int, ...], control: tuple[int, ...]) -> Blocks:
    """A block of servers with 100 requests to the canary each and 900 to its control, which failed."""
    both = tuple(Counts(mine, 0, rest) for mine, rest in zip(canary, control, strict=True))
    requests = (100 * len(both), 900 * len(both))
    opened = OpenBlock(0, 0, 0.1).add((sum(canary), sum(control)), sum(canary), requests, 60)
    parts = [
        ServerPart(str(at), Counts(100, 0, 900), {"e": MetricPart(one, one)}) for at, one in enumerate(both)
    ]
    opened = opened.add_parts(parts, "e", is_matched=False)
    return msgspec.structs.replace(blocks, open=opened).closed(SIDES, 60.0, counts=True)


def test_more_than_any_ratio_explains_is_a_burst_however_few_of_the_requests_fail() -> None:
    """A hiccup that is thin, of a kind of failure that is rare: three of them roll no good release back."""
    calm = after(*[(0, 1)] * 5)
    blocks = calm
    for _ in range(3):
        blocks = after((8, 0), *[(0, 1)] * 5, blocks=blocks)
    assert max(np.subtract(blocks.bets.log_sums, calm.bets.log_sums)) < 3 * MOST_OF_BURST
    harm = after(*[(8, 0)] * 6, blocks=calm)
    assert max(np.subtract(harm.bets.log_sums, calm.bets.log_sums)) > 3 * MOST  # it goes on


def test_a_burst_of_one_server_is_left_out_for_two_blocks() -> None:
    blocks = Blocks()
    for _ in range(30):
        blocks = of_servers(blocks, (1, 1, 1, 1), (9, 9, 9, 9))
    steps, of_control = [], blocks
    for _ in range(4):
        after = of_servers(blocks, (60, 1, 1, 1), (9, 9, 9, 9))
        steps.append(max(np.subtract(after.bets.log_sums, blocks.bets.log_sums)))
        blocks = after
    assert max(steps[:2]) < 0.1 and steps[2] > 1 and blocks.runs == {"0": (4, 0)}
    # A burst of the control changes neither its level nor the evidence.
    after = of_servers(of_control, (1, 1, 1, 1), (500, 9, 9, 9))
    assert after.level == pytest.approx(of_control.level, rel=0.01) and after.runs == {"0": (0, 1)}
    usual = of_servers(of_control, (1, 1, 1, 1), (9, 9, 9, 9))
    assert max(after.bets.log_sums) == pytest.approx(max(usual.bets.log_sums), abs=0.1)


def test_more_than_a_ratio_explains_is_no_evidence_for_it() -> None:
    few, many = (Blocks.steps(count, 9, SIDES, 10.0, 1.0) for count in (20, 60))
    assert few[0] == many[0] and few[-1] < many[-1]


def test_a_control_that_jumps_tempers_and_a_wild_one_says_nothing() -> None:
    calm, wild = after(*[(1, 9)] * 30), after(*[(1, 3), (1, 15)] * 15)
    assert calm.variation() < 0.02 < 0.2 < wild.variation()
    assert wild.factor(0.1) > calm.factor(0.1) > 1 and calm.factor(1.0) == 1
    assert after((30, 200), blocks=calm).bets == calm.bets


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=12))
def test_blocks_only_ever_take_from_the_plain_evidence(rows: list[tuple[int, int]]) -> None:
    blocks = after(*rows)
    plain = np.full(len(HARM), math.log(AT_ONCE))
    for canary, control in rows:
        logs = np.log(HARM)
        step = canary * logs - (canary + control) * np.log1p(0.1 * (np.array(HARM) - 1))
        plain += np.maximum(step, step / 1e3)  # tempering takes from losses as well
    assert (np.array(blocks.bets.log_sums) <= np.maximum(plain, 0) + 1e-9).all() or len(rows) > 1


def test_while_half_of_a_block_is_over_nothing_is_learned_of_jumps() -> None:
    calm = after(*[(1, 9)] * 5)
    opened = OpenBlock(0, 0, 0.1).add((0, 90), 0, (10, 900), 30)
    part = Blocks(**{name: getattr(calm, name) for name in Blocks.__struct_fields__} | {"open": opened})
    short = part.closed(SIDES, 60.0, counts=True)
    assert (short.count, short.jumps, short.level) == (calm.count, calm.jumps, calm.level)
    assert short.last is None


# Bets


def test_bets_that_begin_late_do_not_pay_for_the_calm_before() -> None:
    early = late = Bets()
    for _ in range(3):
        for _ in range(ANEW):
            early, late = early.add([-1.0] * len(HARM)), late.add([-1.0] * len(HARM))
        late = late.begin()
    gains = [6.0] * len(HARM)
    assert late.add(gains).log_e > 0 > math.log(0.5) > early.add(gains).log_sums[0]


def test_capital_is_shared_out_and_never_made() -> None:
    bets = Bets()
    for _ in range(100):
        assert bets.log_e == pytest.approx(0, abs=1e-9)
        bets = bets.begin()

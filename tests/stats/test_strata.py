"""Blocks, minimisation and strata afterwards."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.assignment import fraction
from salver.stats.strata import Stratum, block_arm, minimising_arm, post_stratified
from salver.words.errors import InvalidInput

BLOCKS = st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(any)


@given(st.text(), st.text(), BLOCKS, st.integers(0, 50))
def test_each_block_is_a_permutation_of_its_arms(
    salt: str, stratum: str, block: list[int], number: int
) -> None:
    size = sum(block)
    arms = Counter(block_arm(salt, stratum, number * size + place, block) for place in range(size))
    assert arms == Counter({arm: units for arm, units in enumerate(block) if units})


@pytest.mark.parametrize("half", [1, 2, 4])
def test_no_stratum_is_ever_out_of_balance_by_more_than_half_a_block(half: int) -> None:
    for stratum in ("new", "old", "lapsed"):
        balance, worst = 0, 0
        for index in range(500):
            balance += 1 if block_arm("exp", stratum, index, (half, half)) else -1
            worst = max(worst, abs(balance))
        assert worst <= half


def test_all_orders_of_a_block_are_as_likely() -> None:
    orders = Counter(
        tuple(block_arm("exp", f"s{i % 3}", 4 * (i // 3) + place, (2, 2)) for place in range(4))
        for i in range(3000)
    )
    assert len(orders) == 6
    for count in orders.values():
        may_be(count, 3000, near=1 / 6)


def test_minimisation_balances_every_factor_where_chance_does_not() -> None:
    rng, units = np.random.default_rng(111), 400
    factors = [[f"{name}{level}" for level in range(4)] for name in ("country", "device", "plan", "age")]
    levels = [[str(rng.choice(factor)) for factor in factors] for _ in range(units)]

    def worst(follow: float) -> int:
        counts: list[Counter[str]] = [Counter(), Counter()]
        for unit, own in enumerate(levels):
            arm = minimising_arm(counts, own, fraction("exp", str(unit)), follow)
            counts[arm].update(own)
        return max(abs(counts[0][level] - counts[1][level]) for level in itertools.chain(*factors))

    assert worst(0.8) <= 6
    assert worst(0.5000001) > 6  # hardly better than a coin


def test_a_coin_of_efrons_follows_the_smaller_arm_as_often_as_told() -> None:
    follows = sum(
        minimising_arm([{"all": 7}, {"all": 5}], ["all"], fraction("coin", str(unit)), 2 / 3)
        for unit in range(3000)
    )
    may_be(follows, 3000, near=2 / 3)
    ties = sum(minimising_arm([{}, {}], ["all"], fraction("coin", str(unit))) for unit in range(3000))
    may_be(ties, 3000, near=0.5)


@given(st.integers(2, 5), st.floats(0, 1, exclude_max=True), st.data())
def test_any_chance_gives_an_arm(arms: int, chance: float, data: st.DataObject) -> None:
    counts = [{"x": data.draw(st.integers(0, 9))} for _ in range(arms)]
    arm = minimising_arm(counts, ["x"], chance, follow=1.0)
    assert counts[arm]["x"] == min(count["x"] for count in counts)
    assert 0 <= minimising_arm(counts, ["x"], chance, follow=0.7) < arms


def stratum(control: np.ndarray, treatment: np.ndarray) -> Stratum:
    parts = ((arm.size, float(arm.sum()), float(arm @ arm)) for arm in (control, treatment))
    return Stratum(*parts)


def test_half_the_variance_between_strata_is_half_the_error_squared() -> None:
    rng, ratios, values = np.random.default_rng(112), [], []
    for _ in range(200):
        group = rng.integers(0, 4, 4000)
        treated = rng.random(4000) < 0.5
        between = np.array([-1.5, -0.5, 0.5, 1.5])[group] / math.sqrt(1.25)
        values_of = between + rng.normal(size=4000) + 0.2 * treated
        strata = [
            stratum(values_of[(group == g) & ~treated], values_of[(group == g) & treated]) for g in range(4)
        ]
        effect = post_stratified(strata)
        plain = post_stratified([stratum(values_of[~treated], values_of[treated])])
        ratios.append(effect.error**2 / plain.error**2)
        values.append((effect.value - 0.2) / effect.error)
    assert np.mean(ratios) == pytest.approx(0.50, abs=0.03)
    assert abs(np.mean(values)) < 3.3 / math.sqrt(200)
    assert np.std(values) == pytest.approx(1, abs=0.17)


def test_one_stratum_is_welch() -> None:
    effect = post_stratified([Stratum((4, 10.0, 30.0), (5, 20.0, 90.0))])
    assert effect == pytest.approx((1.5, math.sqrt((30 - 25) / 3 / 4 + (90 - 80) / 4 / 5)))


def test_what_cannot_be_is_refused() -> None:
    for index, block in ((0, []), (0, [0, 0]), (-1, [1, 1]), (0, [2, -1])):
        with pytest.raises(InvalidInput, match="cannot be"):
            block_arm("s", "t", index, block)
    for counts, follow in (([{}], 0.8), ([{}, {}], 0.5), ([{}, {}], 1.1)):
        with pytest.raises(InvalidInput, match="cannot be"):
            minimising_arm(counts, ["x"], 0.3, follow)
    for chance in (-0.1, 1.0, math.nan):
        with pytest.raises(InvalidInput, match="cannot be"):
            minimising_arm([{}, {}], ["x"], chance)
    with pytest.raises(InvalidInput, match="Merge it"):
        post_stratified([Stratum((1, 1.0, 1.0), (5, 2.0, 1.0))])
    for strata in (
        [],
        [Stratum((2, math.nan, 1.0), (5, 2.0, 1.0))],
        [Stratum((2, 1.0, math.inf), (5, 2.0, 1.0))],
    ):
        with pytest.raises(InvalidInput, match="no effect"):
            post_stratified(strata)

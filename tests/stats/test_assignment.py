"""Where units fall: by recorded vectors, and by what has to hold of any of them."""

import functools
import math
import subprocess
import sys
import uuid
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency

from salver.stats.assignment import arm, bound, fraction, fractions, hashing
from salver.words.errors import InvalidInput

IDS: dict[str, Callable[[int], str]] = {
    "sequential": lambda i: f"user-{i}",
    "uuid": lambda i: str(uuid.UUID(int=(i * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128)),
    "mail": lambda i: f"name.{i}@example.org",
}
RAMP = (0.01, 0.05, 0.25, 1.0)


@functools.cache
def ids(kind: str) -> list[str]:
    return [IDS[kind](i) for i in range(200_000)]


def ends(share: float) -> tuple[float, float, float]:
    """Canary, rest and matched baseline."""
    return (share, 1 - 2 * share, share) if share <= 0.5 else (share, 0.0, 1 - share)


@pytest.mark.parametrize(
    ("salt", "unit", "place"),
    [
        ("checkout", "user-1", 0.9785841642478584),
        ("checkout", "user-2", 0.05774219033811101),
        ("search", "user-1", 0.9244522656248962),
        ("", "", 0.7058483037031942),
        ("s" * 65, "żółw 🐢", 0.7297347757723722),
        ("checkout", "\ud800", 0.40158936677543056),
        ("shadow:r1", "user-1", 0.7027069038245581),
        ("holdback:r1", "user-1", 0.7701851079912155),
    ],
)
def test_places_are_those_of_ever(salt: str, unit: str, place: float) -> None:
    assert fraction(salt, unit) == place


def test_another_process_says_the_same() -> None:
    script = "from salver.stats.assignment import fraction; print(repr(fraction('checkout', 'user-1')))"
    for seed in ("0", "1"):
        said = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        assert float(said) == fraction("checkout", "user-1")


@given(st.text(), st.text())
def test_every_text_has_a_place(salt: str, unit: str) -> None:
    place = fraction(salt, unit)
    assert 0 <= place < 1
    assert place == fraction(salt, unit) == fractions(salt, [unit])[0]


@given(st.text(), st.text(), st.floats(0, 1))
def test_hashes_are_below_the_bound_of_a_share_where_places_are_below_it(
    salt: str, unit: str, share: float
) -> None:
    place, number = fraction(salt, unit), hashing(salt)(unit)
    assert 0 <= number < 2**64
    for limit in (share, place, math.nextafter(place, 1), 0.0, 5e-324, math.nextafter(1, 0), 1.0):
        assert (number < bound(limit)) is (place < limit)


@pytest.mark.parametrize("units", IDS)
def test_places_are_uniform(units: str) -> None:
    found = np.bincount((fractions("a salt", ids(units)) * 1000).astype(int), minlength=1000)
    expected = len(ids(units)) / 1000
    p = chi2.sf(((found - expected) ** 2 / expected).sum(), 999)
    assert 0.0005 <= p <= 0.9995


@pytest.mark.parametrize("units", IDS)
@pytest.mark.parametrize("salts", [("one", "two"), ("r1", "r2"), ("r1", "holdback:r1"), ("r1", "shadow:r1")])
def test_two_salts_are_independent(units: str, salts: tuple[str, str]) -> None:
    one, two = (fractions(salt, ids(units)) < 0.5 for salt in salts)
    table = [
        [int((one & two).sum()), int((one & ~two).sum())],
        [int((~one & two).sum()), int((~one & ~two).sum())],
    ]
    assert 0.0005 <= chi2_contingency(table, correction=False).pvalue <= 0.9995


def test_on_a_ramp_nobody_leaves_the_canary_and_as_many_join_as_the_share_grew() -> None:
    places = fractions("release-7", ids("sequential"))
    before: set[int] = set()
    for share in RAMP:
        canary = {unit for unit, place in enumerate(places) if arm(place, ends(share)) == 0}
        assert before <= canary
        assert canary == set(np.flatnonzero(places < share))  # so exactly the share that was added moved
        before = canary
    assert len(before) == len(places)


def test_baselines_are_nested_too_and_never_meet_the_canary() -> None:
    places = fractions("release-7", ids("mail")[:20_000])
    before: set[int] = set()
    for share in RAMP[:3]:
        sides = [arm(place, ends(share)) for place in places]
        baseline = {unit for unit, side in enumerate(sides) if side == 2}
        assert before <= baseline
        assert len(baseline) == pytest.approx(sides.count(0), abs=4 * math.sqrt(2 * share * len(places)))
        before = baseline


@given(st.floats(0, 1, exclude_max=True), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_no_arm_without_a_share_is_chosen(place: float, parts: list[int]) -> None:
    if sum(parts):
        shares = [part / sum(parts) for part in parts]
        assert shares[arm(place, shares)] > 0


def test_a_sum_that_is_rounded_down_leaves_no_gap() -> None:
    shares = [0.1] * 10 + [0.0]
    assert sum(shares) < 1
    assert arm(math.nextafter(1, 0), shares) == 9


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (1.2, -0.2), (math.nan, 1.0)])
def test_what_are_no_shares_is_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="not those of arms"):
        arm(0.5, shares)

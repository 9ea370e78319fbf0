"""Who is in which arm: rules before the hash, and nobody leaves a canary that grows."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chi2_contingency

from salver.features.releases.experiments.assign import assign, check, drawn, is_shadowed, is_told, unit_of
from salver.stats.assignment import fraction, fractions
from salver.words.errors import InvalidInput
from salver.words.releases import Arm, Condition, Shadow, Split, Traffic, trait, unit_number, unit_numbers

SPLIT = Split("r1", "m", stable="1", canary="2", weight=0.25, salt="s1")
UNITS = [f"user-{number}" for number in range(4000)]
UNIT = st.text(min_size=1, max_size=20)
WEIGHT = st.floats(0, 1)


def of(unit, **more):
    return {"header:x-user-id": unit, "request": "q", **more}


def arms(split):
    return {unit: assign(split, of(unit)).arm for unit in UNITS}


def having(**changes):
    return msgspec.structs.replace(SPLIT, **changes)


@given(UNIT, WEIGHT, WEIGHT)
def test_nobody_leaves_the_canary_as_it_grows(unit, one, other):
    small, large = sorted((one, other))
    if assign(having(weight=small), of(unit)).arm is Arm.CANARY:
        assert assign(having(weight=large), of(unit)).arm is Arm.CANARY


@given(UNIT, st.floats(0, 0.5), st.floats(0, 0.5))
def test_nor_the_baseline_while_there_is_room_for_both(unit, one, other):
    small, large = sorted((one, other))
    if assign(having(weight=small), of(unit)).arm is Arm.BASELINE:
        assert assign(having(weight=large), of(unit)).arm is Arm.BASELINE


@settings(max_examples=20)
@given(WEIGHT, WEIGHT)
def test_exactly_the_units_between_two_weights_move(one, other):
    small, large = sorted((one, other))
    before, after = arms(having(weight=small)), arms(having(weight=large))
    moved = {unit for unit in UNITS if (before[unit] is Arm.CANARY) != (after[unit] is Arm.CANARY)}
    assert moved == {unit for unit in UNITS if small <= fraction("s1", unit) < large}


def test_the_baseline_is_as_large_as_the_canary_until_they_meet():
    for weight in (0.01, 0.05, 0.25, 0.5):
        found = list(arms(having(weight=weight)).values())
        places = [fraction("s1", unit) for unit in UNITS]
        assert found.count(Arm.CANARY) == sum(place < weight for place in places)
        assert found.count(Arm.BASELINE) == sum(place >= 1 - weight for place in places)
    assert set(arms(having(weight=0.75)).values()) == {Arm.CANARY, Arm.BASELINE}
    assert set(arms(having(weight=1.0)).values()) == {Arm.CANARY}
    assert set(arms(having(weight=0.0)).values()) == {Arm.STABLE}


def test_an_assignment_says_why_and_how_likely_it_was():
    found = assign(having(weight=1.0, stage=3), of("ada"))
    assert (found.release, found.version, found.reason) == ("r1", "2", "hash")
    assert (found.propensity, found.stage, found.has_unit) == (1.0, 3, True)


def test_the_share_that_meets_the_canary_is_its_propensity():
    found = [assign(SPLIT, of(unit)) for unit in UNITS]
    share = sum(one.arm is Arm.CANARY for one in found) / len(found)
    assert {one.propensity for one in found} == {0.25}
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(UNITS)) ** 0.5


def test_the_first_source_that_tells_a_unit_is_taken():
    traits = {"parameter:user": "bo", "tenant": "acme", "request": "q7"}
    assert unit_of(SPLIT, traits) == ("bo", True)
    assert unit_of(SPLIT, {"tenant": "acme", "request": "q7"}) == ("acme", True)
    assert unit_of(SPLIT, {"request": "q7"}) == ("q7", False)
    assert not assign(SPLIT, {"request": "q7"}).has_unit


@given(UNIT, WEIGHT)
def test_lists_go_before_everything(unit, weight):
    walls = {
        "only": (Condition("tenant", ("nobody",)),),
        "layer": "l",
        "slice": (0.0, 1e-12),
        "holdback": 1.0,
        "weight": weight,
    }
    assert assign(having(always=frozenset({unit}), **walls), of(unit)).arm is Arm.CANARY
    both = having(always=frozenset({unit}), never=frozenset({unit}), **walls)
    denied = assign(both, of(unit))
    assert (denied.arm, denied.reason) == (Arm.STABLE, "never")


def test_only_those_take_part_for_whom_all_conditions_hold():
    split = having(
        weight=1.0,
        only=(Condition("header:x-region", ("eu", "uk")), Condition("tenant", ("acme",))),
    )
    ask = {"header:x-region": "eu", "tenant": "acme"}
    assert assign(split, of("ada", **ask)).arm is Arm.CANARY
    for wrong in ({"header:x-region": "us"}, {"tenant": "other"}):
        found = assign(split, of("ada", **{**ask, **wrong}))
        assert (found.arm, found.reason, found.version) == (Arm.STABLE, "excluded", "1")
    assert assign(split, of("ada")).reason == "excluded"


def test_releases_of_one_layer_share_no_unit_and_are_split_within_their_slices():
    one = having(layer="checkout", slice=(0.0, 0.5), weight=0.5)
    other = having(release="r2", layer="checkout", slice=(0.5, 1.0), weight=0.5, salt="s2")
    check([one, other])
    for unit in UNITS:
        reasons = [assign(split, of(unit)).reason for split in (one, other)]
        assert sorted(reasons) == ["excluded", "hash"]
    inside = [assign(one, of(unit)).arm for unit in UNITS if assign(one, of(unit)).reason == "hash"]
    assert abs(inside.count(Arm.CANARY) / len(inside) - 0.5) < 0.05


@given(UNIT, WEIGHT)
def test_who_is_held_back_is_so_at_every_weight(unit, weight):
    split = having(holdback=0.2)
    held = assign(split, of(unit)).arm is Arm.HOLDBACK
    later = assign(having(holdback=0.2, weight=weight), of(unit))
    assert (later.arm is Arm.HOLDBACK) is held
    promoted = assign(having(holdback=0.2, weight=1.0), of(unit))
    assert promoted.version == ("1" if held else "2")
    assert (later.propensity, promoted.propensity) == (weight * 0.8, 0.8)


def test_the_holdback_is_independent_of_the_arm():
    split = having(holdback=0.2, weight=0.5)
    held = [unit for unit in UNITS if assign(split, of(unit)).arm is Arm.HOLDBACK]
    assert abs(len(held) / len(UNITS) - 0.2) < 0.03
    would = [assign(having(weight=0.5), of(unit)).arm for unit in held]
    assert abs(would.count(Arm.CANARY) / len(would) - 0.5) < 0.08


def test_a_share_of_the_units_is_shadowed_and_always_the_same_ones():
    split = having(weight=0.0, shadow=Shadow(share=0.3))
    shadowed = {unit for unit in UNITS if is_shadowed(split, unit)}
    assert abs(len(shadowed) / len(UNITS) - 0.3) < 0.04
    more = msgspec.structs.replace(split, shadow=Shadow(share=0.6))
    assert shadowed < {unit for unit in UNITS if is_shadowed(more, unit)}
    assert all(is_shadowed(msgspec.structs.replace(split, shadow=Shadow()), unit) for unit in UNITS[:9])
    assert not is_shadowed(msgspec.structs.replace(split, shadow=Shadow(share=0.0)), "ada")
    assert not is_shadowed(SPLIT, "ada")


def test_what_the_body_may_still_say_is_waited_for_and_nothing_else():
    assert is_told(SPLIT, of("ada"))
    assert not is_told(
        SPLIT, {"tenant": "acme", "request": "q"}
    )  # the body may name the user, who goes first
    assert is_told(having(units=("header:x-user-id", "request")), {"request": "q"})
    assert is_told(having(units=("tenant", "request")), {"tenant": "acme", "request": "q"})
    by_tier = having(only=(Condition("parameter:tier", ("gold",)),))
    assert not is_told(by_tier, of("ada"))
    assert is_told(by_tier, of("ada", **{"parameter:tier": "iron"}))
    assert is_told(having(only=(Condition("header:x-region", ("eu",)),)), of("ada"))


@given(UNIT, WEIGHT)
def test_what_is_drawn_at_once_is_what_all_rules_say(unit, weight):
    for share in (weight, fraction("s1", unit), 1 - fraction("s1", unit), 0.0, 1.0):
        split = having(weight=share)
        of_arm = drawn(split, Arm.CANARY, Arm.BASELINE, Arm.STABLE)
        assert of_arm(unit) is assign(split, of(unit)).arm


@pytest.mark.parametrize(
    "rule",
    [
        {"always": frozenset({"ada"})},
        {"never": frozenset({"ada"})},
        {"only": (Condition("tenant", ("acme",)),)},
        {"layer": "l"},
        {"holdback": 0.1},
    ],
)
def test_where_a_rule_goes_before_the_hash_nothing_is_drawn_at_once(rule):
    assert drawn(having(**rule), 1, 2, 3) is None


@pytest.mark.parametrize(
    ("unit", "number"),
    [
        ("ada", 2927098641280067310),
        ("user-1", 3210886374228282393),
        ("", 7951480836783408870),
        ("żółw 🐢", -6709803989956616806),
        ("\ud800", -4595932108956108768),
    ],
)
def test_numbers_of_units_are_those_of_ever(unit, number):
    assert unit_number(unit) == number
    assert unit_numbers(["other", unit]).tolist()[1] == number


def test_numbers_are_different_uniform_and_have_nothing_to_do_with_the_arm():
    units = [f"user-{number}" for number in range(200_000)]
    numbers = unit_numbers(units)
    assert len(set(numbers.tolist())) == len(units)
    found = np.bincount((numbers.view(np.uint64) >> np.uint64(54)).astype(int), minlength=1024)
    expected = len(units) / 1024
    assert 0.0005 <= chi2.sf(((found - expected) ** 2 / expected).sum(), 1023) <= 0.9995
    is_canary = fractions("s1", units) < 0.5
    for is_set in (numbers < 0, numbers & 1 == 1):
        table = [[int((is_canary & is_set).sum()), int((is_canary & ~is_set).sum())]]
        table += [[int((~is_canary & is_set).sum()), int((~is_canary & ~is_set).sum())]]
        assert 0.0005 <= chi2_contingency(table, correction=False).pvalue <= 0.9995


def test_long_names_are_digested_apart():
    one, other = "x" * 1000, "x" * 999 + "y"
    assert len(trait(one)) < 50
    assert trait(one) != trait(other)
    assert trait("x" * 256) == "x" * 256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": 1.5}, "weight of release 'r1' is 1.5"),
        ({"holdback": -0.1}, "holdback"),
        ({"shadow": Shadow(share=2)}, "shadow.share"),
        ({"slice": (0.0, 0.5)}, "not a part of a layer"),
        ({"layer": "l", "slice": (0.5, 0.5)}, "not a part of a layer"),
        ({"canary": "1"}, "both versions"),
        ({"units": ("cookie:id", "request")}, "cookie:id"),
        ({"units": ("header:", "request")}, "not a source"),
        ({"units": ("header:X-User", "request")}, "capital"),
        ({"units": ("tenant",)}, "without any of the sources"),
        ({"only": (Condition("region", ("eu",)),)}, "not a source"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(InvalidInput, match=words):
        check([having(**changes)])


@pytest.mark.parametrize(
    "said",
    [
        {"holdback": 1.5},
        {"units": ("x-user-id", "request")},
        {"units": ("tenant",)},
        {"slice": (0.0, 0.5)},
        {"only": (Condition("region", ("eu",)),)},
    ],
)
def test_what_makes_no_sense_is_refused_in_the_policy_already(said):
    """A release whose split the door refuses would be under way, and share out nothing."""
    with pytest.raises(InvalidInput) as refused:
        Traffic(**said)
    assert refused.value.field.startswith("traffic.") and refused.value.fix


@pytest.mark.parametrize(
    ("changes", "is_fine"),
    [
        ({"model": "n"}, True),
        ({"asked": ("champion",)}, True),
        ({}, False),
        ({"release": "r1", "model": "n"}, False),
        ({"model": "n", "layer": "l", "slice": (0.4, 1.0)}, False),
        ({"model": "n", "layer": "l", "slice": (0.5, 1.0)}, True),
        ({"layer": "l", "slice": (0.5, 1.0)}, True),
        ({"layer": "k", "slice": (0.5, 1.0)}, False),
    ],
)
def test_two_releases_want_no_unit_both(changes, is_fine):
    one = having(layer="l", slice=(0.0, 0.5)) if "layer" in changes else SPLIT
    pair = [one, msgspec.structs.replace(SPLIT, **{"release": "r2", **changes})]
    if is_fine:
        check(pair)
    else:
        with pytest.raises(InvalidInput, match=r"claim the same units|two splits"):
            check(pair)

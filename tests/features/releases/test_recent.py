"""The last few buckets of a release by unit: a window, a sample of very many, nothing of before a pause."""

import pytest

from salver.features.releases.experiments.recent import RecentBuckets, RequestLog
from salver.words.releases import Counts, RecentRequests

KEY = (0, 0, 0.25)


def log(canary=(), control=(), failing=()):
    """Requests of units, of which those fail that are named; once for each time."""
    found = RequestLog(["errors", "timeouts"])
    found.units[0].extend(canary)
    found.units[2].extend(control)
    of_canary = set(canary)
    for unit in failing:
        found.failing["errors"][0 if unit in of_canary else 2].append(unit)
    return found


def test_a_window_counts_units_and_those_that_mostly_fail():
    recent = RecentBuckets()
    users = ["ada", "bo", "cy"]
    assert recent.add(KEY, 10, log(users, ["di", "ed"])) == {}
    recent.add(KEY, 20, log(users, ["di", "ed"], users))
    recent.add(KEY, 30, log(users, ["di", "di"], [*users, "di"]))
    # Three of four requests of ada and bo fail, two of four of cy's.
    found = recent.add(KEY, 40, log(users, ["di"], ["ada", "bo", "di"]))
    assert found == {
        "errors": RecentRequests(Counts(12, 0, 7), Counts(8, 0, 2), Counts(3, 0, 2), Counts(2), 4, 3)
    }
    # Of five buckets the first one has left.
    assert recent.add(KEY, 50, log(["ada"], [], ["ada"]))["errors"].requests == Counts(10, 0, 5)


def test_it_looks_further_back_while_there_are_few_requests_to_the_canary():
    recent = RecentBuckets()
    for end in range(1, 20):
        found = recent.add(KEY, end, log(["ada"] * (end % 4 == 0), ["bo"], ["ada"] * (end % 4 == 0)))
    short = RecentRequests(Counts(1, 0, 4), Counts(1), Counts(1, 0, 1), Counts(1), 4, 1)
    assert found["errors"] == RecentRequests(
        Counts(3, 0, 12), Counts(3), Counts(1, 0, 1), Counts(1), 12, 3, short
    )
    assert recent.add(None, 20, log())["errors"].buckets == 12
    assert recent.add(KEY, 21, log(["cy"] * 4, [], ["cy"] * 4))["errors"].buckets == 6


@pytest.mark.parametrize("key", [(1, 0, 0.25), (0, 2, 0.25), (0, 1, 0.5)])
def test_another_stage_or_share_and_the_return_after_a_pause_begin_anew(key):
    recent = RecentBuckets()
    recent.add(KEY, 10, log(["ada"], [], ["ada"]))
    assert recent.add((0, 1, 0.0), 20, log(["ada"], [], ["ada"])) == {}
    assert recent.add(key, 30, log(["ada"], [], ["ada"]))["errors"].buckets == 1


def test_parts_of_one_bucket_are_one():
    recent = RecentBuckets()
    recent.add(KEY, 10, log(["ada"], ["bo"], ["ada"]))
    assert recent.add(KEY, 10, log(["cy"], ["bo"], ["cy"]))["errors"] == RecentRequests(
        Counts(2, 0, 2), Counts(2), Counts(2, 0, 1), Counts(2), 1, 1
    )


def test_of_very_many_units_a_sample_is_kept_that_is_the_same_in_all_buckets():
    recent = RecentBuckets()
    few = [f"user-{number}" for number in range(1000)]
    recent.add(KEY, 10, log(few, [], few))
    many = [f"user-{number}" for number in range(50_000)]
    found = recent.add(KEY, 20, log(many, [f"other-{number}" for number in range(200_000)], many))["errors"]
    assert (found.requests, found.failures) == (Counts(51_000, 0, 200_000), Counts(51_000))
    assert found.failing == Counts(found.units.canary)
    # One in sixteen or so of 50,000: whoever asked in both buckets is one unit.
    assert 2_000 < found.units.canary < 5_000 and found.units.stable <= 16_384
    assert abs(found.units.stable - 4 * found.units.canary) < 2_000

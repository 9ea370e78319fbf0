"""What several servers counted is judged once, at its own stage, in buckets one after the other."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.experiments.windows import (
    CountingServer,
    JudgedBucket,
    MergedBucket,
    WindowPart,
    clocks,
    counted_by,
    due,
    silent,
)
from salver.words.releases import FIRSTS, NO_STAGE, Bucket, Copies, Counts, RecentRequests, ResourceUse, Spent

T = 1_000_000.0


def part(server: str, start: float, seconds: float = 10.0, stage: int = 0, count: int = 1) -> WindowPart:
    share = 0.05 * (stage + 1)
    seen = Counts(count, count, 2 * count)
    events, raw, copies = {"errors": Counts(1)}, {"errors": Counts(2)}, Copies(4, 3, 2, 1)
    bucket = Bucket(T + start, seconds, stage, share, seen, seen, events, raw, copies=copies)
    return WindowPart(server, round(start), bucket)


def quiet(server: str, start: float, seconds: float = 10.0) -> WindowPart:
    return WindowPart(server, round(start), Bucket(T + start, seconds, NO_STAGE, 0.0))


def told(found: list[MergedBucket]) -> list[tuple[float, float, int, int]]:
    """Start, end, stage and requests to the canary of each bucket."""
    return [
        (round(b.start - T, 3), round(b.start + b.seconds - T, 3), b.stage, b.requests.canary)
        for b, _ in found
    ]


def test_what_one_server_sees_stays_as_it_is_to_the_last_bit() -> None:
    parts = [part("a", 3.3, 6.7), part("a", 10), part("a", 20, 3.2), part("a", 23.2, 6.8, stage=1)]
    assert [bucket for bucket, _ in due(parts, 10, T + 30, None)] == [each.bucket for each in parts]


def test_parts_of_a_window_are_one_bucket_once_all_have_told_theirs() -> None:
    parts = [part("a", 0), part("b", 0, count=5), part("a", 10)]
    assert due(parts, 10, T + 9, None) == []
    ((bucket, made_of),) = due(parts, 10, T + 10, None)
    assert [(part.server, part.requests.canary) for part in bucket.parts] == [("a", 1), ("b", 5)]
    assert msgspec.structs.replace(bucket, parts=()) == Bucket(
        T,
        10,
        0,
        0.05,
        Counts(6, 6, 12),
        Counts(6, 6, 12),
        {"errors": Counts(2)},
        {"errors": Counts(4)},
        copies=Copies(8, 6, 4, 2),
    )
    assert made_of == (parts[0], parts[1])


def test_what_a_full_memory_cut_in_two_is_one_bucket_again() -> None:
    found = due([part("a", 0, 4), part("a", 4, 6)], 10, T + 10, None)
    assert told(found) == [(0, 10, 0, 2)] and found[0].bucket.parts == ()


def test_a_stage_ends_where_the_first_server_begins_the_next() -> None:
    parts = [part("a", 0, 3), part("a", 3, 7, stage=1), part("b", 0, 4), part("b", 4, 6, stage=1)]
    assert told(due(parts, 10, T + 10, None)) == [(0, 3, 0, 2), (3, 10, 1, 2)]
    whole = [part("a", 0, stage=1), part("b", 0)]
    assert told(due(whole, 10, T + 10, None)) == [(0, 0, 0, 1), (0, 10, 1, 1)]


def test_silence_of_one_server_adds_nothing_and_that_of_all_is_told() -> None:
    assert told(due([part("a", 0), quiet("b", 0)], 10, T + 10, None)) == [(0, 10, 0, 1)]
    assert told(due([quiet("a", 0), quiet("b", 2, 8)], 10, T + 10, None)) == [(0, 10, NO_STAGE, 0)]
    slept = [part("a", 0), quiet("b", 0, 60), part("a", 10)]
    assert told(due(slept, 10, T + 20, None)) == [(0, 10, 0, 1), (10, 20, 0, 1)]


def test_what_comes_late_joins_the_next_bucket_of_its_stage() -> None:
    judged = JudgedBucket(0, T, T + 10)
    late = [part("b", 0, count=5), quiet("c", 0)]
    assert due(late, 10, T + 10, judged) == []
    (bucket, made_of), *rest = due([*late, part("a", 10), part("a", 20)], 10, T + 30, judged)
    assert (bucket.start, bucket.seconds, bucket.requests.canary) == (T + 10, 10, 6)
    assert {(p.server, p.number) for p in made_of} == {("a", 10), ("b", 0), ("c", 0)}
    assert told(rest) == [(20, 30, 0, 1)]


def test_what_comes_late_of_a_stage_that_was_left_is_a_bucket_without_a_length() -> None:
    judged = JudgedBucket(2, T + 10, T + 20)
    parts = [part("b", 0), part("b", 10, stage=1), part("a", 20, stage=2)]
    found = due(parts, 10, T + 30, judged)
    assert told(found) == [(20, 20, 0, 1), (20, 20, 1, 1), (20, 30, 2, 1)]
    starts = [judged.since, *(bucket.start for bucket, _ in found)]
    assert sorted(set(starts)) == starts


def test_where_buckets_overlap_no_time_counts_twice() -> None:
    assert told(due([part("b", 0)], 10, T + 10, JudgedBucket(0, T, T + 7))) == [(7, 10, 0, 1)]


def test_windows_whose_length_is_no_binary_fraction_are_told_apart() -> None:
    numbers = range(5_000_001, 5_000_101)
    parts = [WindowPart(s, n, Bucket(n * 0.2, 0.2, 0, 0.1, Counts(1))) for n in numbers for s in ("a", "b")]
    found = due(parts, 0.2, numbers[-1] * 0.2 + 0.2, None)
    assert [bucket.requests.canary for bucket, _ in found] == [2] * 100


def test_nobody_is_waited_for_longer_than_three_windows() -> None:
    witnesses = [CountingServer("a", T), CountingServer("b", T - 25), CountingServer("c", T - 31)]
    assert [each.server for each in silent(witnesses, T, 10)] == ["c"]
    assert silent(witnesses, T, 10, since=T - 30) == ()  # before, nobody could tell anything
    assert [each.server for each in silent(witnesses, T + 1, 10, since=T - 30)] == ["c"]


@pytest.mark.parametrize(
    ("seconds", "late", "is_missed"), [(0.5, 9, 0), (0.5, 11, 1), (10, 29, 0), (10, 31, 1)]
)
def test_people_are_not_told_of_servers_that_come_late(seconds: float, late: float, is_missed: int) -> None:
    (told,) = counted_by([CountingServer("a", T - late)], T, seconds)
    assert (told.server, told.silent_seconds, told.is_heard) == ("a", late, not is_missed)


def test_clocks_that_differ_by_more_than_a_bucket_are_named_while_their_servers_live() -> None:
    told = [
        CountingServer("a", T),
        CountingServer("b", T - 55, -55.0),
        CountingServer("c", T + 12, 12.0),
        CountingServer("d", T + 9, 9.0),
        CountingServer("dead", T - 155, -55.0),
    ]
    said = "the clock of b is 55 seconds behind; the clock of c is 12 seconds ahead"
    assert clocks(told, T + 5, 10.0) == said
    assert clocks(told, T + 5, 60.0) == clocks([], T, 10.0) == ""


def test_a_metric_that_a_server_does_not_count_is_not_known_and_windows_are_added_up() -> None:
    def seen(server: str, requests: int, window: RecentRequests | None = None, **events: int) -> WindowPart:
        counts = {name: Counts(number) for name, number in events.items()}
        lately = {"errors": window} if window else {}
        bucket = Bucket(
            T, 10, 0, 0.05, Counts(requests), events=counts, raw=counts, met=Counts(1), lately=lately,
            blocks={name: (Counts(number), Counts(1)) for name, number in events.items()},
        )  # fmt: skip
        return WindowPart(server, 0, bucket)

    most = RecentRequests(Counts(8, 0, 90), Counts(8), Counts(4, 0, 40), Counts(4), 4, 4)
    weak = RecentRequests(Counts(16, 0, 90), Counts(9), Counts(9, 0, 40), Counts(6), 4, 4)
    parts = [seen("a", 8, most, errors=1, slow=2), seen("b", 5, weak, errors=3), seen("c", 0)]
    ((bucket, _),) = due(parts, 10, T + 10, None)
    assert bucket.events == bucket.raw == {"errors": Counts(4)}
    assert (bucket.blocks, bucket.met) == ({"errors": (Counts(4), Counts(2))}, Counts(3))
    both = RecentRequests(Counts(24, 0, 180), Counts(17), Counts(13, 0, 80), Counts(10), 4, 4)
    assert bucket.lately == {"errors": both}
    assert [(part.server, part.requests.canary, [*part.metrics]) for part in bucket.parts] == [
        ("a", 8, ["errors"]),
        ("b", 5, ["errors"]),
        ("c", 0, []),
    ]
    # What comes late tells of another time.
    ((late, _),) = due([parts[0], part("b", 10)], 10, T + 20, JudgedBucket(0, T, T + 10))
    assert late.lately == {} and late.events == {"errors": Counts(2)}


def test_resources_are_added_up_where_every_server_with_requests_knows_them() -> None:
    def seen(server: str, requests: int, **used: float) -> WindowPart:
        found = {name: ResourceUse(Spent(amount, 1), Spent(2 * amount, 3)) for name, amount in used.items()}
        return WindowPart(server, 0, Bucket(T, 10, 0, 0.05, Counts(requests), resources=found))

    parts = [seen("a", 8, cpu=1.0, memory=5.0), seen("b", 5, cpu=2.0), seen("c", 0)]
    ((bucket, _),) = due(parts, 10, T + 10, None)
    assert bucket.resources == {"cpu": ResourceUse(Spent(3.0, 2), Spent(6.0, 6))}


def test_every_field_of_a_bucket_is_added_up_or_set_by_whoever_judges() -> None:
    added = {"start", "seconds", "stage", "share", "requests", "exposures", "raw", "copies", *FIRSTS}
    added |= {"met", "blocks", "lately", "parts", "resources"}
    assert set(Bucket.__struct_fields__) == added | {"outcomes", "late_seconds"}


@st.composite
def lives(draw: st.DrawFn) -> list[list[WindowPart]]:
    """Parts in the order in which they come, some of them late: a list for each look."""
    looks: list[list[WindowPart]] = [[] for _ in range(12)]
    for server in ("a", "b", "c"):
        moves = draw(st.floats(5, 65))  # when it moves to the next stage
        for window in range(8):
            start, end = 10.0 * window, 10.0 * window + 10
            spans = [(start, end, int(moves <= start))]
            if start < moves < end:
                spans = [(start, moves, 0), (moves, end, 1)]
            look = min(11, window + draw(st.sampled_from([0, 0, 0, 0, 1, 4])))
            for number, (first, last, stage) in enumerate(spans):
                count = draw(st.integers(0, 3))
                made = part(server, first, last - first, stage, count) if count else quiet(server, first, 10)
                looks[look].append(msgspec.structs.replace(made, number=2 * window + number))
    return looks


@given(lives())
def test_each_part_is_judged_once_whenever_it_comes(looks: list[list[WindowPart]]) -> None:
    waiting: list[WindowPart] = []
    judged, counted, stage_seconds = None, [], {0: 0.0, 1: 0.0}
    for look, new in enumerate([*looks, [part("z", 200, stage=1)], [part("z", 210, stage=1)]]):
        waiting += new
        until = math.inf if look >= len(looks) else T + 10.0 * (look + 1)
        for bucket, parts in due(waiting, 10, until, judged):
            assert judged is None or bucket.start > judged.since
            assert all(p.bucket.stage in (bucket.stage, NO_STAGE) for p in parts)
            assert bucket.requests.total == sum(p.bucket.requests.total for p in parts)
            assert bucket.seconds >= 0 and (judged is None or bucket.start >= judged.until - 0.01)
            stage = max(judged.stage if judged else 0, bucket.stage)
            judged = JudgedBucket(stage, bucket.start, bucket.start + bucket.seconds)
            counted += parts
            stage_seconds[max(bucket.stage, 0)] += bucket.seconds
        waiting = [p for p in waiting if p not in counted]
    assert len(counted) == len({(p.server, p.number) for p in counted})
    assert sum(stage_seconds.values()) <= 220.1
    assert [p for p in waiting if p.bucket.stage != NO_STAGE] == []


@pytest.mark.parametrize("seconds", [0.2, 10.0])
def test_nothing_is_due_of_nothing(seconds: float) -> None:
    assert due([], seconds, math.inf, None) == []

"""Models' own numbers on the metrics page: one for all instances, through reloads, and bounded (TR-M8)."""

import pytest

from salver.backends.callbacks import Series
from salver.features.telemetry import own_metrics
from salver.features.telemetry.metrics import Metrics
from salver.features.telemetry.own_metrics import OwnMetrics
from salver.kernel.serving.present import LossCounts
from salver.words.errors import Conflict, InvalidInput, Overloaded

COUNTER = Series("my_calls", "Calls of mine.", "counter", {"kind": "a"})
GAUGE = Series("my_level", "A level.", "gauge", {})
HISTOGRAM = Series("my_sizes", "Sizes.", "histogram", {"kind": "b"}, (1.0, 2.5))


class Nothing:
    def statuses(self):
        return ()

    loads = statuses

    def cache(self):
        return None

    def losses(self):
        return LossCounts()


def page(accept=""):
    metrics = Metrics(Nothing())
    own = metrics.own
    own.change("m", own.open("m", COUNTER), "add", 2)
    own.change("m", own.open("m", GAUGE), "set", -1.5)
    handle = own.open("m", HISTOGRAM)
    for value in (0.5, 1.0, 2.0, 9.0):
        own.change("m", handle, "observe", value)
    return [line for line in metrics.render(accept)[0].decode().splitlines() if "my_" in line]


@pytest.mark.clause("TR-M8")
def test_the_page_has_them_as_their_author_wrote_them():
    assert page() == [
        "# HELP my_calls Calls of mine.",
        "# TYPE my_calls counter",
        'my_calls{kind="a"} 2.0',
        "# HELP my_level A level.",
        "# TYPE my_level gauge",
        "my_level -1.5",
        "# HELP my_sizes Sizes.",
        "# TYPE my_sizes histogram",
        'my_sizes_bucket{kind="b",le="1.0"} 2.0',
        'my_sizes_bucket{kind="b",le="2.5"} 3.0',
        'my_sizes_bucket{kind="b",le="+Inf"} 4.0',
        'my_sizes_count{kind="b"} 4.0',
        'my_sizes_sum{kind="b"} 12.5',
    ]


@pytest.mark.clause("TR-M8")
def test_openmetrics_has_them_too():
    assert 'my_calls{kind="a"} 2.0' in page("application/openmetrics-text; version=1.0.0")


@pytest.mark.clause("TR-M8")
def test_instances_add_up_and_a_gauge_has_the_last_word():
    own = OwnMetrics()
    first, again = own.open("m", COUNTER), own.open("m", COUNTER)
    assert first == again
    own.change("m", first, "add", 2)
    own.change("m", again, "add", 3)
    assert own.value("m", first) == 5
    level = own.open("m", GAUGE)
    own.change("m", level, "set", 4)
    own.change("m", level, "add", -1)
    assert own.value("m", level) == 3


@pytest.mark.clause("TR-M8")
def test_a_new_version_carries_on_and_the_last_one_takes_it_along():
    own = OwnMetrics()
    own.change("old", own.open("old", COUNTER), "add", 2)
    handle = own.open("new", COUNTER)
    own.forget("old")
    own.change("new", handle, "add", 1)
    assert own.value("new", handle) == 3
    own.forget("new")
    own.forget("unheard of")
    assert not list(own.collect())
    assert own.value("again", own.open("again", COUNTER)) == 0


@pytest.mark.clause("TR-M8")
@pytest.mark.parametrize(
    ("series", "kind", "text"),
    [
        (Series("my_calls", "", "gauge", {}), Conflict, "'my_calls' is there already, as a counter"),
        (Series("my_sizes", "", "histogram", {}, (1.0,)), Conflict, r"with the buckets \[1.0, 2.5\]"),
        (Series("my_sizes_sum", "", "counter", {}), Conflict, "would be mistaken for 'my_sizes'"),
        (Series("salver_requests", "", "counter", {}), InvalidInput, "the server's own"),
        (Series("nv_inference_count", "", "counter", {}), InvalidInput, "the server's own"),
    ],
)
def test_what_would_confuse_the_page_is_refused(series, kind, text):
    own = OwnMetrics()
    own.open("m", COUNTER)
    own.open("m", HISTOGRAM)
    with pytest.raises(kind, match=text):
        own.open("other", series)
    assert len(list(own.collect())) == 2


@pytest.mark.clause("TR-M8")
@pytest.mark.parametrize(
    ("series", "how", "value"),
    [(COUNTER, "add", -1), (COUNTER, "set", 1), (HISTOGRAM, "add", 1), (GAUGE, "observe", 1)],
)
def test_a_kind_does_only_its_own(series, how, value):
    own = OwnMetrics()
    handle = own.open("m", series)
    with pytest.raises(InvalidInput, match=f"a {series.kind} does not {how}"):
        own.change("m", handle, how, value)
    with pytest.raises(InvalidInput, match="there is no metric"):
        own.change("stranger", handle, "add", 1)


@pytest.mark.clause("TR-M8")
def test_there_is_a_bound(monkeypatch):
    monkeypatch.setattr(own_metrics, "MOST_SERIES", 3)
    own = OwnMetrics()
    for _ in range(2):
        for number in range(3):
            own.open("m", Series("n", "", "counter", {"number": str(number)}))
    with pytest.raises(Overloaded, match="may have 3 metrics, and 'n' would be one more"):
        own.open("m", Series("n", "", "counter", {"number": "3"}))
    own.open("other", Series("n", "", "counter", {"number": "3"}))

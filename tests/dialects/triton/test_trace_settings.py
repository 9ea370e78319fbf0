"""Sampling of requests, form of traces, and trace files (TR-R9, TR-F8, TR-O1)."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.triton import tracing
from salver.dialects.triton.settings import TraceSetting
from salver.dialects.triton.trace_settings import TraceConfig, TraceSettings
from salver.dialects.triton.tracefile import Trace, TraceFile
from salver.dialects.triton.tracing import Tracing
from salver.kernel.serving.present import LossCounts
from salver.words.errors import InvalidInput, Unsupported
from salver.words.events import BatchRan, Served, moments
from salver.words.messages import ModelId, State, Timing, VersionStatus

ON = {"trace_level": ("TIMESTAMPS",)}
STAMPS = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
]


def served(
    model: str = "m", version: str = "1", id: str = "r", outcome: str = "ok", **changes: Any
) -> Served:
    timing = Timing(queue=1.0, formation=0.5, inference=2.0, arrived=10.5, ended=15.0, split=0.5)
    fields = {"timing": timing, "rows": 2, "request_id": id, "arrival": 10.0} | changes
    return Served(model, version, "oip-http", outcome, 6.0, **fields)


def settings(**config: Any) -> TraceSettings:
    return TraceSettings(TraceConfig(file="trace.json", **config))


def taken(found: TraceSettings, model: str, requests: int) -> list[int]:
    """Which of so many requests are traced, from 1."""
    return [number for number in range(1, requests + 1) if found.scope(model).takes()]


# Which requests.


def test_nothing_is_traced_at_first() -> None:
    found = TraceSettings(TraceConfig())
    assert found.of() == found.of("m") == TraceSetting()
    assert not found.is_on
    assert taken(found, "m", 3000) == []


@pytest.mark.clause("TR-R9")
def test_one_request_in_so_many() -> None:
    found = settings(level="timestamps", rate=3)
    assert found.is_on
    assert taken(found, "m", 10) == [3, 6, 9]


@pytest.mark.clause("TR-R9")
def test_models_without_settings_of_their_own_are_counted_together() -> None:
    found = settings(level="timestamps", rate=2)
    assert [found.scope(model).takes() for model in ("a", "b", "c", "d")] == [False, True, False, True]


@pytest.mark.clause("TR-R9")
def test_so_many_and_no_more() -> None:
    found = settings(level="timestamps", rate=2, count=2)
    assert taken(found, "m", 3) == [2]
    assert found.of().trace_count == 1
    assert taken(found, "m", 9) == [1]
    assert found.of().trace_count == 0
    found.update("", {"trace_count": 1})
    assert taken(found, "m", 9) == [2]
    found.update("", {"trace_count": -1})
    assert len(taken(found, "m", 100)) == 50


@pytest.mark.clause("TR-R9")
def test_a_models_own_settings_and_back() -> None:
    found = settings(level="off", rate=1)
    found.update("m", ON)
    assert found.is_on
    assert found.of("m") == TraceSetting(("TIMESTAMPS",), 1, -1, 0, "trace.json")
    assert found.of("n").trace_level == ("OFF",)
    assert (taken(found, "m", 2), taken(found, "n", 2)) == ([1, 2], [])
    found.update("m", {"trace_level": None})
    assert found.of("m") == found.of()
    assert not found.is_on
    assert taken(found, "m", 2) == []


@pytest.mark.clause("TR-R9")
def test_what_a_model_leaves_open_follows_the_server() -> None:
    found = settings(level="timestamps", rate=7)
    found.update("m", {"log_frequency": 5, "trace_count": 3})
    found.update("", {"trace_rate": 1, "log_frequency": 9})
    assert (found.of("m").trace_rate, found.of("m").log_frequency) == (1, 5)
    assert taken(found, "m", 2) == [1, 2]
    found.update("", {"trace_rate": 2})
    assert found.of("m").trace_count == 1, "what remains of a count remains"
    found.update("m", {"log_frequency": None})
    assert found.of("m").log_frequency == 9


@pytest.mark.clause("TR-R9")
def test_cleared_values_of_the_server_are_those_of_the_start() -> None:
    found = settings(level="timestamps", rate=7, count=4, log_frequency=2)
    found.update("", {"trace_rate": 1, "trace_count": 9, "log_frequency": 8, "trace_level": ("OFF",)})
    assert not found.is_on
    nothing = dict.fromkeys(("trace_rate", "trace_count", "log_frequency", "trace_level"))
    found.update("", nothing)
    assert found.of() == TraceSetting(("TIMESTAMPS",), 7, 4, 2, "trace.json")


@pytest.mark.clause("TR-R9")
@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (TraceConfig(), ON, "Attempting to set invalid trace setting :trace file name is not given"),
        (
            TraceConfig("f"),
            {**ON, "trace_rate": 0},
            "Attempting to set invalid trace setting :sample rate must be non-zero",
        ),
    ],
)
def test_what_cannot_be_traced_changes_nothing(config: Any, change: Any, said: str) -> None:
    found = TraceSettings(config)
    before = found.of()
    for model in ("", "m"):
        with pytest.raises(InvalidInput) as error:
            found.update(model, change)
        assert str(error.value) == said
        assert found.of(model) == before
    assert not found.is_on


def test_a_change_of_the_server_that_a_model_cannot_have_is_refused_whole() -> None:
    found = settings(level="off")
    found.update("m", ON)
    with pytest.raises(InvalidInput, match="sample rate must be non-zero"):
        found.update("", {"trace_rate": 0})
    assert found.of().trace_rate == found.of("m").trace_rate == 1000


def test_tensors_are_refused() -> None:
    found = settings()
    with pytest.raises(Unsupported, match="'TENSORS' is not supported"):
        found.update("", {"trace_level": ("TIMESTAMPS", "TENSORS")})
    assert not found.is_on


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize("wrong", [{"rate": 0}, {"count": -2}, {"log_frequency": -1}])
def test_numbers_of_the_start_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="are out of range"):
        settings(**wrong)


@pytest.mark.clause("TR-F8")
def test_tracing_from_the_start_needs_a_file() -> None:
    with pytest.raises(InvalidInput, match="--trace-file"):
        TraceSettings(TraceConfig(level="timestamps"))


# How a trace looks.


def objects(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_bytes())
    assert isinstance(found, list)
    return found


@pytest.mark.clause("TR-O1")
def test_a_request_in_tritons_form(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    TraceFile(str(path)).write([Trace(1, served())])
    named, stamped = objects(path)
    assert named == {"id": 1, "model_name": "m", "model_version": 1, "request_id": "r"}
    assert stamped["id"] == 1
    assert [stamp["name"] for stamp in stamped["timestamps"]] == STAMPS
    seconds = [stamp["ns"] / 1e9 for stamp in stamped["timestamps"]]
    assert seconds == [10.0, 10.5, 12.0, 12.5, 14.5, 15.0, 16.0]


@pytest.mark.clause("TR-O1")
def test_what_is_not_known_is_left_out() -> None:
    failed = served(outcome="model_failed", timing=Timing())
    assert moments(failed) == {"REQUEST_START": 10_000_000_000, "REQUEST_END": 16_000_000_000}


def test_a_version_that_is_no_number_and_a_request_without_an_id(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    TraceFile(str(path)).write([Trace(1, served("größe", "1.0", ""))])
    assert objects(path)[0] == {"id": 1, "model_name": "größe", "model_version": "1.0"}


seconds = st.floats(0, 1e4)


@given(st.lists(seconds, min_size=6, max_size=6), st.floats(1e-3, 1e8))
def test_timestamps_are_in_order_whatever_sums_make_of_them(phases: list[float], arrival: float) -> None:
    decode, queue, formation, merge, inference, split = phases
    arrived = arrival + decode
    ended = arrived + queue + formation + merge + inference + split
    timing = Timing(queue, formation, inference, arrived=arrived, ended=ended, split=split)
    stamps = list(moments(served(timing=timing, arrival=arrival)).values())
    assert len(stamps) == len(STAMPS)
    assert stamps == sorted(stamps)


# How they reach the file.


def numbers(path: Path) -> list[int]:
    return [found["id"] for found in objects(path) if "model_name" in found]


def test_a_file_is_whole_after_each_write_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("of an earlier server")
    file = TraceFile(str(path))
    assert path.read_text() == "of an earlier server"
    file.write([Trace(1, served()), Trace(2, served())])
    assert numbers(path) == [1, 2]
    file.write([Trace(3, served())])
    assert numbers(path) == [1, 2, 3]
    file.write([])
    assert numbers(path) == [1, 2, 3]


def test_a_file_that_was_taken_away_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(str(path))
    file.write([Trace(1, served())])
    path.rename(tmp_path / "old.json")
    file.write([Trace(2, served())])
    assert (numbers(tmp_path / "old.json"), numbers(path)) == ([1], [2])


@pytest.mark.clause("TR-R9")
def test_log_frequency_counts_files_up(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(str(path))
    for number in range(1, 6):
        file.write([Trace(number, served(), frequency=2)])
    file.write([Trace(6, served(), "own", 3), Trace(7, served(), frequency=2)])
    found = {p.name: numbers(p) for p in sorted(tmp_path.iterdir())}
    assert found == {
        "trace.json.0": [1, 2],
        "trace.json.1": [3, 4],
        "trace.json.2": [5, 7],
        "trace.json.3": [6],
    }


def test_a_file_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs the folder"):
        TraceFile(str(tmp_path / "nowhere" / "trace.json"))
    with pytest.raises(InvalidInput, match="is a folder"):
        TraceFile(str(tmp_path))


class Models:
    """Model m answers, n does not."""

    def statuses(self) -> list[VersionStatus]:
        return [
            VersionStatus(ModelId("m", "1"), State.READY),
            VersionStatus(ModelId("n", "1"), State.FAILED, "broken"),
        ]

    def loads(self) -> list[Any]:
        return []

    def losses(self) -> LossCounts:
        return LossCounts()

    def cache(self) -> None:
        return None


def traced(path: Path, **config: Any) -> Tracing:
    return Tracing(TraceConfig(str(path), **{"level": "timestamps", "rate": 1, **config}), Models())


async def test_what_is_sampled_is_written_off_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    found = traced(path, rate=2)
    ran = BatchRan("m", "1", 1, 1, 0.1, 0.0, 0.0, "full")
    found.observe([served(id="1"), ran, served(id="2"), served(id="3"), served("", "", id="unknown")])
    assert not path.exists()
    found.observe([served(id="4")])
    await found.close()
    assert [o["request_id"] for o in objects(path) if "request_id" in o] == ["2", "4"]
    await found.close()
    found.observe([served(id="5"), served(id="6")])
    await found.close()
    assert numbers(path) == [1, 2, 3]


async def test_off_means_that_nothing_is_looked_at(tmp_path: Path) -> None:
    class Unreadable(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("nobody shall look")

    found = traced(tmp_path / "trace.json", level="off")
    found.observe(Unreadable([served()]))
    await found.close()
    assert not (tmp_path / "trace.json").exists()


@pytest.mark.clause("TR-R9")
async def test_unknown_models_have_no_settings(tmp_path: Path) -> None:
    found = traced(tmp_path / "trace.json", level="off")
    for model in ("nosuch", "n"):
        for change in ({}, ON):
            with pytest.raises(InvalidInput) as error:
                found.update(model, change)
            assert str(error.value) == f"Request for unknown model : {model}"
    assert found.update("m", ON).trace_level == ("TIMESTAMPS",)
    assert found.update("", {}).trace_level == ("OFF",)


async def test_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "LIMIT", 3)
    path = tmp_path / "trace.json"
    found = traced(path)
    with caplog.at_level(logging.WARNING):
        found.observe([served() for _ in range(10)])
        await found.close()
    assert numbers(path) == [1, 2, 3]
    assert "7 traces are lost" in caplog.text


async def test_a_file_that_cannot_be_written_costs_traces_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    found = traced(folder / "trace.json")
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        found.observe([served(), served()])
        await found.close()
    assert "2 traces are lost" in caplog.text
    folder.mkdir()
    found.observe([served()])
    await asyncio.sleep(0)
    await found.close()
    assert numbers(folder / "trace.json") == [3]


@pytest.mark.clause("TR-O1")
async def test_what_is_asked_in_the_service_of_a_request_is_below_it(tmp_path: Path) -> None:
    """It comes before the request, since that is answered last."""
    path = tmp_path / "trace.json"
    traced = Tracing(TraceConfig(str(path), "timestamps", 4), Models())
    for request in ("skipped", "taken"):
        spans = {name: f"{request}-{name}" for name in ("e", "inner", "a", "b", "c")}
        family = [
            served("a", id=request, traceparent=spans["a"], parent=spans["inner"]),
            served("b", id=request, traceparent=spans["b"], parent=spans["inner"]),
            served("inner", id=request, traceparent=spans["inner"], parent=spans["e"]),
            served("c", id=request, traceparent=spans["c"], parent=spans["e"]),
            served("other", id="alone"),
            served("e", id=request, traceparent=spans["e"]),
        ]
        traced.observe(family)
    await traced.close()
    named = [entry for entry in json.loads(path.read_text()) if "model_name" in entry]
    by_id = {entry["id"]: entry for entry in named}
    assert len(by_id) == len(named)
    above = {
        entry["model_name"]: by_id[entry["parent_id"]]["model_name"] if "parent_id" in entry else ""
        for entry in named
        if entry["request_id"] == "taken"
    }
    assert above == {"e": "", "inner": "e", "c": "e", "a": "inner", "b": "inner"}
    assert not any(entry["request_id"] == "skipped" for entry in named)


@pytest.mark.clause("TR-O1")
async def test_families_whose_head_never_comes_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    traced = Tracing(TraceConfig(str(path), "timestamps", 1), Models())
    orphans = [served("a", parent=f"p{n}") for n in range(tracing.FAMILIES + 1)]
    traced.observe(orphans)
    traced.observe([served("e", traceparent="p0"), served("f", traceparent="p1")])
    await traced.close()
    named = [entry["model_name"] for entry in json.loads(path.read_text()) if "model_name" in entry]
    assert named == ["e", "f", "a"]

import json

import msgspec
import pytest

from salver.dialects.triton.statistics import Statistics
from salver.words.errors import Code
from salver.words.events import BatchRan, Served, StateChanged
from salver.words.messages import ModelId, State, Timing

READY = StateChanged(ModelId("m", "1"), State.WARMING, State.READY)


def served(outcome: str = "ok", latency: float = 0.01, rows: int = 2, model: str = "m") -> Served:
    timing = Timing(queue=0.002, formation=0.001, inference=0.004, batch_rows=4)
    return Served(model, "1", "oip-http", outcome, latency, timing, rows)


def ran(rows: int = 4, requests: int = 2, ok: bool = True) -> BatchRan:
    return BatchRan("m", "1", rows, requests, 0.004, 0.0005, 0.00025, "drain", ok)


def statistics() -> Statistics:
    return Statistics(wall=lambda: 1_700_000_000.1234)


def only(found: Statistics) -> dict[str, object]:
    (row,) = found.snapshot()["model_stats"]
    assert isinstance(row, dict)
    return row


def test_a_batch_of_two_requests() -> None:
    found = statistics()
    found.observe([READY, ran(), served(), served()])
    assert only(found) == {
        "name": "m",
        "version": "1",
        "last_inference": 1_700_000_000_123,
        "inference_count": 4,
        "execution_count": 1,
        "inference_stats": {
            "success": {"count": 2, "ns": 20_000_000},
            "fail": {"count": 0, "ns": 0},
            "queue": {"count": 2, "ns": 6_000_000},
            "compute_input": {"count": 2, "ns": 1_000_000},
            "compute_infer": {"count": 2, "ns": 8_000_000},
            "compute_output": {"count": 2, "ns": 500_000},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": 4,
                "compute_input": {"count": 1, "ns": 500_000},
                "compute_infer": {"count": 1, "ns": 4_000_000},
                "compute_output": {"count": 1, "ns": 250_000},
            }
        ],
        "memory_usage": [],
    }


def test_batch_sizes_are_listed_in_order_and_apart() -> None:
    found = statistics()
    found.observe([ran(8), ran(1), ran(8)])
    rows = found.snapshot()["model_stats"][0]["batch_stats"]
    assert [(r["batch_size"], r["compute_infer"]["count"]) for r in rows] == [(1, 1), (8, 2)]


def test_a_failed_run_is_neither_an_execution_nor_an_inference() -> None:
    found = statistics()
    found.observe([READY, ran(ok=False), served("model_failed"), served("model_failed")])
    row = only(found)
    assert (row["execution_count"], row["inference_count"], row["last_inference"]) == (0, 0, 0)
    assert found.snapshot()["model_stats"][0]["inference_stats"]["fail"] == {"count": 2, "ns": 20_000_000}


@pytest.mark.parametrize(
    "code", [Code.MODEL_FAILED, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.OVERLOADED, Code.INTERNAL]
)
def test_what_an_engine_refused_or_lost_is_a_failure(code: Code) -> None:
    found = statistics()
    found.observe([READY, served(code.value)])
    assert found.snapshot()["model_stats"][0]["inference_stats"]["fail"]["count"] == 1


@pytest.mark.parametrize("code", [Code.INVALID_INPUT, Code.NOT_FOUND, Code.NOT_READY, Code.TOO_LARGE])
def test_what_never_reached_an_engine_is_not_a_failure(code: Code) -> None:
    found = statistics()
    found.observe([READY, served(code.value)])
    assert found.snapshot()["model_stats"][0]["inference_stats"]["fail"]["count"] == 0


@pytest.mark.clause("TR-R8")
def test_a_request_one_of_whose_responses_is_an_error_was_served() -> None:
    found = statistics()
    found.observe([READY, ran(), msgspec.structs.replace(served("model_failed"), why="response")])
    row = found.snapshot()["model_stats"][0]
    assert (row["inference_count"], row["execution_count"]) == (2, 1)
    assert row["inference_stats"]["success"]["count"] == row["inference_stats"]["queue"]["count"] == 1
    assert row["inference_stats"]["fail"]["count"] == 0


def test_failures_of_unknown_models_make_no_row() -> None:
    found = statistics()
    found.observe([served("deadline_exceeded", model=f"made-up-{i}") for i in range(10)])
    assert found.snapshot() == {"model_stats": []}


def test_a_ready_version_is_listed_before_its_first_request_and_gone_after_unloading() -> None:
    found = statistics()
    found.observe([READY])
    assert only(found)["inference_count"] == 0
    found.observe([served(), StateChanged(ModelId("m", "1"), State.UNLOADING, State.GONE)])
    assert found.snapshot() == {"model_stats": []}


def test_a_reloaded_version_starts_anew() -> None:
    found = statistics()
    loading = StateChanged(ModelId("m", "1"), State.NEW, State.LOADING)
    gone = StateChanged(ModelId("m", "1"), State.UNLOADING, State.GONE)
    found.observe([loading, READY, served(), loading, READY])
    assert only(found)["inference_count"] == 0
    found.observe([served(), gone])  # the copy before it is gone only now
    assert only(found)["inference_count"] == 2
    found.observe([gone])
    assert found.snapshot() == {"model_stats": []}


def test_selection_by_model_and_version() -> None:
    found = statistics()
    for name, version in (("m", "1"), ("m", "2"), ("n", "1")):
        found.observe([StateChanged(ModelId(name, version), State.WARMING, State.READY)])

    def listed(*wanted: str) -> list[tuple[str, str]]:
        return [(row["name"], row["version"]) for row in found.snapshot(*wanted)["model_stats"]]

    assert listed() == [("m", "1"), ("m", "2"), ("n", "1")]
    assert listed("m") == [("m", "1"), ("m", "2")]
    assert listed("m", "2") == [("m", "2")]
    assert listed("nobody") == []


def test_every_number_is_an_integer() -> None:
    found = statistics()
    found.observe([READY, ran(), served(latency=1 / 3)])
    assert "." not in json.dumps(only(found)["inference_stats"])

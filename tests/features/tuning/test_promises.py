"""Promises of real models with planted run times: who is refused at load, what a user is told before."""

import json
import os
import time
from pathlib import Path

import pytest
from zoo import write_mlp

from salver.backends.discovery import backends
from salver.cli import main
from salver.features.planning.promises import LoadedModel, PromiseBook
from salver.features.tuning.plan_command import _find
from salver.features.tuning.profile import Cell, Measurement, Profile
from salver.features.tuning.profiles import ProfileStore, machine
from salver.kernel.engine.placement import Placement
from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.testing.process import ServerProcess
from salver.words.artifacts import ModelConfig, Objective
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

CORES = len(os.sched_getaffinity(0))


def write(root: Path, name: str, objective: str, settings: str = "") -> None:
    write_mlp(root / name, 1)
    (root / name / "salver.toml").write_text(
        f"objective = {{ {objective} }}\ninstances = {{ count = 1, threads = {CORES} }}\n"
        f"batching = {{ max_rows = 8 }}\n{settings}"
    )


def plant(root: Path, state: Path, name: str, law: BatchLaw) -> None:
    """Store measurements as if the model took this long."""
    (manifest,) = (found for found in _find(root) if found.id.name == name)
    store, sizes = ProfileStore(str(state)), (1, 2, 4, 8, 16, 32)
    measured = tuple(
        Measurement(Cell(1, CORES, rows), law.seconds(rows), rows / law.seconds(rows)) for rows in sizes
    )
    profile = Profile(
        store.key(manifest), machine(backends()["onnx"], CORES), measured=measured, alone_s=0.001
    )
    store.write(profile.with_law(1, CORES, law, time.time()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keeps 40 rows/s within 60 ms; b is quick; c takes 24 ms and says no rate; d takes 60 ms."""
    root = tmp_path_factory.mktemp("promises")
    write(root / "models", "a", 'latency_p99 = "60ms", rate = 40')
    write(root / "models", "b", 'latency_p99 = "61ms", rate = 20')  # equal files and aims share a profile
    write(root / "models", "c", 'deadline = "1s"', "memory = { priority = 0.5 }")
    write(root / "models", "d", 'latency_p99 = "50ms", rate = 1')
    for name, law in {
        "a": BatchLaw(0.005, 0.010), "b": BatchLaw(0.001, 0.004), "c": BatchLaw(0.010, 0.014),
        "d": BatchLaw(0.050, 0.010),
    }.items():  # fmt: skip
        plant(root / "models", root / "state", name, law)
    return root


def test_the_plan_says_who_is_kept_and_who_collides(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(models / "models"), "--state-dir", str(models / "state")]
    assert main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["models"]] == ["a", "b"]
    by_name = {each["name"]: each for each in found["models"]}
    assert by_name["a"]["cores"] == list(range(CORES))
    assert by_name["a"]["latency_s"] <= 0.06
    refused = {each["name"]: each for each in found["refused"]}
    assert refused["c"]["collides"] == ["a"]
    assert refused["d"]["collides"] == []
    assert refused["d"]["why"].startswith("d cannot be kept even alone: answers would take 120 of 50 ms")
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "2 of 4 promises are kept" in text
    assert "not kept: c collides with a" in text
    assert main([*words, "--rate", "a=1", "--rate", "b=1"]) == 1
    assert "3 of 4 promises are kept" in capsys.readouterr().out


def test_the_server_refuses_the_load_that_would_break_a_promise(models: Path) -> None:
    options = ["--state-dir", str(models / "state"), "--control", "explicit", "--load", "a"]
    with ServerProcess([models / "models"], models / "log", options) as server:
        server.wait_ready()
        assert server.post("/v2/repository/models/b/load", {})[0] == 200
        status, answer = server.post("/v2/repository/models/c/load", {})
        assert status >= 400
        assert "c collides with a" in answer["error"]
        assert server.post("/v2/repository/models/a/unload", {})[0] == 200
        assert server.post("/v2/repository/models/c/load", {})[0] == 200
        status, answer = server.post("/v2/repository/models/d/load", {})
        assert "d cannot be kept even alone" in answer["error"]


def _model(name: str, law: BatchLaw, version: str = "1", **objective: float) -> LoadedModel:
    config = ModelConfig(objective=Objective(**objective))  # type: ignore[arg-type]
    return LoadedModel(ModelId(name, version), config, Placement("thread", 1, 1), ShapeLaws(LiveLaw(law)))


class Runner:
    """Stands for a loaded model."""


async def test_the_book_knows_versions_those_that_went_and_those_that_never_came() -> None:
    book, law = PromiseBook(1), BatchLaw(0.001, 0.020)
    first, second, third = Runner(), Runner(), Runner()
    await book.admit(first, _model("a", law, latency_p99_ms=70, rate=20))  # type: ignore[arg-type]
    # A new version takes the place of the old one, which still answers.
    await book.admit(second, _model("a", law, "2", latency_p99_ms=70, rate=20))  # type: ignore[arg-type]
    with pytest.raises(LoadFailed, match=r"b collides with a: a: answers would take 84 of 70 ms"):
        await book.admit(third, _model("b", BatchLaw(0.002, 0.040), latency_p99_ms=500))  # type: ignore[arg-type]
    del first
    book.forget(second)  # type: ignore[arg-type]
    await book.admit(third, _model("b", BatchLaw(0.002, 0.040), latency_p99_ms=500))  # type: ignore[arg-type]
    # A load that fails after the check leaves nothing behind.
    failed = Runner()
    await book.admit(failed, _model("c", law, latency_p99_ms=500, rate=1))  # type: ignore[arg-type]
    del failed
    assert repr(book) == "<PromiseBook of 1 models>"
    # Without a rate nobody promises anything that could be broken, and without a law nothing is known.
    for name in "defgh":
        kept = Runner()
        await book.admit(kept, _model(name, BatchLaw(0.1, 0.1), latency_p99_ms=250))  # type: ignore[arg-type]
    await book.admit(kept, _model("i", BatchLaw(0.0, 0.0), latency_p99_ms=1, rate=100))  # type: ignore[arg-type]

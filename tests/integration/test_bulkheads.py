"""Models that hang, leak and raise take nothing from their neighbours: no thread, queue or memory."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from salver.testing.process import ServerProcess

HANG = """
        while Path(FLAG).exists():
            time.sleep(0.02)
"""
MODELS = {
    "good": ("thread", ""),
    "good-host": ("process", ""),
    "hangs": ("thread", HANG),
    "hangs-host": ("process", HANG),
    "leaks": ("process", "\n        KEPT.append(np.empty(1 << 25))\n"),
    "raises": ("thread", "\n        raise ValueError('no')\n"),
}
CONFIG = """
batching = { enabled = false, max_queue = 3 }
[instances]
count = 2
"""
ASKED = 12


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bulkheads") / "hang"


@pytest.fixture(scope="module")
def server(flag: Path) -> Iterator[ServerProcess]:
    models = flag.parent / "models"
    for name, (runner, body) in MODELS.items():
        (models / name).mkdir(parents=True)
        (models / name / "model.py").write_text(
            "import time\nfrom pathlib import Path\n\nimport numpy as np\n\n"
            f"FLAG = {str(flag)!r}\nKEPT = []\n\n\n"
            "class Model:\n    inputs = {'x': ('FP32', [-1])}\n    outputs = {'y': ('FP32', [-1])}\n\n"
            f"    def predict(self, inputs):{body}\n        return {{'y': inputs['x']}}\n"
        )
        limit = "memory_limit_mb = 1500\n" if name == "leaks" else ""
        (models / name / "salver.toml").write_text(f"{CONFIG}runner = '{runner}'\n{limit}")
    with ServerProcess([models], flag.parent / "log") as server:
        yield server.wait_ready()


def ask(server: ServerProcess, model: str) -> int:
    status, _ = server.post(f"/v2/models/{model}/infer", {"x": [1.0]})
    return status


def neighbours(server: ServerProcess) -> set[int]:
    return {ask(server, model) for model in ("good", "good-host") for _ in range(5)}


@pytest.mark.parametrize("model", ["hangs", "hangs-host"])
def test_one_that_hangs_keeps_its_own_threads_and_queue_only(
    server: ServerProcess, flag: Path, model: str
) -> None:
    flag.touch()
    with ThreadPoolExecutor(ASKED) as pool:
        try:
            stuck: list[Future[Any]] = [pool.submit(ask, server, model) for _ in range(ASKED)]
            # Two hang, three wait at most, and the others are refused at once.
            until(lambda: sum(each.done() for each in stuck) >= ASKED - 5)
            assert neighbours(server) == {200}
            assert {each.result() for each in stuck if each.done()} == {503}
        finally:
            flag.unlink()
        assert {each.result() for each in stuck} == {200, 503}


def test_one_that_leaks_fails_at_its_own_limit(server: ServerProcess) -> None:
    statuses = [ask(server, "leaks") for _ in range(12)]
    assert (statuses[0], statuses[-1]) == (200, 500)
    assert neighbours(server) == {200}


def test_one_that_raises_fails_its_own_requests(server: ServerProcess) -> None:
    assert {ask(server, "raises") for _ in range(10)} == {500}
    assert neighbours(server) == {200}

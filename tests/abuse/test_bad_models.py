"""Models that raise, hang, leak, write nonsense or take their process with them."""

import concurrent.futures
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import ask_moody, at_work, gauge, infer_body

from salver.testing.process import ServerProcess


def ask(server: ServerProcess, command: str, model: str = "moody", **parameters: int) -> tuple[int, str]:
    """Status, and the error or the answer."""
    given = {"name": "do", "datatype": "BYTES", "shape": [1, 1], "data": [command]}
    body = {"inputs": [given], "parameters": parameters}
    status, reply = server.post(f"/v2/models/{model}/infer", body)
    return status, reply["error"] if "error" in reply else reply["outputs"][0]["data"][0]


def test_a_model_that_raises(well: ServerProcess) -> None:
    status, error = ask(well, "raise ValueError no such customer")
    assert status == 500
    assert "model 'moody' raised ValueError: no such customer" in error
    assert ask(well, "ok") == (200, "ok")


def test_a_model_that_raises_does_not_cost_its_batch_mates_their_answers(
    well: ServerProcess, tmp_path: Path
) -> None:
    """While it is at work, good requests and a bad one wait; they run together."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        with at_work(well, tmp_path / "gate") as first:
            commands = ["ok", "raise ValueError mine alone", "ok", "ok", "ok"]
            answers = [pool.submit(ask, well, command) for command in commands]
            until(lambda: gauge(well, "moody", "queue_depth") == len(commands))
        found = [answer.result() for answer in answers]
        assert first.result()[0] == 200
    assert [status for status, _ in found] == [200, 500, 200, 200, 200]
    assert "mine alone" in found[1][1]


def test_a_model_that_exits(well: ServerProcess) -> None:
    status, error = ask(well, "exit")
    assert status == 500
    assert "moody" in error


@pytest.mark.parametrize(
    ("command", "signal"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("kill", "SIGKILL")]
)
def test_a_model_that_takes_its_process_with_it(well: ServerProcess, command: str, signal: str) -> None:
    status, error = ask(well, command)
    assert status == 500
    assert f"the host process of model 'moody' died ({signal}" in error
    assert "may be retried" in error
    status, reply = well.post("/v2/models/mlp/infer", infer_body())
    assert status == 200, reply


def test_a_model_that_works_past_the_deadline(well: ServerProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"  # each is answered while the model waits for this file
    status, error = ask(well, f"hold {gate}", timeout=200_000)
    assert (status, error) == (503, "Request timeout expired")
    with (
        triton.InferenceServerClient(well.address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        given = triton.InferInput("do", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[f"hold {gate}".encode()]], dtype=object))
        client.infer("moody", [given], client_timeout=0.2)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    gate.touch()
    assert ask(well, "ok") == (200, "ok")


def test_a_full_queue_is_refused_at_once_and_says_so(well: ServerProcess, tmp_path: Path) -> None:
    """The queue of moody holds eight requests (its salver.toml); the others hear so while it is at work."""
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        with at_work(well, tmp_path / "gate") as first:
            answers = [pool.submit(ask, well, "ok") for _ in range(30)]
            until(lambda: sum(answer.done() for answer in answers) == 22)
        found = [answer.result() for answer in answers]
        assert first.result()[0] == 200
    refused = [error for status, error in found if status == 503]
    assert len(refused) == 22
    assert all("Exceeds maximum queue size" in error for error in refused)
    assert sum(status == 200 for status, _ in found) == 8


def test_a_model_that_leaks_meets_its_limit_and_only_its_own(well: ServerProcess) -> None:
    statuses = [ask(well, "leak 300", model="leaky") for _ in range(8)]
    failures = [error for status, error in statuses if status != 200]
    assert failures, "the limit was never met"
    assert any("ran out of memory" in error or "died" in error for error in failures)
    assert ask_moody(well, "ok")[0] == 200


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("wrong rows", "for a batch of 1"),
        ("no output", "model 'moody' did not give its output 'done'"),
        ("wrong type", "done"),
        ("no dictionary", "moody"),
    ],
)
def test_a_model_that_answers_nonsense(well: ServerProcess, command: str, text: str) -> None:
    status, error = ask(well, command)
    assert status == 500
    assert text in error
    assert ask(well, "ok") == (200, "ok")


def test_a_model_that_floods_its_standard_output(well: ServerProcess) -> None:
    assert ask(well, "print 5000") == (200, "ok")
    assert ask(well, "ok") == (200, "ok")

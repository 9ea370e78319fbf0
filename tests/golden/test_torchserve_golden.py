"""The answers of a real TorchServe, case by case, and Salver's beside them.

``torchserve.jsonl`` holds what passes. ``docs/reference/conformance.md`` says where Salver differs, and why.
"""

import base64
import concurrent.futures
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torchserve_stubs as stubs
from torchserve_models import ARCHIVES, FLOWS, made
from torchserve_replay import Case, Target, ask, in_blocks, load, run_block
from torchserve_servers import CONFIGS, serving
from waiting import until

from salver.dialects.torchserve.archive_files import read_archive
from salver.dialects.torchserve.workflow_archive import read_workflow

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import parity

CASES = load(Path(__file__).with_name("torchserve.jsonl"))
_BLOCKS = in_blocks(CASES)
_DIFFERS = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Target]]:
    """Yield the server of a configuration; one at a time, since each has many workers.

    Those who ask ``plain`` stand before the recorded cases, which begin with it.
    """
    with ExitStack() as stack:
        running: dict[str, Target] = {}

        def of(name: str) -> Target:
            if name not in running:
                stack.close()
                running.clear()
                folder = tmp_path_factory.mktemp("torchserve") / "server"
                if before := CONFIGS[name].get("folder_of"):
                    with serving(before, folder) as target:
                        for block in _BLOCKS.values():
                            if block[0]["config"] == before:
                                run_block(target, block)
                running[name] = stack.enter_context(serving(name, folder))
            return running[name]

        yield of


def asked(model: str, body: bytes) -> Case:
    request = {"method": "POST", "path": f"/predictions/{model}", "body": body.decode()}
    return {"kind": "http", "port": "inference", "timeout_s": 20, "compare": {}, "request": request}


def waiting(target: Target, model: str) -> int:
    """Return how many requests wait in a model's queue."""
    request = {"method": "GET", "path": f"/models/{model}"}
    case = {"kind": "http", "port": "management", "timeout_s": 20, "compare": {}, "request": request}
    (told,) = json.loads(ask(target, case)["body"])
    return int(told["jobQueueStatus"]["pendingRequests"])


def called(rpc: str, model: str, data: bytes) -> Case:
    message = {"model_name": model, "input": {"data": base64.b64encode(data).decode()}}
    request = {"rpc": f"{stubs.INFERENCE}.InferenceAPIsService/{rpc}", "messages": [message]}
    return {"kind": "grpc", "timeout_s": 20, "compare": {}, "request": request}


def said(answer: Case) -> list[bytes]:
    return [base64.b64decode(message["prediction"]) for message in answer["messages"]]


@pytest.mark.clause("TS-B4")
def test_who_waits_too_long_is_told(targets: Callable[[str], Target]) -> None:
    """TorchServe says nothing, ever."""
    target = targets("plain")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        runs = threads.submit(ask, target, asked("impatient", b"1.5"))
        waits = ask(target, {**asked("impatient", b"0"), "after_s": 0.2})
        for late in (waits, runs.result()):
            assert late["status"] == 503
            assert json.loads(late["body"])["type"] == "ServiceUnavailableException"


@pytest.mark.clause("TS-R18", "TS-R20")
def test_a_full_queue(targets: Callable[[str], Target]) -> None:
    """One runs, one waits, and there is no room for a third; over gRPC it is worth another try, too."""
    target = targets("plain")
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        served = [
            threads.submit(ask, target, {**asked("narrow", body), "after_s": after})
            for body, after in ((b"4", 0), (b"0", 0.3))
        ]
        until(lambda: waiting(target, "narrow") == 1)
        refused = ask(target, asked("narrow", b"0"))
        assert ask(target, called("Predictions", "narrow", b"0"))["code"] == "UNAVAILABLE"
        assert [each.result()["status"] for each in served] == [200, 200]
    assert refused["status"] == 503
    told = json.loads(refused["body"])
    assert (told["code"], told["type"]) == (503, "ServiceUnavailableException")
    assert told["message"].startswith('Model "narrow" has no worker to serve inference request.')


@pytest.mark.clause("TS-B5")
def test_a_first_piece_that_is_the_last(targets: Callable[[str], Target]) -> None:
    """TorchServe never answers over HTTP, and stops after one piece over gRPC."""
    target = targets("plain")
    assert ask(target, asked("countdown", b"1"))["body"] == "0 "
    assert said(ask(target, called("StreamPredictions", "countdown", b"3"))) == [b"2 ", b"1 ", b"0 "]


@pytest.mark.clause("TS-G1")
def test_pieces_over_grpc(targets: Callable[[str], Target]) -> None:
    """TorchServe never ends the first call, and loses a worker with each of the others."""
    target = targets("plain")
    assert said(ask(target, called("StreamPredictions", "noop", b"x"))) == [b"OK"]
    for _ in range(2):
        assert said(ask(target, called("Predictions", "stream", b"2"))) == [b"part 0\npart 1\nlast\n"]


@pytest.mark.parametrize("name", _BLOCKS)
def test_as_recorded(name: str, targets: Callable[[str], Target]) -> None:
    """TS-R1 to TS-R22, TS-M1 to TS-M11, TS-G1 to TS-G7 and others: a case's own rows stand in its line."""
    block: list[Case] = _BLOCKS[name]
    assert not run_block(targets(block[0]["config"]), block)


@pytest.mark.clause("TS-M10", "TS-R8")
def test_one_port_is_what_sagemaker_wants(targets: Callable[[str], Target]) -> None:
    target = targets("small")

    def told(method: str, path: str) -> Any:
        request = {"method": method, "path": path, "body": "x"}
        return ask(target, {**asked("", b""), "request": request})

    assert told("POST", "/models/noop/invoke")["body"] == "OK"
    names = [model["modelName"] for model in json.loads(told("GET", "/models")["body"])["models"]]
    assert names == ["inspect", "noop"]
    assert json.loads(told("GET", "/models/noop")["body"])[0]["modelName"] == "noop"
    assert told("GET", "/models/nobody")["status"] == 404


@pytest.mark.clause("TS-K2", "TS-K3", "TS-A1")
def test_what_the_archivers_make_is_read() -> None:
    store = made() / "models"
    for file, what in ARCHIVES.items():
        (path,) = (path for path in store.iterdir() if path.name.split(".")[0] == file)
        archive = read_archive(path)
        assert (archive.name, archive.version) == (what.get("name", file), what.get("version", "1.0"))
        assert bool(archive.config_file) == ("config" in what)
    assert {read_workflow(path).name for path in (made() / "workflows").iterdir()} == set(FLOWS)


def test_what_differs_is_told() -> None:
    """Each recorded case is a test, or stands by its name in the table of differences."""
    text = _DIFFERS.read_text().partition("## TorchServe, answer by answer")[2].partition("\n## ")[0]
    names = set(re.findall(r"`((?:" + "|".join(CONFIGS) + r")/[\w./-]+)`", text))
    assert not names & {str(case["id"]) for case in CASES}
    kept = Counter(str(case["group"]) for case in CASES)
    recorded = Counter(parity.TORCHSERVE.recorded())
    assert len(names) == sum((recorded - kept).values())

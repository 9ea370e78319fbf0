"""Answers in many pieces, sequences and odd answers of a model in a release, asked by Triton's client."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton
from splitting_server import SplittingServer
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.releases.experiments.shadows import ShadowReport
from salver.transport.server import FrontConfig
from salver.words.releases import Shadow, Split

pytestmark = pytest.mark.asyncio(loop_scope="module")
PIECES = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = args["model_version"]

    def execute(self, requests):
        for request in requests:
            count = pb_utils.get_input_tensor_by_name(request, "N").as_numpy().item()
            sender = request.get_response_sender()
            for number in range(count):
                text = f"{number}{EXTRA} ".encode()
                outputs = [pb_utils.Tensor("TEXT", np.array([text], object)),
                           pb_utils.Tensor("VERSION", np.array([int(self.version)], np.int32))]
                sender.send(pb_utils.InferenceResponse(outputs[:WANTED]))
                time.sleep(0.02)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
PIECES_CONFIG = """
backend: "python"
input { name: "N" data_type: TYPE_INT32 dims: [1] }
output { name: "TEXT" data_type: TYPE_STRING dims: [1] }
output { name: "VERSION" data_type: TYPE_INT32 dims: [1] }
model_transaction_policy { decoupled: true }
version_policy { all {} }
"""
SUMS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version, self.sums = int(args["model_version"]), {}

    def execute(self, requests):
        replies = []
        for request in requests:
            id = request.correlation_id()
            value = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().item()
            self.sums[id] = self.sums.get(id, 1000 * self.version) + value
            total = np.array([[self.sums[id]]], np.int32)
            replies.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)]))
        return replies
"""
SUMS_CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "IN" data_type: TYPE_INT32 dims: [1] }
output { name: "SUM" data_type: TYPE_INT32 dims: [1] }
sequence_batching { max_sequence_idle_microseconds: 20000000 }
version_policy { all {} }
"""
#: What goes wrong with the second version's one output: numbers, shape, type, name, nothing, very much.
ODD = """
import numpy as np
class Model:
    inputs = {"x": ("INT32", [-1, 1])}
    outputs = {OUTPUTS}
    def predict(self, inputs):
        kind = int(inputs["x"][0, 0])
        return ANSWER
"""
STABLE_ODD = ('"y": ("FP32", [-1, -1])', '{"y": np.ones((1, 4), "f4")}')
CANARY_ODD = (
    '"y": ("FP32", [-1, -1])',
    """{"y": [np.full((1, 4), np.nan, "f4"), np.full((1, 4), np.inf, "f4"), np.ones((1, 5), "f4"),
    np.ones((1, 0), "f4"), np.ones((1, 25_000_000), "f4")][kind]}""",
)
RENAMED = ('"z": ("FP64", [-1, -1])', '{"z": np.ones((1, 4))}')


def write(root: Path, name: str, config: str, first: str, second: str) -> None:
    for version, code in ((1, first), (2, second)):
        (root / name / str(version)).mkdir(parents=True)
        (root / name / str(version) / "model.py").write_text(code)
    (root / name / ("config.pbtxt" if "backend" in config else "salver.toml")).write_text(config)


def odd(outputs: str, answer: str) -> str:
    return ODD.replace("OUTPUTS", outputs).replace("ANSWER", answer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One for all tests here; each replaces the splits."""
    tmp_path: Path = tmp_path_factory.mktemp("models")
    plain = PIECES.replace("{EXTRA}", "").replace("WANTED", "1")
    everything = "[versions]\nall = true\n"
    write(tmp_path, "pieces", PIECES_CONFIG, PIECES.replace("{EXTRA}", "").replace("WANTED", "2"), plain)
    write(tmp_path, "tokens", PIECES_CONFIG, plain, PIECES.replace("{EXTRA}", "!").replace("WANTED", "1"))
    write(tmp_path, "sums", SUMS_CONFIG, SUMS, SUMS)
    write(tmp_path, "odd", everything, odd(*STABLE_ODD), odd(*CANARY_ODD))
    write(tmp_path, "renamed", everything, odd(*STABLE_ODD), odd(*RENAMED))
    async with SplittingServer(ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0))) as server:
        yield server


def split(model: str, weight: float = 0.0, id: str = "", **shadow: Any) -> Split:
    copied = Shadow(**shadow) if shadow else None
    return Split(id or f"of {model}", model, stable="1", canary="2", weight=weight, salt="s", shadow=copied)


class Asker:
    """A stream of Triton's client, which keeps what comes."""

    def __init__(self, port: int) -> None:
        self.client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        self.came: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(lambda result, error: self.came.put((result, error)))

    def ask(self, model: str, name: str, shape: list[int], value: int, **more: Any) -> None:
        given = triton.InferInput(name, shape, "INT32")
        given.set_data_from_numpy(np.full(shape, value, np.int32))
        self.client.async_stream_infer(model, [given], **more)

    async def next(self) -> Any:
        result, error = await asyncio.to_thread(self.came.get, True, 30)
        assert error is None, error
        return result

    async def close(self) -> None:
        await asyncio.to_thread(self.client.stop_stream)
        self.client.close()


async def comes(server: Server, id: str, is_so: Callable[[ShadowReport], bool]) -> ShadowReport:
    await auntil(lambda: (report := server.shadows.report(id)) and is_so(report))
    found = server.shadows.report(id)
    assert found is not None
    return found


async def test_an_answer_of_many_pieces_stays_with_its_version_when_the_weight_moves(server: Server) -> None:
    server.splits.router.replace([split("pieces")])
    asker = Asker(server.port)
    asker.ask("pieces", "N", [1], 20)
    pieces = [await asker.next()]
    server.splits.router.replace([split("pieces", 1.0)])
    pieces += [await asker.next() for _ in range(19)]
    assert [int(piece.as_numpy("VERSION")[0]) for piece in pieces] == [1] * 20
    assert b"".join(piece.as_numpy("TEXT")[0] for piece in pieces).split() == [b"%d" % n for n in range(20)]
    asker.ask("pieces", "N", [1], 1)
    assert (await asker.next()).as_numpy("VERSION") is None  # the canary's
    await asker.close()


@pytest.mark.parametrize(
    ("how", "tolerance", "agrees"),
    [("exact", 0.0, False), ("length", 0.4, True), ("prefix", 0.5, False), ("distribution", 0.0, True)],
)
async def test_pieces_of_any_number_are_compared_together(
    server: Server, how: Any, tolerance: float, agrees: bool
) -> None:
    server.splits.router.replace([split("tokens", id=how, compare=how, tolerance=tolerance)])
    asker = Asker(server.port)
    asker.ask("tokens", "N", [1], 5)
    texts = [(await asker.next()).as_numpy("TEXT")[0] for _ in range(5)]
    assert b"".join(texts) == b"0 1 2 3 4 "
    report = await comes(server, how, lambda report: report.asked == 1)
    assert (report.agreed, report.differed, report.failed) == (int(agrees), int(not agrees), {})
    await asker.close()


async def test_a_sequence_stays_with_its_state_when_the_weight_moves(server: Server) -> None:
    asker = Asker(server.port)

    async def add(id: int, value: int, **flags: bool) -> int:
        asker.ask("sums", "IN", [1, 1], value, sequence_id=id, **flags)
        return int((await asker.next()).as_numpy("SUM").item())

    shadowed = {"compare": "exact"}
    server.splits.router.replace([split("sums", 0.0, **shadowed)])
    assert await add(7, 1, sequence_start=True) == 1001
    server.splits.router.replace([split("sums", 1.0, **shadowed)])
    assert await add(7, 2) == 1003
    assert await add(8, 5, sequence_start=True) == 2005
    server.splits.router.replace([split("sums", 0.0, **shadowed)])  # rolled back
    assert await add(8, 5) == 2010
    assert await add(7, 3, sequence_end=True) == 1006
    server.splits.router.replace([])
    assert await add(8, 1, sequence_end=True) == 2011
    report = server.shadows.report("of sums")
    assert report is not None and (report.asked, report.skipped) == (0, {"sequence": 2})
    await asker.close()


async def test_odd_answers_are_found_and_told(server: Server) -> None:
    server.splits.router.replace([split("odd", most_inflight=1), split("renamed", most_inflight=1)])
    asker = Asker(server.port)
    for kind in range(5):
        asker.ask("odd", "x", [1, 1], kind)
        assert (await asker.next()).as_numpy("y").shape == (1, 4)
        report = await comes(server, "of odd", lambda report, kind=kind: report.asked == kind + 1)  # type: ignore[misc]
    assert (report.differed, report.failed) == (5, {})
    assert report.notes == {
        "'y' differs by inf": 2,
        "'y' is [1, 5], not [1, 4]": 1,
        "'y' is [1, 0], not [1, 4]": 1,
        "'y' is [1, 25000000], not [1, 4]": 1,
    }
    asker.ask("renamed", "x", [1, 1], 0)
    await asker.next()
    report = await comes(server, "of renamed", lambda report: report.asked == 1)
    assert report.notes == {"there is no 'y'": 1}
    await asker.close()


async def test_a_version_that_its_owner_takes_away_costs_nobody_an_answer(server: Server) -> None:
    canary = msgspec.structs.replace(split("odd", 1.0), always=frozenset({"ada"}))
    server.splits.router.replace([canary])
    asker = Asker(server.port)
    asker.ask("odd", "x", [1, 1], 2)
    assert (await asker.next()).as_numpy("y").shape == (1, 5)
    wanted = list(server.kernel.models._known)
    server.kernel.models.apply([m for m in wanted if (m.id.name, m.id.version) != ("odd", "2")])
    asker.ask("odd", "x", [1, 1], 2)
    assert (await asker.next()).as_numpy("y").shape == (1, 4)
    server.kernel.models.apply(wanted)
    await server.kernel.models.settled()
    await asker.close()

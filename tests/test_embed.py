"""A server inside a program: arrays in and out without copies, from threads and event loops, to its end."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import skops.io
import torch
from sklearn.linear_model import LinearRegression
from waiting import PATIENCE_S, auntil, until
from zoo import mlp_answer, write_identity, write_mlp, write_moody

import salver
from salver.embed import Output, Response, Server
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NotFound,
    NotReady,
    OnlyStreams,
    SalverError,
    Unsupported,
)
from salver.words.messages import State
from salver.words.tensor import DataType, Tensor, tensor

ROWS = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
REPEAT = Path(__file__).parent / "golden" / "models" / "repeat"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("embedded") / "models"
    write_mlp(root / "mlp", 1)
    write_mlp(root / "mlp", 2)
    for datatype in ("FP32", "BYTES", "BF16", "BOOL"):
        write_identity(root, datatype)
    write_moody(root)
    shutil.copytree(REPEAT, root / "repeat")
    (root / "line" / "1").mkdir(parents=True)
    x = np.arange(8.0).reshape(4, 2)
    skops.io.dump(LinearRegression().fit(x, x.sum(axis=1)), root / "line" / "1" / "model.skops")
    with Server(root) as server:
        yield server


@pytest.mark.clause("TR-A7")
def test_models_of_several_frameworks(server: Server) -> None:
    """ONNX and scikit-learn here, Python in a host process."""
    assert {"mlp", "line", "moody", "repeat"} <= set(server.models)
    answer = server.model("mlp").infer({"x": ROWS}, id="mine")
    np.testing.assert_allclose(answer["y"].numpy(), mlp_answer(ROWS), rtol=1e-4)
    assert (answer.model, answer.version, answer.id) == ("mlp", "2", "mine")
    (name,) = [spec["name"] for spec in server.model("line").metadata()["inputs"]]
    (said,) = server.model("line").infer({name: np.array([[1.0, 2.0]], np.float32)}).outputs.values()
    assert np.asarray(said).ravel() == pytest.approx([3.0])
    pid = int(server.model("moody").infer({"do": [["pid"]]})["done"].numpy()[0, 0])
    assert pid != os.getpid()


@pytest.mark.clause("TR-A7")
async def test_lists_get_the_datatypes_of_the_model(server: Server) -> None:
    model = server.model("mlp")
    whole = [[1] * 16]
    expected = mlp_answer(np.ones((1, 16), np.float32))
    np.testing.assert_allclose(model.infer({"x": whole})["y"].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose((await model.async_infer({"x": whole}))["y"].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(next(model.stream({"x": whole}))["y"].numpy(), expected, rtol=1e-4)
    assert server.model("identity_bf16").infer({"x": [[1, 2.5]]}).outputs
    with pytest.raises(InvalidInput, match="data-type is 'INT64'"):
        model.infer({"x": np.array(whole)})
    with pytest.raises(InvalidInput, match="fraction"):
        server.model("identity_bool").infer({"x": [[0.5]]})
    with pytest.raises(NotFound):
        server.model("none").infer({"x": whole})


def test_the_values_alone_of_a_model_with_one_input(server: Server) -> None:
    model = server.model("mlp")
    expected = model.infer({"x": ROWS})["y"].numpy()
    for values in (ROWS, ROWS.tolist(), torch.from_numpy(ROWS)):
        np.testing.assert_allclose(model.infer(values)["y"].numpy(), expected, rtol=1e-5)


@pytest.mark.clause("TR-A7")
def test_arrays_go_in_and_come_out_as_they_are(server: Server) -> None:
    model = server.model("identity_fp32")
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    output = next(iter(model.infer({"x": given}).outputs.values()))
    assert np.shares_memory(output.numpy(), given)
    assert np.shares_memory(np.asarray(output), given)
    assert (output.datatype, output.shape) == (DataType.FP32, (2, 3))
    again = next(iter(model.infer({"x": output}).outputs.values()))
    assert np.shares_memory(again.numpy(), given)


@pytest.mark.clause("TR-A7")
@pytest.mark.parametrize("name", ["FP32", "BOOL"])
def test_torch_tensors_by_dlpack_both_ways(name: str, server: Server) -> None:
    given = torch.tensor([[0.5, 2.0]]) if name == "FP32" else torch.tensor([[True, False]])
    output = next(iter(server.model(f"identity_{name.lower()}").infer({"x": given}).outputs.values()))
    back = torch.from_dlpack(output)
    assert back.data_ptr() == given.data_ptr()
    assert torch.equal(back, given)
    strided = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    if name == "FP32":
        answer = server.model("identity_fp32").infer({"x": strided})
        assert np.asarray(next(iter(answer.outputs.values()))).tolist() == strided.tolist()


def test_outputs_that_nobody_may_write_to_are_copied_for_those_who_would(server: Server) -> None:
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    output = Output(tensor("y", frozen))
    taken = torch.from_dlpack(output)
    assert taken.tolist() == [1, 1, 1]
    assert np.from_dlpack(output).tolist() == [1, 1, 1]
    assert np.array(output, dtype=np.float64).dtype == np.float64
    assert np.array(output).flags.writeable


def test_texts_and_bfloat16(server: Server) -> None:
    texts = next(iter(server.model("identity_bytes").infer({"x": [["a", b"\0b"]]}).outputs.values()))
    assert texts.numpy().tolist() == [[b"a", b"\0b"]]
    with pytest.raises(BufferError, match=r"ask for .numpy"):
        torch.from_dlpack(texts)
    half = np.array([[1.0, -2.5]], ml_dtypes.bfloat16)
    numbers = next(iter(server.model("identity_bf16").infer({"x": half}).outputs.values()))
    assert (numbers.datatype, numbers.numpy().dtype) == (DataType.BF16, np.float32)
    assert numbers.numpy().tolist() == [[1.0, -2.5]]
    raw = Tensor("other", DataType.BF16, half.view(np.uint16))
    assert server.model("identity_bf16").infer({"x": raw}).outputs


class OnAGpu:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **asked: object) -> object:
        raise AssertionError("not asked")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (OnAGpu(), "is in a device's memory. Move it first"),
        (torch.ones(1, 2, requires_grad=True), "cannot be taken by DLPack"),
        (np.array([[1j]]), "no tensor datatype holds"),
        (np.ones((1, 2)), "data-type is 'FP64', but model 'identity_fp32' expects 'FP32'"),
    ],
)
def test_inputs_that_cannot_be_taken(value: object, text: str, server: Server) -> None:
    with pytest.raises(InvalidInput, match=text):
        server.model("identity_fp32").infer({"x": value})


def test_errors_are_salvers_own(server: Server) -> None:
    with pytest.raises(NotFound, match="unknown model: 'none'"):
        server.model("none").infer({})
    with pytest.raises(NotFound):
        server.model("mlp", 9).metadata()
    with pytest.raises(OnlyStreams):
        server.model("repeat").infer({"IN": np.array([1], np.int32)})
    with pytest.raises(ModelFailed):
        server.model("moody").infer({"do": [["raise ValueError no"]]})
    assert not server.model("none").is_ready()
    assert server.model("mlp").is_ready() and server.is_ready()


@pytest.mark.clause("TR-A7")
def test_decoupled_models_answer_in_pieces(server: Server) -> None:
    model = server.model("repeat")
    pieces = list(model.stream({"IN": np.array([4, -1, 6], np.int32)}))
    assert [None if p.error else int(p["OUT"].numpy()[0]) for p in pieces][:3] == [4, None, 6]
    with pytest.raises(SalverError, match="negative element"):
        _ = pieces[1]["OUT"]
    for piece in model.stream({"IN": np.array([1, 2, 3], np.int32)}):
        assert piece["OUT"].numpy().tolist() == [1]
        break  # the rest is given up
    assert len(list(server.model("mlp").stream({"x": ROWS}))) == 1
    with pytest.raises(InvalidInput):
        next(model.stream({"OTHER": ROWS}))


@pytest.mark.clause("TR-A7")
async def test_in_an_event_loop_that_runs_already(server: Server) -> None:
    model = server.model("mlp")
    answers = await asyncio.gather(*(model.async_infer({"x": ROWS * n}, id=str(n)) for n in range(8)))
    for n, answer in enumerate(answers):
        assert answer.id == str(n)
        np.testing.assert_allclose(answer["y"].numpy(), mlp_answer(ROWS * n), rtol=1e-4, atol=1e-5)
    pieces = server.model("repeat").async_stream({"IN": np.array([4, 5], np.int32)})
    assert [int(p["OUT"].numpy()[0]) async for p in pieces if p.outputs] == [4, 5]
    with pytest.raises(NotFound):
        await server.model("none").async_infer({})
    await server.async_unload("line")
    assert "line" not in server.models
    await server.async_load("line")
    assert "line" in server.models


async def test_a_task_that_is_cancelled_gives_its_question_up(server: Server) -> None:
    waiting = asyncio.create_task(server.model("moody").async_infer({"do": [["sleep 0.2"]]}))
    cancelled = 'salver_requests_total{model="moody",outcome="cancelled",protocol="embedded"'
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await auntil(lambda: cancelled in server.metrics())


def test_a_question_may_have_a_deadline_and_wanted_outputs(server: Server) -> None:
    with pytest.raises(DeadlineExceeded):
        server.model("mlp").infer({"x": ROWS}, timeout=0.0)
    assert list(server.model("mlp").infer({"x": ROWS}, outputs=["y"], timeout=30).outputs) == ["y"]
    with pytest.raises(InvalidInput, match="unexpected inference output 'z'"):
        server.model("mlp").infer({"x": ROWS}, outputs=["z"])


def test_what_is_known_of_a_model(server: Server) -> None:
    model = server.model("mlp", "2")
    assert model.metadata()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert model.config()["platform"] == "onnxruntime_onnx"
    before = model.statistics()[0]["inference_count"]
    model.infer({"x": ROWS})
    assert model.statistics()[0]["inference_count"] == before + 2
    rows = {(row.id.name, row.id.version): row.state for row in server.index()}
    assert (rows["mlp", "1"], rows["mlp", "2"]) == (State.GONE, State.READY)
    assert 'nv_inference_count{model="mlp",version="2"}' in server.metrics()


@pytest.mark.clause("TR-A7")
def test_models_are_loaded_with_another_configuration_or_with_files(server: Server) -> None:
    server.load("mlp", config={"backend": "onnxruntime", "version_policy": {"all": {}}})
    assert server.model("mlp", 1).infer({"x": ROWS}).version == "1"
    content = (Path(server.config.paths[0]) / "mlp" / "1" / "model.onnx").read_bytes()
    server.load("brought", config={"backend": "onnxruntime"}, files={"1/model.onnx": content})
    assert server.models["brought"].infer({"x": ROWS}).outputs
    server.unload("brought")
    with pytest.raises(SalverError, match="no such model there"):
        server.load("nowhere")


def test_questions_from_many_threads(server: Server) -> None:
    found: dict[int, float] = {}

    def ask(number: int) -> None:
        answer = server.model("identity_fp32").infer({"x": np.full((1, 1), number, np.float32)})
        found[number] = float(np.asarray(next(iter(answer.outputs.values())))[0, 0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == {number: float(number) for number in range(16)}


def test_the_servers_own_thread_does_not_wait_for_itself(server: Server) -> None:
    async def work(app: object) -> None:
        server.is_ready()

    with pytest.raises(Unsupported, match="own thread"):
        server.run(work)


def test_several_servers_and_their_ends(tmp_path: Path) -> None:
    write_mlp(tmp_path / "a" / "mlp", 1)
    write_identity(tmp_path / "b", "FP32")
    before = threading.active_count()
    idle = Server(tmp_path / "a")
    with pytest.raises(NotReady, match=r"does not run. Use it in a with block"):
        idle.is_ready()
    with Server(tmp_path / "a") as one:
        with Server(tmp_path / "b") as other:
            assert (list(one.models), list(other.models)) == (["mlp"], ["identity_fp32"])
        assert one.model("mlp").infer({"x": ROWS}).outputs
        with pytest.raises(Unsupported, match="opens no port"):
            _ = one.url
        with pytest.raises(NotReady):
            other.index()
        one.start()  # runs already
    one.stop()
    with one:  # and once more
        assert list(one.models) == ["mlp"]
    assert threading.active_count() <= before + 1


def test_a_question_under_way_when_the_server_stops_is_answered(tmp_path: Path) -> None:
    write_moody(tmp_path)
    server = Server(tmp_path)
    server.start()
    answers: list[Response] = []
    gate = tmp_path / "gate"
    asking = threading.Thread(
        target=lambda: answers.append(server.model("moody").infer({"do": [[f"hold {gate}"]]}))
    )
    asking.start()
    until(lambda: 'salver_running_batches{model="moody",version="1"} 1' in server.metrics())
    stopping = threading.Thread(target=server.stop)
    stopping.start()

    def is_told() -> bool:
        try:
            server.index()
        except NotReady:
            return True
        return False

    until(is_told)
    gate.touch()
    stopping.join(PATIENCE_S)
    asking.join(PATIENCE_S)
    assert answers[0]["done"].numpy().tolist() == [[b"ok"]]


def test_models_that_do_not_load(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "good", 1)
    (tmp_path / "models" / "bad" / "1").mkdir(parents=True)
    (tmp_path / "models" / "bad" / "1" / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(LoadFailed, match="bad"):
        Server(tmp_path / "models").start()
    with Server(tmp_path / "models", exits_on_error=False) as server:
        assert list(server.models) == ["good"]
        assert [row.id.name for row in server.index() if row.reason] == ["bad"]


def test_a_port_when_it_is_asked_for(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)

    async def ask(url: str) -> np.ndarray:
        async with salver.Client(url) as client:
            return (await client.infer("mlp", {"x": ROWS}))["y"]

    with Server(tmp_path, port=0) as server:
        np.testing.assert_allclose(asyncio.run(ask(server.url)), mlp_answer(ROWS), rtol=1e-4)


PROGRAM = """
import sys
import numpy as np
import salver

server = salver.Server(sys.argv[1])
server.start()
print(server.model("moody").infer({"do": [["pid"]]}).model, flush=True)
"""


@pytest.mark.clause("TR-A7")
def test_a_program_ends_cleanly_without_stopping_it(tmp_path: Path) -> None:
    write_moody(tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "models"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "moody\n")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


FORKING = """
import os, sys
import salver
from salver.words.errors import NotReady

with salver.Server(sys.argv[1]) as server:
    child = os.fork()
    if not child:
        try:
            server.is_ready()
        except NotReady as error:
            print(error, flush=True)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(server.is_ready())
"""


def test_a_forked_process_is_told_that_it_has_no_server(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    first, last = done.stdout.splitlines()
    assert "of which this one is a fork. Start one of its own here" in first
    assert last == "True"

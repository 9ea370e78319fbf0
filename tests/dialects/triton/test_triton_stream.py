"""gRPC streams with unmodified clients: tritonclient, its asyncio variant and plain grpcio."""

import asyncio
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.grpc.service_pb2 as pb
import tritonclient.grpc.service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import EXAMPLES, gauge, mlp_answer, write_identity, write_mlp, write_moody

from salver.testing.process import ServerProcess

ALPHABET = """
import time
from pathlib import Path
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep(0.005)
        while (tokens == ord("m")).any() and Path("HOLD").exists():
            time.sleep(0.005)
        return np.eye(256, dtype="f4")[np.where(tokens == 122, 97, tokens + 1) % 256]
    def release(self, slot):
        pass
"""
FINAL = "triton_final_response"


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("streams")
    root = folder / "repository"
    write_alphabet(root)
    write_mlp(root / "mlp", 1)
    write_moody(root)
    write_identity(root, "FP32")
    with ServerProcess([root], folder / "log") as server:
        yield server.wait_ready()


def write_alphabet(root: Path) -> None:
    """As long as there is a file ``hold`` beside the repository, it says nothing after an m."""
    (root / "alphabet" / "1").mkdir(parents=True)
    (root / "alphabet" / "1" / "model.py").write_text(ALPHABET.replace("HOLD", str(root.parent / "hold")))
    (root / "alphabet" / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\nmax_sequences = 4\n')


def text(value: str, name: str = "text_input", shape: tuple[int, ...] = (1,)) -> triton.InferInput:
    given = triton.InferInput(name, list(shape), "BYTES")
    given.set_data_from_numpy(np.array([value.encode()], dtype=object).reshape(shape))
    return given


def rows(count: int) -> tuple[np.ndarray, triton.InferInput]:
    values = np.linspace(-1, 1, count * 16, dtype=np.float32).reshape(count, 16)
    given = triton.InferInput("x", [count, 16], "FP32")
    given.set_data_from_numpy(values)
    return values, given


def tokens(most: int) -> dict[str, int]:
    return {"max_tokens": most, "temperature": 0}


def until_idle(server: ServerProcess, model: str = "alphabet") -> None:
    until(lambda: gauge(server, model, "running_batches") == 0)


class Stream:
    """A tritonclient with an open stream, and what comes of it."""

    def __init__(self, server: ServerProcess, **options: object) -> None:
        self.came: queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]] = (
            queue.Queue()
        )
        self.client = triton.InferenceServerClient(server.address)
        self.client.start_stream(lambda result, error: self.came.put((result, error)), **options)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def result(self) -> triton.InferResult:
        result, error = self.came.get(timeout=PATIENCE_S)
        assert error is None, error
        return result

    def error(self) -> InferenceServerException:
        result, error = self.came.get(timeout=PATIENCE_S)
        assert result is None
        assert error is not None
        return error


def said(result: triton.InferResult) -> str:
    return result.as_numpy("text_output")[0].decode()


def is_final(result: triton.InferResult) -> bool:
    return result.get_response().parameters[FINAL].bool_param


@pytest.mark.clause("TR-G2", "TR-G12")
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_a_stream_of_requests_is_answered_in_order(streaming, compression):
    with Stream(streaming, compression_algorithm=compression) as stream:
        for number in range(300):
            stream.client.async_stream_infer("mlp", [rows(1 + number % 7)[1]], request_id=str(number))
        for number in range(300):
            result = stream.result()
            assert result.get_response().id == str(number)
            assert is_final(result)
            wanted = mlp_answer(rows(1 + number % 7)[0])
            np.testing.assert_allclose(result.as_numpy("y"), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-G9")
def test_errors_leave_the_stream_open(streaming):
    with Stream(streaming) as stream:
        ask = stream.client.async_stream_infer
        ask("nobody", [rows(1)[1]])
        assert "unknown model: 'nobody' is not found" in stream.error().message()
        ask("mlp", [text("a", "x")])
        assert "'x'" in stream.error().message()
        ask("moody", [text("raise ValueError no", "do", (1, 1))])
        assert "no" in stream.error().message()
        ask("mlp", [rows(2)[1]])
        assert stream.result().as_numpy("y").shape == (2, 3)


@pytest.mark.clause("TR-G9")
def test_an_error_as_a_status_ends_the_stream(streaming):
    with Stream(streaming, headers={"triton_grpc_error": "true"}) as stream:
        stream.client.async_stream_infer("mlp", [rows(1)[1]])
        stream.result()
        stream.client.async_stream_infer("moody", [text("raise ValueError no", "do", (1, 1))])
        assert stream.error().status() == "StatusCode.INTERNAL"
        with pytest.raises(InferenceServerException, match="no longer in valid state"):
            stream.client.async_stream_infer("mlp", [rows(1)[1]])


@pytest.mark.clause("TR-G2", "TR-G11")
@pytest.mark.parametrize("enabled", [False, True])
def test_tokens_come_one_by_one_beside_other_answers(streaming, enabled):
    hold = Path(streaming._log).parent / "hold"
    hold.touch()
    with Stream(streaming) as stream:
        ask = stream.client.async_stream_infer
        ask(
            "alphabet",
            [text("a")],
            request_id="long",
            parameters=tokens(60),
            enable_empty_final_response=enabled,
        )
        first = stream.result()
        assert (said(first), is_final(first)) == ("b", False)
        ask("mlp", [rows(1)[1]], request_id="short")
        came = [stream.result() for _ in range(12)]  # eleven letters are made by now
        hold.unlink()
        assert "short" in [result.get_response().id for result in came]
        came += [stream.result() for _ in range(48)]
        pieces = [first, *(r for r in came if r.get_response().id == "long")]
        assert "".join(map(said, pieces)) == ("abcdefghijklmnopqrstuvwxyz" * 3)[1:61]
        assert [is_final(piece) for piece in pieces] == [False] * 59 + [True]
        assert pieces[-1].get_response().parameters["finish_reason"].string_param == "length"
    assert stream.came.empty()


@pytest.mark.clause("TR-G2", "TR-G9")
async def test_the_asyncio_client(streaming):
    async def requests():
        yield {"model_name": "mlp", "inputs": [rows(3)[1]], "request_id": "a"}
        yield {"model_name": "nobody", "inputs": [rows(3)[1]], "request_id": "b"}
        yield {"model_name": "alphabet", "inputs": [text("x")], "request_id": "c", "parameters": tokens(5)}

    async with triton_aio.InferenceServerClient(streaming.address) as client:
        came = [pair async for pair in client.stream_infer(requests())]
    errors = [error for _, error in came if error is not None]
    assert ["unknown model" in str(error) for error in errors] == [True]
    results = [result for result, error in came if error is None]
    assert "".join(said(r) for r in results if r.get_response().id == "c") == "yzabc"
    (whole,) = [r for r in results if r.get_response().id == "a"]
    np.testing.assert_allclose(whole.as_numpy("y"), mlp_answer(rows(3)[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-S8")
def test_the_configuration_says_who_answers_in_pieces(streaming):
    with triton.InferenceServerClient(streaming.address) as client:
        for model, decoupled in (("alphabet", True), ("mlp", False)):
            config = client.get_model_config(model).config
            assert config.model_transaction_policy.decoupled is decoupled


def test_a_client_that_sends_nothing_before_it_has_headers(streaming):
    with grpc.insecure_channel(streaming.address) as channel:
        may_end = threading.Event()

        def nothing() -> Iterator[pb.ModelInferRequest]:
            may_end.wait(PATIENCE_S)
            yield from ()

        call = pb_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(nothing())
        assert call.initial_metadata() is not None
        may_end.set()
        assert list(call) == []
        assert call.code() is grpc.StatusCode.OK


def plain(id: str, most: int, enable: bool = False) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="alphabet", id=id)
    entry = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    entry.contents.bytes_contents.append(b"a")
    message.parameters["max_tokens"].int64_param = most
    message.parameters["temperature"].int64_param = 0
    if enable:
        message.parameters["triton_enable_empty_final_response"].bool_param = True
    return message


@pytest.mark.clause("TR-G2", "TR-G11")
def test_plain_grpcio_half_closes_and_everything_comes(streaming):
    with grpc.insecure_channel(streaming.address) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([plain(str(n), 5 + n, True) for n in range(8)])))
    for number in range(8):
        own = [r.infer_response for r in replies if r.infer_response.id == str(number)]
        assert len(own) == 5 + number
        assert [r.parameters[FINAL].bool_param for r in own] == [False] * (4 + number) + [True]


@pytest.mark.clause("TR-G14")
def test_cancelling_frees_the_slots(streaming):
    with Stream(streaming) as stream:
        for number in range(6):
            id = str(number)
            stream.client.async_stream_infer("alphabet", [text("a")], request_id=id, parameters=tokens(2000))
        stream.result()
        assert gauge(streaming, "alphabet", "running_batches") > 0
        stream.client.stop_stream(cancel_requests=True)
        until_idle(streaming)


@pytest.mark.clause("TR-G14")
def test_a_stream_that_times_out_frees_the_slots(streaming):
    with Stream(streaming, stream_timeout=0.5) as stream:
        stream.client.async_stream_infer("alphabet", [text("a")], parameters=tokens(2000))
        while True:  # the server may notice it first, and say so in the stream
            _, error = stream.came.get(timeout=PATIENCE_S)
            if error is not None and error.status() == "StatusCode.DEADLINE_EXCEEDED":
                break
        until_idle(streaming)


KILLED = """
import sys, grpc
import tritonclient.grpc.service_pb2 as pb, tritonclient.grpc.service_pb2_grpc as pb_grpc
stub = pb_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
message = pb.ModelInferRequest.FromString(bytes.fromhex(sys.argv[2]))
def forever():
    yield message
    import time
    time.sleep(60)
for reply in stub.ModelStreamInfer(forever()):
    print(reply.infer_response.id, flush=True)
"""


@pytest.mark.clause("TR-G14")
def test_a_client_that_is_killed_frees_the_slots(streaming):
    message = plain("k", 2000).SerializeToString().hex()
    command = [sys.executable, "-c", KILLED, streaming.address, message]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"k\n"
        assert gauge(streaming, "alphabet", "running_batches") == 1
        client.kill()
    until_idle(streaming)


@pytest.mark.clause("TR-G14")
async def test_streams_dropped_at_random_hurt_nobody(streaming):
    chance = random.Random(7)
    async with grpc.aio.insecure_channel(streaming.address) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)

        async def one(number: int) -> None:
            drops_after = chance.choice([None, 0, 1, 5])

            async def requests():
                yield plain(f"{number}a", 12)
                yield plain(f"{number}b", 12)

            call = stub.ModelStreamInfer(requests())
            count = 0
            if drops_after == 0:
                call.cancel()
                return
            async for _ in call:
                count += 1
                if count == drops_after:
                    call.cancel()
                    return
            assert count == 24

        await asyncio.gather(*map(one, range(60)))
    await asyncio.to_thread(until_idle, streaming)


@pytest.mark.clause("TR-S8")
def test_a_slow_reader_holds_nobody_else_back(streaming):
    with grpc.insecure_channel(streaming.address, [("grpc.http2.lookahead_bytes", 65_536)]) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([plain("slow", 500)]))
        count = sum(1 for _ in zip(range(3), call, strict=False))
        with Stream(streaming) as other:
            other.client.async_stream_infer("alphabet", [text("a")], parameters=tokens(3))
            assert [said(other.result()) for _ in range(3)] == ["b", "c", "d"]
        assert count + sum(1 for _ in call) == 500


def test_a_reader_who_does_not_read_bounds_what_the_server_holds(streaming):
    """Big replies that nobody takes: the client's requests stop going out, and memory stays."""
    value = np.zeros((1, 1 << 18), np.float32)
    message = pb.ModelInferRequest(model_name="identity_fp32", raw_input_contents=[value.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=value.shape)
    sent = 0

    def requests() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        for _ in range(250):
            sent += 1
            yield message

    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(streaming.address, options) as channel:
        call = pb_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        next(call)
        before = -1
        while before != sent:
            before = sent
            time.sleep(0.5)
        assert sent < 150
        assert 1 + sum(1 for _ in call) == 250


def test_a_server_that_stops_ends_idle_streams(tmp_path: Path):
    write_alphabet(tmp_path / "repository")
    with ServerProcess([tmp_path / "repository"], tmp_path / "log") as server:
        server.wait_ready()
        with Stream(server) as idle, Stream(server) as busy:
            idle.client.async_stream_infer("alphabet", [text("a")], parameters=tokens(1))
            assert said(idle.result()) == "b"
            busy.client.async_stream_infer("alphabet", [text("a")], parameters=tokens(100))
            assert said(busy.result()) == "b"
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert idle.error().status() == "StatusCode.UNAVAILABLE"
            rest = [busy.result() for _ in range(99)]
            assert is_final(rest[-1])
            assert busy.error().status() == "StatusCode.UNAVAILABLE"
            stopping.join()


@pytest.mark.clause("TR-G7")
def test_identity_of_every_datatype(server: ServerProcess):
    with Stream(server) as stream:
        for datatype, values in EXAMPLES.items():
            given = triton.InferInput("x", list(values.shape), datatype)
            given.set_data_from_numpy(values)
            stream.client.async_stream_infer(f"identity_{datatype.lower()}", [given])
        for values in EXAMPLES.values():
            np.testing.assert_array_equal(stream.result().as_numpy("y"), values)

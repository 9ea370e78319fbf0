"""Unmodified tritonclient over gRPC, on the common port."""

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import EXAMPLES, at_work, gauge, mlp_answer, wide

from salver.testing.process import ServerProcess


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


def mlp_input(rows: int = 2) -> tuple[np.ndarray, triton.InferInput]:
    values = np.linspace(-1, 1, rows * 16, dtype=np.float32).reshape(rows, 16)
    given = triton.InferInput("x", [rows, 16], "FP32")
    given.set_data_from_numpy(values)
    return values, given


def moody_inputs(command: str) -> list[triton.InferInput]:
    given = triton.InferInput("do", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[command.encode()]], dtype=object))
    return [given]


@pytest.mark.clause("TR-G1")
def test_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("nobody")


@pytest.mark.clause("TR-G1")
def test_metadata(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert server.name == "salver"
    model = client.get_model_metadata("mlp", as_json=True)
    assert model["versions"] == ["1"]
    (given,), (out,) = model["inputs"], model["outputs"]
    assert (given["name"], given["datatype"], given["shape"]) == ("x", "FP32", ["-1", "16"])
    assert (out["name"], out["datatype"], out["shape"]) == ("y", "FP32", ["-1", "3"])


@pytest.mark.clause("TR-G2")
def test_infer_with_an_id(client: triton.InferenceServerClient) -> None:
    values, given = mlp_input(5)
    result = client.infer("mlp", [given], model_version="1", request_id="r-17")
    np.testing.assert_allclose(result.as_numpy("y"), mlp_answer(values), rtol=1e-5, atol=1e-6)
    reply = result.get_response()
    assert (reply.model_name, reply.model_version, reply.id) == ("mlp", "1", "r-17")


@pytest.mark.parametrize("datatype", EXAMPLES)
def test_every_datatype_comes_back_unchanged(client: triton.InferenceServerClient, datatype: str) -> None:
    values = EXAMPLES[datatype]
    given = triton.InferInput("x", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    found = client.infer(f"identity_{datatype.lower()}", [given]).as_numpy("y")
    np.testing.assert_array_equal(found, values)


def test_outputs_are_selected_by_name_in_the_models_order(client: triton.InferenceServerClient) -> None:
    values, given = wide(triton)
    outputs = [triton.InferRequestedOutput("double"), triton.InferRequestedOutput("same")]
    result = client.infer("two", [given], outputs=outputs)
    assert [o.name for o in result.get_response().outputs] == ["same", "double"]
    only = client.infer("two", [given], outputs=outputs[:1])
    np.testing.assert_array_equal(only.as_numpy("double"), values * 2)
    assert only.as_numpy("same") is None


def test_free_parameters_are_accepted(client: triton.InferenceServerClient) -> None:
    _, given = mlp_input()
    parameters = {"note": "hello", "flag": True, "level": 3}
    assert client.infer("mlp", [given], parameters=parameters).as_numpy("y").shape == (2, 3)


@pytest.mark.clause("TR-G12")
def test_compressed_messages(client: triton.InferenceServerClient) -> None:
    values, given = mlp_input(64)
    for algorithm in ("gzip", "deflate"):
        result = client.infer("mlp", [given], compression_algorithm=algorithm)
        np.testing.assert_allclose(result.as_numpy("y"), mlp_answer(values), rtol=1e-5, atol=1e-6)


def test_a_large_message_both_ways(client: triton.InferenceServerClient) -> None:
    values = np.random.default_rng(0).standard_normal((8, 500_000)).astype(np.float32)
    given = triton.InferInput("x", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    found = client.infer("identity_fp32", [given]).as_numpy("y")
    np.testing.assert_array_equal(found, values)


@pytest.mark.clause("TR-G3")
def test_statistics(client: triton.InferenceServerClient) -> None:
    client.infer("mlp", [mlp_input()[1]])
    (row,) = client.get_inference_statistics("mlp", "1").model_stats
    assert row.name == "mlp"
    assert row.inference_stats.success.count >= 1
    assert row.inference_stats.compute_infer.ns > 0
    assert row.last_inference > 1_600_000_000_000
    assert [stats.batch_size for stats in row.batch_stats]


@pytest.mark.clause("TR-G3")
def test_the_index(client: triton.InferenceServerClient) -> None:
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert (index["mlp"].version, index["mlp"].state) == ("1", "READY")


def refused(client: triton.InferenceServerClient, model: str, *inputs: triton.InferInput) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, list(inputs))
    return caught.value.status(), caught.value.message()


@pytest.mark.clause("OIP-14")
def test_errors_carry_status_and_text(client: triton.InferenceServerClient) -> None:
    _, good = mlp_input()
    status, text = refused(client, "nobody", good)
    assert status == "StatusCode.NOT_FOUND"
    assert "unknown model: 'nobody' is not found" in text

    wrong_shape = triton.InferInput("x", [1, 17], "FP32")
    wrong_shape.set_data_from_numpy(np.zeros((1, 17), np.float32))
    status, text = refused(client, "mlp", wrong_shape)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "unexpected shape for input 'x' for model 'mlp'. Expected [-1,16], got [1,17]" in text

    status, text = refused(client, "moody", *moody_inputs("raise ValueError ünhappy"))
    assert status == "StatusCode.INTERNAL"
    assert "ünhappy" in text


def test_polling_mode_refuses_explicit_changes(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Start it with --control explicit"):
        client.unload_model("mlp")
    assert client.is_model_ready("mlp")


@pytest.mark.clause("TR-G14")
def test_a_deadline_ends_the_wait_and_not_the_server(
    client: triton.InferenceServerClient, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"  # it is answered while the model waits for this file
    with pytest.raises(InferenceServerException) as caught:
        client.infer("moody", moody_inputs(f"hold {gate}"), client_timeout=0.2)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    gate.touch()
    assert client.infer("moody", moody_inputs("ok")).as_numpy("done")[0, 0] == b"ok"


@pytest.mark.clause("TR-G14", "TR-S11")
def test_cancelled_while_it_waits_is_never_run(
    client: triton.InferenceServerClient, server: ServerProcess, tmp_path: Path
) -> None:
    """Requests that were cancelled while they waited do not reach the model."""
    before = int(client.infer("moody", moody_inputs("count")).as_numpy("done")[0, 0])
    answers: queue.Queue[object] = queue.Queue()

    def done(result: object, error: object) -> None:
        answers.put(error or result)

    with at_work(server, tmp_path / "gate"):
        waiting = [client.async_infer("moody", moody_inputs("ok"), done) for _ in range(5)]
        until(lambda: gauge(server, "moody", "queue_depth") == 5)
        for call in waiting:
            call.cancel()
        errors = [answers.get(timeout=PATIENCE_S) for _ in range(5)]
        until(lambda: gauge(server, "moody", "queue_depth") == 0)
    assert sum("Locally cancelled" in str(error) for error in errors) == 5
    after = int(client.infer("moody", moody_inputs("count")).as_numpy("done")[0, 0])
    assert after - before == 2  # what was at work and this question

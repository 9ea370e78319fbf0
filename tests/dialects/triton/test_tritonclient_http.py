"""Unmodified tritonclient over HTTP, with a server process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException
from zoo import EXAMPLES, JSON_TYPES, mlp_answer, wide

from salver.testing.process import ServerProcess


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address, concurrency=4) as client:
        yield client


def mlp_input(rows: int = 2, binary: bool = True) -> tuple[np.ndarray, triton.InferInput]:
    values = np.linspace(-1, 1, rows * 16, dtype=np.float32).reshape(rows, 16)
    given = triton.InferInput("x", [rows, 16], "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    return values, given


def moody_inputs(command: str) -> list[triton.InferInput]:
    given = triton.InferInput("do", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[command.encode()]], dtype=object))
    return [given]


@pytest.mark.clause("TR-R2", "TR-R3")
def test_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("mlp", "99")
    assert not client.is_model_ready("nobody")


@pytest.mark.clause("TR-R1", "TR-R4")
def test_metadata(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "salver"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("mlp")
    assert model["name"] == "mlp"
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.clause("TR-R5", "TR-R20", "TR-R24")
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_json_and_binary_in_both_directions(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    values, given = mlp_input(5, binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer("mlp", [given], outputs=[wanted], request_id="r-17")
    np.testing.assert_allclose(result.as_numpy("y"), mlp_answer(values), rtol=1e-5, atol=1e-6)
    reply = result.get_response()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("mlp", "1", "r-17")


@pytest.mark.clause("TR-R26")
@pytest.mark.parametrize("datatype", EXAMPLES)
def test_every_datatype_comes_back_unchanged_in_binary(
    client: triton.InferenceServerClient, datatype: str
) -> None:
    values = EXAMPLES[datatype]
    given = triton.InferInput("x", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    found = client.infer(f"identity_{datatype.lower()}", [given]).as_numpy("y")
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, values)


@pytest.mark.clause("TR-R26")
@pytest.mark.parametrize("datatype", JSON_TYPES)
def test_what_json_can_carry_comes_back_unchanged(
    client: triton.InferenceServerClient, datatype: str
) -> None:
    values = EXAMPLES[datatype] if datatype != "BYTES" else np.array([["ä€", "", "a b"]], dtype=object)
    given = triton.InferInput("x", list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=False)
    wanted = triton.InferRequestedOutput("y", binary_data=False)
    found = client.infer(f"identity_{datatype.lower()}", [given], outputs=[wanted]).as_numpy("y")
    if datatype == "BYTES":
        found = np.vectorize(lambda v: v if isinstance(v, str) else v.decode(), otypes=[object])(found)
    np.testing.assert_array_equal(found, values)


def test_outputs_are_selected_by_name_in_the_models_order(client: triton.InferenceServerClient) -> None:
    values, given = wide(triton)
    outputs = [triton.InferRequestedOutput("double"), triton.InferRequestedOutput("same")]
    result = client.infer("two", [given], outputs=outputs)
    assert [o["name"] for o in result.get_response()["outputs"]] == ["same", "double"]
    only = client.infer("two", [given], outputs=outputs[:1])
    assert [o["name"] for o in only.get_response()["outputs"]] == ["double"]
    np.testing.assert_array_equal(only.as_numpy("double"), values * 2)
    assert only.as_numpy("same") is None


def test_free_parameters_are_accepted(client: triton.InferenceServerClient) -> None:
    _, given = mlp_input()
    parameters = {"note": "hello", "flag": True, "level": 3}
    assert client.infer("mlp", [given], parameters=parameters).as_numpy("y").shape == (2, 3)


@pytest.mark.clause("TR-R28")
def test_compressed_bodies(client: triton.InferenceServerClient) -> None:
    values, given = mlp_input(64)
    for algorithm in ("gzip", "deflate"):
        result = client.infer(
            "mlp",
            [given],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        np.testing.assert_allclose(result.as_numpy("y"), mlp_answer(values), rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-A8")
def test_asynchronous_requests_get_their_own_answers(client: triton.InferenceServerClient) -> None:
    requests = [(rows, client.async_infer("mlp", [mlp_input(rows)[1]])) for rows in range(1, 30)]
    for rows, request in requests:
        values, _ = mlp_input(rows)
        np.testing.assert_allclose(
            request.get_result().as_numpy("y"), mlp_answer(values), rtol=1e-5, atol=1e-6
        )


@pytest.mark.clause("TR-R8")
def test_statistics_count_what_was_asked(client: triton.InferenceServerClient) -> None:
    def numbers() -> tuple[int, int, int]:
        (row,) = client.get_inference_statistics("mlp")["model_stats"]
        success = row["inference_stats"]["success"]
        return row["inference_count"], row["execution_count"], success["count"]

    before = numbers()
    for _ in range(3):
        client.infer("mlp", [mlp_input(2)[1]])
    after = numbers()
    assert [b - a for a, b in zip(before, after, strict=True)] == [6, 3, 3]


@pytest.mark.clause("TR-R11")
def test_the_index_lists_every_version_with_its_state(client: triton.InferenceServerClient) -> None:
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert (index["mlp"]["version"], index["mlp"]["state"]) == ("1", "READY")
    assert "identity_bf16" in index


def test_polling_mode_refuses_explicit_changes(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Start it with --control explicit"):
        client.load_model("mlp")
    with pytest.raises(InferenceServerException, match="Start it with --control explicit"):
        client.unload_model("mlp")
    assert client.is_model_ready("mlp")


def refused(client: triton.InferenceServerClient, model: str, *inputs: triton.InferInput) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, list(inputs))
    return caught.value.status(), caught.value.message()


@pytest.mark.clause("TR-R19")
def test_errors_carry_status_and_text(client: triton.InferenceServerClient) -> None:
    _, good = mlp_input()
    status, text = refused(client, "nobody", good)
    assert status == "404"
    assert "unknown model: 'nobody' is not found" in text

    wrong_shape = triton.InferInput("x", [1, 17], "FP32")
    wrong_shape.set_data_from_numpy(np.zeros((1, 17), np.float32))
    status, text = refused(client, "mlp", wrong_shape)
    assert status == "400"
    assert "unexpected shape for input 'x' for model 'mlp'. Expected [-1,16], got [1,17]" in text

    wrong_type = triton.InferInput("x", [1, 16], "INT32")
    wrong_type.set_data_from_numpy(np.zeros((1, 16), np.int32))
    status, text = refused(client, "mlp", wrong_type)
    assert status == "400"
    assert "inference input 'x' data-type is 'INT32', but model 'mlp' expects 'FP32'" in text

    wrong_name = triton.InferInput("z", [1, 16], "FP32")
    wrong_name.set_data_from_numpy(np.zeros((1, 16), np.float32))
    status, text = refused(client, "mlp", wrong_name)
    assert status == "400"
    assert "unexpected inference input 'z' for model 'mlp'" in text

    status, text = refused(client, "mlp")
    assert status == "400"
    assert "expected 1 inputs but got 0 inputs for model 'mlp'" in text


@pytest.mark.clause("TR-R23")
def test_the_requests_own_timeout_is_honoured(client: triton.InferenceServerClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"  # it is answered while the model waits for this file
    with pytest.raises(InferenceServerException, match="Request timeout expired") as caught:
        client.infer("moody", moody_inputs(f"hold {gate}"), timeout=150_000)
    assert caught.value.status() == "503"
    gate.touch()
    client.infer("moody", moody_inputs("ok"))


def test_a_client_that_stops_waiting_does_not_hurt_the_next(server: ServerProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        triton.InferenceServerClient(server.address, network_timeout=0.2) as hasty,
        pytest.raises(Exception, match="timed out"),
    ):
        hasty.infer("moody", moody_inputs(f"hold {gate}"))
    gate.touch()
    with triton.InferenceServerClient(server.address) as patient:
        assert patient.infer("moody", moody_inputs("ok")).as_numpy("done")[0, 0] == b"ok"

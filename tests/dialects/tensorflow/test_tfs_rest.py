"""TensorFlow Serving's REST interface with SavedModels and other models, called by curl."""

import gzip
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import savedmodels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaged import packaged
from programs import program
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from zoo import mlp_answer, write_identity, write_mlp

from salver.testing.process import ServerProcess

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("tfs")
    root = folder / "repository"
    savedmodels.half_plus_two(root / "half_plus_two" / "00000123")
    savedmodels.half_plus_three(root / "half_plus_three" / "1")
    savedmodels.with_assets(root / "words" / "1")
    savedmodels.keras_pair(root / "pair" / "1")
    savedmodels.without_default(root / "arithmetic" / "1")
    savedmodels.stateful(root / "counter" / "1")
    shutil.copytree(packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent, root / "pitch" / "1")
    savedmodels.in_the_server(*(root / name for name in ("half_plus_three", "pair", "arithmetic", "pitch")))
    write_mlp(root / "mlp", 1)
    write_identity(root, "FP32")
    digits = root / "digits" / "1"
    digits.mkdir(parents=True)
    x, y = load_digits(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=2000).fit(x[:500], y[:500]), digits / "model.joblib")
    with ServerProcess([root], folder / "log", ["--trust-pickle"], savedmodels.SOONER) as server:
        yield server.wait_ready(120)


def curl(server: ServerProcess, path: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and the very text of the answer."""
    done = subprocess.run(
        [program("curl"), "-sS", "-i", "--http1.1", *options, server.url + path],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, body = done.stdout.partition("\n\n")
    first, *lines = head.splitlines()
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def ask(server: ServerProcess, path: str, body: Any) -> tuple[int, str]:
    status, _, text = curl(server, path, "-d", body if isinstance(body, str) else json.dumps(body))
    return status, text


@pytest.mark.clause("TF-R1", "TF-R8", "TF-R29")
def test_half_plus_two_as_in_the_documentation(server: ServerProcess) -> None:
    for path in ("half_plus_two", "half_plus_two/versions/123", "half_plus_two/versions/00000123"):
        answer = ask(server, f"/v1/models/{path}:predict", {"instances": [1.0, 2.0, 5.0]})
        assert answer == (200, '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}')
    answer = ask(server, "/V1/models/half_plus_two:PREDICT", {"instances": [[1.0, 2.0], [3.0, 4.0]]})
    assert answer == (200, '{\n    "predictions": [[2.5, 3.0], [3.5, 4.0]\n    ]\n}')


@pytest.mark.clause("TF-R9")
def test_half_plus_two_in_columns(server: ServerProcess) -> None:
    body = {"signature_name": "serving_default", "inputs": [3.0, 4.0]}
    answer = ask(server, "/v1/models/half_plus_two:predict", body)
    assert answer == (200, '{\n    "outputs": [\n        3.5,\n        4.0\n    ]\n}')
    status, text = ask(server, "/v1/models/counter:predict", {"inputs": 2.5})
    assert (status, text) == (200, '{\n    "outputs": 2.5\n}')
    status, text = ask(server, "/v1/models/counter:predict", {"instances": [1]})
    assert status == 400


@pytest.mark.clause("TF-R3", "TF-R17", "TF-R19")
def test_regress(server: ServerProcess) -> None:
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}, {"x": [2]}]}
    status, _ = ask(server, "/v1/models/half_plus_two/versions/123:regress", body)
    assert status == 400  # 2 is an int64 by its token, and the model wants a float
    body["examples"] = [{"x": 80.0}, {"x": [2.0]}]
    answer = ask(server, "/v1/models/half_plus_two/versions/123:regress", body)
    assert answer == (200, '{\n    "results": [42.0, 3.0]\n}')
    body = {"signature_name": "regress_x2_to_y3", "context": {"x": 1.0}, "examples": [{"x2": 8.0}, {}]}
    assert ask(server, "/v1/models/half_plus_two:regress", body) == (200, '{\n    "results": [7.0, 3.0]\n}')


@pytest.mark.clause("TF-R2", "TF-R18", "TF-R30")
def test_classify(server: ServerProcess) -> None:
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    answer = ask(server, "/v1/models/half_plus_two:classify", body)
    assert answer == (200, '{\n    "results": [[["", 12.0]]\n    ]\n}')
    body = {"signature_name": "classify_x_to_sign", "examples": [{"x": 2.5}, {"x": -1.0}]}
    status, text = ask(server, "/v1/models/half_plus_two:classify", body)
    assert (status, json.loads(text)) == (
        200,
        {"results": [[["plus", 2.5], ["minus", -2.5]], [["minus", 1.0], ["plus", -1.0]]]},
    )


@pytest.mark.clause("TF-R32")
def test_models_that_are_not_made_for_it(server: ServerProcess) -> None:
    for model, text in (
        ("mlp", "No classification inputs found in SignatureDef: inputs {"),
        ("digits", "No classification inputs found in SignatureDef: inputs {"),
        ("half_plus_two", "No classification inputs found in SignatureDef: inputs {"),
        ("pair", "Expected one input Tensor."),
    ):
        status, body = ask(server, f"/v1/models/{model}:classify", {"examples": [{"x": 1.0}]})
        assert status == 400
        assert json.loads(body)["error"].startswith(text)
    status, body = ask(server, "/v1/models/mlp:regress", {"signature_name": "q", "examples": [{}]})
    assert (status, json.loads(body)) == (400, {"error": "No signature was found with the name: q"})


@pytest.mark.clause("TF-R8")
def test_signatures_by_name(server: ServerProcess) -> None:
    row = {"a": 3, "b": 4}
    for name, value in (("add", 7.0), ("times", 12.0)):
        answer = ask(server, "/v1/models/arithmetic:predict", {"signature_name": name, "instances": [row]})
        assert answer == (200, f'{{\n    "predictions": [{value}\n    ]\n}}')
    status, text = ask(server, "/v1/models/arithmetic:predict", {"instances": [row]})
    assert (status, json.loads(text)["error"]) == (
        400,
        'Serving signature name: "serving_default" not found in signature def',
    )


@pytest.mark.clause("TF-R12", "TF-R13")
def test_strings(server: ServerProcess) -> None:
    status, text = ask(server, "/v1/models/words:predict", {"instances": ["a", {"b64": "Yg=="}, "é"]})
    assert (status, json.loads(text)["predictions"]) == (
        200,
        [
            {"ids": 0, "upper_bytes": {"b64": "QQ=="}},
            {"ids": 1, "upper_bytes": {"b64": "Qg=="}},
            {"ids": -1, "upper_bytes": {"b64": "w6k="}},
        ],
    )


@pytest.mark.clause("TF-R11")
def test_several_outputs_in_rows(server: ServerProcess) -> None:
    body = {"instances": [{"left": [1, 2], "right": [1, 2, 3]}, {"left": [0, 0], "right": [0, 0, 0]}]}
    status, text = ask(server, "/v1/models/pair:predict", body)
    first, second = json.loads(text)["predictions"]
    assert (status, first.keys()) == (200, {"sum", "gap"})
    assert second == {"gap": [0.0], "sum": [0.0]}
    status, text = ask(
        server, "/v1/models/pair:predict", {"inputs": {"left": [[1, 2]], "right": [[1, 2, 3]]}}
    )
    assert json.loads(text)["outputs"] == {name: [value] for name, value in first.items()}


@pytest.mark.clause("TF-R15")
def test_a_shipped_savedmodel_hears_silence(server: ServerProcess) -> None:
    sound = np.zeros((1, 43844, 1), np.float32)
    status, body = server.post("/v1/models/pitch:predict", {"instances": sound.tolist()})
    assert status == 200
    (found,) = body["predictions"]
    assert {name: np.shape(values) for name, values in found.items()} == {
        "contour": (172, 264),
        "note": (172, 88),
        "onset": (172, 88),
    }


def test_models_that_are_no_savedmodels_answer_as_well(server: ServerProcess) -> None:
    rows = np.linspace(-1, 1, 32).reshape(2, 16)
    status, text = ask(server, "/v1/models/mlp/versions/1:predict", {"instances": rows.tolist()})
    assert status == 200
    np.testing.assert_allclose(
        json.loads(text)["predictions"], mlp_answer(rows.astype("f4")), rtol=1e-5, atol=1e-6
    )
    x, y = load_digits(return_X_y=True)
    status, text = ask(server, "/v1/models/digits:predict", {"instances": x[:3].tolist()})
    assert status == 200
    told = json.loads(text)["predictions"]
    assert [row["label"] for row in told] == y[:3].tolist()
    assert [len(row["probabilities"]) for row in told] == [10, 10, 10]


def test_nothing_is_explained(server: ServerProcess) -> None:
    for name, told in (
        ("half_plus_two", (400, "Malformed request: POST /v1/models/half_plus_two:explain")),
        ("digits", (501, "model 'digits' has no explainer. Ask its predictions.")),
        ("nobody", (404, "Servable not found for request: Latest(nobody)")),
    ):
        status, _, body = curl(server, f"/v1/models/{name}:explain", "-d", '{"instances": [1.0]}')
        assert (status, json.loads(body)) == (told[0], {"error": told[1]})


@pytest.mark.clause("TF-R4", "TF-R29")
def test_status(server: ServerProcess) -> None:
    status, headers, text = curl(server, "/v1/models/half_plus_three/versions/1")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert text == (
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    told = json.loads(curl(server, "/v1/models/half_plus_two")[2])
    assert [row["version"] for row in told["model_version_status"]] == ["123"]
    assert (told["name"], told["ready"], told["object"]) == ("half_plus_two", True, "model")
    status, _, text = curl(server, "/v1/models/nobody")
    assert (status, json.loads(text)["error"]) == (404, "Could not find any versions of model nobody")


@pytest.mark.clause("TF-R5")
def test_metadata(server: ServerProcess) -> None:
    told = json.loads(curl(server, "/v1/models/half_plus_three/metadata")[2])
    assert told["model_spec"] == {"name": "half_plus_three", "signature_name": "", "version": "1"}
    signatures = told["metadata"]["signature_def"]["signature_def"]
    assert signatures["regress_x2_to_y3"]["method_name"] == "tensorflow/serving/regress"
    assert signatures["regress_x2_to_y3"]["inputs"]["inputs"] == {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [], "unknown_rank": True},
        "name": "tf_example:0",
    }
    assert signatures["serving_default"]["outputs"]["y"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
            "unknown_rank": False,
        },
        "name": "y:0",
    }
    for model in ("mlp", "digits", "pitch", "words"):
        status, _, text = curl(server, f"/v1/models/{model}/metadata")
        assert status == 200
        assert "serving_default" in json.loads(text)["metadata"]["signature_def"]["signature_def"]


@pytest.mark.clause("TF-R21")
def test_texts(server: ServerProcess) -> None:
    body = {"instances": [1]}
    for path, status, error in (
        ("nobody:predict", 404, "Servable not found for request: Latest(nobody)"),
        (
            "half_plus_two/versions/99:predict",
            404,
            "Servable not found for request: Specific(half_plus_two, 99)",
        ),
        ("half_plus_two/labels/x:predict", 400, "Unrecognized servable version label: x"),
    ):
        got, text = ask(server, f"/v1/models/{path}", body)
        assert (got, text) == (status, f'{{\n    "error": "{error}"\n}}')


@pytest.mark.clause("TF-R22")
def test_content_types(server: ServerProcess) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        status, headers, _ = curl(
            server,
            "/v1/models/half_plus_two:predict",
            "-H",
            f"content-type: {kind}",
            "-d",
            '{"instances": [1]}',
        )
        assert (status, headers["content-type"]) == (200, "application/json")
    assert curl(server, "/v1/models/q:predict", "-d", "{}")[1]["content-type"] == "application/json"


@pytest.mark.clause("TF-R23")
def test_gzip_in_and_out(server: ServerProcess, tmp_path: Path) -> None:
    packed = tmp_path / "body.gz"
    packed.write_bytes(gzip.compress(json.dumps({"instances": [[0.5] * 16] * 40}).encode()))
    options = ("-H", "content-encoding: gzip", "--data-binary", f"@{packed}")
    status, headers, text = curl(server, "/v1/models/mlp:predict", *options)
    assert (status, "content-encoding" in headers, len(json.loads(text)["predictions"])) == (200, False, 40)
    status, headers, squeezed = curl(server, "/v1/models/mlp:predict", *options, "--compressed")
    assert (status, squeezed) == (200, text)
    assert headers["content-encoding"] in ("gzip", "deflate")


@pytest.mark.clause("TF-R26")
def test_what_is_not_on_rest(server: ServerProcess) -> None:
    """And what is all the same: every answer has an id."""
    for method in ("multiInference", "sessionRun", "reload"):
        status, text = ask(server, f"/v1/models/half_plus_two:{method}", {})
        assert status == 400
        assert json.loads(text)["error"] == f"Malformed request: POST /v1/models/half_plus_two:{method}"
    _, headers, _ = curl(server, "/v1/models/q", "-H", "x-request-id: mine-7")
    assert headers["x-request-id"] == "mine-7"


def test_large_bodies_go_through_whole(server: ServerProcess) -> None:
    image = np.random.default_rng(7).random((64, 192), np.float32)
    for body in ({"instances": image.tolist()}, {"inputs": image.tolist()}):
        status, answer = server.post("/v1/models/identity_fp32:predict", body)
        (found,) = answer.values()
        assert (status, np.array_equal(np.array(found, np.float32), image)) == (200, True)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"b64": "YQ=="}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "b64", "inputs", "left"]), inner, max_size=3)
    ),
    max_leaves=12,
)
_BODIES = st.dictionaries(
    st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"]), _VALUES, max_size=3
).map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    body=_BODIES | st.binary(max_size=40),
    model=st.sampled_from(["half_plus_two", "words", "pair", "mlp", "identity_fp32"]),
    method=st.sampled_from(["predict", "classify", "regress"]),
    cut=st.integers(0, 3),
)
def test_no_body_makes_the_server_fail(
    server: ServerProcess, body: bytes, model: str, method: str, cut: int
) -> None:
    status, text = server.ask("POST", f"/v1/models/{model}:{method}", body[: len(body) - cut])
    assert status in (200, 400, 501)
    assert json.loads(text)


def test_many_clients_at_once(server: ServerProcess) -> None:
    wrong: list[object] = []

    def client(number: int) -> None:
        for value in range(20):
            body = {"instances": [float(number), float(value)]}
            answer = server.post("/v1/models/half_plus_two:predict", body)
            if answer != (200, {"predictions": [number / 2 + 2, value / 2 + 2]}):
                wrong.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

"""Hugging Face directories on a real server: raw inputs over every protocol, and hostile ones."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from huggingface_directories import cases, directory
from waiting import until
from zoo import infer_body, write_mlp

from salver.encoding.placeholders import RAW_INPUTS
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.pipelines.names import SUPPORTED
from salver.testing.process import ServerProcess

pytest.importorskip("tokenizers")
MODELS = ("textclass-single", "ner-bert", "st-mean-norm", "mask-bert", "qa")
PLAIN = {case["id"]: case for task in ("text-classification", "token-classification") for case in cases(task)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("served")
    for name in MODELS:
        directory(folder, name)
    for name, task in (("nli", "zero-shot-classification"), ("rerank", "text-ranking")):
        (directory(folder, name) / "salver.toml").write_text(f'[options]\ntask = "{task}"\n')
    write_mlp(folder / "mlp", 1)
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


def post(server: ServerProcess, path: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_transformers_users_send_what_they_send(server: ServerProcess) -> None:
    case = PLAIN["textclass-single/top_k=2"]
    body = {"inputs": case["input"], "parameters": {"top_k": 2}}
    status, got = post(server, "/v1/models/textclass-single", body)
    assert status == 200 and [row["label"] for row in got] == [row["label"] for row in case["output"]]
    assert np.allclose([r["score"] for r in got], [r["score"] for r in case["output"]], atol=1e-5)
    assert post(server, "/v1/models/textclass-single/versions/1", body) == (200, got)


def test_a_text_alone(server: ServerProcess) -> None:
    text = "My name is Wolfgang and I live in Berlin."
    as_json = post(server, "/v1/models/ner-bert", {"inputs": text})
    assert post(server, "/v1/models/ner-bert", text.encode(), "text/plain; charset=utf-8") == as_json


def test_sentences(server: ServerProcess) -> None:
    _, both = post(server, "/v1/models/st-mean-norm", {"inputs": ["a good movie", "paris"]})
    first, second = np.array(both["embeddings"])
    _, one = post(server, "/v1/models/st-mean-norm", {"inputs": "a good movie"})
    assert np.allclose(one["embeddings"], first, atol=1e-6)
    told = {"source_sentence": "a good movie", "sentences": ["paris", "a good movie"]}
    _, likeness = post(server, "/v1/models/st-mean-norm", {"inputs": told})
    assert np.allclose(likeness["similarities"], [first @ second, 1.0], atol=1e-5)


def test_ranking(server: ServerProcess) -> None:
    texts = ["the movie is bad", "paris is the capital of france"]
    _, scores = post(server, "/v1/models/rerank", {"inputs": [["capital", text] for text in texts]})
    told = {"query": "capital", "texts": texts, "return_documents": True}
    _, ranked = post(server, "/v1/models/rerank", {"inputs": told})
    order = np.argsort(scores["scores"])[::-1].tolist()
    assert [row["index"] for row in ranked] == order
    assert [row["text"] for row in ranked] == [texts[i] for i in order]


def test_labels_of_the_caller(server: ServerProcess) -> None:
    labels = {"candidate_labels": ["sport", "politics"]}
    told = post(server, "/v1/models/nli", {"inputs": "the team won", "parameters": labels})
    assert told[0] == 200 and told[1]["sequence"] == "the team won"
    beside = {"inputs": {"text": "the team won", "candidateLabels": "sport, politics"}}
    assert post(server, "/v1/models/nli", beside) == told


def test_the_same_over_the_open_inference_protocol(server: ServerProcess) -> None:
    texts = ["I love you", "a terrible movie"]
    best = {"top_k": 2}
    bodies = [{"inputs": text, "parameters": best} for text in texts]
    wanted = [post(server, "/v1/models/textclass-single", body)[1] for body in bodies]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}
    body = {"inputs": [tensor], "parameters": best}
    _, told = post(server, "/v2/models/textclass-single/infer", body)
    assert [json.loads(row) for row in told["outputs"][0]["data"]] == wanted

    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([t.encode() for t in texts], object))
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        answer = client.infer("textclass-single", [tensor], parameters=best)
    assert [json.loads(row) for row in answer.as_numpy("output")] == wanted


def test_many_at_once_answer_as_one_by_one(server: ServerProcess) -> None:
    texts = ["good " * n + "movie" for n in range(1, 33)]
    alone = [post(server, "/v1/models/textclass-single", {"inputs": text}) for text in texts]
    texts[7] = "x" * 10 + "\ud800"  # a lone surrogate, which no text has
    found: dict[int, Any] = {}

    def ask(n: int) -> None:
        body = json.dumps({"inputs": texts[n]}).encode()
        found[n] = post(server, "/v1/models/textclass-single", body)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.pop(7)[0] == 400
    for n, (status, (row,)) in found.items():
        ((want,),) = [alone[n][1]]
        assert status == 200 and row["label"] == want["label"]
        assert abs(row["score"] - want["score"]) < 1e-6


def test_many_texts_in_a_request(server: ServerProcess) -> None:
    texts = ["good " * (1 + n % 40) for n in range(200)]
    _, many = post(server, "/v1/models/textclass-single", {"inputs": texts})
    _, few = post(server, "/v1/models/textclass-single", {"inputs": texts[150:160]})
    assert len(many) == 200 and [row["label"] for row in many[150:160]] == [row["label"] for row in few]
    body = {"inputs": [*texts, "a long story " * 40], "parameters": {"truncation": False}}
    status, told = post(server, "/v1/models/textclass-single", body)
    assert status == 400 and "'a long story a" in told["error"]


def test_a_text_of_100_000_tokens_is_cut(server: ServerProcess) -> None:
    text = "the movie is good " * 25_000
    cut = post(server, "/v1/models/textclass-single", {"inputs": text})
    assert cut == post(server, "/v1/models/textclass-single", {"inputs": "the movie is good " * 60})
    body = {"inputs": text, "parameters": {"truncation": False}}
    status, told = post(server, "/v1/models/textclass-single", body)
    assert status == 400 and "more than the 48 tokens that the model takes: 'the movie" in told["error"]


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        ("textclass-single", {"inputs": 5}, "inputs must be a text, not a number"),
        ("textclass-single", {"inputs": [["a", "b"], ["c", "d"]]}, "inputs[0] must be a text, not a list"),
        ("textclass-single", {"inputs": ["a", None]}, "inputs[1] must be a text, not null"),
        ("textclass-single", {"inputs": []}, "inputs is an empty list"),
        ("textclass-single", {"text": "a"}, "inputs is missing"),
        ("textclass-single", ["a"], "the request must be a JSON object, not a list"),
        ("textclass-single", {"inputs": "a", "parameters": []}, "parameters must be an object"),
        ("textclass-single", {"inputs": "a", "parameters": [1]}, "parameters must be an object"),
        (
            "textclass-single",
            {"inputs": "a", "parameters": {"top_k": "x"}},
            "top_k is a whole number",
        ),
        ("textclass-single", {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k must be from 1"),
        ("textclass-single", {"inputs": "a", "parameters": {"topp_k": 1}}, "Did you mean top_k?"),
        ("textclass-single", {"inputs": "a", "parameter": {}}, "parameter is unknown"),
        ("textclass-single", b'{"inputs": "a\xff"}', "failed to parse"),
        ("textclass-single", b"[" * 100_000, "nesting"),
        ("mask-bert", {"inputs": "no hole"}, "inputs has a text with no [MASK]"),
        ("mask-bert", {"inputs": "[MASK] " * 44, "parameters": {"top_k": 234}}, "more than 10000 answers"),
        ("nli", {"inputs": "a"}, "parameters.candidate_labels is missing"),
        (
            "nli",
            {"inputs": "a", "parameters": {"candidate_labels": ["x"] * 1001}},
            "at most 1000 are compared",
        ),
        ("nli", {"inputs": "", "parameters": {"candidate_labels": "a"}}, "inputs has an empty text"),
        ("qa", {"inputs": {"question": "who?"}}, "inputs.context is missing"),
        ("qa", {"inputs": {"question": "who?", "context": ""}}, "inputs has an empty context"),
        ("rerank", {"inputs": {"query": "a", "texts": []}}, "inputs.texts must be a list of texts"),
        ("st-mean-norm", {"inputs": "a", "parameters": {"prompt_name": "x"}}, "is no prompt of this model"),
        ("ner-bert", {"inputs": "a", "parameters": {"stride": 8}}, "parameters.stride needs an aggregation"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    server: ServerProcess, model: str, body: Any, text: str
) -> None:
    status, told = post(server, f"/v1/models/{model}", body)
    assert status == 400 and text in told["error"], told


def test_bytes_that_are_no_text(server: ServerProcess) -> None:
    status, told = post(server, "/v1/models/qa", b"\xff\xfe", "text/plain")
    assert status == 400 and "not valid UTF-8" in told["error"]
    tensor = triton.InferInput("text", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"good", b"\xc3("], object))
    with (
        triton.InferenceServerClient(server.url.removeprefix("http://")) as client,
        pytest.raises(Exception, match=r"text has bytes that are not valid UTF-8.*xc3.*Send the text"),
    ):
        client.infer("textclass-single", [tensor])


def test_other_models_and_paths_are_as_before(server: ServerProcess) -> None:
    assert post(server, "/v1/models/mlp", {"inputs": "a"}) == (
        400,
        {"error": "Malformed request: POST /v1/models/mlp"},
    )
    status, told = post(server, "/v1/models/st-mean-norm:predict", {"instances": ["a"]})
    assert status == 200 and np.shape(told["predictions"]) == (1, 32)
    assert post(server, "/v1/models/missing", {"inputs": "a"})[0] == 404
    assert post(server, "/v2/models/mlp/infer", infer_body())[0] == 200


def test_paths_of_tensor_models_are_answered_alike_with_keys(server: ServerProcess, tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    key = new_key()
    record = KeyRecord("me", "me", hash_of(key), ("infer",))
    (tmp_path / "keys.toml").write_text(written([record]))
    options = ["--keys-file", str(tmp_path / "keys.toml")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options=options) as keyed:
        until(lambda: "model ready" in keyed.output())
        for path in ("mlp", "mlp/versions/1", "mlp/versions/7", "none"):
            asked = [
                httpx.post(f"{each.url}/v1/models/{path}", json={"inputs": "a"}, headers={"x-api-key": key})
                for each in (keyed, server)
            ]
            assert len({(each.status_code, each.content) for each in asked}) == 1, asked[0].text
            assert asked[0].status_code == (404 if path in ("mlp/versions/7", "none") else 400)


def test_metadata_names_the_task(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/v2/models/qa") as answer:
        told = json.loads(answer.read())
    assert told["platform"] == "huggingface_question-answering"
    assert [spec["name"] for spec in told["inputs"]] == ["question", "context"]
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        assert "post" in json.loads(answer.read())["paths"]["/v1/models/{model}"]


def test_one_directory_alone(tmp_path: Path) -> None:
    path = directory(tmp_path, "textclass-single")
    with ServerProcess([path], tmp_path / "log") as server:
        server.wait_ready()
        assert post(server, "/v1/models/textclass-single", {"inputs": "good"})[0] == 200


@pytest.mark.parametrize("model", [*MODELS, "nli", "rerank"])
def test_the_example_of_each_task_is_answered(server: ServerProcess, model: str) -> None:
    with urllib.request.urlopen(f"{server.url}/v2/models/{model}") as answer:
        task = json.loads(answer.read())["platform"].removeprefix("huggingface_")
    assert post(server, f"/v1/models/{model}", RAW_INPUTS[task])[0] == 200
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        told = json.loads(answer.read())["paths"][f"/v1/models/{model}"]["post"]["requestBody"]["content"]
    assert told["application/json"]["example"] == RAW_INPUTS[task]


def test_every_task_has_an_example() -> None:
    assert RAW_INPUTS.keys() == set(SUPPORTED)

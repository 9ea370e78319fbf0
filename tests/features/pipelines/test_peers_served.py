"""Requests of other servers' callers: Hugging Face's toolkit and client, TEI, SageMaker and Vertex AI."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from huggingface_directories import directory
from huggingface_hub import InferenceClient
from image_directories import FILES, image_directory
from zoo import write_mlp

from salver.cli.infer import infer
from salver.testing.process import ServerProcess
from salver.words.errors import InvalidInput

pytest.importorskip("tokenizers")
pytest.importorskip("PIL.Image")
CLASSES, VECTORS, RANKS = "/v1/models/textclass-single", "/v1/models/st-mean-norm", "/v1/models/rerank"
TEXTS = ["good", "bad"]


@pytest.fixture(autouse=True)
def on_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask servers of this machine where CI forbids it the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("peers")
    for name in ("textclass-single", "ner-bert", "st-mean-norm", "mask-bert", "qa"):
        directory(folder, name)
    for name, task in (("nli", "zero-shot-classification"), ("rerank", "text-ranking")):
        (directory(folder, name) / "salver.toml").write_text(f'[options]\ntask = "{task}"\n')
    image_directory(folder, "image-vit")
    image_directory(folder, "detect-detr")
    write_mlp(folder / "mlp", 1)
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with one model for a task, beside one for tensors."""
    folder = tmp_path_factory.mktemp("alone")
    directory(folder, "textclass-single")
    write_mlp(folder / "mlp", 1)
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


def ask(server: ServerProcess, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    kinds = {"content-type": "application/json", **{name.replace("_", "-"): h for name, h in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, kinds)) as answer:
            content = answer.read()
            return answer.status, content if headers.get("accept") else json.loads(content)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_hugging_faces_client_reads_every_answer(server: ServerProcess) -> None:
    def client(model: str) -> InferenceClient:
        return InferenceClient(base_url=f"{server.url}/v1/models/{model}", api_key="none")

    labels = client("textclass-single").text_classification("good")
    assert [one.label for one in labels] == ["pos", "neu", "neg"]
    assert len(client("textclass-single").text_classification("good", top_k=2)) == 2
    tokens = client("ner-bert").token_classification("My name is Wolfgang", aggregation_strategy="simple")  # type: ignore[arg-type]
    assert tokens[0].entity_group
    assert len(client("mask-bert").fill_mask("paris is the [MASK]", top_k=3)) == 3
    answer = client("qa").question_answering(question="where do i live", context="i live in berlin")
    assert not isinstance(answer, list) and answer.answer in "i live in berlin"
    zero = client("nli").zero_shot_classification("the team won", ["sport", "politics"])
    assert sum(one.score for one in zero) == pytest.approx(1)
    for photo in (FILES / "rgb-64x48.jpg", (FILES / "rgb-64x48.jpg").read_bytes()):
        (best,) = client("image-vit").image_classification(photo, top_k=1)
        assert best.label == client("image-vit").image_classification(photo)[0].label
    assert isinstance(client("detect-detr").object_detection(FILES / "rgb-64x48.jpg", threshold=0.1), list)
    vectors = client("st-mean-norm").feature_extraction(TEXTS, normalize=True)  # type: ignore[arg-type]
    assert vectors.shape == (2, 32) and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    likeness = client("st-mean-norm").sentence_similarity("good", TEXTS)
    assert np.allclose(likeness, vectors @ vectors[0], atol=1e-5)


def test_an_endpoint_of_hugging_face(alone: ServerProcess) -> None:
    wanted = ask(alone, CLASSES, {"inputs": "good", "parameters": {"top_k": 2}})
    assert wanted[0] == 200 and len(wanted[1]) == 2
    for path in ("/", "/predict", "/?", f"{CLASSES}/predict"):
        assert ask(alone, path, {"inputs": "good", "parameters": {"top_k": 2}}) == wanted
    assert ask(alone, "/?top_k=2", {"inputs": "good"}) == wanted
    assert ask(alone, "/?top_k=1", {"inputs": "good", "parameters": {"top_k": 2}}) == wanted
    found = InferenceClient(base_url=alone.url, api_key="none").text_classification("good")
    assert [one.label for one in found[:2]] == [one["label"] for one in wanted[1]]
    assert ask(alone, "/", {"text": "good"})[0] == 400
    status, told = ask(alone, "/?topkk=2", {"inputs": "good"})
    assert status == 400 and "Did you mean top_k?" in told["error"]


def test_the_console_stays_at_the_root(alone: ServerProcess) -> None:
    assert ask(alone, "/")[1]["name"] == "salver"


def test_a_path_that_several_models_suit_names_them(server: ServerProcess) -> None:
    status, told = ask(server, "/", {"inputs": "good"})
    assert status == 400 and "Name one: POST /v1/models/detect-detr." in told["error"]
    assert "mlp" not in told["error"]
    status, told = ask(server, "/tokenize", {"inputs": "good"})
    assert status == 422 and "POST /v1/models/mask-bert/tokenize" in told["error"]


def test_embeddings_as_tei_gives_them(server: ServerProcess) -> None:
    status, both = ask(server, "/embed", {"inputs": TEXTS, "unknown": 1})
    assert status == 200 and np.allclose(np.linalg.norm(both, axis=1), 1)
    assert ask(server, f"{VECTORS}/embed", {"inputs": TEXTS}) == (200, both)
    assert np.allclose(ask(server, "/embed", {"inputs": "good"})[1], both[:1], atol=1e-6)
    cut = np.array(ask(server, "/embed", {"inputs": TEXTS, "dimensions": 4, "normalize": False})[1])
    assert np.allclose(cut, np.array(both)[:, :4], atol=1e-6)
    compared = {"source_sentence": "good", "sentences": TEXTS}
    asked = {"inputs": compared, "parameters": {"truncate": True}}
    status, likeness = ask(server, "/similarity", asked)
    assert status == 200 and np.allclose(likeness, np.array(both) @ both[0], atol=1e-5)
    told = ask(server, VECTORS, {"inputs": compared})[1]["similarities"]
    assert np.allclose(likeness, told, atol=1e-6)
    said = ask(server, "/v1/embeddings", {"model": "st-mean-norm", "input": TEXTS})[1]["data"]
    assert np.allclose([one["embedding"] for one in said], both, atol=1e-6)


def test_a_list_of_two_texts_is_a_pair_where_tei_has_it_so(server: ServerProcess) -> None:
    pair = ask(server, f"{CLASSES}/predict", {"inputs": TEXTS})[1]
    assert [sorted(one) for one in pair] == [["label", "score"]] * 3
    assert [one["score"] for one in pair] == sorted((one["score"] for one in pair), reverse=True)
    wanted = ask(
        server, CLASSES, {"inputs": {"text": "good", "text_pair": "bad"}, "parameters": {"top_k": 3}}
    )
    assert pair == wanted[1]
    batch = ask(server, f"{CLASSES}/predict", {"inputs": [["good"], ["bad"]]})[1]
    assert [len(one) for one in batch] == [3, 3]
    assert ask(server, f"{CLASSES}/predict", {"inputs": [["good", "bad"]]})[1] == [pair]
    raw = ask(server, f"{CLASSES}/predict", {"inputs": "good", "raw_scores": True})[1]
    assert sum(one["score"] for one in raw) != pytest.approx(1)
    toolkit = ask(server, f"{CLASSES}/predict", {"inputs": TEXTS, "parameters": {}})[1]
    assert toolkit == ask(server, CLASSES, {"inputs": TEXTS})[1] and len(toolkit) == 2


def test_ranks_as_tei_gives_them(server: ServerProcess) -> None:
    status, ranked = ask(server, "/rerank", {"query": "good", "texts": TEXTS, "return_text": True})
    assert status == 200 and {one["text"] for one in ranked} == set(TEXTS)
    assert ask(server, RANKS, {"inputs": {"query": "good", "texts": TEXTS, "return_text": True}})[1] == ranked
    raw = ask(server, f"{RANKS}/rerank", {"query": "good", "texts": TEXTS, "raw_scores": True})[1]
    assert [one["index"] for one in raw] == [one["index"] for one in ranked] and "text" not in raw[0]


def test_tokens_and_back(server: ServerProcess) -> None:
    text = "héllo good movie"
    (tokens,) = ask(server, f"{VECTORS}/tokenize", {"inputs": text})[1]
    assert tokens[0] == {"id": tokens[0]["id"], "text": "[CLS]", "special": True, "start": None, "stop": None}
    for token in tokens[1:-1]:
        assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]
    (plain,) = ask(server, f"{VECTORS}/tokenize", {"inputs": [text], "add_special_tokens": False})[1]
    assert plain == tokens[1:-1]
    ids = [token["id"] for token in tokens]
    (back,) = ask(server, f"{VECTORS}/decode", {"ids": ids})[1]
    assert back.endswith("good movie") and "[CLS]" not in back
    (whole,) = ask(server, f"{VECTORS}/decode", {"ids": [ids], "skip_special_tokens": False})[1]
    assert whole.startswith("[CLS]")


def test_facts_of_a_model(server: ServerProcess) -> None:
    status, told = ask(server, f"{VECTORS}/info")
    assert status == 200 and told["model_type"] == {"embedding": {"pooling": "mean"}}
    assert told["served_model_name"] == "st-mean-norm" and told["max_input_length"] > 0
    kinds = ask(server, f"{CLASSES}/info")[1]["model_type"]["classifier"]
    assert kinds["id2label"] == {"0": "neg", "1": "neu", "2": "pos"}
    assert "reranker" in ask(server, f"{RANKS}/info")[1]["model_type"]


TEI_ERRORS = {
    "nothing": ("/embed", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
    "empty": ("/embed", {"inputs": ["a", ""]}, 400, "Empty", "`inputs` cannot be empty"),
    "no texts": ("/rerank", {"query": "a", "texts": []}, 400, "Empty", "`texts` cannot be empty"),
    "no ids": (f"{VECTORS}/decode", {"ids": []}, 400, "Empty", "`ids` cannot be empty"),
    "missing": ("/embed", {"input": "a"}, 422, "Validation", "required field `inputs`"),
    "not JSON": ("/embed", b"{", 422, "Validation", "truncated"),
    "ids": ("/embed", {"inputs": [1, 2]}, 422, "Validation", "token ids are not taken"),
    "wide": ("/embed", {"inputs": "a", "dimensions": 33}, 422, "Validation", "from 1 to the model's 32"),
    "left": ("/embed", {"inputs": "a", "truncation_direction": "left"}, 422, "Validation", "left is not"),
    "prompt": ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "no prompt of this model"),
    "long": ("/embed", {"inputs": "a " * 5000, "truncate": False}, 422, "Validation", "tokens"),
    "mixed": (f"{CLASSES}/predict", {"inputs": [["a"], ["a", "b"]]}, 400, "", "two requests"),
    "three": (f"{CLASSES}/predict", {"inputs": ["a", "b", "c"]}, 400, "", "has 3 texts"),
    "a wrong id": (f"{VECTORS}/decode", {"ids": [-1]}, 422, "Validation", ">= 0"),
    "mixed ids": (f"{VECTORS}/decode", {"ids": [1, [2]]}, 422, "Validation", "ids and lists"),
    "another task": (f"{CLASSES}/embed", {"inputs": "a"}, 424, "Backend", "is for sentence-embeddings"),
    "no task": ("/v1/models/none/embed", {"inputs": "a"}, 404, "Backend", "'none' is not found"),
    "no model": ("/embed_all", {"inputs": "a"}, 424, "Backend", "no model of this server is for"),
}


@pytest.mark.parametrize("name", TEI_ERRORS)
def test_errors_have_teis_form(server: ServerProcess, name: str) -> None:
    path, body, status, kind, text = TEI_ERRORS[name]
    got, told = ask(server, path, body)
    assert got == status and text in told["error"] and told.get("error_type", "") == kind


def test_models_of_tensors_have_no_such_paths(server: ServerProcess) -> None:
    status, told = ask(server, "/v1/models/mlp/embed", {"inputs": "a"})
    assert status == 400 and "Malformed request" in told["error"]
    assert ask(server, "/nothing", {})[0] == 404


def test_what_is_described_is_there(server: ServerProcess) -> None:
    paths = ask(server, "/openapi.json")[1]["paths"]
    assert {"/", "/embed", "/info", "/v1/models/{model}/rerank"} <= paths.keys()
    assert "/invocations" not in paths  # is TorchServe's, described by its own
    with httpx.Client(base_url=server.url) as client:
        for path in ("/embed", "/predict", "/info"):
            assert client.request("TRACE", path).status_code == 405, path
        assert client.get("/embed").status_code == 405
        assert client.request("TRACE", "/embedded").status_code == 404


def test_sagemaker_and_vertex(server: ServerProcess) -> None:
    path = f"{CLASSES}/invocations"
    _, wanted = ask(server, CLASSES, {"inputs": TEXTS})
    assert ask(server, path, {"inputs": TEXTS}) == (200, wanted)
    assert ask(server, path, b"inputs\ngood\nbad\n", content_type="text/csv") == (200, wanted)
    asked = b"question,context\nwho am i,i am berta\n"
    _, answer = ask(server, "/v1/models/qa/invocations", asked, content_type="text/csv")
    assert answer["answer"] in "i am berta"
    body = {"instances": TEXTS, "parameters": {"top_k": 1}}
    assert ask(server, path, body) == (200, {"predictions": [[one] for one in wanted]})
    status, numbers = ask(server, f"{VECTORS}/invocations", {"inputs": TEXTS}, accept="application/x-npy")
    assert status == 200 and np.load(io.BytesIO(numbers)).shape == (2, 32)
    status, told = ask(server, path, {"inputs": TEXTS}, accept="application/x-npy")
    assert status == 501 and "Accept application/json" in told["error"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS}
    told = ask(server, path, {"inputs": [tensor]})[1]["outputs"][0]["data"]
    assert [json.loads(one) for one in told] == wanted
    different = {"instances": [{"inputs": "a", "parameters": {"top_k": 1}}, "b"]}
    assert "other parameters than instances[0]" in ask(server, path, different)[1]["error"]
    likeness = {"source_sentence": "good", "sentences": TEXTS}
    _, several = ask(server, f"{VECTORS}/invocations", {"instances": [likeness, "good"]})
    assert len(several["predictions"][0]["similarities"]) == 2 and "embeddings" in several["predictions"][1]


def test_a_form_is_answered_as_its_file_alone(server: ServerProcess) -> None:
    photo = (FILES / "rgb-64x48.jpg").read_bytes()
    _, wanted = ask(server, "/v1/models/image-vit", photo, content_type="image/jpeg")
    body = b'--B\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
    body += b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--B--\r\n"
    assert ask(server, "/v1/models/image-vit", body, content_type="multipart/form-data; boundary=B") == (
        200,
        wanted,
    )
    assert ask(server, "/v1/models/image-vit/predict", photo, content_type="image/jpeg") == (200, wanted)


def test_the_command_line_sends_what_it_is_given(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(model: str, **options: Any) -> str:
        assert infer(model, url=server.url, **options) == 0
        return capsys.readouterr().out

    _, wanted = ask(server, CLASSES, {"inputs": "good", "parameters": {"top_k": 2}})
    assert json.loads(said("textclass-single", text="good", parameters='{"top_k": 2}')) == wanted
    rows = tmp_path / "rows.csv"
    rows.write_text("question,context\nwho,i am berta\nwho,i am carl\n")
    assert json.loads(said("qa", csv=rows)) == json.loads(said("qa", file=rows))
    photo = FILES / "rgb-64x48.jpg"
    assert len(json.loads(said("image-vit", file=photo))) == 5
    assert len(json.loads(said("image-vit", file=photo, parameters='{"top_k": 1}', model_version="1"))) == 1
    with pytest.raises(InvalidInput, match="the model takes texts, not image/jpeg"):
        infer("qa", file=photo, url=server.url)
    monkeypatch.setattr("salver.terminal.output.on_terminal", lambda: True)
    monkeypatch.setattr("salver.cli.infer_raw.on_terminal", lambda: True)
    table = said("textclass-single", inputs='"good"', parameters='{"top_k": 2}')
    assert [line.split()[0] for line in table.splitlines()[:3]] == ["label", "pos", "neu"]


def test_keyword_arguments_over_the_open_inference_protocol(server: ServerProcess) -> None:
    """MLServer's Hugging Face runtime takes these, and answers a row of JSON for each result."""

    def tensor(name: str, *texts: str) -> dict[str, Any]:
        return {"name": name, "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}

    def rows(model: str, *inputs: dict[str, Any]) -> list[Any]:
        body = {"inputs": inputs, "parameters": {"content_type": "hf"}}
        (output,) = ask(server, f"/v2/models/{model}/infer", body)[1]["outputs"]
        assert output["parameters"] == {"content_type": "hg_jsonlist"}
        assert output["shape"] == [len(output["data"]), 1]
        return [json.loads(row) for row in output["data"]]

    _, wanted = ask(server, CLASSES, {"inputs": TEXTS})
    assert rows("textclass-single", tensor("array_inputs", *TEXTS)) == wanted
    zero = rows("nli", tensor("args", "the team won"), tensor("candidate_labels", "sport", "politics"))
    labels = {"candidate_labels": ["sport", "politics"]}
    assert zero == [ask(server, "/v1/models/nli", {"inputs": "the team won", "parameters": labels})[1]]
    photo = base64.b64encode((FILES / "rgb-64x48.jpg").read_bytes()).decode()
    assert len(rows("image-vit", tensor("args", photo))) == 5

    one = triton.InferInput("args", [1, 1], "BYTES")
    one.set_data_from_numpy(np.array([["good"]], object))
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        answer = client.infer("textclass-single", [one], parameters={"top_k": 2})
    assert [json.loads(row) for row in answer.as_numpy("output").ravel()] == (
        ask(server, CLASSES, {"inputs": "good", "parameters": {"top_k": 2}})[1]
    )
    assert answer.get_output("output").parameters["content_type"].string_param == "hg_jsonlist"

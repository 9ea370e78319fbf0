"""Pipelines of a ``pipeline.toml`` on a real server: models beside it and by name, errors, changes."""

import base64
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import mlp_answer, write_mlp

from salver.cli import main
from salver.features.pipelines.local import fingerprint_in
from salver.features.pipelines.locking import write_lock
from salver.testing.process import ServerProcess

GOOD = """
import numpy as np
class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"scores": ("FP32", [-1, 2])}
    def predict(self, inputs):
        if b"fail" in inputs["text"]:
            raise ValueError("as it was told")
        return {"scores": np.array([[t.count(b"bad"), t.count(b"good")] for t in inputs["text"]], "float32")}
"""
ALONE = """
class Model:
    inputs = {"x": ("FP32", [1, 2])}
    outputs = {"y": ("FP32", [1, 1])}
    def predict(self, inputs):
        return {"y": inputs["x"][:, :1] - inputs["x"][:, 1:]}
"""
#: Sentences of a text, each with a score of a model; the mean decides, and large texts ask another model.
REVIEW = """
[steps.clean]
use = "text-normalise"
lower = true
[steps.sentences]
use = "text-split"
[steps.scores]
model = "words"
[steps.mean]
use = "reduce"
[steps.chances]
use = "softmax"
[steps.best]
use = "arg-max"
[steps.label]
use = "labels"
names = ["negative", "positive"]
[outputs]
label = "label.label"
score = "best.score"
"""
CASCADE = """
[inputs]
x = "FP32[-1,2]"
[steps.small]
use = "arg-max"
inputs = { scores = "x" }
[steps.sure]
use = "threshold"
least = 0.9
inputs = { values = "small.score" }
[steps.large]
model = "alone"
inputs = { x = "x" }
unless = "sure.reached"
[steps.flat]
use = "reduce"
by = "sum"
inputs = { values = "each.item" }
[steps.merged]
use = "merge"
inputs = { first = "flat.value", second = "small.score" }
"""
CASCADE = CASCADE.replace(
    "[steps.flat]", '[steps.each]\nuse = "each"\ninputs = { list = "large.y" }\n[steps.flat]'
)
BESIDE = """
[steps.network]
model = "network/1/model.onnx"
[steps.chances]
use = "softmax"
[outputs]
chances = "chances.scores"
logits = "network.y"
"""


TOKENS = """
[steps.tokens]
use = "tokenize"
max_length = 700
"""
#: A step and a model beside the file before which the cache is, the model in two host processes.
KEPT = """
[steps.tokens]
use = "tokenize"
pad_to = 8
max_length = 8
cache = true
[steps.network]
model = "ids/model.py"
inputs = { ids = "tokens.input_ids" }
cache = true
placement = "process"
instances = 2
max-rows = 4
"""
IDS = """
import os
class Model:
    inputs = {"ids": ("INT64", [-1, -1])}
    outputs = {"sum": ("INT64", [-1]), "pid": ("INT64", [-1]), "rows": ("INT64", [-1])}
    def predict(self, inputs):
        ids, ones = inputs["ids"], inputs["ids"][:, 0] * 0 + 1
        return {"sum": ids.sum(1), "pid": ones * os.getpid(), "rows": ones * len(ids)}
"""
TOKENIZER = sorted((Path(__file__).parent / "recorded" / "tokenizers").glob("*.json"))[0]
CACHE = ("--response-cache", "local,size=8m")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "pipeline.toml").write_text(text)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, code in (("words", GOOD), ("alone", ALONE)):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(code)
    write(folder, "review", REVIEW)
    write(folder, "cascade", CASCADE)
    write_mlp(write(folder, "beside", BESIDE) / "network", 1)
    shutil.copy(TOKENIZER, write(folder, "tokens", TOKENS) / "tokenizer.json")
    shutil.copy(TOKENIZER, write(folder, "kept", KEPT) / "tokenizer.json")
    (folder / "kept" / "ids").mkdir()
    (folder / "kept" / "ids" / "model.py").write_text(IDS)
    write(folder, "broken", '[steps.a]\nuse = "softmaxx"\n')
    write(
        folder, "unfit", '[steps.a]\nmodel = "words"\n[steps.b]\nuse = "text-join"\ninputs = { text = "a" }\n'
    )
    write(
        folder,
        "watched",
        '[steps.words]\nmodel = "words"\n[steps.chances]\nuse = "softmax"\n[statistics]\nsample = 1\n',
    )
    for name in ("locked", "skewed"):
        path = write(folder, name, '[steps.words]\nmodel = "words"\n[steps.chances]\nuse = "softmax"\n')
        write_lock(path, fingerprint_in(path))
    path.joinpath("pipeline.toml").write_text(
        path.joinpath("pipeline.toml").read_text() + "temperature = 2\n"
    )
    write(folder, "orphan", '[steps.a]\nmodel = "absent"\n')
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess([folder], folder.with_suffix(".log"), ["--poll-seconds", "0.2", *CACHE]) as running:
        running.wait_for("/v2/health/live")
        for name in ("review", "cascade", "beside", "tokens", "watched", "kept"):
            until(lambda name=name: ask(running, f"/v2/models/{name}/ready")[0] == 200)
        yield running


def ask(server: ServerProcess, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data)) as answer:
            said = answer.read()
            return answer.status, json.loads(said) if said else None
    except urllib.error.HTTPError as error:
        said = error.read()
        return error.code, json.loads(said) if said else None


def infer(server: ServerProcess, model: str, *texts: str, **more: Any) -> tuple[int, Any]:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    code, said = ask(server, f"/v2/models/{model}/infer", {"inputs": [tensor], **more})
    return code, {output["name"]: output["data"] for output in said["outputs"]} if code == 200 else said


def test_a_list_in_each_row_is_asked_about_at_once_and_put_together(server: ServerProcess) -> None:
    code, said = infer(server, "review", "GOOD good. Bad. Good!", "bad. BAD bad", "")
    assert code == 200 and said["label"] == ["positive", "negative", "negative"]
    # The mean of the sentences: (0 + 1 + 0) / 3 bad and (2 + 0 + 1) / 3 good.
    chances = np.exp([1 / 3, 1.0]) / np.exp([1 / 3, 1.0]).sum()
    np.testing.assert_allclose(said["score"], [chances[1], 1 / (1 + np.exp(-1.5)), 0.5], rtol=1e-5)


def test_raw_rows_are_answered_in_their_own_form(server: ServerProcess) -> None:
    code, said = ask(server, "/v1/models/review", {"inputs": "It is good. Good!"})
    assert code == 200 and said["label"] == "positive" and 0.5 < said["score"] < 1
    code, many = ask(server, "/v1/models/review/versions/1", {"inputs": ["It is good. Good!", "bad"]})
    assert code == 200 and many[0] == said and many[1]["label"] == "negative"
    code, said = ask(server, "/v1/models/cascade", {"inputs": [0.2, 0.95]})
    assert (code, said) == (200, 0.95)
    code, said = ask(server, "/v1/models/review", {"inputs": {"txt": "a"}})
    assert code == 400 and "inputs.txt is unknown" in said["error"]


def test_the_answer_has_no_parameters_of_a_sequence(server: ServerProcess) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
    assert not ask(server, "/v2/models/review/infer", {"inputs": [tensor]})[1].get("parameters")


def test_only_the_outputs_that_are_wanted_are_made(server: ServerProcess) -> None:
    code, said = infer(server, "review", "good", outputs=[{"name": "score"}])
    assert code == 200 and said.keys() == {"score"}


def test_rows_under_a_condition_come_back_in_their_places(server: ServerProcess) -> None:
    rows = [[0.2, 0.95], [0.5, 0.25], [0.99, 0.0], [0.75, 0.5]]
    tensor = {"name": "x", "shape": [4, 2], "datatype": "FP32", "data": rows}
    code, said = ask(server, "/v2/models/cascade/infer", {"inputs": [tensor]})
    assert code == 200, said
    # Unsure rows are asked of a model that takes one row at a time.
    np.testing.assert_allclose(said["outputs"][0]["data"], [0.95, 0.25, 0.99, 0.25], rtol=1e-6)


def test_a_model_beside_the_file_belongs_to_the_pipeline(server: ServerProcess) -> None:
    x = np.random.default_rng(3).normal(size=(3, 16)).astype(np.float32)
    given = triton.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x)
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
        found = client.infer("beside", [given])
    np.testing.assert_allclose(found.as_numpy("logits"), mlp_answer(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.as_numpy("chances").sum(-1), 1, rtol=1e-5)
    index = {model["name"] for model in ask(server, "/v2/repository/index", {})[1]}
    assert "beside" in index and not any("network" in name for name in index)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("broken", "line 2: step `a`: there is no step `softmaxx`"),
        ("unfit", "a.scores -> b.text: FP32[-1,2] where BYTES[-1] is wanted"),
        ("orphan", "absent"),
        ("skewed", "step `chances`: temperature its default there, 2.0 here"),
    ],
)
def test_a_pipeline_that_does_not_fit_says_why(server: ServerProcess, model: str, said: str) -> None:
    def reason() -> str:
        index = ask(server, "/v2/repository/index", {})[1]
        return next(each.get("reason", "") for each in index if each["name"] == model)

    until(lambda: said in reason())


def test_a_pipeline_that_is_the_locked_one_is_served(
    server: ServerProcess, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: infer(server, "locked", "good")[0] == 200)
    digest = json.loads((folder / "locked" / "pipeline.lock").read_text())["digest"]
    assert ask(server, "/v2/models/locked")[1]["parameters"] == {"digest": digest}
    assert "parameters" not in ask(server, "/v2/models/review")[1]
    served = {each["model"]: each["digest"] for each in ask(server, "/api/v1/served")[1]["items"]}
    assert served["locked"] == digest and served["review"] == ""
    listed = {each["name"]: each.get("digest") for each in ask(server, "/v2/repository/index", {})[1]}
    assert listed["locked"] == digest and listed["review"] is None
    assert main(["models", "--url", server.url]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("locked ")]
    assert line.split() == ["locked", "1", "READY", digest[:12]]


def test_times_of_steps_and_values_at_edges_are_told(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert infer(server, "watched", "good", "bad bad")[0] == 200
    assert infer(server, "watched", "fail")[0] == 500
    until(lambda: ask(server, "/api/v1/models/watched/pipeline")[1]["edges"][0]["requests"] == 3)
    code, said = ask(server, "/api/v1/models/watched/pipeline?version=1")
    assert code == 200 and said["requests"] == 3 and said["outputs"] == {"scores": "chances.scores"}
    words, chances = said["steps"]
    assert (words["model"], words["runs"], words["failures"]) == ("words", 3, 1)
    assert words["reads"] == [{"source": "text", "input": "text"}] and chances["runs"] == 3
    assert words["seconds"] >= words["run_seconds"] > 0 and words["seconds"] >= words["queue_seconds"]
    assert {edge["name"]: edge["values"] for edge in said["edges"]} == {
        "text": 6, "words.scores": 12, "chances.scores": 12,
    }  # fmt: skip
    assert ask(server, "/api/v1/models/words/pipeline")[0] == 404
    sent = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
    given = urllib.request.Request(server.url + "/v2/models/watched/infer", json.dumps(sent).encode())
    given.add_header("x-request-id", "slow-one")
    urllib.request.urlopen(given).close()
    until(lambda: main(["explain", "watched", "--request", "slow-one", "--url", server.url]) == 0)
    shown = capsys.readouterr().out
    assert "* words" in shown and "* chances" in shown and "decided when the answer was there" in shown
    one = ask(server, "/v2/models/watched/explain/slow-one")[1]
    parts = [sum(step[f"{key}_ms"] for key in ("queue", "inference", "rest")) for step in one["steps"]]
    np.testing.assert_allclose(parts, [step["latency_ms"] for step in one["steps"]], atol=1e-4)
    assert sum(parts) <= one["latency_ms"]
    assert ask(server, "/api/v1/models/watched/pipeline?version=7")[0] == 404
    assert main(["pipelines", "stats", "watched", "--url", server.url]) == 0
    shown = capsys.readouterr().out
    assert "watched:1, 4 requests" in shown and "words.scores" in shown and "stood in" in shown


def test_steps_and_models_beside_the_file_compute_equal_inputs_once(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    first = infer(server, "kept", "one", "two", "one")[1]
    again = infer(server, "kept", "two", "three", "one")[1]
    assert first["sum"][0] == first["sum"][2] == again["sum"][2] and first["sum"][1] == again["sum"][0]
    pids = {*first["pid"], *again["pid"]}
    assert 1 <= len(pids) <= 2
    tokens, network = ask(server, "/api/v1/models/kept/pipeline")[1]["steps"]
    # Tokens of a request belong together; rows of the network do not.
    assert (tokens["cache_lookups"], tokens["cache_hits"]) == (2, 0)
    assert network["cache_lookups"] == 6 and network["cache_hits"] == 3
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["three"]}]}
    given = urllib.request.Request(server.url + "/v2/models/kept/infer", json.dumps(body).encode())
    given.add_header("x-request-id", "third")
    urllib.request.urlopen(given).close()
    until(lambda: main(["explain", "kept", "--request", "third", "--url", server.url]) == 0)
    shown = capsys.readouterr().out
    assert "cached" in shown and "0 of 1" in shown and "1 of 1" in shown
    assert main(["pipelines", "stats", "kept", "--url", server.url]) == 0
    assert "4 of 7" in capsys.readouterr().out
    assert main(["cache", "explain", "--url", server.url]) == 0
    assert "kept.network" in capsys.readouterr().out


def test_a_failing_row_fails_its_own_request(server: ServerProcess) -> None:
    answers: dict[str, tuple[int, Any]] = {}

    def one(text: str) -> None:
        answers[text] = infer(server, "review", text)

    threads = [threading.Thread(target=one, args=(text,)) for text in ("fail", "good one", "bad one")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers["fail"][0] == 500 and "in pipeline 'review', " in answers["fail"][1]["error"]
    assert answers["good one"][1]["label"] == ["positive"]
    assert answers["bad one"][1]["label"] == ["negative"]


def test_short_texts_and_long_ones_have_the_tokens_that_the_library_gives(server: ServerProcess) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(700)
    texts = ["a b", "one two three " * 12, "a longer one " * 120]
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: answers.update({i: infer(server, "tokens", texts[i % 3])}))
        for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (code, said) in answers.items():
        wanted = tokenizer.encode(texts[i % 3])
        assert code == 200 and said["input_ids"] == wanted.ids, texts[i % 3][:10]
        assert said["attention_mask"] == [1] * len(wanted.ids)


def test_a_text_that_is_no_utf_8_is_refused_by_both_ways(server: ServerProcess) -> None:
    with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
        for size in (1, 2000):
            given = triton.InferInput("text", [1], "BYTES")
            given.set_data_from_numpy(np.array([b"\xff" * size], object))
            with pytest.raises(
                InferenceServerException, match="in pipeline 'tokens', text has bytes that are"
            ):
                client.infer("tokens", [given])


def test_a_deadline_that_has_passed_is_said_by_the_pipeline(server: ServerProcess) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
    body = {"inputs": [tensor], "parameters": {"timeout": 1}}
    code, said = ask(server, "/v2/models/review/infer", body)
    assert (code, said["error"]) == (503, "in pipeline 'review', Request timeout expired")


def test_a_changed_file_is_a_new_version_of_the_graph(server: ServerProcess, folder: Path) -> None:
    write(folder, "changing", '[steps.a]\nuse = "text-normalise"\n')
    until(lambda: infer(server, "changing", " A ")[1].get("text") == ["A"])
    time.sleep(0.01)
    write(folder, "changing", '[steps.a]\nuse = "text-normalise"\nlower = true\n')
    until(lambda: infer(server, "changing", " A ")[1].get("text") == ["a"])


def test_a_new_version_of_a_model_makes_a_new_copy_of_the_pipeline(
    server: ServerProcess, folder: Path
) -> None:
    code = "class Model:\n    inputs = {'x': ('FP32', [-1])}\n    outputs = {'y': ('FP32', [-1])}\n"
    code += "    def predict(self, inputs):\n        return {'y': inputs['x'] * FACTOR}\n"
    (folder / "times" / "1").mkdir(parents=True)
    (folder / "times" / "1" / "model.py").write_text(code.replace("FACTOR", "2"))
    write(folder, "asks", '[steps.a]\nmodel = "times"\n')
    until(lambda: ask(server, "/v1/models/asks", {"inputs": [1, 2]}) == (200, [2, 4]))
    (folder / "times" / "2").mkdir()
    (folder / "times" / "2" / "model.py").write_text(code.replace("FACTOR", "3"))
    until(lambda: ask(server, "/v1/models/asks", {"inputs": [1, 2]}) == (200, [3, 6]))
    assert ask(server, "/v2/models/asks")[1]["versions"] == ["1"]


def test_a_pipeline_loads_its_models_and_none_comes_by_request(folder: Path, tmp_path: Path) -> None:
    options = ["--control", "explicit", "--load", "cascade"]
    with ServerProcess([folder], tmp_path / "log", options) as running:
        running.wait_ready()
        states = {model["name"]: model["state"] for model in ask(running, "/v2/repository/index", {})[1]}
        assert states["alone"] == "READY" and states["review"] == "UNAVAILABLE"
        for toml in ('[steps.a]\nuse = "text-normalise"\n', '[steps.a]\nmodel = "alone"\n'):
            files = {"config": "{}", "file:1/pipeline.toml": base64.b64encode(toml.encode()).decode()}
            code, said = ask(running, "/v2/repository/models/strange/load", {"parameters": files})
            assert code == 400 and "came with the request and is pipeline" in said["error"]

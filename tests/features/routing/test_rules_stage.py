"""Rules on the data plane: what a model is asked, by when, and in whose place."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from servables import Declaring

from salver.features.routing.rules.copies import Copies
from salver.features.routing.rules.stage import RuleStage
from salver.features.routing.rules.table import parse
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import ALONE
from salver.words.errors import Forbidden, NotFound
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, ModelId, Signature, Standing
from salver.words.tensor import tensor


class Model(Declaring):
    """Model that answers with its name, and remembers what it was asked."""

    def __init__(self, name: str, version: str, answers: list[str]) -> None:
        self.id = ModelId(name, version)
        self.answers = answers
        self.signature = Signature((), (), batched=True, platform=name)
        self.leases = 0
        self.asked: list[tuple[InferRequest, float | None, Standing]] = []

    @property
    def servable(self) -> "Model":
        return self

    def release(self) -> None:
        self.leases -= 1

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Any = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        self.asked.append((request, deadline, standing))
        self.answers.append(str(self.id))
        return InferResponse(request.model, self.id.version, ())


class Release:
    """Stage beneath, which has a version of one model answer."""

    change = None
    is_open = False
    model, versions = "big", ("2",)

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    def begin(self, model: str, version: str, call: Call) -> "Release | None":
        self.begun.append((model, version))
        return self if model == "big" else None

    def settled(self, request: InferRequest) -> "Release":
        return self

    def wants(self, served: ModelId) -> bool:
        return False

    def end(self, *, has_begun: bool = True) -> None:
        pass

    def forget(self, call: Call) -> None:
        pass


class World(Declaring):
    """Lessor and codec; a caller gets the model that answered, as ``name:version``."""

    protocol = "test"

    def __init__(self, rules: str, release: Release | None = None) -> None:
        ids = [("small", "1"), ("big", "1"), ("big", "2")]
        self.answers: list[str] = []
        self.models = {id: Model(*id, self.answers) for id in ids}
        self.decoded: list[str] = []
        self.outcomes: list[str] = []
        self.bus = Bus([self])
        self.stage = RuleStage(Copies(ALONE, lambda: 0.0), lambda: 0.0)
        self.stage.table = parse(rules.encode(), "rules.toml")
        self.stage.beneath = release  # type: ignore[assignment]
        path = RequestPath(self, self.bus.emit, lambda: 1.0, lambda: "0" * 16, stage=self.stage)  # type: ignore[arg-type]
        self.door: DataPlane[Any, Any] = DataPlane(path)

    def acquire(self, name: str, version: str = "") -> Model:
        found = self.models.get((name, version or "1"))
        if found is None:
            raise NotFound(f"no {name}:{version}")
        found.leases += 1
        return found

    def other(self, *_: object) -> None:
        return None

    def decode(self, body: dict[str, Any], signature: Signature) -> InferRequest:
        self.decoded.append(signature.platform)
        return InferRequest("small", (tensor("x", np.zeros((3, 1))),), parameters=body)

    def encode(self, request: InferRequest, response: InferResponse) -> object:
        return self.answers[-1]

    def fault(self, error: Exception) -> Exception:
        return error

    def observe(self, events: Any) -> None:
        self.outcomes += [event.outcome for event in events]

    def ask(self, model: str = "small", body: dict[str, Any] | None = None, **call: Any) -> Any:
        asked = Call("test", 0.5, request_id="q", **call)
        assert (
            self.door.post(self, body or {}, model, "", asked, lambda *_: None) is None
        )  # no callbacks here
        said = asyncio.run(self.door.infer(self, body or {}, model, "", asked))
        self.bus.flush()
        assert all(each.leases == 0 for each in self.models.values())
        return said

    @property
    def matched(self) -> Counter[str]:
        return self.stage.matched


def rule(when: str, then: str) -> str:
    return f"[[rules]]\nname = 'r'\nwhen = {{ {when} }}\n{then}\n"


def test_another_model_answers_and_decodes_only_once_where_the_head_decides() -> None:
    world = World(rule("model = 'small', header.h = 'a'", "set = { model = 'big' }"))
    assert world.ask(traits={"header:h": "a"}) == "big:1"
    assert world.decoded == ["big"]
    assert world.ask(traits={"header:h": "b"}) == "small:1"
    assert world.decoded == ["big", "small"]
    assert world.matched == {"r": 1}


def test_another_model_decodes_again_where_the_body_decides() -> None:
    world = World(rule("model = 'small', rows = '> 2'", "set = { model = 'big', version = '2' }"))
    assert world.ask() == "big:2"
    assert world.decoded == ["small", "big"]
    assert world.matched == {"r": 1}


def test_a_rule_that_leaves_the_model_decodes_once() -> None:
    world = World(rule("rows = '> 2'", "set = { priority = 2 }"))
    assert world.ask() == "small:1"
    assert world.decoded == ["small"]


@pytest.mark.parametrize("when", ["model = 'small'", "rows = '= 3'"])
def test_its_settings_go_before_the_callers(when: str) -> None:
    then = "set = { timeout = '200ms', priority = 2, class = 'bulk', group = 'canary' }"
    world = World(rule(when, then))
    world.ask(body={"priority": 1, "timeout": 9_000_000, "tenant": "t"}, standing=Standing("", 3, "urgent"))
    request, deadline, standing = world.models["small", "1"].asked[0]
    assert request.group == "canary"
    assert deadline == pytest.approx(0.7)
    assert (standing.tenant, standing.priority, standing.service) == ("t", 2, "bulk")
    world.ask(deadline=0.6)
    assert world.models["small", "1"].asked[1][1] == 0.6


@pytest.mark.parametrize(("when", "decoded"), [("model = 'small'", []), ("parameter.p = 1", ["small"])])
def test_a_refusal_is_told_and_counted_once(when: str, decoded: list[str]) -> None:
    world = World(rule(when, "refuse = { code = 'forbidden', message = 'not today' }"))
    error = world.ask(body={"p": 1})
    assert isinstance(error, Forbidden) and error.message == "not today"
    assert world.decoded == decoded
    assert world.outcomes == ["forbidden"]
    assert world.matched == {"r": 1}


@pytest.mark.parametrize("when", ["model = 'small'", "rows = '= 3'"])
def test_a_release_of_the_model_that_a_rule_sets_chooses_its_version(when: str) -> None:
    release = Release()
    world = World(rule(when, "set = { model = 'big' }"), release)
    assert world.ask() == "big:2"
    assert set(release.begun) == {("big", "")}
    assert world.ask("big") == "big:2"


def test_where_no_rule_decides_the_release_does() -> None:
    world = World(rule("rows = '> 9'", "set = { model = 'small' }"), Release())
    assert world.ask("big") == "big:2"
    assert world.matched == {}

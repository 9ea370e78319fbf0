"""Workflows: nodes come all or not at all; requests pass through them; the models are played."""

import asyncio
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from waiting import auntil

from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.dialects.torchserve.workflows import Workflows, WorkflowsConfig
from salver.words.errors import (
    BadArchive,
    BadGraph,
    Conflict,
    DeadlineExceeded,
    HandlerFailed,
    ModelFailed,
    NoModel,
    NoWorkflow,
    WorkersFailed,
    WorkflowFailed,
)
from salver.words.handlers import (
    Form,
    HandlerReply,
    Registration,
    RegistrationResult,
    as_answer,
    form_of,
    part,
)
from salver.words.messages import Call, InferRequest, InferResponse
from salver.words.tensor import DataType, Tensor

_FAN = "models: {timeout-ms: 60000}\ndag:\n  fan: [left, right]\n  left: [join]\n  right: [join]\n"


class Played:
    """Registers nodes, and answers for them."""

    def __init__(self) -> None:
        self.there: dict[str, Registration] = {}
        self.folders: dict[str, Path | None] = {}
        self.asked: list[tuple[str, dict[str, bytes]]] = []
        self.headers: list[Any] = []
        self.deadlines: list[float | None] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.failing: dict[str, int] = {}
        self.left: list[str] = []
        self.running = self.most_running = 0

    async def register_part(self, order: Registration, folder: Path | None = None) -> RegistrationResult:
        await asyncio.sleep(0)
        if order.url == "lost.mar":
            raise NoModel("Model not found at: lost.mar")
        if order.url == "broken.mar":
            raise WorkersFailed(f"Failed to start workers for model {order.name} version: 1.0")
        assert order.name not in self.there
        self.there[order.name] = order
        self.folders[order.name] = folder
        return RegistrationResult(order.name, "1.0", 1, is_done=True)

    async def unregister_part(self, model: str) -> None:
        if model not in self.there:
            raise NoModel(f"Model not found: {model}")
        del self.there[model]

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        node = request.model.partition("__")[2]
        form = form_of(request)
        self.headers.append(form.headers)
        self.asked.append((node, {each.name: each.data.tobytes() for each in form.parts}))
        self.deadlines.append(call.deadline)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if node in self.gates:
                await self.gates[node].wait()
            await asyncio.sleep(0)
            if self.failing.get(node, 0) > 0:
                self.failing[node] -= 1
                raise ModelFailed("it failed")
            inputs = b"+".join(each.data.tobytes() for each in form.parts)
            body = b'{"j": 1}' if inputs == b"json" else node[:1].encode() + b"(" + inputs + b")"
            outputs, parameters = as_answer(HandlerReply(body, 201))
            tensors = (Tensor("body", DataType.UINT8, outputs["body"]),)
            return InferResponse(request.model, "1.0", tensors, parameters=parameters)
        except asyncio.CancelledError:
            self.left.append(node)
            raise
        finally:
            self.running -= 1


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def archives(tmp_path: Path) -> UnpackedArchives:
    return UnpackedArchives(tmp_path)


@pytest.fixture
def flows(tmp_path: Path, played: Played, archives: UnpackedArchives) -> Workflows:
    (tmp_path / "store").mkdir()
    config = WorkflowsConfig(ArchiveStoreConfig(str(tmp_path / "store")))
    return Workflows(config, played, played, archives, lambda: asyncio.get_running_loop().time())


def _write(tmp_path: Path, name: str, spec: str, handler: str = "flow.py") -> str:
    with zipfile.ZipFile(tmp_path / "store" / f"{name}.war", "w") as war:
        told = {"workflowName": name, "specFile": "flow.yaml", "handler": handler}
        war.writestr("WAR-INF/MANIFEST.json", json.dumps({"workflow": told}))
        war.writestr("flow.yaml", spec)
        war.writestr("flow.py", "def fan(data, context): return data\n")
    return f"{name}.war"


def _form(body: bytes = b"x") -> Form:
    return Form((part("body", body, "text/plain"),), {"X-Mine": "1"})


def _call(deadline: float | None = None) -> Call:
    return Call("ts-http", 0.0, deadline, "r")


@pytest.mark.clause("TS-M9")
async def test_nodes_come_and_go_with_their_workflow(
    tmp_path: Path, played: Played, flows: Workflows, archives: UnpackedArchives
) -> None:
    spec = _FAN.replace(
        "60000}", "60000, batch-size: 3, max-workers: 2, left: {url: a.mar, max-batch-delay: 7}}"
    )
    order = Registration(_write(tmp_path, "pair", spec), "two", response_timeout_s=9, startup_timeout_s=8)
    assert await flows.register(order) == "two"
    assert sorted(played.there) == ["two__fan", "two__join", "two__left", "two__right"]
    left, fan = played.there["two__left"], played.there["two__fan"]
    assert (left.url, left.handler, left.batch_size, left.max_batch_delay_ms, left.initial_workers) == (
        "a.mar",
        "",
        3,
        7,
        2,
    )
    assert (fan.url, fan.handler, fan.batch_size, fan.max_batch_delay_ms, fan.initial_workers) == (
        "",
        "flow.py:fan",
        1,
        0,
        1,
    )
    assert (fan.response_timeout_s, fan.startup_timeout_s, fan.waits) == (9, 8, True)
    folder = played.folders["two__fan"]
    assert folder is not None
    assert (folder / "flow.py").is_file()
    assert played.folders["two__left"] is None
    (status,) = flows.statuses()
    assert (status.name, status.url, status.most, status.batch_size, status.max_batch_delay_ms) == (
        "two",
        "pair.war",
        2,
        3,
        50,
    )
    assert status.graph == "{fan=[left, right], left=[join], right=[join]}"
    await flows.unregister("two")
    assert (played.there, flows.statuses(), folder.exists()) == ({}, (), False)
    with pytest.raises(NoWorkflow, match="Workflow not found: two"):
        await flows.unregister("two")


@pytest.mark.clause("TS-A12")
async def test_branches_run_side_by_side_and_meet(tmp_path: Path, played: Played, flows: Workflows) -> None:
    await flows.register(Registration(_write(tmp_path, "pair", _FAN)))
    reply = await flows.run("pair", _form(), _call())
    assert (reply.body, reply.content_type, reply.status) == (b"j(l(f(x))+r(f(x)))", "application/json", 200)
    assert dict(played.asked) == {
        "fan": {"body": b"x"},
        "left": {"body": b"f(x)"},
        "right": {"body": b"f(x)"},
        "join": {"left": b"l(f(x))", "right": b"r(f(x))"},
    }
    assert played.most_running == 2
    assert {tuple(headers.items()) for headers in played.headers} == {(("X-Mine", "1"),)}


@pytest.mark.clause("TS-A12")
async def test_several_ends_are_an_object(tmp_path: Path, played: Played, flows: Workflows) -> None:
    await flows.register(Registration(_write(tmp_path, "open", "dag:\n  fan: [left, right]\n")))
    reply = await flows.run("open", _form(), _call())
    assert json.loads(reply.body) == {"left": "l(f(x))", "right": "r(f(x))"}


@pytest.mark.clause("TS-A12")
async def test_an_end_that_answers_json_is_part_of_the_object(
    tmp_path: Path, played: Played, flows: Workflows
) -> None:
    await flows.register(Registration(_write(tmp_path, "one", "dag:\n  fan: []\n")))
    assert (await flows.run("one", _form(b"json"), _call())).body == b'{"j": 1}'


@pytest.mark.clause("TS-A12")
async def test_a_node_is_tried_again(tmp_path: Path, played: Played, flows: Workflows) -> None:
    spec = "models: {retry-attempts: 2}\ndag:\n  fan: [left]\n"
    await flows.register(Registration(_write(tmp_path, "again", spec)))
    played.failing["left"] = 2
    assert (await flows.run("again", _form(), _call())).body == b"l(f(x))"
    played.failing["left"] = 3
    with pytest.raises(HandlerFailed, match="Error executing left") as raised:
        await flows.run("again", _form(), _call())
    assert raised.value.status == 500
    assert [node for node, _ in played.asked].count("left") == 6


@pytest.mark.clause("TS-A12")
async def test_a_failure_gives_the_other_branches_up(
    tmp_path: Path, played: Played, flows: Workflows
) -> None:
    await flows.register(Registration(_write(tmp_path, "pair", _FAN)))
    played.gates["right"] = asyncio.Event()
    played.failing["left"] = 9
    with pytest.raises(HandlerFailed, match="Error executing left"):
        await flows.run("pair", _form(), _call())
    assert played.left == ["right"]
    assert "join" not in dict(played.asked)


@pytest.mark.clause("TS-A12")
async def test_a_caller_who_leaves_gives_all_up(tmp_path: Path, played: Played, flows: Workflows) -> None:
    await flows.register(Registration(_write(tmp_path, "pair", _FAN)))
    played.gates |= {"left": asyncio.Event(), "right": asyncio.Event()}
    running = asyncio.create_task(flows.run("pair", _form(), _call()))
    while played.running < 2:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(played.left) == ["left", "right"]


@pytest.mark.clause("TS-A12")
async def test_each_try_has_its_time(tmp_path: Path, played: Played, flows: Workflows) -> None:
    await flows.register(
        Registration(_write(tmp_path, "timed", "models: {timeout-ms: 5000}\ndag: {fan: [left]}"))
    )
    now = asyncio.get_running_loop().time()
    await flows.run("timed", _form(), _call())
    assert all(deadline is not None and now + 5 <= deadline < now + 100 for deadline in played.deadlines)
    await flows.run("timed", _form(), _call(now + 3))
    assert played.deadlines[2:] == [now + 3] * 2
    with pytest.raises(DeadlineExceeded):
        await flows.run("timed", _form(), _call(now - 1))


@pytest.mark.clause("TS-A12")
async def test_many_requests_have_their_own_answers(tmp_path: Path, played: Played, flows: Workflows) -> None:
    await flows.register(Registration(_write(tmp_path, "pair", _FAN)))
    bodies = [str(number).encode() for number in range(50)]
    replies = await asyncio.gather(*(flows.run("pair", _form(body), _call()) for body in bodies))
    assert [reply.body for reply in replies] == [b"j(l(f(%b))+r(f(%b)))" % (body, body) for body in bodies]


@pytest.mark.clause("TS-M9")
async def test_a_node_that_does_not_come_takes_the_others_along(
    tmp_path: Path, played: Played, flows: Workflows
) -> None:
    spec = "models:\n  left: {url: lost.mar}\n  right: {url: broken.mar}\ndag:\n  fan: [left, right]\n"
    url = _write(tmp_path, "flow", spec)
    with pytest.raises(WorkflowFailed) as raised:
        await flows.register(Registration(url))
    assert raised.value.message == (
        "Workflow flow has failed to register. Failures: [Workflow Node flow__left failed to register. "
        "Details: Model not found at: lost.mar, Failed to start workers for model flow__right version: 1.0]"
    )
    assert (played.there, flows.statuses()) == ({}, ())
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob("salver-handlers-*/*")))
    _write(tmp_path, "flow", "dag:\n  fan: [left]\n")
    assert await flows.register(Registration(url)) == "flow"


@pytest.mark.clause("TS-M9")
async def test_one_of_two_that_come_together_is_the_second(tmp_path: Path, flows: Workflows) -> None:
    order = Registration(_write(tmp_path, "pair", _FAN))
    done = await asyncio.gather(flows.register(order), flows.register(order), return_exceptions=True)
    assert done.count("pair") == 1
    (error,) = [each for each in done if isinstance(each, Conflict)]
    assert error.message == "Workflow pair is already registered."
    with pytest.raises(Conflict):
        await flows.register(order)
    assert len(flows.statuses()) == 1


@pytest.mark.clause("TS-M9")
async def test_a_registration_goes_on_without_its_caller(tmp_path: Path, flows: Workflows) -> None:
    coming = asyncio.create_task(flows.register(Registration(_write(tmp_path, "pair", _FAN))))
    await asyncio.sleep(0)
    coming.cancel()
    await auntil(flows.statuses)
    assert [status.name for status in flows.statuses()] == ["pair"]


@pytest.mark.clause("TS-M9")
@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("no_such.war", NoWorkflow, "Workflow not found in workflow store: no_such.war"),
        ("../pair.war", NoWorkflow, r"Relative path is not allowed in url: \.\./pair\.war"),
        ("http://127.0.0.1:1/a.war", NoWorkflow, "does not match any allowed URL"),
        ("cycle.war", BadGraph, "DAG should have only one start node"),
        ("text.war", BadArchive, "is no archive of a workflow"),
    ],
)
async def test_what_cannot_be_had(
    tmp_path: Path, flows: Workflows, url: str, error: type[Exception], text: str
) -> None:
    _write(tmp_path, "cycle", "dag:\n  a: [b]\n  b: [a]\n")
    (tmp_path / "store" / "text.war").write_text("no zip")
    with pytest.raises(error, match=text):
        await flows.register(Registration(url))


@pytest.mark.clause("TS-M9")
async def test_models_of_elsewhere_only_where_that_is_allowed(tmp_path: Path, flows: Workflows) -> None:
    spec = "models:\n  left: {url: 'http://127.0.0.1:1/a.mar'}\ndag:\n  fan: [left]\n"
    with pytest.raises(WorkflowFailed, match="does not match any allowed URL"):
        await flows.register(Registration(_write(tmp_path, "far", spec)))


@pytest.mark.clause("TS-M9")
@pytest.mark.parametrize("name", ["../x", "a/b", "a\nb", "x" * 300])
async def test_names_that_cannot_be(tmp_path: Path, flows: Workflows, name: str) -> None:
    with pytest.raises(BadArchive, match="cannot be the name"):
        await flows.register(Registration(_write(tmp_path, "pair", _FAN), name))


@pytest.mark.clause("TS-R10")
async def test_a_workflow_that_is_not_there(flows: Workflows) -> None:
    with pytest.raises(NoWorkflow, match="Workflow not found: nobody"):
        await flows.run("nobody", _form(), _call())

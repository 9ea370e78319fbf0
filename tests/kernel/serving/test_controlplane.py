"""Who may change what is served, and what a tick does."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from waiting import auntil

from salver.kernel.repository import NamedModel
from salver.kernel.repository.uploads import Upload, bring
from salver.kernel.serving.controlplane import ControlMode, ControlPlane, PollFailed
from salver.words.artifacts import Ensemble, EnsembleStep, LoadOrder, Manifest, ModelConfig
from salver.words.errors import Conflict, Forbidden, LoadFailed, NotFound, NotReady
from salver.words.messages import ModelId, State, VersionStatus


def m(name: str, version: str = "1", fingerprint: str = "a", problem: str = "", *notices: str) -> Manifest:
    return Manifest(
        ModelId(name, version),
        Path("/x"),
        "onnx",
        "onnx",
        fingerprint=fingerprint,
        problem=problem,
        notices=notices,
    )


class FakeRepository:
    def __init__(self, *found: Manifest) -> None:
        self.found = found
        self.overrides: dict[str, Upload] = {}
        self.brought: list[Upload] = []
        self.is_settling = False
        self.error: Exception | None = None
        self.asked: list[frozenset[str]] = []
        self.placed: list[NamedModel] = []

    def place(self, places: Sequence[NamedModel]) -> None:
        self.placed = list(places)

    def bring(self, name: str, order: LoadOrder) -> Upload:
        self.brought.append(bring(name, order))
        return self.brought[-1]

    def config_of(self, name: str) -> str:
        brought = self.overrides.get(name)
        return brought.config if brought else ""

    def scan(self, now: float, at_once: frozenset[str] = frozenset()) -> tuple[Manifest, ...]:
        self.asked.append(at_once)
        if self.error:
            raise self.error
        return tuple(
            msgspec.structs.replace(f, fingerprint=f.fingerprint + self.config_of(f.id.name))
            for f in self.found
        )


class FakeManager:
    def __init__(self) -> None:
        self.applied: list[list[str]] = []
        self.loads: list[str] = []
        self.error: Exception | None = None
        self.known: Sequence[Manifest] = ()
        self.lives_on: set[Path] = set()
        self.moved = asyncio.Event()

    def apply(self, known: Sequence[Manifest]) -> None:
        self.known = known
        self.applied.append([str(k.id) for k in known])

    async def load(self, name: str) -> None:
        self.loads.append(name)
        if self.error:
            raise self.error

    async def vacated(self, folder: Path) -> None:
        while folder in self.lives_on:
            await self.moved.wait()

    def statuses(self) -> tuple[VersionStatus, ...]:
        return tuple(VersionStatus(k.id, State.READY, "", "onnx") for k in self.known)


class Pauses:
    """A sleep that ends when told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.go: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self.go.get()


class Rig:
    def __init__(self, mode: ControlMode, *found: Manifest) -> None:
        self.repository = FakeRepository(*found)
        self.manager = FakeManager()
        self.pauses = Pauses()
        self.plane = ControlPlane(self.repository, self.manager, mode, lambda: 0.0, self.pauses.sleep)

    async def tick(self) -> float:
        """One more look; the pause that follows it."""
        self.pauses.go.put_nowait(None)
        return await self.pauses.asked.get()


async def test_none_takes_what_is_there_once() -> None:
    rig = Rig(ControlMode(), m("a"), m("b"))
    await rig.plane.start()
    assert rig.manager.applied == [["a:1", "b:1"]]
    await rig.plane.stop()
    assert len(rig.repository.asked) == 1


async def test_poll_follows_changes() -> None:
    rig = Rig(ControlMode("poll", 7.0), m("a"))
    await rig.plane.start()
    assert await rig.pauses.asked.get() == 7.0
    rig.repository.found = (m("a"), m("a", "2"))
    assert await rig.tick() == 7.0
    assert rig.manager.applied == [["a:1"], ["a:1", "a:2"]]
    rig.repository.is_settling = True
    assert await rig.tick() == 1.0, "looks again soon while something is being written"
    await rig.plane.stop()


async def test_what_a_scan_found_is_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(ControlMode("poll", 7.0), m("a"))
    one, other = (m("a"),), (m("a"),)  # equal, of different scans of the files
    found = iter([one, one, one, other])
    monkeypatch.setattr(rig.repository, "scan", lambda now, at_once: next(found))
    await rig.plane.start()
    await rig.pauses.asked.get()
    await rig.tick()
    await rig.tick()
    assert len(rig.manager.applied) == 1
    await rig.tick()
    assert len(rig.manager.applied) == 2
    await rig.plane.stop()


@pytest.mark.parametrize("error", [LoadFailed("disk gone"), RuntimeError("a defect")])
async def test_a_scan_that_fails_changes_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(ControlMode("poll", 7.0), m("a"))
    await rig.plane.start()
    await rig.pauses.asked.get()
    rig.repository.error = error
    await rig.tick()
    assert rig.manager.applied == [["a:1"]]
    assert "all stays as it is" in caplog.text
    assert str(error) in caplog.text
    rig.repository.error = None
    rig.repository.found = (m("b"),)
    await rig.tick()
    assert rig.manager.applied[-1] == ["b:1"]
    await rig.plane.stop()


async def test_a_first_scan_that_fails_is_an_error() -> None:
    rig = Rig(ControlMode())
    rig.repository.error = NotFound("models does not exist")
    with pytest.raises(NotFound):
        await rig.plane.start()
    await rig.plane.stop()


@pytest.mark.parametrize("kind", ["none", "poll"])
async def test_requests_change_nothing_outside_explicit_mode(kind: str) -> None:
    rig = Rig(ControlMode(kind), m("a"))  # type: ignore[arg-type]
    await rig.plane.start()
    for call in (rig.plane.load("a"), rig.plane.unload("a")):
        with pytest.raises(NotReady) as caught:
            await call
        assert caught.value.triton == "explicit model load / unload is not allowed if polling is enabled"
        assert str(caught.value).endswith("Start it with --control explicit.")
    assert rig.manager.applied == [["a:1"]]
    await rig.plane.stop()


async def test_explicit_starts_with_what_is_named() -> None:
    for load, expected in (((), []), (("b",), ["b:1"]), (("*",), ["a:1", "b:1"])):
        rig = Rig(ControlMode("explicit", load=load), m("a"), m("b"))
        await rig.plane.start()
        assert rig.manager.applied == [expected]


async def test_explicit_start_with_a_name_that_is_not_there() -> None:
    rig = Rig(ControlMode("explicit", load=("z",)), m("a"))
    with pytest.raises(NotFound, match=r"cannot load z at start: no such model. There are: a"):
        await rig.plane.start()


async def test_explicit_load_and_unload() -> None:
    rig = Rig(ControlMode("explicit"), m("a"), m("b"))
    await rig.plane.start()
    await rig.plane.load("a")
    await rig.plane.load("b")
    assert rig.repository.asked[1:] == [frozenset({"a"}), frozenset({"b"})]
    assert rig.manager.loads == ["a", "b"]
    await rig.plane.unload("a")
    assert rig.manager.applied == [[], ["a:1"], ["a:1", "b:1"], ["b:1"]]
    await rig.plane.unload("never heard of")
    assert rig.manager.applied[-1] == ["b:1"]


async def test_the_index_lists_what_is_not_loaded() -> None:
    rig = Rig(ControlMode("explicit"), m("a", "9"), m("a", "10"), m("b", problem="torn"))
    await rig.plane.start()
    assert [(str(s.id), s.state.value, s.reason) for s in rig.plane.index()] == [
        ("a:9", "GONE", ""),
        ("a:10", "GONE", ""),
        ("b:1", "GONE", "torn"),
    ]
    await rig.plane.load("a")
    assert [s.state.value for s in rig.plane.index()] == ["READY", "READY", "GONE"]
    await rig.plane.unload("a")
    assert [s.reason for s in rig.plane.index()] == ["unloaded", "unloaded", "torn"]


async def test_loading_what_is_not_there() -> None:
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    with pytest.raises(PollFailed, match=r"^model 'z' cannot be loaded: no such"):
        await rig.plane.load("z", LoadOrder("{}"))
    assert rig.repository.overrides == {}
    rig.repository.found = (m("a"), m("z"))
    await rig.plane.load("a")
    assert rig.manager.applied[-1] == ["a:1"], "a refused load is not remembered"


async def test_a_load_that_fails_tells_why() -> None:
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    rig.manager.error = LoadFailed("torn")
    with pytest.raises(LoadFailed, match="torn"):
        await rig.plane.load("a")


async def test_a_configuration_in_the_request_lasts_until_unload() -> None:
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    await rig.plane.load("a", LoadOrder('{"maxBatchSize": 4}'))
    await rig.plane.load("a")
    assert rig.repository.config_of("a") == '{"maxBatchSize": 4}'
    rig.repository.error = LoadFailed("disk gone")
    with pytest.raises(PollFailed, match="cannot be loaded: disk gone"):
        await rig.plane.load("a", LoadOrder("{}"))
    assert rig.repository.config_of("a") == '{"maxBatchSize": 4}'
    await rig.plane.unload("a")
    assert rig.repository.overrides == {}


@pytest.mark.clause("TR-L4")
async def test_an_order_that_fails_leaves_a_loaded_model_as_it_was() -> None:
    """TR-L4."""
    rig = Rig(ControlMode("explicit"), m("a"), m("b"))
    await rig.plane.start()
    await rig.plane.load("a", LoadOrder("good"))
    rig.manager.error = LoadFailed("torn")
    with pytest.raises(LoadFailed, match="torn"):
        await rig.plane.load("a", LoadOrder("bad", {"1/m": b"x"}))
    assert rig.repository.config_of("a") == "good"
    assert [k.fingerprint for k in rig.manager.known] == ["agood"]
    await auntil(lambda: not lingers(rig))
    assert rig.manager.loads == ["a", "a"]


@pytest.mark.clause("TR-R12")
async def test_a_first_order_that_fails_is_kept_until_the_next_one() -> None:
    """TR-R12: its reason stands in the index, and the server is not ready."""
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    rig.manager.error = LoadFailed("torn")
    with pytest.raises(LoadFailed):
        await rig.plane.load("a", LoadOrder("bad"))
    assert [k.fingerprint for k in rig.manager.known] == ["abad"]
    with pytest.raises(LoadFailed):
        await rig.plane.load("a", LoadOrder("worse"))
    assert [k.fingerprint for k in rig.manager.known] == ["aworse"]
    rig.manager.error = None
    await rig.plane.load("a")
    assert [k.fingerprint for k in rig.manager.known] == ["a"], "the model's own configuration"


@pytest.mark.clause("TR-R12", "TR-R13")
async def test_files_that_came_by_request_go_when_nothing_lives_on_them() -> None:
    """TR-R12, TR-R13."""
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    await rig.plane.load("a", LoadOrder("{}", {"1/m": b"first"}))
    (first,) = rig.repository.brought
    assert first.folder is not None
    assert (first.folder / "1/m").read_bytes() == b"first"
    rig.manager.lives_on = {first.folder}
    await rig.plane.load("a", LoadOrder("{}", {"1/m": b"second"}))
    second = rig.repository.brought[1]
    assert second.folder is not None
    await asyncio.sleep(0.05)
    assert first.folder.exists(), "requests in flight still need it"
    rig.manager.lives_on = {second.folder}
    rig.manager.moved.set()
    await auntil(lambda: not first.folder.exists())  # type: ignore[union-attr]
    await rig.plane.unload("a")
    rig.manager.lives_on = set()
    await auntil(lambda: not second.folder.exists())  # type: ignore[union-attr]


async def test_files_that_came_by_request_go_with_the_server() -> None:
    rig = Rig(ControlMode("explicit"), m("a"), m("b"))
    await rig.plane.start()
    for name in ("a", "b"):
        await rig.plane.load(name, LoadOrder("{}", {"1/m": b"x"}))
    rig.manager.lives_on = {b.folder for b in rig.repository.brought if b.folder}
    await rig.plane.unload("b")
    await rig.plane.close()
    assert not any(b.folder.exists() for b in rig.repository.brought if b.folder)


@pytest.mark.clause("TR-R12")
async def test_files_without_a_configuration_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """TR-R12."""
    rig = Rig(ControlMode("explicit"), m("a"))
    await rig.plane.start()
    with pytest.raises(PollFailed) as caught:
        await rig.plane.load("a", LoadOrder(files={"1/m": b"x"}))
    assert caught.value.triton == "failed to load 'a', failed to poll from model repository"
    assert str(caught.value).startswith("model 'a' cannot be loaded: files came without a configuration.")
    assert "send the parameter `config`, too" in caplog.text
    assert rig.repository.brought == []


@pytest.mark.clause("TR-L3")
async def test_a_load_touches_no_other_model() -> None:
    """TR-L3: changed files of a model count when somebody asks for it."""
    rig = Rig(ControlMode("explicit"), m("a"), m("b"))
    await rig.plane.start()
    await rig.plane.load("a")
    rig.repository.found = (m("a", fingerprint="new"), m("b"), m("c"))
    await rig.plane.load("b")
    assert [(k.id.name, k.fingerprint) for k in rig.manager.known] == [("a", "a"), ("b", "a")]
    assert [s.id.name for s in rig.plane.index()] == ["a", "b", "c"]
    await rig.plane.load("a")
    assert [(k.id.name, k.fingerprint) for k in rig.manager.known] == [("a", "new"), ("b", "a")]
    rig.repository.found = (m("b"),)
    with pytest.raises(PollFailed, match="no such model there"):
        await rig.plane.load("a")
    await rig.plane.load("b")
    assert {k.id.name for k in rig.manager.known} == {"a", "b"}, "what runs, runs on"


@pytest.mark.clause("TR-R12")
async def test_a_configuration_that_cannot_be_read_is_not_loaded() -> None:
    """TR-R12."""
    unreadable = msgspec.structs.replace(m("a", problem="line 3: no such field"), is_unreadable=True)
    rig = Rig(ControlMode("explicit"), unreadable)
    await rig.plane.start()
    with pytest.raises(PollFailed, match=r"^model 'a' cannot be loaded: line 3: no such field$"):
        await rig.plane.load("a")
    assert rig.manager.loads == []


def lingers(rig: Rig) -> bool:
    """Is there a folder that is not in force?"""
    kept = list(rig.repository.overrides.values())
    return any(b.folder and b.folder.exists() for b in rig.repository.brought if b not in kept)


async def test_notices_and_problems_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(ControlMode("poll"), m("a", "1", "f", "", "no effect yet"), m("b", problem="torn"))
    await rig.plane.start()
    await rig.pauses.asked.get()
    await rig.tick()
    assert caplog.text.count("a:1: no effect yet") == 1
    assert caplog.text.count("b:1 cannot be served: torn") == 1
    await rig.plane.stop()


# -- ensembles ---------------------------------------------------------------------------------


def made_of(name: str, *members: str) -> Manifest:
    steps = tuple(EnsembleStep(member, "", {"x": "a"}, {"y": "b"}) for member in members)
    return msgspec.structs.replace(m(name), config=ModelConfig(ensemble=Ensemble(steps)))


FAMILY = (made_of("outer", "inner", "a"), made_of("inner", "b"), made_of("other", "b"), m("a"), m("b"))


def loaded(rig: Rig) -> str:
    return " ".join(id.partition(":")[0] for id in rig.manager.applied[-1])


@pytest.mark.clause("TR-R12")
async def test_loading_an_ensemble_loads_its_models() -> None:
    rig = Rig(ControlMode("explicit"), *FAMILY)
    await rig.plane.start()
    await rig.plane.load("outer")
    assert loaded(rig) == "a b inner outer"
    assert rig.manager.loads == ["outer"]


@pytest.mark.clause("TR-L3")
async def test_ensembles_named_at_the_start_bring_their_models() -> None:
    rig = Rig(ControlMode("explicit", load=("other",)), *FAMILY)
    await rig.plane.start()
    assert loaded(rig) == "b other"


@pytest.mark.clause("TR-R13")
async def test_the_models_of_an_ensemble_stay_unless_asked_to_go() -> None:
    rig = Rig(ControlMode("explicit"), *FAMILY)
    await rig.plane.start()
    await rig.plane.load("outer")
    await rig.plane.unload("outer")
    assert loaded(rig) == "a b inner"
    await rig.plane.load("outer")
    await rig.plane.unload("outer", dependents=True)
    assert rig.manager.applied[-1] == []


@pytest.mark.clause("TR-R13")
async def test_what_others_need_or_somebody_named_stays() -> None:
    rig = Rig(ControlMode("explicit"), *FAMILY)
    await rig.plane.start()
    await rig.plane.load("a")
    await rig.plane.load("other")
    await rig.plane.load("outer")
    await rig.plane.load("inner")  # loaded already: as in Triton it stays its ensemble's
    await rig.plane.unload("outer", dependents=True)
    assert loaded(rig) == "a b other"
    await rig.plane.unload("other", dependents=True)
    assert loaded(rig) == "a"


@pytest.mark.clause("TR-R13")
async def test_a_model_may_be_taken_from_its_ensemble() -> None:
    rig = Rig(ControlMode("explicit"), *FAMILY)
    await rig.plane.start()
    await rig.plane.load("outer")
    await rig.plane.unload("b")
    assert loaded(rig) == "a inner outer"
    await rig.plane.load("outer")
    assert loaded(rig) == "a b inner outer"


@pytest.mark.clause("TR-R12")
async def test_files_that_have_just_been_written_count_for_all_of_an_ensemble() -> None:
    rig = Rig(ControlMode("explicit"), *FAMILY)
    await rig.plane.start()
    await rig.plane.load("a")
    rig.repository.is_settling = True
    await rig.plane.load("outer")
    assert rig.repository.asked[-2:] == [frozenset({"outer"}), frozenset({"outer", "inner", "b"})]
    assert loaded(rig) == "a b inner outer"


@pytest.mark.clause("TR-R12")
async def test_an_ensemble_without_its_models_is_the_lifecycles_to_refuse() -> None:
    rig = Rig(ControlMode("explicit"), made_of("lost", "nowhere"))
    await rig.plane.start()
    rig.manager.error = LoadFailed("nowhere")
    with pytest.raises(LoadFailed, match="nowhere"):
        await rig.plane.load("lost")


@pytest.mark.clause("TR-V2")
async def test_models_that_come_with_an_ensemble_come_anew_each_time(tmp_path: Path) -> None:
    """SageMaker names a folder with all of them."""
    rig = Rig(ControlMode("explicit"), made_of("whole", "part"), m("part"))
    await rig.plane.start()
    for time in ("first", "second"):
        folder = tmp_path / time
        brought = Upload(time, folder=folder, members={"part": folder})
        rig.repository.bring = lambda name, order, brought=brought: brought  # type: ignore[method-assign]
        rig.repository.found = (made_of("whole", "part"), m("part", fingerprint=time))
        await rig.plane.load("whole", LoadOrder(time))
        assert [k.fingerprint for k in rig.manager.known if k.id.name == "part"] == [time]
    await rig.plane.unload("whole")
    assert rig.manager.applied[-1] == []


async def test_each_owner_replaces_its_own_list_and_no_other() -> None:
    rig = Rig(ControlMode())
    await rig.plane.start()
    mine, theirs = NamedModel("a", "/a"), NamedModel("b", "/b")
    await rig.plane.replace([mine])
    await rig.plane.replace([theirs], "registry")
    assert rig.repository.placed == [mine, theirs]
    await rig.plane.replace([], "registry")
    assert rig.repository.placed == [mine]
    await rig.plane.replace([theirs], "registry")
    with pytest.raises(Conflict, match="two lists name the model b"):
        await rig.plane.replace([mine, theirs])
    assert rig.repository.placed == [mine, theirs]


async def test_what_the_registry_serves_no_request_changes() -> None:
    rig = Rig(ControlMode("explicit", load=("*",)), m("a"), m("theirs"))
    await rig.plane.start()
    await rig.plane.replace([NamedModel("theirs", "/theirs")], "registry")
    for order in (LoadOrder(config="{}"), LoadOrder("{}", {"1/model.onnx": b""}), LoadOrder(folder="/other")):
        with pytest.raises(Forbidden, match="salver registry alias"):
            await rig.plane.load("theirs", order)
    with pytest.raises(Forbidden, match="which alone says"):
        await rig.plane.unload("theirs")
    assert rig.repository.brought == []
    assert "theirs:1" in rig.manager.applied[-1]
    await rig.plane.load("theirs")  # as the registry means it
    await rig.plane.load("a", LoadOrder("{}", {"1/model.onnx": b""}))
    await rig.plane.replace([NamedModel("theirs", "/theirs"), NamedModel("a", "/a")], "registry")
    assert "a" not in rig.repository.overrides
    await auntil(lambda: not rig.repository.brought[-1].folder.exists())  # type: ignore[union-attr]
    await rig.plane.replace([NamedModel("theirs", "/theirs")], "registry")
    await rig.plane.load("a", LoadOrder(config="{}"))
    await rig.plane.unload("a")
    await rig.plane.replace([], "registry")
    await rig.plane.unload("theirs")
    await rig.plane.close()

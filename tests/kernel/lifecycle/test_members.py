"""Ensembles follow their models: when they wait, of which copies they are made, and what ends them."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managing import ManagerRig
from waiting import PATIENCE_S, auntil

from salver.kernel.lifecycle import Manager
from salver.kernel.lifecycle.members import BoundEnsembles, bind, with_members
from salver.kernel.lifecycle.policy import Drain, Load, Present, plan
from salver.words.artifacts import Ensemble, EnsembleStep, Manifest, ModelConfig
from salver.words.errors import LoadFailed, NotFound, NotReady, SalverError
from salver.words.messages import ModelId, State


def m(name: str, *members: str, version: str = "1", fingerprint: str = "a", problem: str = "") -> Manifest:
    """A model, or an ensemble of some (``name`` or ``name:version``)."""
    steps = tuple(
        EnsembleStep(model, wanted, {"x": "a"}, {"y": "b"})
        for model, _, wanted in (member.partition(":") for member in members)
    )
    config = ModelConfig(ensemble=Ensemble(steps))
    return Manifest(ModelId(name, version), Path("/x"), "", "", config, fingerprint, problem=problem)


def copy(key: int, name: str, state: State, fingerprint: str = "a", version: str = "1", **more) -> Present:
    return Present(key, ModelId(name, version), fingerprint, state, **more)


READY, LOADING, FAILED = State.READY, State.LOADING, State.FAILED


@pytest.mark.clause("TR-S6")
def test_lists_without_ensembles_are_left_alone() -> None:
    known = [m("a"), m("b")]
    assert bind(known, [copy(1, "a", READY)]) == BoundEnsembles(tuple(known))


CASES: list[tuple[str, list[Manifest], list[Present], str, str, str]] = [
    ("its model is due", [m("e", "a"), m("a")], [], "a+?", "waits for its models a", ""),
    ("its model loads", [m("e", "a"), m("a")], [copy(1, "a", LOADING)], "a+?", "waits for its models a", ""),
    ("its model is there", [m("e", "a"), m("a")], [copy(1, "a", READY)], "a+1", "", ""),
    (
        "the newest copy counts",
        [m("e", "a"), m("a")],
        [copy(1, "a", READY), copy(4, "a", READY), copy(2, "a", READY, version="0")],
        "a+4",
        "",
        "",
    ),
    (
        "one of its models loads",
        [m("e", "a", "b"), m("a"), m("b")],
        [copy(1, "a", READY), copy(2, "b", LOADING)],
        "a+?",
        "waits for its models b",
        "",
    ),
    (
        "what runs is enough while its successor loads",
        [m("e", "a"), m("a", fingerprint="b")],
        [copy(1, "a", READY), copy(2, "a", LOADING, "b")],
        "a+1",
        "",
        "",
    ),
    (
        "a model that will be tried again",
        [m("e", "a"), m("a")],
        [copy(1, "a", FAILED, retry_at=9.0)],
        "a+?",
        "waits for its models a",
        "",
    ),
    (
        "models that are not there",
        [m("e", "c", "a", "b"), m("a")],
        [copy(1, "a", READY)],
        "",
        "",
        "ensemble e contains models that are not available or ambiguous: b, c",
    ),
    (
        "a model that does not load",
        [m("e", "a"), m("a")],
        [copy(1, "a", FAILED, reason="torn")],
        "",
        "",
        "ensemble 'e' depends on 'a' which has no loaded version. Model 'a' loading failed with "
        "error: version 1 "
        "is at UNAVAILABLE state: torn;",
    ),
    (
        "a model that is wrong",
        [m("e", "a"), m("a", problem="no file")],
        [],
        "",
        "",
        "ensemble 'e' depends on 'a' which is not valid. Model 'a' failed with error: no file",
    ),
    (
        "a version that there is not",
        [m("e", "a:7"), m("a")],
        [copy(1, "a", READY)],
        "",
        "",
        "ensemble 'e' depends on 'a' whose required version 7 is not loaded.",
    ),
    ("a version that there is", [m("e", "a:1"), m("a")], [copy(1, "a", READY)], "a+1", "", ""),
    (
        "an ensemble of itself",
        [m("e", "e")],
        [],
        "",
        "",
        "circular dependency between ensembles: e -> ... -> e -> e",
    ),
    (
        "ensembles of each other",
        [m("e", "f"), m("f", "g"), m("g", "e")],
        [],
        "",
        "",
        "circular dependency between ensembles: e -> ... -> g -> e",
    ),
    (
        "an ensemble of one that waits",
        [m("e", "f"), m("f", "a"), m("a")],
        [],
        "a+?",
        "waits for its models f",
        "",
    ),
    (
        "an ensemble of one that is broken, though it still runs",
        [m("e", "f"), m("f", "a")],
        [copy(1, "f", READY, "a+9")],
        "",
        "",
        "ensemble 'e' depends on 'f' which is not valid. Model 'f' failed with error: ensemble "
        "f contains models "
        "that are not available or ambiguous: a",
    ),
    (
        "an ensemble of one that runs",
        [m("e", "f", "a"), m("f", "a"), m("a")],
        [copy(1, "a", READY), copy(2, "f", READY, "a+1")],
        "a+2,1",
        "",
        "",
    ),
]


@pytest.mark.clause("TR-S6")
@pytest.mark.parametrize(
    ("known", "present", "fingerprint", "waits", "problem"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_can_be_made_of_an_ensemble(
    known: list[Manifest], present: list[Present], fingerprint: str, waits: str, problem: str
) -> None:
    bound = bind(known, present)
    found = bound.known[0]
    assert (found.problem, bound.waiting.get(found.id, "")) == (problem, waits)
    assert (found.id in bound.broken) == bool(problem)
    if not problem:
        assert found.fingerprint == fingerprint


@pytest.mark.clause("TR-S6")
def test_closure() -> None:
    known = [m("e", "f", "a"), m("f", "b"), m("a"), m("b"), m("c")]
    assert with_members(known, frozenset({"e"})) == {"e", "f", "a", "b"}
    assert with_members(known, frozenset({"c", "nosuch"})) == {"c", "nosuch"}


@pytest.mark.clause("TR-S6")
def test_a_step_for_those_that_wait_or_are_broken() -> None:
    known = [m("e", "a"), m("a")]
    present = [copy(1, "e", READY, "a+9")]
    bound = bind(known, present)
    assert plan(bound.known, present, 0.0, bound.waiting, bound.broken) == (Load(known[1]),)
    present = [*present, copy(2, "a", FAILED, reason="torn")]
    bound = bind(known, present)
    assert plan(bound.known, present, 0.0, bound.waiting, bound.broken) == (Drain(1),)


# -- the manager -------------------------------------------------------------------------------


@pytest.fixture
async def rig() -> ManagerRig:
    return ManagerRig()


def loaded(rig: ManagerRig) -> list[str]:
    return [servable.tag for servable in rig.loader.loaded]


@pytest.mark.clause("TR-S6")
async def test_an_ensemble_is_loaded_after_its_models(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load b:1@a")
    rig.manager.apply([m("e", "a", "b"), m("a"), m("b")])
    await auntil(lambda: rig.states()["a:1"] == "READY")
    assert rig.states() == {"e:1": "NEW", "a:1": "READY", "b:1": "LOADING"}
    assert rig.reason("e:1") == "waits for its models b"
    assert not rig.manager.ready()
    with pytest.raises(
        NotReady, match=r"'e' has no available versions \(version 1 is NEW: waits for its models b"
    ):
        rig.manager.acquire("e")
    with pytest.raises(NotReady, match=r"'e' version 1 is not at ready state \(version 1 is NEW: waits"):
        rig.manager.acquire("e", "1")
    gate.set()
    await rig.manager.settled("e")
    assert loaded(rig) == ["a:1@a", "b:1@a", "e:1@a+1,2"]
    assert rig.manager.ready()


@pytest.mark.clause("TR-S6")
async def test_a_model_that_is_replaced_makes_another_ensemble_of_it(rig: ManagerRig) -> None:
    rig.manager.apply([m("e", "a"), m("a")])
    await rig.manager.settled()
    old = rig.manager.acquire("e")
    held = rig.manager.acquire("a")  # as the ensemble does, as long as it lives
    rig.manager.apply([m("e", "a"), m("a", fingerprint="b")])
    await rig.manager.settled()
    assert rig.manager.acquire("e").servable.tag == "e:1@a+3"
    assert old.servable.closed == 0
    old.release()
    await auntil(lambda: old.servable.closed == 1)
    assert held.servable.closed == 0
    held.release()
    await auntil(lambda: held.servable.closed == 1)


@pytest.mark.clause("TR-S6")
async def test_an_ensemble_that_does_not_fit_the_new_model_stays_with_the_old_one(
    rig: ManagerRig,
) -> None:
    rig.manager.apply([m("e", "a"), m("a")])
    await rig.manager.settled()
    rig.loader.errors["e:1@a+3"] = LoadFailed("inconsistent shape")
    rig.manager.apply([m("e", "a"), m("a", fingerprint="b")])
    await rig.manager.settled()
    assert rig.manager.acquire("e").servable.tag == "e:1@a+1"
    assert "the new ones did not load: inconsistent shape" in rig.reason("e:1")
    rig.manager.apply([m("e", "a"), m("a", fingerprint="c")])
    await rig.manager.settled()
    assert rig.manager.acquire("e").servable.tag == "e:1@a+5"


@pytest.mark.clause("TR-R13")
async def test_without_one_of_its_models_an_ensemble_goes_and_comes_back(rig: ManagerRig) -> None:
    rig.manager.apply([m("e", "a"), m("a")])
    await rig.manager.settled()
    old = rig.manager.acquire("e")
    rig.manager.apply([m("e", "a")])
    with pytest.raises(NotFound, match="'e' has no available versions"):
        rig.manager.acquire("e")
    assert rig.states()["e:1"] == "DRAINING"
    assert old.servable.closed == 0
    old.release()
    await auntil(lambda: rig.states() == {"e:1": "FAILED"})
    text = "ensemble e contains models that are not available or ambiguous: a"
    assert rig.reason("e:1") == text
    assert not rig.manager.ready()
    with pytest.raises(NotFound, match=rf"'e' has no available versions \({text}\)"):
        rig.manager.acquire("e")
    with pytest.raises(LoadFailed, match=rf"^load failed for model 'e': {text}"):
        await rig.manager.load("e")
    rig.manager.apply([m("e", "a"), m("a")])
    await rig.manager.settled("e")
    assert rig.manager.acquire("e").servable.tag == "e:1@a+3"


@pytest.mark.clause("TR-R12")
async def test_loading_an_ensemble_tries_its_models_again(rig: ManagerRig) -> None:
    rig.loader.errors["a:1@a"] = LoadFailed("torn")
    rig.manager.apply([m("e", "a"), m("a")])
    with pytest.raises(LoadFailed, match=r"^load failed for model 'e': ensemble 'e' depends on 'a' .* torn;"):
        await rig.manager.load("e")
    rig.loader.errors.clear()
    await rig.manager.load("e")
    assert rig.manager.acquire("e").servable.tag.startswith("e:1@a+")


@pytest.mark.clause("TR-S6")
async def test_at_the_end_ensembles_go_first(rig: ManagerRig) -> None:
    rig.manager.apply([m("e", "a"), m("a")])
    await rig.manager.settled()
    held = rig.manager.acquire("a")
    ensemble = rig.manager.acquire("e")
    ending = asyncio.create_task(rig.manager.drain(5))
    await auntil(lambda: rig.states() == {"e:1": "DRAINING", "a:1": "DRAINING"})
    ensemble.release()
    await auntil(lambda: ensemble.servable.closed == 1)
    held.release()
    await ending
    assert rig.states() == {}


# -- anything may happen -----------------------------------------------------------------------


class Holder:
    """A loader whose ensembles hold their models as the real one does."""

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing
        self.manager: Manager[Holding]
        self.turns = iter(range(0))

    async def load(self, manifest: Manifest) -> "Holding":
        for _ in range(next(self.turns, 0)):
            await asyncio.sleep(0)
        if f"{manifest.id.name}{manifest.fingerprint}" in self.failing:
            raise LoadFailed("torn")
        held = []
        try:
            for model, version in manifest.config.ensemble.models:
                held.append(self.manager.acquire(model, version))
        except SalverError as error:
            for lease in held:
                lease.release()
            raise LoadFailed(str(error)) from error
        return Holding(held)


class Holding:
    leave = None
    processes: tuple[int, ...] = ()

    def __init__(self, held: list) -> None:
        self.held = held
        self.is_closed = False

    async def warm(self, config: ModelConfig) -> None:
        assert not any(lease.servable.is_closed for lease in self.held)

    async def close(self) -> None:
        assert not any(lease.servable.is_closed for lease in self.held), "a model went before its ensemble"
        self.is_closed = True
        for lease in self.held:
            lease.release()


MADE_OF = {"a": (), "b": (), "e": ("a", "b"), "f": ("e", "a"), "g": ("b:1",)}
lists = st.dictionaries(st.sampled_from(sorted(MADE_OF)), st.sampled_from("xyz"))


@pytest.mark.clause("TR-S6")
@settings(max_examples=80)
@given(st.lists(lists, min_size=1, max_size=6), st.sets(st.sampled_from(["ax", "by"])), st.data())
def test_whatever_comes_and_goes_ensembles_follow(changes, failing, data) -> None:
    async def walk() -> None:
        loader = Holder(failing)
        loader.turns = iter(data.draw(st.lists(st.integers(0, 5), max_size=40)))
        manager: Manager[Holding] = Manager(loader, lambda: 0.0, lambda event: None, None, lambda _: None)
        loader.manager = manager
        for change in changes:
            manager.apply([m(name, *MADE_OF[name], fingerprint=mark) for name, mark in change.items()])
            for _ in range(data.draw(st.integers(0, 8))):
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await manager.settled()
            wanted = changes[-1]
            up = {s.id.name for s in manager.statuses() if s.state is State.READY}

            def can_be(name: str) -> bool:
                there = name in wanted and (f"{name}{wanted[name]}" not in failing or name in up)
                return there and all(can_be(member.partition(":")[0]) for member in MADE_OF[name])

            assert up == {name for name in wanted if can_be(name)}
            for name in up:
                held = manager.acquire(name).servable.held
                models = [manager.acquire(lease.id.name).servable for lease in held]
                assert [lease.servable for lease in held] == models, "made of the copies that answer"
                for lease in held:
                    assert not lease.servable.is_closed
            before = list(manager.servables())
            manager._tick()
            assert manager.servables() == before

    asyncio.run(walk())

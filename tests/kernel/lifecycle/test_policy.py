"""The policy converges, is idempotent, and never takes the last answer away."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from salver.kernel.lifecycle.policy import (
    MOVES,
    Adjust,
    Drain,
    Forget,
    Load,
    Present,
    Step,
    advance,
    choose,
    plan,
    version_key,
)
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.messages import ModelId, State


def manifest(
    name: str, version: str, fingerprint: str = "a", versions: Versions | None = None, problem: str = ""
) -> Manifest:
    return Manifest(
        ModelId(name, version),
        Path("/x"),
        "onnx",
        "onnx",
        ModelConfig(versions=versions or Versions()),
        fingerprint,
        problem=problem,
    )


def present(
    key: int, version: str, state: State, fingerprint: str = "a", retry_at: float | None = None
) -> Present:
    return Present(key, ModelId("m", version), fingerprint, state, retry_at)


# -- choosing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (Versions(), ["10"]),
        (Versions(latest=2), ["10", "9"]),
        (Versions(latest=99), ["10", "9", "2"]),
        (Versions(all=True), ["10", "9", "2"]),
        (Versions(specific=("2", "9", "77")), ["9", "2"]),
        (Versions(specific=("77",)), []),
    ],
)
def test_version_policies(versions: Versions, expected: list[str]) -> None:
    found = [manifest("m", v, versions=versions) for v in ("9", "10", "2")]
    assert [m.id.version for m in choose(found)] == expected


def test_a_version_with_a_problem_is_not_among_the_latest() -> None:
    found = [manifest("m", "1"), manifest("m", "2", problem="torn")]
    assert [m.id.version for m in choose(found)] == ["1"]


def test_versions_are_ordered_by_number() -> None:
    assert sorted(["10", "9", "0009", "x", "1"], key=version_key) == ["x", "1", "0009", "9", "10"]


# -- single steps ------------------------------------------------------------------------------

CASES: list[tuple[str, list[Manifest], list[Present], list[Step]]] = [
    ("nothing wanted, nothing there", [], [], []),
    ("a new model is loaded", [manifest("m", "1")], [], [Load(manifest("m", "1"))]),
    (
        "the old one stays while the new one loads",
        [manifest("m", "2")],
        [present(1, "1", State.READY), present(2, "2", State.LOADING)],
        [],
    ),
    (
        "the old one stays while the new one warms up",
        [manifest("m", "2")],
        [present(1, "1", State.READY), present(2, "2", State.WARMING)],
        [],
    ),
    (
        "the old one goes once the new one is ready",
        [manifest("m", "2")],
        [present(1, "1", State.READY), present(2, "2", State.READY)],
        [Drain(1)],
    ),
    (
        "a failed new one keeps the old one",
        [manifest("m", "2")],
        [present(1, "1", State.READY), present(2, "2", State.FAILED)],
        [],
    ),
    (
        "a failed one is tried again at its time",
        [manifest("m", "2")],
        [present(2, "2", State.FAILED, retry_at=5.0)],
        [Load(manifest("m", "2"))],
    ),
    ("and not before", [manifest("m", "2")], [present(2, "2", State.FAILED, retry_at=5.1)], []),
    (
        "a failed one is tried again when its files changed",
        [manifest("m", "2", "b")],
        [present(2, "2", State.FAILED, "a")],
        [Forget(2), Load(manifest("m", "2", "b"))],
    ),
    (
        "changed files load beside the running copy",
        [manifest("m", "1", "b")],
        [present(1, "1", State.READY, "a")],
        [Load(manifest("m", "1", "b"))],
    ),
    (
        "the copy of before goes once the new copy is ready",
        [manifest("m", "1", "b")],
        [present(1, "1", State.READY, "a"), present(2, "1", State.READY, "b")],
        [Drain(1)],
    ),
    (
        "a reload that failed keeps its own old copy although another version is ready",
        [manifest("m", "1", "b", Versions(all=True)), manifest("m", "2", "a", Versions(all=True))],
        [present(1, "1", State.READY, "a"), present(2, "1", State.FAILED, "b"), present(3, "2", State.READY)],
        [],
    ),
    ("a model that is gone is drained", [], [present(1, "1", State.READY)], [Drain(1)]),
    (
        "a model whose configuration broke keeps running",
        [manifest("m", "1", "b", problem="line 3")],
        [present(1, "1", State.READY)],
        [],
    ),
    (
        "one that waits for its turn and is not wanted is forgotten",
        [],
        [present(1, "1", State.NEW)],
        [Forget(1)],
    ),
    ("one that loads and is not wanted is left to end", [], [present(1, "1", State.LOADING)], []),
    (
        "one that drains and is wanted again is loaded anew",
        [manifest("m", "1")],
        [present(1, "1", State.DRAINING)],
        [Load(manifest("m", "1"))],
    ),
]


@pytest.mark.parametrize(("known", "there", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_single_steps(known: list[Manifest], there: list[Present], expected: list[Step]) -> None:
    assert list(plan(known, there, now=5.0)) == expected


# -- whole lives -------------------------------------------------------------------------------


def body(fingerprint: str, body: str = "same") -> Manifest:
    return replace(manifest("m", "1", fingerprint), body=body)


@pytest.mark.clause("TR-L4")
@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (replace(present(1, "1", State.READY), body="same"), Adjust(1, body("b"))),
        (replace(present(1, "1", State.READY), body="same", is_adjusting=True), None),
        (replace(present(1, "1", State.READY), body="other"), Load(body("b"))),
        (present(1, "1", State.READY), Load(body("b"))),  # it cannot be changed in place
        (replace(present(1, "2", State.READY), body="same"), Load(body("b"))),
        (replace(present(1, "1", State.LOADING), body="same"), Load(body("b"))),
    ],
)
def test_what_differs_in_its_instances_alone_is_changed_in_place(
    there: Present, expected: Step | None
) -> None:
    steps = plan([body("b")], [there], 0.0)
    assert steps == (() if expected is None else (expected,))


class World:
    """Carries out steps on records; loads end when ``finish`` says so."""

    def __init__(self) -> None:
        self.copies: dict[int, Present] = {}
        self.next_key = 0

    def tick(self, known: list[Manifest]) -> tuple[Step, ...]:
        steps = plan(known, tuple(self.copies.values()), 0.0)
        for step in steps:
            match step:
                case Load(m):
                    self.next_key += 1
                    self.copies[self.next_key] = Present(self.next_key, m.id, m.fingerprint, State.NEW)
                case Drain(key):
                    self.to(key, State.DRAINING)
                case Forget(key):
                    advance(self.copies[key].state, State.GONE)
                    del self.copies[key]
        return steps

    def to(self, key: int, state: State) -> None:
        copy = self.copies[key]
        self.copies[key] = msgspec.structs.replace(copy, state=advance(copy.state, state))

    def finish(self, key: int, fails: bool, wanted: bool) -> None:
        """One move of a copy as the manager would make it."""
        state = self.copies[key].state
        if state is State.NEW:
            self.to(key, State.LOADING)
        elif state in (State.LOADING, State.WARMING) and not wanted:
            self.to(key, State.UNLOADING)
        elif state in (State.LOADING, State.WARMING) and fails:
            self.to(key, State.FAILED)
        elif state is State.LOADING:
            self.to(key, State.WARMING)
        elif state is State.WARMING:
            self.to(key, State.READY)
        elif state is State.DRAINING:
            self.to(key, State.UNLOADING)
        elif state is State.UNLOADING:
            del self.copies[key]

    def answering(self) -> set[str]:
        return {c.id.name for c in self.copies.values() if c.state is State.READY}


_POLICIES = [Versions(), Versions(latest=2), Versions(all=True), Versions(specific=("1", "3"))]


@st.composite
def lists(draw: st.DrawFn) -> list[Manifest]:
    found = []
    for name in draw(st.sets(st.sampled_from("pq"))):
        policy = draw(st.sampled_from(_POLICIES))
        for version in draw(st.sets(st.sampled_from("123"))):
            mark = draw(st.sampled_from("ab"))
            problem = draw(st.sampled_from(["", "", "", "torn"]))
            found.append(manifest(name, version, mark, policy, problem))
    return found


@given(
    st.lists(
        st.tuples(lists(), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12)), max_size=5
    ),
    lists(),
)
def test_converges_and_never_takes_the_last_answer_away(
    history: list[tuple[list[Manifest], list[tuple[int, bool]]]], final: list[Manifest]
) -> None:
    world = World()

    def tick(known: list[Manifest]) -> None:
        before = world.answering()
        world.tick(known)
        named = {m.id.name for m in known}
        assert before & named <= world.answering(), "a wanted model lost its last ready version"
        assert world.tick(known) == (), "a second tick without a change does nothing"

    def wanted(key: int, known: list[Manifest]) -> bool:
        copy = world.copies[key]
        return any(m.id == copy.id and m.fingerprint == copy.fingerprint for m in choose(known))

    for known, moves in history:
        tick(known)
        for pick, fails in moves:
            if world.copies:
                key = sorted(world.copies)[pick % len(world.copies)]
                world.finish(key, fails, wanted(key, known))
                tick(known)
    tick(final)
    for _ in range(60):
        for key in list(world.copies):
            if key in world.copies:
                world.finish(key, False, wanted(key, final))
        tick(final)
    chosen = {(m.id, m.fingerprint) for m in choose(final)}
    up = {(c.id, c.fingerprint) for c in world.copies.values() if c.state is State.READY}
    down = {(c.id, c.fingerprint) for c in world.copies.values() if c.state is State.FAILED}
    assert chosen <= up | down
    named = {m.id.name for m in final}
    surplus = up - chosen
    assert all(id.name in named for id, _ in surplus), "nothing of an unwanted model is left"
    for id, _ in surplus:  # only where no successor came up
        same = [(i, f) for i, f in chosen if i == id]
        others = [(i, f) for i, f in chosen if i.name == id.name]
        assert not any(pair in up for pair in same or others)
    assert all(c.state in (State.READY, State.FAILED) for c in world.copies.values())


def test_every_state_has_its_moves_and_ends() -> None:
    assert set(MOVES) == set(State)
    for state in State:
        reached, edge = {state}, {state}
        while edge:
            edge = {after for before in edge for after in MOVES[before]} - reached
            reached |= edge
        assert State.GONE in reached


def test_a_move_that_is_not_in_the_table_is_a_defect() -> None:
    with pytest.raises(ValueError, match="no move from READY to LOADING"):
        advance(State.READY, State.LOADING)

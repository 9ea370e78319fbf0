"""A request whose model is in a release: its arm's version answers, nobody sees an error of the split."""

import asyncio

import msgspec
import numpy as np
import pytest
from servables import Declaring

from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.splitting import Splitting
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.inner import Inner
from salver.words.errors import InvalidInput, ModelFailed, NotReady
from salver.words.events import Served
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, ModelId, Signature, Standing
from salver.words.releases import Arm, Condition, Shadow, Split
from salver.words.tensor import tensor

SPLIT = Split("r1", "m", stable="1", canary="2", weight=1.0, salt="s")
PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Version(Declaring):
    """One that answers with its number."""

    def __init__(self, number):
        self.id = ModelId("m", number)
        self.signature = Signature((), (), batched=True, platform=number)
        self.leases = 0
        self.seen = []
        self.error = None
        self.sequences = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @property
    def servable(self):
        return self

    def release(self):
        self.leases -= 1

    async def infer(self, request, deadline=None, sender=None, standing=ANYBODY):
        self.seen.append(request)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return InferResponse("m", self.id.version, (tensor("p", [1.0]),))


class Known:
    """Sequences that a version remembers."""

    def __init__(self, *ids):
        self.ids = ids

    def knows(self, request):
        return request.parameters.get("sequence_id") in self.ids


class World(Declaring):
    """Lessor and codec; what a caller gets is the number of the version that answered."""

    protocol = "test"

    def __init__(self, *splits, mirror=None):
        self.versions = {number: Version(number) for number in "123"}
        self.absent = set()
        self.acquired = []
        self.events = []
        self.answers = []
        self.decoded = []
        self.bus = Bus([self])
        self.router = Router()
        self.router.replace(splits)
        self.under_way = ActiveRequests(lambda: 1.0)
        self.splitting = Splitting(self.router, mirror, self.answers.append, self.under_way)
        self.door = DataPlane(
            RequestPath(self, self.bus.emit, lambda: 1.0, lambda: "0" * 16, stage=self.splitting)
        )

    def acquire(self, name, version=""):
        self.acquired.append((name, version))
        version = version or "3"  # the newest
        if version in self.absent or version not in self.versions:
            raise NotReady(f"{name}:{version} is loading")
        self.versions[version].leases += 1
        return self.versions[version]

    def other(self, name, version, is_wanted):
        for one in self.versions.values():
            if version in ("", one.id.version) and is_wanted(one):
                one.leases += 1
                return one
        return None

    def decode(self, body, signature):
        self.decoded.append(signature.platform)
        if body == "broken":
            raise InvalidInput("no")
        return InferRequest("m", (tensor("x", np.zeros((1, 1))),), parameters=body or {})

    def encode(self, request, response):
        return response.version

    def fault(self, error):
        return error

    def observe(self, events):
        self.events.extend(events)

    async def ask(self, body=None, asked="", model="m", how="infer", **call):
        call = Call("test", 0.0, request_id="q1", **call)
        said = await getattr(self.door, how)(self, body, model, asked, call)
        assert all(version.leases == 0 for version in self.versions.values())
        self.bus.flush()
        return said

    @property
    def sent(self):
        return self.events[-1].assignment


def having(**changes):
    return msgspec.structs.replace(SPLIT, **changes)


USER = {"header:x-user-id": "ada"}


@pytest.mark.parametrize("how", ["infer", "stream"])
async def test_the_arms_version_answers_and_the_event_says_why(how):
    world = World(SPLIT)
    assert await world.ask(how=how, traits=USER) == "2"
    assert world.decoded == ["2"]  # once, by the signature of the version that answers
    assert (world.sent.arm, world.events[-1].unit, world.sent.reason) == (Arm.CANARY, "ada", "hash")
    world.router.replace([having(weight=0.0)])
    assert await world.ask(how=how, traits=USER) == "1"
    assert world.sent.arm is Arm.STABLE


async def test_who_names_a_version_gets_it_and_is_in_no_release():
    world = World(SPLIT)
    assert await world.ask(asked="3", traits=USER) == "3"
    assert world.sent is None


async def test_other_models_are_not_split():
    world = World(having(model="n"))
    assert await world.ask(traits=USER) == "3"
    assert world.sent is None


async def test_a_release_of_a_label_splits_those_who_name_it():
    world = World(having(asked=("champion",)))
    assert await world.ask(asked="champion", traits=USER) == "2"
    assert await world.ask(model="m@champion", traits=USER) == "2"
    assert world.acquired[-1] == ("m", "2")
    assert await world.ask(traits=USER) == "3"


@pytest.mark.parametrize("how", ["infer", "stream"])
async def test_a_parameter_names_the_unit_and_the_request_is_read_as_its_version_wants_it(how):
    world = World(SPLIT)
    assert await world.ask({"user": "ada"}, how=how) == "2"
    assert world.decoded == ["1", "2"]
    assert world.events[-1].unit == "ada"
    world.router.replace([having(weight=0.0)])
    assert await world.ask({"user": "ada"}, how=how) == "1"
    assert world.decoded == ["1", "2", "1"]


async def test_the_same_unit_is_in_the_same_arm_however_it_is_named():
    split = having(weight=0.5, units=("header:x-user-id", "parameter:user", "tenant", "request"))
    world = World(split)
    for number in range(30):
        name = f"u{number}"
        said = {
            await world.ask(traits={"header:x-user-id": name}),
            await world.ask({"user": name}),
            await world.ask(standing=Standing(name)),
            await world.ask({"tenant": name}),
        }
        assert len(said) == 1


async def test_a_request_without_a_name_is_a_unit_of_its_own():
    world = World(SPLIT)
    assert await world.ask() == "2"
    assert (world.events[-1].unit, world.sent.has_unit) == ("q1", False)


@pytest.mark.parametrize("how", ["infer", "stream"])
@pytest.mark.parametrize(("body", "traits"), [(None, USER), ({"user": "ada"}, None)])
async def test_a_canary_that_is_not_ready_is_stood_in_for_by_the_stable_version(how, body, traits):
    world = World(SPLIT)
    world.absent = {"2"}
    assert await world.ask(body, how=how, traits=traits) == "1"
    event = world.events[-1]
    assert (event.outcome, event.version, event.assignment.version) == ("ok", "1", "2")


async def test_without_both_whoever_answers_those_without_a_release_does():
    world = World(SPLIT)
    world.absent = {"1", "2"}
    assert await world.ask(traits=USER) == "3"
    assert (world.events[-1].version, world.sent.version) == ("3", "2")
    world.absent = {"1", "2", "3"}
    assert isinstance(await world.ask(traits=USER), NotReady)
    assert world.sent.arm is Arm.CANARY


async def test_errors_of_the_canary_are_its_own():
    world = World(SPLIT)
    world.versions["2"].error = ModelFailed("boom")
    assert isinstance(await world.ask(traits=USER), ModelFailed)
    event = world.events[-1]
    assert (event.outcome, event.version, event.assignment.arm) == ("model_failed", "2", Arm.CANARY)


async def test_what_cannot_be_read_is_in_no_arm_until_its_parameters_are():
    world = World(SPLIT)
    assert isinstance(await world.ask("broken"), InvalidInput)
    assert world.sent is None
    assert isinstance(await world.ask("broken", traits=USER), InvalidInput)
    assert world.sent.arm is Arm.CANARY


async def test_a_body_that_the_canary_alone_cannot_read_leaves_no_lease():
    world = World(SPLIT)

    def decode(body, signature):
        if signature.platform == "2":
            raise InvalidInput("the canary has no such input")
        return InferRequest("m", (), parameters={"user": "ada"})

    world.decode = decode
    assert isinstance(await world.ask({}), InvalidInput)
    assert world.events[-1].version == "1"


@pytest.mark.parametrize("traits", [USER, None])
async def test_sequences_stay_where_they_began(traits):
    world = World(SPLIT)
    world.versions["1"].sequences = Known(7)
    for version in "23":
        world.versions[version].sequences = Known()
    assert await world.ask({"sequence_id": 7, "user": "ada"}, traits=traits) == "1"
    assert world.sent is None  # it says nothing of the canary
    assert await world.ask({"sequence_id": 8, "user": "ada"}, traits=traits) == "2"
    assert world.sent.arm is Arm.CANARY
    world.versions["2"].sequences = Known(8)
    world.router.replace([having(weight=0.0)])  # rolled back
    assert await world.ask({"sequence_id": 8, "user": "ada"}, traits=traits) == "2"


async def test_conditions_on_parameters():
    world = World(having(only=(Condition("parameter:tier", ("gold",)),)))
    assert await world.ask({"tier": "gold"}, traits=USER) == "2"
    assert await world.ask({"tier": "iron"}, traits=USER) == "1"
    assert world.sent.reason == "excluded"


async def test_what_is_asked_in_a_requests_service_is_the_same_units():
    split = having(weight=0.5)
    world = World(split)
    inner = Inner(lambda: world.door)
    request = InferRequest("m", (tensor("x", np.zeros((1, 1))),))
    for number in range(20):
        outer = Call("test", 0.0, request_id=f"q{number}", traceparent=PARENT)
        world.splitting.carry(outer, InferRequest("graph", (), parameters={"user": f"u{number}"}))
        step = Call("ensemble", 0.0, request_id="other", parent=PARENT)
        said = await inner.infer(request, step)
        assert said.version == await world.ask(traits={"header:x-user-id": f"u{number}"})
        assert world.events[-2].unit == f"u{number}"
        del world.splitting.carried[PARENT]
    late = Call("ensemble", 0.0, request_id="q9", parent=PARENT)
    await inner.infer(request, late)
    assert late.traits is None


async def test_models_that_are_held_together_are_split_too():
    world = World(SPLIT)
    held = Inner(lambda: world.door).hold([("m", "")])
    request = InferRequest("m", (tensor("x", np.zeros((1, 1))),))
    said = await held.infer(request, Call("ensemble", 0.0, request_id="q", traits=USER))
    assert said.version == "2"
    world.absent = {"2", "1"}
    said = await held.infer(request, Call("ensemble", 0.0, request_id="q", traits=USER))
    assert said.version == "3"  # the one that is held
    held.release()
    assert all(version.leases == 0 for version in world.versions.values())


class Mirror:
    """Notes what it is offered."""

    def __init__(self):
        self.offered = []

    is_full = False

    def join(self, carried):
        self.carried = carried

    def has_room(self, split):
        return not self.is_full

    def offer(self, *given):
        self.offered.append(given)


@pytest.mark.parametrize("how", ["infer", "stream"])
async def test_an_answer_of_the_stable_version_is_offered_to_the_mirror(how):
    mirror = Mirror()
    world = World(having(weight=0.0, shadow=Shadow()), mirror=mirror)
    assert await world.ask({"user": "ada"}, how=how) == "1"
    ((split, request, pieces, call),) = mirror.offered
    assert (split.canary, call.unit, request.parameters) == ("2", "ada", {"user": "ada"})
    assert ([piece.version for piece in pieces], call.request_id) == (["1"], "q1")
    world.versions["1"].error = ModelFailed("boom")
    await world.ask({"user": "ada"}, how=how)
    assert len(mirror.offered) == 1  # there was no answer to compare with
    world.versions["1"].error, mirror.is_full = None, True
    assert await world.ask({"user": "ada"}, how=how) == "1"
    assert len(mirror.offered) == 1


@pytest.mark.parametrize("how", ["infer", "stream"])
@pytest.mark.parametrize(
    ("change", "is_told"),
    [({}, True), ({"is_watched": False}, False), ({"always": frozenset(["ada"])}, False)],
)
async def test_a_release_that_wants_to_know_is_told_what_was_answered(how, change, is_told):
    world = World(having(weight=1.0, **{"is_watched": True, **change}))
    await world.ask({"user": "ada"}, how=how)
    world.bus.flush()
    assert [answer.assignment.version for answer in world.answers] == ["2"] * is_told
    assert all(answer.outputs[0].name == "p" for answer in world.answers)
    assert sum(type(event) is Served for event in world.events) == 1


async def test_many_at_once_each_find_their_arm():
    world = World(having(weight=0.5))
    alone = {f"u{n}": await world.ask({"user": f"u{n}"}) for n in range(20)}
    asks = [
        world.door.infer(world, {"user": unit}, "m", "", Call("test", 0.0, request_id=unit)) for unit in alone
    ]
    assert await asyncio.gather(*asks) == list(alone.values())


@pytest.mark.parametrize("units", [("request",), ("header:x-user-id", "parameter:user", "tenant", "request")])
async def test_requests_of_a_sequence_are_one_unit_where_they_name_no_other(units):
    world = World(having(weight=0.5, units=units))
    for version in "123":
        world.versions[version].sequences = Known()
    met = set()
    for id in range(1, 21):
        await world.ask({"sequence_id": id, "sequence_start": True})
        began = world.sent
        world.versions[began.version].sequences = Known(id)
        for _ in range(5):
            assert await world.ask({"sequence_id": id}) == began.version
            assert world.sent is began  # each of them counts, in the arm of the first
            assert world.events[-1].unit == f"sequence:{id}"
        met.add(began.version)
    assert (met, began.has_unit) == ({"1", "2"}, True)


@pytest.mark.parametrize("how", ["infer", "stream"])
async def test_what_another_version_answers_is_neither_watched_nor_copied(how):
    mirror = Mirror()
    split = having(weight=0.0, is_watched=True, shadow=Shadow())
    world = World(split, mirror=mirror)
    world.absent = {"1"}
    assert await world.ask({"user": "ada"}, how=how) == "3"
    world.router.replace([having(weight=1.0, is_watched=True)])
    world.absent = {"2"}
    assert await world.ask({"user": "ada"}, how=how) == "1"
    assert not mirror.offered and not world.answers


class Speaker(Version):
    """Answers in many pieces."""

    pieces = 3

    async def stream(self, request, deadline=None, standing=ANYBODY):
        for _ in range(self.pieces):
            yield InferResponse("m", self.id.version, (tensor("p", [1.0]),))


@pytest.mark.parametrize("pieces", [3, 5000])
async def test_of_an_answer_in_pieces_so_many_are_kept_as_fit(pieces):
    mirror = Mirror()
    world = World(having(weight=0.0, is_watched=True, shadow=Shadow()), mirror=mirror)
    world.versions["1"] = Speaker("1")
    world.versions["1"].pieces = pieces
    written = []

    async def write(reply):
        written.append(reply)

    call = Call("test", 0.0, request_id="q1", traits=USER)
    assert await world.door.stream(world, None, "m", "", call, write) is None
    world.bus.flush()
    (told,) = world.answers
    ((_, _, offered, _),) = mirror.offered
    assert len(written) == pieces
    if pieces == 3:
        assert (len(offered), len(told.outputs), told.are_chosen) == (3, 3, False)
    else:
        assert (offered, told.outputs) == (None, None)


class Member(Version):
    """One that keeps its answers."""

    logging = None
    kept = 0

    async def infer(self, request, deadline=None, sender=None, standing=ANYBODY):
        self.kept += 1
        return await super().infer(request, deadline, sender, standing)

    uncached = Version.infer


async def test_what_is_asked_in_the_service_of_a_copy_leaves_no_trace():
    mirror = Mirror()
    world = World(having(weight=1.0, is_watched=True), mirror=mirror)
    world.versions["3"] = Member("3")
    inner = Inner(lambda: world.door)
    request = InferRequest("m", (tensor("x", np.zeros((1, 1))),))
    mirror.carried[PARENT] = {"copy": "true"}
    call = Call("ensemble", 0.0, request_id="q", parent=PARENT)
    said = await inner.infer(request, call)
    world.bus.flush()
    assert said.version == "3"  # not split
    assert (world.events, world.answers, world.versions["3"].kept) == ([], [], 0)
    below = Call("bls", 0.0, request_id="q", parent=call.traceparent)
    world.splitting.carry(call, request)  # it asks others itself
    await inner.infer(request, below)
    assert (world.events, world.answers) == ([], [])
    del mirror.carried[PARENT]
    held = inner.hold([("m", "3")])
    mirror.carried[PARENT] = {"copy": "true"}
    await held.infer(msgspec.structs.replace(request, version="3"), Call("e", 0.0, parent=PARENT))
    world.bus.flush()
    assert (world.events, world.answers) == ([], [])
    await held.infer(request, Call("e", 0.0, request_id="q"))
    world.bus.flush()
    assert (len(world.events), len(world.answers)) == (1, 1)
    held.release()


@pytest.mark.parametrize("units", [SPLIT.units, ("parameter:user", "request")], ids=["early", "by the body"])
async def test_who_waits_for_too_long_is_told_once_whatever_becomes_of_it(units):
    world = World(msgspec.structs.replace(SPLIT, units=units))
    canary, under_way = world.versions["2"], world.under_way
    canary.may_answer.clear()

    def ask():
        call = Call("test", 0.0, request_id="q1")
        return asyncio.create_task(world.door.infer(world, None, "m", "", call))

    waits, leaves = (ask() for _ in range(2))
    await asyncio.sleep(0)
    assert (under_way.overdue("r1", 1.0), under_way.overdue("r2", 0.5)) == ([], [])
    told = under_way.overdue("r1", 0.5) + under_way.overdue("r1", 0.5)
    assert [(one.outcome, one.latency, one.version, one.assignment.arm) for one in told] == [
        ("deadline_exceeded", 1.0, "2", Arm.CANARY)
    ] * 2
    assert under_way.overdue("r1", 0.5) == []
    assert (under_way.waiting("r1", 0.5), under_way.waiting("r2", 0.5)) == ((2, 1.0), (0, 0.0))
    leaves.cancel()
    canary.may_answer.set()
    assert await waits == "2"
    with pytest.raises(asyncio.CancelledError):
        await leaves
    await world.ask()
    world.bus.flush()
    counted = [event.assignment is not None for event in world.events]
    assert sorted(counted) == [False, False, True]
    assert under_way.ways == {}


async def test_a_request_that_goes_on_elsewhere_waits_for_nothing():
    world = World(SPLIT)
    world.versions["1"].sequences = Known(7)
    world.versions["2"].sequences = Known()
    assert await world.ask({"sequence_id": 7}) == "1"  # where it began, in no release
    call = Call("test", 0.0, request_id="q1")
    assert world.door.post(world, None, "m", "", call, None) is None
    assert world.under_way.ways == {}

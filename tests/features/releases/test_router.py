"""The table of splits: replaced as a whole, found by model, and curious of few headers."""

import msgspec
import pytest

from salver.features.releases.experiments.router import Route, Router
from salver.words.errors import InvalidInput
from salver.words.messages import Call, InferRequest, Standing
from salver.words.releases import Arm, Condition, Shadow, Split

SPLIT = Split("r1", "m", stable="1", canary="2", weight=1.0, salt="s1")


def having(**changes):
    return msgspec.structs.replace(SPLIT, **changes)


def request(**parameters):
    return InferRequest("m", (), parameters=parameters)


def unit(number):
    return {"header:x-user-id": f"u{number}", "request": "q"}


def call(**more):
    return Call("test", 0.0, request_id="q1", **more)


def settled(route, traits):
    return route.settled(call(), traits)


def test_an_empty_table_wants_nothing():
    router = Router()
    assert not router
    assert router.headers == {}
    assert router.find("m", "") is None


def test_a_model_is_found_by_what_its_callers_say():
    router = Router()
    router.replace([SPLIT, having(release="r2", model="n", asked=("champion",))])
    assert router
    assert router.find("m", "").splits == (SPLIT,)
    assert router.find("m", "2") is None
    assert router.find("n", "") is None
    assert router.find("n", "champion").splits[0].release == "r2"
    assert router.find("n@champion", "").splits[0].release == "r2"
    assert router.find("m@", "") is None


def test_headers_of_units_and_conditions_are_wanted():
    router = Router()
    router.replace([SPLIT, having(release="r2", model="n", only=(Condition("header:x-region", ("eu",)),))])
    assert router.headers == {b"x-user-id": "header:x-user-id", b"x-region": "header:x-region"}
    router.replace([having(units=("request",))])
    assert router.headers == {}


def test_a_table_that_cannot_be_leaves_the_one_before():
    router = Router()
    router.replace([SPLIT])
    with pytest.raises(InvalidInput):
        router.replace([SPLIT, SPLIT])
    assert router.find("m", "").splits == (SPLIT,)
    router.replace([])
    assert not router


def test_traits_are_of_the_call_then_of_its_parameters():
    router = Router()
    router.replace([SPLIT])
    assert router.traits(call()) == {"request": "q1"}
    known = router.traits(
        call(traits={"header:x-user-id": "ada"}, standing=Standing("acme")),
        request(user=7, tenant="other", temperature=0.5),
    )
    expected = {"header:x-user-id": "ada", "tenant": "acme", "request": "q1", "parameter:user": "7"}
    assert known == expected
    assert router.traits(call(), request(tenant="acme", user=""))["tenant"] == "acme"
    assert "parameter:user" not in router.traits(call(), request(user=""))


def test_what_an_outer_request_is_goes_before_what_an_inner_one_says():
    router = Router()
    router.replace([SPLIT])
    outer = {"parameter:user": "ada", "request": "outer"}
    assert router.traits(call(traits=outer), request(user="bo")) == outer


def test_a_unit_outside_one_slice_is_in_the_next_ones():
    halves = [
        having(layer="l", slice=(0.0, 0.5)),
        having(release="r2", canary="3", layer="l", slice=(0.5, 1.0)),
    ]
    router = Router()
    router.replace(halves)
    found = router.find("m", "")
    met = {settled(found, unit(n)).assignment.version for n in range(50)}
    assert met == {"2", "3"}


def test_a_unit_outside_every_slice_meets_the_stable_version():
    quarters = Route(
        (
            having(layer="l", slice=(0.0, 0.1)),
            having(release="r2", canary="3", layer="l", slice=(0.1, 0.2)),
        )
    )
    found = [settled(quarters, unit(n)) for n in range(100)]
    out = [(one.split.release, one.versions) for one in found if one.assignment.reason == "excluded"]
    assert 60 < len(out) < 95
    assert set(out) == {("r1", ("1",))}


def test_a_plan_is_open_while_the_body_may_change_it():
    told, open_ = having(units=("header:x-user-id", "request")), having(release="r2", layer="l")
    asked = call()
    assert not Route((told,)).early(asked, {"request": "q"}).assignment.has_unit
    assert asked.unit == "q"
    both = Route((told, open_))
    plan = both.early(call(), {"request": "q"})
    assert (plan.assignment, plan.versions) == (None, ("1",))
    assert both.early(call(), unit(1)) is settled(both, unit(1))


def test_the_plan_of_a_unit_is_made_once_where_nothing_else_matters():
    route = Route((SPLIT,))
    traits = {"header:x-user-id": "ada"}
    asked = call(traits=traits)
    plan = route.recall(asked)
    assert asked.unit == "ada"
    assert plan is settled(route, {**traits, "request": "q1"})
    assert route.recall(call(traits={**traits, "tenant": "acme"})) is plan
    for more in (None, {"tenant": "ada"}, {"request": "q"}):
        assert route.recall(call(traits=more)) is None
    assert Route((having(units=("request",)),)).recall(call(traits={"request": "q"})) is None


@pytest.mark.parametrize(
    "rules",
    [
        *({"weight": weight} for weight in (0.0, 0.01, 0.25, 0.5, 0.75, 1.0)),
        {"always": frozenset({"u1"}), "never": frozenset({"u2"})},
        {"holdback": 0.3},
        {"layer": "l", "slice": (0.0, 0.5)},
        {"shadow": Shadow(share=0.5)},
        {"is_watched": True},
    ],
    ids=str,
)
def test_what_is_recalled_is_what_all_rules_say(rules):
    route = Route((having(**{"weight": 0.25, **rules}),))
    for number in [*range(200), *range(200)]:
        assert route.recall(call(traits=unit(number))) is settled(route, unit(number))


def test_where_more_than_the_unit_matters_nothing_is_recalled():
    eu = {"header:x-user-id": "ada", "header:x-region": "eu"}
    picky = Route((having(only=(Condition("header:x-region", ("eu",)),)),))
    halves = Route((having(layer="l", slice=(0.0, 0.5)), having(release="r2", layer="l", slice=(0.5, 1.0))))
    for route in (picky, halves):
        assert route.early(call(), {**eu, "request": "q"}).assignment is not None
        assert route.recall(call(traits=eu)) is None


def test_a_split_that_stays_keeps_its_plans_and_one_that_changes_does_not():
    router = Router()
    router.replace([SPLIT])
    route = router.find("m", "")
    router.replace([SPLIT, having(release="r2", model="n")])
    assert router.find("m", "") is route
    router.replace([having(weight=0.5)])
    assert router.find("m", "") is not route


def test_few_plans_are_kept():
    route = Route((SPLIT,))
    for number in range(33_000):
        asked = call(traits=unit(number))
        assert route.recall(asked).versions == ("2", "1")
        assert asked.unit == f"u{number}"
    assert len(route._known) < 300


def test_units_of_one_arm_share_a_plan_and_no_others_do():
    route = Route((having(weight=0.25, holdback=0.2, always=frozenset({"u1"}), never=frozenset({"u2"})),))
    plans = {}
    for number in range(500):
        asked = call(traits=unit(number))
        where = route.recall(asked).assignment
        assert where is plans.setdefault((where.arm, where.reason), where)
        assert (asked.unit, where.version) == (f"u{number}", "2" if where.arm is Arm.CANARY else "1")
    assert len(plans) == 6
    nameless = route.settled(call(), {"request": "u1"})
    assert (nameless.assignment.reason, nameless.assignment.has_unit) == ("always", False)
    assert nameless.assignment is not plans[Arm.CANARY, "always"]


def test_who_is_shadowed():
    def is_shadowed(name="ada", **changes):
        split = having(**{"weight": 0.5, "shadow": Shadow(), **changes})
        return settled(Route((split,)), {"header:x-user-id": name, "request": "q"}).is_shadowed

    halves = Route((having(weight=0.5),))
    arms = {settled(halves, unit(n)).assignment.arm: f"u{n}" for n in range(20)}
    assert is_shadowed(arms[Arm.BASELINE])
    assert not is_shadowed(arms[Arm.CANARY])  # it has answered itself
    assert is_shadowed(holdback=1.0)
    assert not is_shadowed(never=frozenset({"ada"}))
    assert not is_shadowed(only=(Condition("tenant", ("acme",)),))
    assert not is_shadowed(arms[Arm.BASELINE], shadow=Shadow(share=0.0))
    assert not is_shadowed(arms[Arm.BASELINE], shadow=None)

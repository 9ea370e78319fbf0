"""The table of splits: replaced as a whole, found by model, and curious of few headers."""

import msgspec
import pytest

from salver.errors import InvalidInput
from salver.experiments.router import Router, is_settled, settled
from salver.messages import Call, InferRequest, Standing
from salver.releases import Condition, Split

SPLIT = Split("r1", "m", stable="1", canary="2", weight=1.0, salt="s1")


def having(**changes):
    return msgspec.structs.replace(SPLIT, **changes)


def request(**parameters):
    return InferRequest("m", (), parameters=parameters)


def call(**more):
    return Call("test", 0.0, request_id="q1", **more)


def test_an_empty_table_wants_nothing():
    router = Router()
    assert not router
    assert router.headers == {}
    assert router.find("m", "") == ()


def test_a_model_is_found_by_what_its_callers_say():
    router = Router()
    router.replace([SPLIT, having(release="r2", model="n", asked=("champion",))])
    assert router
    assert router.find("m", "") == (SPLIT,)
    assert router.find("m", "2") == ()
    assert router.find("n", "") == ()
    assert router.find("n", "champion")[0].release == "r2"


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
    assert router.find("m", "") == (SPLIT,)
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
    met = {settled(found, {"header:x-user-id": f"u{n}", "request": "q"})[1].version for n in range(50)}
    assert met == {"2", "3"}


def test_a_unit_outside_every_slice_meets_the_stable_version():
    quarters = [
        having(layer="l", slice=(0.0, 0.1)),
        having(release="r2", canary="3", layer="l", slice=(0.1, 0.2)),
    ]
    found = [settled(quarters, {"header:x-user-id": f"u{n}", "request": "q"}) for n in range(100)]
    out = [(split.release, one.version) for split, one in found if one.reason == "excluded"]
    assert 60 < len(out) < 95
    assert set(out) == {("r1", "1")}


def test_all_of_a_models_splits_have_to_be_settled():
    told, open_ = having(units=("header:x-user-id", "request")), having(release="r2")
    assert is_settled([told], {"request": "q"})
    assert not is_settled([told, open_], {"request": "q"})
    assert is_settled([told, open_], {"header:x-user-id": "ada", "request": "q"})

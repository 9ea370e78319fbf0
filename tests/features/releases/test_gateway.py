"""A split as an HTTPRoute: within the Gateway API's schema, and nothing left out in silence."""

import contextlib
import json

import msgspec
import pytest
from crds import custom_resource
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.experiments.gateway import RoutePlace, http_route
from salver.words.errors import InvalidInput
from salver.words.releases import Condition, Shadow, Split

SCHEMA = custom_resource("HTTPRoute")
SPLIT = Split("r1", "m", stable="1", canary="2", weight=0.05, salt="s")
PLACE = RoutePlace("m", "web", stable="m-v1", canary="m-v2")


def having(**changes):
    return msgspec.structs.replace(SPLIT, **changes)


def rendered(split=SPLIT, **changes):
    route = http_route(split, msgspec.structs.replace(PLACE, **changes))
    SCHEMA.validate(json.loads(json.dumps(route)))
    return route["spec"]["rules"]


def weights(rule):
    return {ref["name"]: ref["weight"] for ref in rule["backendRefs"]}


@given(st.sampled_from([0.0, 1.0]) | st.floats(1e-4, 1 - 1e-4))
def test_the_weights_are_the_splits(weight):
    (rule,) = rendered(having(weight=weight))
    found = weights(rule)
    assert sum(found.values()) == 10_000
    assert abs(found["m-v2"] / 10_000 - weight) <= 0.00005


def test_a_route_is_attached_where_it_is_said():
    place = RoutePlace("m", "web", "a", "b", 80, "models", "infra", ("*.example.com",), "/v2/models/m")
    route = http_route(having(stage=2), place)
    SCHEMA.validate(route)
    assert route["metadata"] == {
        "name": "m",
        "namespace": "models",
        "labels": {"app.kubernetes.io/managed-by": "salver"},
        "annotations": {"salver/release": "r1", "salver/stage": "2"},
    }
    assert route["spec"]["parentRefs"] == [{"name": "web", "namespace": "infra"}]
    assert route["spec"]["hostnames"] == ["*.example.com"]
    (rule,) = route["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v2/models/m"}}]
    assert {ref["port"] for ref in rule["backendRefs"]} == {80}


def test_conditions_on_headers_are_matches_and_all_others_meet_the_stable_version():
    only = (Condition("header:x-region", ("eu", "uk")), Condition("header:x-tier", ("gold",)))
    first, rest = rendered(having(only=only))
    said = [{h["name"]: h["value"] for h in match["headers"]} for match in first["matches"]]
    assert said == [{"x-region": "eu", "x-tier": "gold"}, {"x-region": "uk", "x-tier": "gold"}]
    assert weights(first) == {"m-v1": 9500, "m-v2": 500}
    assert weights(rest) == {"m-v1": 1}
    assert "headers" not in rest["matches"][0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"always": frozenset({"ada"})}, "always"),
        ({"never": frozenset({"ada"})}, "never"),
        ({"layer": "l", "slice": (0.0, 0.5)}, "layer"),
        ({"holdback": 0.05}, "holdback"),
        ({"shadow": Shadow()}, "shadow"),
        ({"only": (Condition("tenant", ("acme",)),)}, "only"),
        ({"only": (Condition("header:a b", ("eu",)),)}, "only"),
        ({"only": (Condition("header:x", tuple(map(str, range(65)))),)}, "only"),
        ({"only": (Condition("header:x", ()),)}, "only"),
        ({"only": (Condition("header:x", ("1",)), Condition("header:x", ("2",)))}, "only"),
        ({"only": (Condition("header:x", ("",)),)}, "only"),
        ({"only": (Condition("header:x", ("a\nb",)),)}, "only"),
        ({"weight": 1.5}, "weight"),
    ],
)
def test_what_a_gateway_cannot_do_is_refused(changes, field):
    with pytest.raises(InvalidInput) as caught:
        http_route(having(**changes), PLACE)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Not_A_Name"}, "name"),
        ({"gateway": ""}, "gateway"),
        ({"canary": "a" * 64}, "canary"),
        ({"namespace": "-x"}, "namespace"),
        ({"port": 0}, "port"),
        ({"path": "v2"}, "path"),
        ({"path": "/v2//models"}, "path"),
        ({"path": "/v2/.."}, "path"),
        ({"path": "/a%2Fb"}, "path"),
        ({"path": "/" + "a" * 1024}, "path"),
        ({"hostnames": ("Not A Host",)}, "hostnames"),
        ({"hostnames": ("a." * 127 + "example",)}, "hostnames"),
        ({"hostnames": tuple(f"h{n}.example.com" for n in range(17))}, "hostnames"),
    ],
)
def test_names_that_are_none_are_refused(changes, field):
    with pytest.raises(InvalidInput) as caught:
        http_route(SPLIT, msgspec.structs.replace(PLACE, **changes))
    assert caught.value.field == field


@given(
    st.lists(st.text("aB.-*1_ ", max_size=12), max_size=2),
    st.text("/a.%2fF#", max_size=8),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)
def test_whatever_is_not_refused_is_within_the_schema(hosts, path, values):
    place = msgspec.structs.replace(PLACE, hostnames=tuple(hosts), path=path)
    split = having(only=(Condition("header:x", tuple(values)),))
    try:
        route = http_route(split, place)
    except InvalidInput:
        return
    SCHEMA.validate(json.loads(json.dumps(route)))


@pytest.mark.parametrize(("headers", "is_taken"), [(16, True), (17, False)])
def test_a_route_takes_sixteen_headers(headers, is_taken):
    split = having(only=tuple(Condition(f"header:x-{n}", ("eu",)) for n in range(headers)))
    with contextlib.nullcontext() if is_taken else pytest.raises(InvalidInput, match="16 different headers"):
        rendered(split)


@pytest.mark.parametrize("weight", [4e-5, 1 - 4e-5])
def test_a_weight_that_no_gateway_can_keep_to_is_refused(weight):
    with pytest.raises(InvalidInput, match="none of them") as caught:
        rendered(having(weight=weight))
    assert caught.value.field == "weight"


def test_a_value_that_is_said_twice_is_one_match():
    (first, _) = rendered(having(only=(Condition("header:x", ("eu", "eu")),)))
    assert len(first["matches"]) == 1


def test_the_schema_refuses_what_the_reference_does():
    route = http_route(SPLIT, PLACE)
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 1_000_001
    assert not SCHEMA.is_valid(route)

"""Routes of TorchServe."""

import pytest

from salver.dialects.torchserve.faults import NamedFault
from salver.dialects.torchserve.paths import PathMatch, find, find_oldest
from salver.words.errors import NoRoute, SalverError, WrongVerb

ALL = ("inference", "management", "metrics")
INF, M = "inference", "management"


@pytest.mark.clause("TS-R1")
@pytest.mark.parametrize(
    ("verb", "path", "expected"),
    [
        ("POST", "/predictions/m", PathMatch("predict", INF, "m", "", "", False)),
        ("GET", "/predictions/a%2Fb/", PathMatch("predict", INF, "a/b", "", "", False)),
        ("POST", "/predictions/m/1.0", PathMatch("predict", INF, "m", "1.0", "", False)),
        ("POST", "/predictions/m/1.0/a/%62", PathMatch("predict", INF, "m", "1.0", "a/b", False)),
        ("PUT", "/explanations/m", PathMatch("predict", INF, "m", "", "", True)),
        ("POST", "/v1/models/m:predict", PathMatch("predict", INF, "m", explains=False)),
        ("POST", "/v1/models/m:explain", PathMatch("predict", INF, "m", explains=True)),
        ("POST", "/v1/models/x:y:predict", PathMatch("predict", INF, "x", explains=True)),
        ("POST", "/v2/models/m/infer", PathMatch("predict", INF, "m", explains=False)),
        ("POST", "/v2/models/m/explain", PathMatch("predict", INF, "m", explains=True)),
        ("POST", "/m/predict", PathMatch("predict", INF, "m", takes_query=True)),
        ("POST", "/m/2.0/predict", PathMatch("predict", INF, "m", "2.0", takes_query=True)),
        ("POST", "/models/m/invoke", PathMatch("predict", INF, "m", takes_query=True)),
        ("POST", "/invocations", PathMatch("invocations", INF, takes_query=True)),
        ("DELETE", "/ping/and/more", PathMatch("ping", INF)),
        ("POST", "/wfpredict/w", PathMatch("predict_workflow", INF, "w")),
        ("OPTIONS", "/", PathMatch("describe_port")),
        ("POST", "/api-description", PathMatch("describe_port")),
        ("GET", "/models", PathMatch("list", M)),
        ("POST", "/models", PathMatch("register", M)),
        ("GET", "/models/m", PathMatch("describe", M, "m")),
        ("GET", "/models/a%20b/all", PathMatch("describe", M, "a b", "all")),
        ("PUT", "/models/m/1.0", PathMatch("scale", M, "m", "1.0")),
        ("DELETE", "/models/m", PathMatch("unregister", M, "m")),
        ("OPTIONS", "/models/m", PathMatch("describe_managed", M, "m")),
        ("PUT", "/models/m/1.0/set-default", PathMatch("set_default", M, "m", "1.0")),
        ("GET", "/models/m/1.0/set-default", PathMatch("describe", M, "m", "1.0")),
        ("GET", "/v1/models/m", PathMatch("is_ready", M, "m")),
        ("GET", "/workflows", PathMatch("list_workflows", M)),
        ("POST", "/workflows", PathMatch("register_workflow", M)),
        ("GET", "/workflows/w", PathMatch("describe_workflow", M, "w")),
        ("DELETE", "/workflows/w", PathMatch("unregister_workflow", M, "w")),
        ("GET", "/token", PathMatch("token")),
        ("POST", "/metrics/anything", PathMatch("metrics")),
    ],
)
def test_to_ts_m11_paths(verb: str, path: str, expected: PathMatch) -> None:
    assert find(verb, path.encode(), ALL) == expected  # type: ignore[arg-type]


@pytest.mark.clause("TS-P2", "TS-R21")
@pytest.mark.parametrize(
    ("verb", "path", "surfaces", "error"),
    [
        ("POST", "/predictions", ALL, NoRoute),
        ("POST", "/predictions/", ALL, NoRoute),
        ("POST", "/explanations", ALL, NoRoute),
        ("GET", "/no/such/route", ALL, NoRoute),
        ("GET", "//ping", ALL, NoRoute),
        ("POST", "/v1/models/m:classify", ("inference",), NoRoute),
        ("POST", "/v2/models/m/versions/1/infer", ALL, NoRoute),
        ("POST", "/a/b/c/predict", ALL, NoRoute),
        ("GET", "/models/m/1.0/more", ALL, NoRoute),
        ("GET", "/models/m", ("inference",), NoRoute),
        ("POST", "/models/m/other", ("inference",), NoRoute),
        ("POST", "/models/predict", ("inference",), NoRoute),
        ("GET", "/v1/models/m", ("inference",), NoRoute),
        ("GET", "/ping", ("management",), NoRoute),
        ("GET", "/ping", ("metrics",), NoRoute),
        ("GET", "/metrics", ("inference",), NoRoute),
        ("GET", "/v2", ("inference",), NoRoute),
        ("GET", "/", ALL, WrongVerb),
        ("DELETE", "/models", ALL, WrongVerb),
        ("OPTIONS", "/models", ALL, WrongVerb),
        ("POST", "/models/m", ALL, WrongVerb),
        ("POST", "/v1/models/m", ALL, WrongVerb),
        ("DELETE", "/workflows", ALL, WrongVerb),
        ("GET", "/predictions/%zz", ALL, NamedFault),
    ],
)
def test_what_is_no_path_at_that_port(
    verb: str, path: str, surfaces: tuple[str, ...], error: type[SalverError]
) -> None:
    with pytest.raises(error):
        find(verb, path.encode(), surfaces)  # type: ignore[arg-type]


@pytest.mark.clause("TS-R11")
def test_open_inference_is_answered_where_it_is_wanted() -> None:
    for verb, path, operation in (
        ("GET", b"/v2", "oip_server"),
        ("HEAD", b"/v2/health/live", "oip_live"),
        ("GET", b"/v2/health/ready", "oip_ready"),
        ("GET", b"/v2/models/m/versions/1.0", "oip_version"),
        ("POST", b"/v2/models/m/versions/1.0/infer", "oip_version"),
        ("POST", b"/v2/models/m/infer", "predict"),
    ):
        assert find(verb, path, ["inference"], speaks_oip=True).operation == operation
    for verb, path in (("POST", b"/v2"), ("GET", b"/v2/models/m"), ("GET", b"/v2/models/m/ready")):
        with pytest.raises(NoRoute):
            find(verb, path, ["inference"], speaks_oip=True)


def test_the_oldest_routes_are_told_by_their_ends() -> None:
    assert find_oldest("POST", b"/m/predict") == PathMatch("predict", INF, "m", takes_query=True)
    assert find_oldest("POST", b"/m/1/predict") == PathMatch("predict", INF, "m", "1", takes_query=True)
    assert [find_oldest("POST", path) for path in (b"/predict", b"//predict", b"/a/b/c/predict")] == [
        None
    ] * 3

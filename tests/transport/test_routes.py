"""Which operation a verb and a raw path mean."""

import contextlib

import pytest
from dialect_tables import OPERATIONS, match
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.oip.openapi import describe
from salver.transport.routes import Route
from salver.words.errors import InvalidInput, NoRoute, SalverError, WrongVerb


@pytest.mark.parametrize(
    ("verb", "path", "route"),
    [
        ("GET", b"/", Route("welcome")),
        ("GET", b"/v2", Route("server_metadata")),
        ("HEAD", b"/v2/health/live", Route("live")),
        ("GET", b"/v2/models/stats", Route("statistics")),
        ("GET", b"/v2/models/m", Route("model_metadata", "m")),
        ("GET", b"/v2/models/m/versions/3/ready", Route("model_ready", "m", "3")),
        ("GET", b"/v2/models/m/versions/3/explain", Route("explain", "m", "3")),
        ("GET", b"/v2/models/m/explain/00%2Fff", Route("explain_request", "m", "", "00/ff")),
        ("POST", b"/v2/models/m/infer", Route("infer", "m")),
        ("POST", b"/v2/models/m/versions/v10/infer", Route("infer", "m", "v10")),
        ("POST", b"/v2/models/org%2Fm/infer", Route("infer", "org/m")),
        ("POST", b"/v2/models/%C3%BC/infer", Route("infer", "ü")),
        ("POST", b"/v1/models/m:predict", Route("predict_v1", "m")),
        ("POST", b"/v1/models/a%3Ab:predict", Route("predict_v1", "a:b")),
        ("GET", b"/v1/models", Route("list_v1")),
        ("POST", b"/v2/repository/models/m/unload", Route("unload", "m")),
        ("POST", b"/v2/repository/index", Route("index")),
        ("POST", b"/v2/repository/one/index", Route("index_named")),
        ("POST", b"/v2/repository/one/models/m/unload", Route("unload_named", "m")),
        ("GET", b"/v2/systemsharedmemory/status", Route("regions")),
        ("POST", b"/v2/systemsharedmemory/region/a%2Fb/register", Route("region_register", region="a/b")),
        ("POST", b"/v2/cudasharedmemory/unregister", Route("cuda_unregister")),
    ],
)
def test_matches(verb, path, route):
    assert match(verb, path) == route


@pytest.mark.parametrize(
    ("verb", "path", "error"),
    [
        ("GET", b"/v2/", NoRoute),
        ("GET", b"/v2/models/m/", NoRoute),
        ("GET", b"/v3", NoRoute),
        ("GET", b"//v2", NoRoute),
        ("GET", b"v2", NoRoute),
        ("GET", b"", NoRoute),
        ("POST", b"/v1/models/:predict", InvalidInput),
        ("POST", b"/v2/models//infer", NoRoute),
        ("GET", b"/v2/models/m/infer", WrongVerb),
        ("DELETE", b"/v2/health/live", WrongVerb),
        ("POST", b"/v2/models/m/versions/3", WrongVerb),
        ("POST", b"/v2/models/m/versions/infer", NoRoute),
        ("PUT", b"/v2/models/m/versions/-1/config", NoRoute),
        ("GET", b"/v2/systemsharedmemory/region/r/register", WrongVerb),
        ("POST", b"/v2/systemsharedmemory/status", WrongVerb),
        ("POST", b"/v2/systemsharedmemory/region/r/resize", NoRoute),
        ("POST", b"/v2/models/%FF/infer", InvalidInput),
        ("POST", b"/v2/models/\xff/infer", InvalidInput),
    ],
)
def test_refuses(verb, path, error):
    with pytest.raises(error):
        match(verb, path)


@given(st.sampled_from(["GET", "POST", "PUT"]), st.binary(max_size=60))
def test_any_path_is_a_route_or_an_error_of_ours(verb, path):
    with contextlib.suppress(SalverError):
        match(verb, b"/" + path)


def test_every_operation_is_described():
    description = describe("1.2.3", OPERATIONS)
    for operation in OPERATIONS:
        entry = description["paths"][operation.path][operation.verb.lower()]
        assert {p["name"] for p in entry.get("parameters", ())} == {
            part[1:-1].split("}")[0] for part in operation.path.replace(":", "/").split("/") if "{" in part
        }
    ids = [o["operationId"] for path in description["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize(
    ("verb", "path", "route"),
    [
        ("GET", b"/v1/models/org/m", Route("model_v1", path="/v1/models/org/m")),
        ("GET", b"/v1/models/org%2Fm", Route("model_v1", "org/m")),
        ("HEAD", b"/v1/models/a/b/c", Route("model_v1", path="/v1/models/a/b/c")),
        ("POST", b"/v1/models/m/load", Route("load_v1", "m")),
        ("POST", b"/v1/models/org/m/unload", Route("unload_v1", "org/m")),
        ("POST", b"/v1/models/org/m:predict", Route("predict_v1", path="/v1/models/org/m:predict")),
        ("POST", b"/v1/chat/completions", Route("chat")),
        ("POST", b"/v1/completions", Route("completions")),
        ("POST", b"/v1/embeddings", Route("embeddings")),
        ("GET", b"/health/ready", Route("ready_plain")),
    ],
)
def test_openais_routes_and_names_with_slashes(verb, path, route):
    assert match(verb, path) == route


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize(
    ("verb", "path", "error"),
    [
        ("POST", b"/v1/models/org/m", InvalidInput),
        ("DELETE", b"/v1/models/org/m", InvalidInput),
        ("GET", b"/v1/chat/completions", WrongVerb),
    ],
)
def test_what_there_is_not_of_them(verb, path, error):
    with pytest.raises(error):
        match(verb, path)

"""TensorFlow Serving's paths, without sockets."""

import pytest
from dialect_tables import match
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow import paths as tfs_paths
from salver.dialects.tensorflow.paths import PathMatch
from salver.transport.routes import Route
from salver.words.errors import InvalidInput, NoRoute, SalverError, WrongVerb


@pytest.mark.clause("TF-R1", "TF-R2", "TF-R3")
@pytest.mark.parametrize(
    ("verb", "path", "route"),
    [
        ("POST", b"/v1/models/m:predict", Route("predict_v1", "m")),
        ("POST", b"/v1/models/m:PREDICT", Route("predict_v1", "m")),
        ("POST", b"/V1/Models/M/Versions/3:Classify", Route("classify_v1", "M", "3")),
        ("POST", b"/v1/models/m/versions/007:regress", Route("regress_v1", "m", "7")),
        ("POST", b"/v1/models/m/labels/a%20b:predict", Route("predict_v1", "m", label="a b")),
        ("POST", b"/v1/models/a%2Fb%3Ac:predict", Route("predict_v1", "a/b:c")),
        ("POST", b"/v1/models/%C3%BC:predict", Route("predict_v1", "ü")),
    ],
)
def test_methods_versions_and_labels(verb: str, path: bytes, route: Route) -> None:
    assert match(verb, path) == route


@pytest.mark.parametrize(
    ("path", "model", "version", "label"),
    [
        ("/v1/models/m:explain", "m", "", ""),
        ("/v1/models/m/versions/03:EXPLAIN", "m", "3", ""),
        ("/v1/models/m/labels/stable:explain", "m", "", "stable"),
        ("/v1/models/org/m:explain", "", "", ""),
    ],
)
def test_explanations_keep_their_path(path: str, model: str, version: str, label: str) -> None:
    assert match("POST", path.encode()) == Route("explain_v1", model, version, label=label, path=path)


@pytest.mark.clause("TF-R4", "TF-R5")
@pytest.mark.parametrize(
    ("path", "operation", "model", "version", "label"),
    [
        (b"/v1/models/m", "model_v1", "m", "", ""),
        (b"/v1/models/m/versions/12", "model_v1", "m", "12", ""),
        (b"/v1/models/m/labels/stable", "model_v1", "m", "", "stable"),
        (b"/v1/models/m/metadata", "metadata_v1", "m", "", ""),
        (b"/v1/models/m/versions/12/metadata", "metadata_v1", "m", "12", ""),
        (b"/v1/models/m/labels/x/METADATA", "metadata_v1", "m", "", "x"),
        (b"/v1/models/metadata", "model_v1", "metadata", "", ""),
        (b"/V1/MODELS", "list_v1", "", "", ""),
    ],
)
def test_what_can_be_looked_at(path: bytes, operation: str, model: str, version: str, label: str) -> None:
    for verb in ("GET", "HEAD"):
        route = match(verb, path)
        assert (route.operation, route.model, route.version, route.label) == (
            operation,
            model,
            version,
            label,
        )


@pytest.mark.clause("TF-R6")
def test_a_version_without_a_model() -> None:
    assert match("GET", b"/v1/models") == Route("list_v1")
    with pytest.raises(InvalidInput, match=r"^Missing model name in request\.$"):
        match("GET", b"/v1/models/versions/3")


@pytest.mark.clause("TF-R7")
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", b"/v1/foo"),
        ("POST", b"/v1/foo"),
        ("GET", b"/v1/"),
        ("POST", b"/v1/models"),
        ("GET", b"/v1/models/"),
        ("POST", b"/v1/models/foo:explode"),
        ("POST", b"/v1/models/:predict"),
        ("POST", b"/v1/models/foo"),
        ("POST", b"/v1/models/foo/metadata"),
        ("PUT", b"/v1/models/foo"),
        ("DELETE", b"/V1/models/foo:predict"),
    ],
)
def test_malformed(verb: str, path: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        match(verb, path)
    assert str(caught.value) == f"Malformed request: {verb} {path.decode()}"


@pytest.mark.clause("TF-R7")
def test_versions_that_are_no_int64() -> None:
    for version in (b"9223372036854775808", b"18446744073709551615", b"9" * 4000):
        with pytest.raises(InvalidInput) as caught:
            match("POST", b"/v1/models/m/versions/" + version + b":predict")
        assert str(caught.value) == f"Failed to convert version: {version.decode()} to numeric."
    assert match("GET", b"/v1/models/m/versions/9223372036854775807").version == str(2**63 - 1)


@pytest.mark.clause("TF-R7")
@pytest.mark.parametrize("path", [b"/v1", b"/statuspage", b"/v1x/models", b"/v2/", b"/"])
def test_other_paths_are_not_theirs(path: bytes) -> None:
    if path == b"/":
        assert match("GET", path) == Route("welcome")
        return
    with pytest.raises(NoRoute):
        match("GET", path)


@pytest.mark.clause("TF-R28")
@pytest.mark.parametrize(
    "path",
    [
        b"/v1/models/foo/versions/50/labels/some_label:regress",
        b"/v1/models/foo/labels/some_label/versions/50:predict",
        b"/v1/models/foo/labels/:predict",
        b"/v1/models/foo/versions/:predict",
    ],
)
def test_a_version_or_a_label_and_not_both(path: bytes) -> None:
    assert match("POST", path) == Route(f"{path.decode().rpartition(':')[2]}_v1", path=path.decode())
    assert tfs_paths.find_slashed(path.decode(), ["foo"], "POST") is None


@given(st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "HEAD"]), st.binary(max_size=60))
def test_any_path_below_v1_is_theirs(verb: str, rest: bytes) -> None:
    try:
        assert match(verb, b"/v1/" + rest).operation.endswith("_v1")
    except SalverError as error:
        assert isinstance(error, InvalidInput | WrongVerb)


@pytest.mark.parametrize(
    ("verb", "path", "asked"),
    [
        ("GET", "/v1/models/org/m", PathMatch("model_v1", "org/m")),
        ("GET", "/v1/models/org/m/versions/3", PathMatch("model_v1", "org/m", "3")),
        ("GET", "/v1/models/org/m/metadata", PathMatch("metadata_v1", "org/m")),
        ("GET", "/v1/models/org/m/x/versions/3/metadata", PathMatch("metadata_v1", "org/m/x", "3")),
        ("POST", "/v1/models/org/m:predict", PathMatch("predict_v1", "org/m")),
        ("POST", "/v1/models/org/m/x/labels/l:Classify", PathMatch("classify_v1", "org/m/x", "", "l")),
        ("POST", "/v1/models/org/m/versions/2:regress", PathMatch("regress_v1", "org/m", "2")),
        ("GET", "/v1/models/org/q", None),
        ("GET", "/v1/models/org/m/y", None),
        ("GET", "/v1/models/org/m/versions/x", None),
        ("POST", "/v1/models/org/m/versions/x:predict", None),
    ],
)
def test_names_with_slashes_are_found_among_those_known(
    verb: str, path: str, asked: PathMatch | None
) -> None:
    assert tfs_paths.find_slashed(path, ["org/m", "org/m/x", "other/m"], verb) == asked
    assert match(verb, path.encode()).path == path

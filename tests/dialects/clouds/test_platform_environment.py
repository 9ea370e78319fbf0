"""Environment variables of SageMaker and Vertex AI under ``--compat triton``."""

import msgspec
import pytest

from salver.configuration import Startup
from salver.dialects.clouds.doors import SageMaker, Vertex
from salver.dialects.triton import command as triton
from salver.kernel.logs import LogConfig
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

REPOSITORY = "--model-repository=models"
AIP = {"AIP_MODE": "PREDICTION", "AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h"}


def on_sagemaker(*flags: str, **variables: str) -> Startup:
    return triton.configure([REPOSITORY, "--allow-sagemaker=true", *flags], variables)


def fronts(start: Startup) -> dict[str, FrontConfig]:
    return {front.serves: front for front in (start.config.front, *start.config.more)}


def test_without_the_flag_the_environment_does_not_count() -> None:
    start = triton.configure([REPOSITORY], {"SAGEMAKER_BIND_TO_PORT": "9", "AIP_HTTP_PORT": "9"})
    assert set(fronts(start)) == {"http", "grpc", "metrics"}


@pytest.mark.clause("TR-F6")
def test_the_port_of_sagemaker() -> None:
    front = fronts(on_sagemaker())["sagemaker"]
    assert (front.host, front.port) == ("0.0.0.0", 8080)
    assert msgspec.convert(front.platform, SageMaker) == SageMaker()
    front = fronts(on_sagemaker("--sagemaker-port=9", "--http-address=::1", SAGEMAKER_BIND_TO_PORT="7"))[
        "sagemaker"
    ]
    assert (front.host, front.port) == ("::1", 9)
    assert fronts(on_sagemaker(SAGEMAKER_BIND_TO_PORT="7"))["sagemaker"].port == 7


@pytest.mark.clause("TR-F6")
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--sagemaker-safe-port-range=8081-9000"], r"HTTP requests at port 8000, .* \[8081, 9000\]"),
        (["--sagemaker-safe-port-range=8000-8001"], "metrics requests at port 8002"),
        (["--sagemaker-safe-port-range=8000"], "not a range"),
        (["--sagemaker-safe-port-range=9-8"], "not a range"),
    ],
)
def test_ports_outside_of_the_safe_range(flags: list[str], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        on_sagemaker(*flags)


@pytest.mark.clause("TR-F6")
def test_the_safe_range_is_about_the_other_ports() -> None:
    assert "sagemaker" in fronts(on_sagemaker(SAGEMAKER_SAFE_PORT_RANGE="8000-8002"))


@pytest.mark.clause("TR-V3")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, SageMaker()),
        ({"TRITON_DEFAULT_MODEL_NAME": "m"}, SageMaker("m")),
        ({"TRITON_INFERENCE_TYPE": "generate_stream"}, SageMaker(inference="generate_stream")),
        ({"TRITON_PING_MODE": "live"}, SageMaker(ping="live")),
        ({"TRITON_PING_MODE": "live", "TRITON_OVERRIDE_PING_MODE": "ready"}, SageMaker(ping="ready")),
        ({"MULTI_MODEL": "true"}, SageMaker(ping="live", brings_models=True)),
        (
            {"MULTI_MODEL": "true", "TRITON_OVERRIDE_PING_MODE": "ready"},
            SageMaker(ping="ready", brings_models=True),
        ),
        ({"MULTI_MODEL": "false"}, SageMaker()),
    ],
)
def test_what_is_behind_the_port(variables: dict[str, str], expected: SageMaker) -> None:
    start = on_sagemaker(**{f"SAGEMAKER_{name}": value for name, value in variables.items()})
    assert msgspec.convert(fronts(start)["sagemaker"].platform, SageMaker) == expected


@pytest.mark.clause("TR-V3")
def test_flags_by_the_environment() -> None:
    start = on_sagemaker(
        SAGEMAKER_TRITON_LOG_VERBOSE="true",
        SAGEMAKER_TRITON_LOG_INFO="false",
        SAGEMAKER_TRITON_ALLOW_GRPC="false",
        SAGEMAKER_TRITON_METRICS_PORT="8005",
        SAGEMAKER_TRITON_ADDITIONAL_ARGS="--id=me --http-port 8007",
    )
    assert start.config.table("log", LogConfig).level == "debug"
    assert start.config.table("log", LogConfig).silenced == ("info",)
    assert start.config.server_name == "me"
    assert {name: front.port for name, front in fronts(start).items()} == {
        "http": 8007,
        "sagemaker": 8080,
        "metrics": 8005,
    }
    grpc = on_sagemaker(SAGEMAKER_TRITON_ALLOW_GRPC="true", SAGEMAKER_TRITON_GRPC_PORT="8006")
    assert fronts(grpc)["grpc"].port == 8006
    assert "metrics" not in fronts(on_sagemaker(SAGEMAKER_TRITON_ALLOW_METRICS="false"))
    assert not on_sagemaker(SAGEMAKER_TRITON_LOG_ERROR="0", SAGEMAKER_TRITON_LOG_WARNING="0").notices


@pytest.mark.clause("TR-V3")
@pytest.mark.parametrize(
    "name",
    [
        "SHM_DEFAULT_BYTE_SIZE",
        "SHM_GROWTH_BYTE_SIZE",
        "TENSORFLOW_VERSION",
        "MODEL_LOAD_GPU_LIMIT",
        "BUFFER_MANAGER_THREAD_COUNT",
        "THREAD_COUNT",
    ],
)
def test_variables_without_an_effect_get_a_line_each(name: str) -> None:
    (notice,) = on_sagemaker(**{f"SAGEMAKER_TRITON_{name}": "1"}).notices
    assert notice.startswith(f"SAGEMAKER_TRITON_{name} is accepted and has no effect here: ")


@pytest.mark.clause("TR-V3")
@pytest.mark.parametrize(("value", "expected"), [("true", False), ("false", True), ("", False)])
def test_names_of_several_repositories(value: str, expected: bool) -> None:
    start = on_sagemaker(SAGEMAKER_TRITON_DISABLE_MODEL_NAMESPACING=value)
    assert start.config.repository.has_namespaces is expected


@pytest.mark.clause("TR-V3")
def test_where_models_are_by_default() -> None:
    words = ["--allow-sagemaker=true"]
    assert triton.configure(words, {}).config.paths == ("/opt/ml/model",)
    many = triton.configure(words, {"SAGEMAKER_MULTI_MODEL": "true"}).config
    assert (many.paths, many.control) == ((), "explicit")


@pytest.mark.clause("TR-V3")
@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("INFERENCE_TYPE", "guess", "Must be one of: infer, generate, generate_stream"),
        ("PING_MODE", "loud", "ready or live"),
        ("LOG_INFO", "perhaps", "true or false"),
        ("ADDITIONAL_ARGS", "--nonsense", "no flag --nonsense"),
    ],
)
def test_wrong_values(variable: str, value: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        on_sagemaker(**{f"SAGEMAKER_TRITON_{variable}": value})


@pytest.mark.clause("TR-V4")
def test_the_environment_opens_the_port_of_vertex_alone() -> None:
    start = triton.configure([], AIP | {"AIP_HTTP_PORT": "8085", "AIP_STORAGE_URI": "/models"})
    assert start.config.paths == ("/models",)
    assert set(fronts(start)) == {"vertex-ai", "metrics"}
    front = fronts(start)["vertex-ai"]
    assert (front.host, front.port) == ("0.0.0.0", 8085)
    assert msgspec.convert(front.platform, Vertex) == Vertex("", "/p", "/h")
    assert fronts(triton.configure([REPOSITORY], AIP))["vertex-ai"].port == 8080


@pytest.mark.clause("TR-V4")
def test_flags_come_before_the_environment() -> None:
    words = ["--vertex-ai-port=9", "--allow-http=true", "--vertex-ai-default-model=m", "--allow-grpc=true"]
    start = triton.configure([REPOSITORY, *words], AIP | {"AIP_HTTP_PORT": "8", "AIP_STORAGE_URI": "/models"})
    assert start.config.paths == ("models",)
    assert set(fronts(start)) == {"vertex-ai", "http", "grpc", "metrics"}
    assert fronts(start)["vertex-ai"].port == 9
    assert msgspec.convert(fronts(start)["vertex-ai"].platform, Vertex) == Vertex("m", "/p", "/h")
    assert "vertex-ai" not in fronts(triton.configure([REPOSITORY, "--allow-vertex-ai=false"], AIP))


@pytest.mark.clause("TR-V4")
@pytest.mark.parametrize("missing", ["AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"])
def test_both_routes_are_needed(missing: str) -> None:
    with pytest.raises(InvalidInput, match=f"{missing} is not defined for Vertex AI endpoint"):
        triton.configure([REPOSITORY], AIP | {missing: ""})

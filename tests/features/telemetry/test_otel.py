"""Where spans go, by OpenTelemetry's variables and by tritonserver's flags."""

import pytest

from salver.configuration import ServeConfig
from salver.dialects.triton import command as triton
from salver.dialects.triton.trace_settings import TraceConfig
from salver.features.telemetry.otlp import SpanConfig
from salver.terminal import otel
from salver.words.errors import InvalidInput, SalverError

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}


def spans(**variables: str) -> SpanConfig | None:
    found = otel.from_environment(BASE | variables)
    return SpanConfig(**found) if found else None


def test_without_a_collector_there_are_none() -> None:
    assert otel.from_environment({"OTEL_SERVICE_NAME": "s"}) == {}
    assert spans(OTEL_SDK_DISABLED="TRUE") is None
    assert spans(OTEL_TRACES_EXPORTER="none") is None


@pytest.mark.clause("TR-F8")
def test_opentelemetrys_variables() -> None:
    assert spans() == SpanConfig("http://c:4318/v1/traces")
    assert spans(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://t/x") == SpanConfig("https://t/x")
    found = spans(
        OTEL_SERVICE_NAME="mine",
        OTEL_RESOURCE_ATTRIBUTES="service.name=other,deployment.environment=a%20b",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20x, k = v",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        OTEL_EXPORTER_OTLP_TIMEOUT="1500",
    )
    assert found == SpanConfig(
        "http://c:4318/v1/traces",
        (("service.name", "mine"), ("deployment.environment", "a b")),
        (("authorization", "Bearer x"), ("k", "v")),
        queue=100,
        delay_s=0.25,
        batch=10,
        timeout_s=1.5,
    )


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize(
    ("sampler", "ratio", "rate"),
    [
        ("parentbased_always_on", "", 1),
        ("always_off", "", 0),
        ("parentbased_traceidratio", "0.01", 100),
        ("traceidratio", "0", 0),
    ],
)
def test_samplers(sampler: str, ratio: str, rate: int) -> None:
    found = spans(OTEL_TRACES_SAMPLER=sampler, **({"OTEL_TRACES_SAMPLER_ARG": ratio} if ratio else {}))
    assert found is not None
    assert found.rate == rate


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_SAMPLER": "xray"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "some"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "nothing"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "c:4318"},
    ],
)
def test_wrong_values(variables: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        spans(**variables)


def test_another_protocol_gets_a_line_in_the_log() -> None:
    (notice,) = otel.notices(BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "http/protobuf" in notice
    assert otel.notices(BASE) == []
    assert otel.notices({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) == []


def config(*settings: str, **environment: str) -> ServeConfig:
    words = ["--model-repository=m", *(f"--trace-config={setting}" for setting in settings)]
    return triton.configure(words, environment).config


@pytest.mark.clause("TR-F8")
def test_tritons_settings() -> None:
    found = config(
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=3",
        "count=7",
        "opentelemetry,url=http://c:1/v1/traces",
        "opentelemetry,resource=service.name=shop",
        "opentelemetry,resource=zone=a=b",
        "opentelemetry,bsp_max_queue_size=64",
        "opentelemetry,bsp_schedule_delay=100",
        "opentelemetry,bsp_max_export_batch_size=32",
    )
    assert found.table("trace", TraceConfig).mode == "opentelemetry"
    assert found.table("tracing", SpanConfig) == SpanConfig(
        "http://c:1/v1/traces",
        (("service.name", "shop"), ("zone", "a=b")),
        rate=3,
        count=7,
        queue=64,
        delay_s=0.1,
        batch=32,
    )


@pytest.mark.clause("TR-F8")
def test_tritons_defaults() -> None:
    found = config("mode=OpenTelemetry", "level=TIMESTAMPS").table("tracing", SpanConfig)
    assert found == SpanConfig(
        "http://localhost:4318/v1/traces", (("service.name", "triton-inference-server"),), rate=1000
    )
    assert config("mode=opentelemetry").tables["tracing"] == {}
    assert config("level=OFF", "opentelemetry,url=http://c:1").tables["tracing"] == {}


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("mode=jaeger", 'Available options are "triton" and "opentelemetry"'),
        ("opentelemetry,colour=red", "no setting 'opentelemetry,colour'"),
        ("opentelemetry,resource=x", "KEY=VALUE"),
        ("opentelemetry,bsp_max_queue_size=many", "whole number"),
        ("opentelemetry,url=c:1", "cannot go to"),
    ],
)
def test_wrong_opentelemetry_settings(setting: str, text: str) -> None:
    with pytest.raises(SalverError, match=text):
        config("mode=opentelemetry", "level=TIMESTAMPS", setting).table("tracing", SpanConfig)

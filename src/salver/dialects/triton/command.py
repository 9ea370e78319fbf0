"""tritonserver's flags as Salver's configuration, with warnings for the log."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from salver.configuration import HeaderConfig, ServeConfig, Startup
from salver.dialects.triton import openai_flags as openai
from salver.dialects.triton import platform_flags as platforms
from salver.dialects.triton.config.pbtxt import FILE
from salver.dialects.triton.flags import PYTHON_SETTINGS, TRITON
from salver.dialects.triton.metrics import TritonMetricsConfig
from salver.dialects.triton.trace_flags import trace_of, tracing_of
from salver.kernel.lifecycle.ports import LifecycleConfig
from salver.kernel.repository import RepositoryConfig
from salver.terminal.options import cache_of, default_state_dir, drain_delay, resources_of
from salver.terminal.server_flags import NO, YES, ParsedFlags
from salver.transport.access_check import ApiConfig
from salver.transport.cors import check_origin
from salver.transport.restrict import parse
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

_NO_VARIABLES: Final[Mapping[str, str]] = {}
_LOCAL: Final = "127.0.0.1"
_LEVELS: Final = {"none": 0, "low": 1, "medium": 6, "high": 9}
_EVERY: Final = "0.0.0.0"
_TITLES: Final = {"http": "HTTP", "grpc": "GRPC", "openai": "OpenAI", "vertex-ai": "Vertex AI"}
_ONLY_HERE: Final = (
    "only this machine can connect; to listen on every address, as tritonserver does: "
    "--http-address=0.0.0.0 --grpc-address=0.0.0.0"
)
_Mode = Literal["none", "poll", "explicit"]
_MODES: Final[dict[str, _Mode]] = {"none": "none", "poll": "poll", "explicit": "explicit"}
_DEFAULT_ROWS: Final = 4  # max_batch_size of models that leave it to their backend
_BACKENDS: Final = {"onnxruntime": "onnx", "pytorch": "torch"}
_SWITCHED: Final = ("info", "warning", "error")
_ACCESS: Final = ("off", "errors", "all")
#: Settings of ``--metrics-config`` -> fields of TritonMetricsConfig.
_LATENCIES: Final = {
    "counter_latencies": "counters",
    "summary_latencies": "summaries",
    "histogram_latencies": "histograms",
}


def configure(words: Sequence[str], environment: Mapping[str, str] = _NO_VARIABLES) -> Startup:
    """Return the configuration of tritonserver's flags.

    Args:
        environment: Variables of SageMaker and Vertex AI, which count if their ports are open.

    Raises:
        InvalidInput: A flag or its value is wrong.
        Unsupported: A flag asks for something unsupported.
    """
    given, platform_notices = _with_platforms(words, environment)
    first, *more = _fronts(given, environment)
    mode = given.text("model-control-mode", "none")
    if mode not in _MODES:
        raise InvalidInput(f"--model-control-mode {mode!r} is not known", fix=f"One of {', '.join(_MODES)}.")
    load = given.all("load-model")
    if load and mode != "explicit":
        raise InvalidInput("--load-model needs --model-control-mode=explicit")
    trace = trace_of(given)
    most_bytes = given.number("http-max-input-size", 64 << 20)
    if most_bytes < 1:
        raise InvalidInput("--http-max-input-size must be greater than 0")
    config = ServeConfig(
        paths=_paths(given),
        front=first,
        more=tuple(more),
        server_name=given.text("id", "triton"),
        # As with tritonserver, everyone who can connect may change things; by default that is this machine.
        api=ApiConfig(given.text("api-token-file"), True, given.all("allowed-host")),
        tritons_words=True,
        http=_http_headers(given),
        grpc=_headers(given, "grpc-restricted-protocol", "grpc-header-forward-pattern"),
        control=_MODES[mode],
        poll_seconds=given.number("repository-poll-secs", 15),
        load=load,
        trust_pickle=given.is_on("trust-pickle", False),
        max_body_mb=most_bytes / (1 << 20),
        state_dir=given.text("state-dir", default_state_dir()),
        readiness="whole" if given.is_on("strict-readiness", True) else "settled",
        drain_delay=drain_delay(given.text("drain-delay") or None, environment),
        exits_on_error=given.is_on("exit-on-error", True),
        allow_client_shm=given.is_on("allow-client-shm", False),
        grpc_compression=_compression(given.text("grpc-infer-response-compression-level", "none")),
        keeps_timeouts=False,
        ignores_surplus=True,
        resources=_resources(given),
        repository=_repository(given),
        lifecycle=_lifecycle(given),
        tables={
            "metrics": _metrics(given.all("metrics-config")),
            "log": _log(given),
            "cache": _cache(given),
            "access": {"keys_file": given.text("keys-file")},
            "identity": {"file": given.text("identity-file")},
            "trace": trace,
            "tracing": tracing_of(given, trace, environment),
            "openai": openai.table(given),
        },
    )
    notices = platform_notices + given.without_effect()
    notices += [
        f"--backend-config {setting} is accepted and has no effect here"
        + PYTHON_SETTINGS.get(setting.partition("=")[0], "")
        for setting in given.all("backend-config")
        if "default-max-batch-size=" not in setting
    ]
    remark = _ONLY_HERE
    if any(name in given for name in ("http-address", "grpc-address", "metrics-address", "host")):
        remark = ""
    return Startup(config, tuple(notices), remark, given.is_on("json", False))


def _with_platforms(words: Sequence[str], environment: Mapping[str, str]) -> tuple[ParsedFlags, list[str]]:
    """Return the flags with those that stand for SageMaker, Vertex AI and OpenAI's front end, and notices."""
    given = ParsedFlags(words, TRITON)
    if more := openai.words_of(given):
        words = [*more, *words]
        given = ParsedFlags(words, TRITON)
    has_repository = "model-repository" in given or "model-store" in given
    more = []
    notices: list[str] = []
    if given.is_on("allow-sagemaker", False):
        more, notices = platforms.from_sagemaker(environment, has_repository=has_repository)
    if given.is_on("allow-vertex-ai", platforms.is_on_vertex(environment)):
        found = platforms.from_vertex(environment, has_repository=has_repository)
        more = ["--allow-vertex-ai=true", *more, *found]
    if more:  # the command line comes last, so that it prevails
        given = ParsedFlags([*more, *words], TRITON)
    return given, notices


def _paths(given: ParsedFlags) -> tuple[str, ...]:
    paths = given.all("model-repository") + given.all("model-store")
    if not paths and not given.is_on("allow-sagemaker", False):
        raise InvalidInput("no model repository is given", fix="Add --model-repository=FOLDER.")
    return paths


def _lifecycle(given: ParsedFlags) -> LifecycleConfig:
    return LifecycleConfig(
        max(given.number("model-load-thread-count", 4), 1), given.number("model-load-retry-count", 0)
    )


def _repository(given: ParsedFlags) -> RepositoryConfig:
    """Return where models are found, and defaults of their configurations."""
    rows = dict.fromkeys(("onnx", "tensorflow", "openvino"), _DEFAULT_ROWS)
    for setting in given.all("backend-config"):
        backend, _, words = setting.rpartition(",")
        key, equals, value = words.partition("=")
        if not equals:
            raise InvalidInput(
                f"--backend-config {setting!r} is not a setting", fix="Write BACKEND,KEY=VALUE."
            )
        if key == "default-max-batch-size":
            if not (value.isascii() and value.isdigit()):
                raise InvalidInput(f"--backend-config {setting!r}: the value must be a whole number")
            names = [_BACKENDS.get(backend, backend)] if backend else list(rows)
            rows |= dict.fromkeys(names, int(value))
    is_strict = given.is_on("disable-auto-complete-config", given.is_on("strict-model-config", False))
    return RepositoryConfig(
        config_name=given.text("model-config-name"),
        default_rows=rows,
        required_config=FILE if is_strict else "",
        has_namespaces=given.is_on("model-namespacing", False),
        backend_directory=given.text("backend-directory"),
    )


def _fronts(given: ParsedFlags, environment: Mapping[str, str]) -> list[FrontConfig]:
    """Return the ports of HTTP, gRPC, the platforms and metrics that are allowed."""
    found = []
    grace = float(given.number("exit-timeout-secs", 30))
    http_address = given.text("http-address", _LOCAL)
    certificate, key = given.text("tls-cert"), given.text("tls-key")
    if bool(certificate) != bool(key) or (given.text("tls-client-ca") and not key):
        raise InvalidInput("--tls-cert and --tls-key need each other, and --tls-client-ca needs both")
    origins = tuple(check_origin(origin) for origin in given.all("cors-origin"))
    http = FrontConfig(
        http_address,
        given.port("http-port", 8000),
        grace_seconds=grace,
        serves="http",
        shares_port=given.is_on("reuse-http-port", False),
        tls_cert=certificate,
        tls_key=key,
        tls_client_ca=given.text("tls-client-ca"),
        cors_origins=origins,
    )
    if given.is_on("allow-http", True):
        found.append(http)
    if given.is_on("allow-grpc", True):
        certificate, key, authority = _tls(given)
        found.append(
            FrontConfig(
                given.text("grpc-address", _LOCAL),
                given.port("grpc-port", 8001),
                grace_seconds=grace,
                tls_cert=certificate,
                tls_key=key,
                tls_client_ca=authority,
                serves="grpc",
                shares_port=given.is_on("reuse-grpc-port", False),
            )
        )
    if openai.is_front(given):
        address, port = given.text("host", http_address), given.port("openai-port", 9000)
        found.append(
            msgspec.structs.replace(http, host=address, port=port, serves="openai", shares_port=False)
        )
    found += _platforms(given, environment, grace)
    if not found:
        raise InvalidInput("neither HTTP nor gRPC is allowed", fix="Leave out one of the two flags.")
    if given.is_on("allow-metrics", True):
        address = given.text("metrics-address", http_address)
        port = given.port("metrics-port", 8002)
        found.append(FrontConfig(address, port, grace_seconds=grace, serves="metrics"))
    platforms.check_ports(
        {_TITLES.get(f.serves, f.serves): f.port for f in found if f.serves != "sagemaker"},
        given.text("sagemaker-safe-port-range"),
    )
    return found


def _platforms(given: ParsedFlags, environment: Mapping[str, str], grace: float) -> list[FrontConfig]:
    """Return the ports of SageMaker and Vertex AI, which call from outside the container."""
    found = []
    address = given.text("http-address", _EVERY)
    if given.is_on("allow-sagemaker", False):
        port = given.port("sagemaker-port", 8080)
        door = platforms.sagemaker(environment)
        found.append(FrontConfig(address, port, grace_seconds=grace, serves="sagemaker", platform=door))
    if given.is_on("allow-vertex-ai", False):
        port = given.port("vertex-ai-port", 8080)
        aip = platforms.vertex(environment, given.text("vertex-ai-default-model"))
        found.append(FrontConfig(address, port, grace_seconds=grace, serves="vertex-ai", platform=aip))
    return found


def _tls(given: ParsedFlags) -> tuple[str, str, str]:
    """Return the files of certificate, key and the authority of callers' certificates."""
    is_mutual = given.is_on("grpc-use-ssl-mutual", False)
    if not is_mutual and not given.is_on("grpc-use-ssl", False):
        return "", "", ""
    names = ["grpc-server-cert", "grpc-server-key"] + ["grpc-root-cert"] * is_mutual
    for name in names:
        if not given.text(name):
            raise InvalidInput(f"an encrypted gRPC port needs --{name}")
    certificate, key, *authority = (given.text(name) for name in names)
    return certificate, key, "".join(authority)


def _headers(given: ParsedFlags, restricted: str, pattern: str) -> HeaderConfig:
    return HeaderConfig(
        tuple(parse(text, f"--{restricted}") for text in given.all(restricted)), given.text(pattern)
    )


def _http_headers(given: ParsedFlags) -> HeaderConfig:
    found = _headers(given, "http-restricted-api", "http-header-forward-pattern")
    more = openai.restrictions(given.all("openai-restricted-api"))
    return msgspec.structs.replace(found, restrictions=(*found.restrictions, *more))


def _compression(level: str) -> int:
    if level not in _LEVELS:
        raise InvalidInput(
            f"--grpc-infer-response-compression-level {level!r} is not known",
            fix=f"One of {', '.join(_LEVELS)}.",
        )
    return _LEVELS[level]


def _log(given: ParsedFlags) -> dict[str, object]:
    access = given.text("access-log", "off")
    if access not in _ACCESS:
        raise InvalidInput(f"--access-log {access!r} is not known", fix=f"One of {', '.join(_ACCESS)}.")
    return {
        "level": "debug" if given.number("log-verbose", 0) else "info",
        "access_log": access,
        "file": given.text("log-file"),
        "silenced": tuple(level for level in _SWITCHED if not given.is_on(f"log-{level}", True)),
    }


def _resources(given: ParsedFlags) -> dict[str, int] | None:
    """Return the shared resources; None = not counted."""
    mode = given.text("rate-limit", "off")
    if mode not in ("off", "execution_count"):
        raise InvalidInput(
            f'invalid argument for --rate-limit. Expected "execution_count" or "off", got {mode}'
        )
    found = resources_of(given.all("rate-limit-resource"), "--rate-limit-resource")
    return found if mode == "execution_count" else None


def _cache(given: ParsedFlags) -> dict[str, object]:
    older = given.text("response-cache-byte-size", "0")
    if older != "0" and "cache-config" in given:
        raise InvalidInput("--response-cache-byte-size and --cache-config do not go together")
    words = given.all("cache-config")
    if older != "0":
        words = (f"local,size={older}",)
    return cache_of(words, "--cache-config")


def _metrics(settings: Sequence[str]) -> TritonMetricsConfig:
    """Return the metrics of settings such as ``counter_latencies=true``."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name == "summary_quantiles" and equals:
            found["quantiles"] = _quantiles(value)
        elif not equals or value.lower() not in YES + NO:
            raise InvalidInput(
                f"--metrics-config {setting!r} is not a setting", fix="Write NAME=true or false."
            )
        elif name not in _LATENCIES:
            raise InvalidInput(
                f"--metrics-config: there is no setting {name!r}",
                fix="One of counter_latencies, summary_latencies, summary_quantiles, histogram_latencies.",
            )
        else:
            found[_LATENCIES[name]] = value.lower() in YES
    return TritonMetricsConfig(**found)


def _quantiles(text: str) -> tuple[float, ...]:
    """Return the quantiles of ``0.5:0.05,0.9:0.01``; the error bounds after the colons have no effect."""
    try:
        found = tuple(float(pair.partition(":")[0]) for pair in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= quantile <= 1 for quantile in found):
        raise InvalidInput(
            f"--metrics-config summary_quantiles={text!r} are not quantiles",
            fix="Write 0.5:0.05,0.9:0.01, for example.",
        )
    return found

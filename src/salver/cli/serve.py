"""``salver serve``: its flags, and the configuration that they make."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from salver.dialects.openai.flags import Generation
from salver.terminal import otel
from salver.terminal.options import Artifacts, Json, Registry, cache_of, default_state_dir, resources_of
from salver.terminal.options import drain_delay as seconds_to_drain

Tables = dict[str, dict[str, object]]

if TYPE_CHECKING:
    from salver.cli.server_file import ServerFile
    from salver.transport.access_check import ApiConfig
    from salver.transport.server import FrontConfig
    from salver.transport.watch import ConnectionLimits


@Parameter(name="*")
@dataclass(frozen=True)
class Tls:
    """Flags of TLS, and of who may change something."""

    cert: Annotated[str, Parameter(name="--tls-cert", help="PEM file; needs --tls-key.")] = ""
    key: Annotated[str, Parameter(name="--tls-key", help="PEM file; needs --tls-cert.")] = ""
    client_ca: Annotated[
        str,
        Parameter(name="--tls-client-ca", help="PEM bundle; callers need a certificate signed by it."),
    ] = ""
    token_file: Annotated[
        str,
        Parameter(
            name="--api-token-file",
            help="File with the token that changes need, such as loading a model. Without it, changes are "
            "refused if other machines can reach --host.",
        ),
    ] = ""
    allows_remote: Annotated[
        bool,
        Parameter(
            name="--allow-remote-control",
            help="Accept changes from other machines without a token.",
        ),
    ] = False
    hosts: Annotated[
        tuple[str, ...],
        Parameter(
            name="--allowed-host",
            help="Host name, besides localhost, that callers of a local port may use, such as a proxy's.",
        ),
    ] = ()

    def api(self) -> "ApiConfig":
        """Return who may change something."""
        from salver.transport.access_check import ApiConfig

        return ApiConfig(self.token_file, self.allows_remote, self.hosts)


@Parameter(name="*")
@dataclass(frozen=True)
class Storage:
    """Flags of folders that outlive the server."""

    state_dir: Annotated[
        str | None,
        Parameter(
            help="Folder for profiles of models with an objective; '' = none. "
            "Default: $XDG_STATE_HOME/salver, or ~/.local/state/salver."
        ),
    ] = None
    registry: Registry = ""
    artifacts: Artifacts = ""

    def profiles(self) -> str:
        """Return the folder of the profiles; empty = none."""
        return default_state_dir() if self.state_dir is None else self.state_dir


@Parameter(name="*")
@dataclass(frozen=True)
class Logs:
    """Flags of the log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(name="--log-level", help="Least severe level to log."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Parameter(name="--log-format", help="Format of log lines; auto = console on a terminal, else json."),
    ] = "auto"
    access: Annotated[
        Literal["off", "errors", "all"],
        Parameter(name="--access-log", help="Requests that get a log line: none, failed ones, or all."),
    ] = "off"
    file: Annotated[
        str, Parameter(name="--log-file", help="File to append the log to; '' = standard error.")
    ] = ""
    predictions: Annotated[
        str,
        Parameter(
            name="--prediction-log",
            help="Folder for logs of requests and answers, of models with [logging]; '' = none.",
        ),
    ] = ""

    def table(self) -> dict[str, object]:
        """Return the table ``log`` of the configuration."""
        return {
            "level": self.level,
            "format": self.format,
            "access_log": self.access,
            "file": self.file,
        }


@Parameter(name="*")
@dataclass(frozen=True)
class Traces:
    """Flags of the trace file."""

    file: Annotated[
        str, Parameter(name="--trace-file", help="File to write traces of requests to; '' = tracing is off.")
    ] = ""
    level: Annotated[
        Literal["off", "timestamps"],
        Parameter(name="--trace-level", help="What is traced at the start; callers can change it."),
    ] = "off"
    rate: Annotated[int, Parameter(name="--trace-rate", help="Trace one request in this many.")] = 1000
    count: Annotated[
        int, Parameter(name="--trace-count", help="Stop after this many traces; -1 = never.")
    ] = -1
    log_frequency: Annotated[
        int,
        Parameter(
            name="--trace-log-frequency",
            help="Traces per file, in FILE.0, FILE.1 and so on; 0 = all in FILE.",
        ),
    ] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Execution:
    """Flags of how models run."""

    instances: Annotated[
        int,
        Parameter(
            name="--instances",
            help="Execution of a model at the same time, if its configuration does not say; 0 = automatic.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Parameter(
            name="--threads",
            help="Threads of each run, if the model's configuration does not say; 0 = automatic.",
        ),
    ] = 0
    resources: Annotated[
        tuple[str, ...],
        Parameter(
            name="--rate-limit-resource",
            help="NAME:COUNT of a resource that models share; a run waits until enough is free.",
        ),
    ] = ()
    prefer: Annotated[
        Literal["tensorflow", "onnx"],
        Parameter(
            help="Framework that runs SavedModels; onnx converts them once, and TensorFlow runs those that "
            "cannot be converted."
        ),
    ] = "tensorflow"


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """Flags of limits on callers, and of caches."""

    max_body_mb: Annotated[int, Parameter(name="--max-body-mb", help="Largest HTTP body, in MiB.")] = 64
    max_bodies_mb: Annotated[
        int,
        Parameter(
            name="--max-bodies-mb",
            help="Limit on the bodies of all requests together, in MiB; 0 = a quarter of the memory.",
        ),
    ] = 0
    max_connections_per_address: Annotated[
        int,
        Parameter(
            name="--max-connections-per-address",
            help="Most connections from one address; further ones are closed. 0 = no limit.",
        ),
    ] = 0
    min_rate: Annotated[
        float,
        Parameter(
            name="--min-rate",
            help="Bytes a second, over 30 s, below which a connection that sends a request or reads an "
            "answer is closed; 0 = no limit.",
        ),
    ] = 500.0
    max_message_mb: Annotated[
        int, Parameter(name="--max-message-mb", help="Largest gRPC message, in MiB.")
    ] = 2047
    allow_client_shm: Annotated[
        bool,
        Parameter(
            name="--allow-client-shm",
            help="Let callers keep tensors in shared memory, in segments of this machine's /dev/shm.",
        ),
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Parameter(
            name="--cors-origin",
            help="Origin whose pages may call from a browser, such as https://app.example.org; * = any.",
        ),
    ] = ()
    tenant_header: Annotated[
        str,
        Parameter(
            name="--tenant-header",
            help="HTTP header and gRPC metadata that names a request's tenant; '' = none.",
        ),
    ] = "x-tenant"
    response_cache: Annotated[
        str,
        Parameter(
            name="--response-cache",
            help="Cache for answers of models with response_cache, such as local,size=64m; '' = none.",
        ),
    ] = ""

    def connections(self) -> "ConnectionLimits":
        """Return the limits of each connection."""
        from salver.transport.watch import ConnectionLimits

        return ConnectionLimits(self.max_connections_per_address, self.min_rate)


@Parameter(name="*")
@dataclass(frozen=True)
class Shutdown:
    """Flags of how the server stops."""

    grace_seconds: Annotated[
        float,
        Parameter(
            name="--grace-seconds", help="Seconds that requests in flight have to end when the server stops."
        ),
    ] = 30.0
    drain_delay: Annotated[
        float | None,
        Parameter(
            name="--drain-delay",
            help="Seconds after SIGTERM in which the server is not ready and still answers. "
            "Default: 0 on a terminal, else 5.",
        ),
    ] = None
    exit_on_error: Annotated[
        bool | None,
        Parameter(
            name="--exit-on-error",
            help="Exit with 1 if a model does not load at the start; false = never. "
            "Default: if no model loads.",
        ),
    ] = None


_NO_TLS, _LOGS, _TRACES, _EXECUTION, _LIMITS, _GENERATION = (
    Tls(),
    Logs(),
    Traces(),
    Execution(),
    Limits(),
    Generation(),
)
_STORAGE, _SHUTDOWN = Storage(), Shutdown()


def serve(
    *paths: str,
    name: Annotated[str, Parameter(help="The model's name, when PATH holds exactly one.")] = "",
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 = all.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of HTTP and gRPC; 0 = any free one.")] = 8000,
    control: Annotated[
        Literal["poll", "none", "explicit"],
        Parameter(help="poll follows changes on disk, none reads once, explicit loads on request."),
    ] = "poll",
    poll_seconds: Annotated[float, Parameter(help="Seconds between two looks at the disk.")] = 2.0,
    load: Annotated[
        tuple[str, ...], Parameter(help="Model to load at the start, with --control explicit.")
    ] = (),
    trust_pickle: Annotated[
        bool,
        Parameter(help="Allow models whose loading runs code, such as pickles, also from requests."),
    ] = False,
    execution: Execution = _EXECUTION,
    limits: Limits = _LIMITS,
    storage: Storage = _STORAGE,
    front: Annotated[
        Literal["h2corn", "uvicorn"], Parameter(help="HTTP server; uvicorn has no HTTP/2 and no gRPC.")
    ] = "h2corn",
    shutdown: Shutdown = _SHUTDOWN,
    tls: Tls = _NO_TLS,
    logs: Logs = _LOGS,
    traces: Traces = _TRACES,
    generation: Generation = _GENERATION,
    json: Json = False,
) -> object:  # a Startup, which the command line runs; cyclopts would import it for --help
    """Serve models until Ctrl-C.

    A salver.toml with a table [server], in PATH or above it, holds the same options: salver config show PATH.

    --compat triton takes tritonserver's flags instead of these and opens its three ports, --compat
    tensorflow-serving those of tensorflow_model_server, and --compat torchserve (or salver torchserve) those
    of torchserve. salver serve --compat triton --help lists them.

    Args:
        paths: Model file, folder of one, or repository of many (name/version/artefact), recognised by
            content; local, or in an object store (s3://bucket/path).
    """
    # Imported here: the server is most of the start-up time of --help.
    from salver.cli.server_file import find
    from salver.configuration import ServeConfig, Startup
    from salver.kernel.repository import RepositoryConfig

    file = find(paths)
    _check(paths, tls, limits.tenant_header, storage)
    config = ServeConfig(
        paths=paths,
        name=name,
        drain_delay=seconds_to_drain(shutdown.drain_delay),
        exits_on_error=shutdown.exit_on_error,
        exits_if_none_loads=shutdown.exit_on_error is None and not storage.registry,
        front=_front((host, port), front, shutdown.grace_seconds, tls, limits.cors_origins),
        api=tls.api(),
        control=control,
        repository=RepositoryConfig(refuses_nothing=control != "explicit"),
        poll_seconds=poll_seconds,
        load=load,
        trust_pickle=trust_pickle,
        threads=execution.threads,
        instances=execution.instances,
        max_body_mb=limits.max_body_mb,
        max_bodies_mb=limits.max_bodies_mb,
        connections=limits.connections(),
        max_message_mb=limits.max_message_mb,
        allow_client_shm=limits.allow_client_shm,
        tenant_header=limits.tenant_header,
        state_dir=storage.profiles(),
        resources=resources_of(execution.resources, "--rate-limit-resource") or None,
        tables=_merged(file, _tables(execution, limits, storage, logs, traces, generation)),
    )
    notices = (*otel.notices(os.environ), *_registry_notices(storage.registry, os.environ, sys.argv))
    return Startup(config, notices, f"settings of {file.path} are used" if file else "", json)


def _merged(file: "ServerFile | None", given: Tables) -> Tables:
    """Return the tables that options give, with the keys that only a file or a variable can set."""
    from salver.cli.feature_tables import read_tables

    others = read_tables(file, os.environ)
    return {name: {**others.get(name, {}), **given.get(name, {})} for name in {**others, **given}}


def _tables(
    execution: Execution, limits: Limits, storage: Storage, logs: Logs, traces: Traces, generation: Generation
) -> Tables:
    """Return the tables of features and dialects; what is as by default is left to them."""
    tables: Tables = {
        "log": logs.table(),
        "trace": _changed(traces, _TRACES),
        "tracing": otel.from_environment(os.environ),
        "openai": _changed(generation, _GENERATION),
    }
    if limits.response_cache:
        tables["cache"] = cache_of([limits.response_cache], "--response-cache")
    if execution.prefer != _EXECUTION.prefer:
        tables["twins"] = {"prefer": execution.prefer}
    if logs.predictions:
        tables["tensorflow"] = {"prediction_log": logs.predictions}
    if storage.registry:
        tables["registry"] = {"ledger": storage.registry, "artifacts": storage.artifacts}
    return tables


def _changed(group: Traces | Generation, defaults: Traces | Generation) -> dict[str, object]:
    """Return the options of a group that differ from their defaults."""
    before = asdict(defaults)
    return {key: value for key, value in asdict(group).items() if value != before[key]}


def _registry_notices(registry: str, environment: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Return a notice about a registry that only the environment names."""
    if not registry or environment.get("SALVER_REGISTRY") != registry:
        return []
    if any(word.partition("=")[0] == "--registry" for word in words):
        return []
    return [
        "SALVER_REGISTRY is set in the environment: models of that registry are served, too. "
        "--registry '' serves none of them"
    ]


def _front(
    address: tuple[str, int], server: str, grace: float, tls: Tls, origins: tuple[str, ...]
) -> "FrontConfig":
    from salver.transport.cors import check_origin
    from salver.transport.server import FrontConfig

    files = (tls.cert, tls.key, tls.client_ca)
    return FrontConfig(
        *address, server, grace, *files, cors_origins=tuple(check_origin(origin) for origin in origins)
    )


def _check(paths: tuple[str, ...], tls: Tls, tenant_header: str, storage: Storage) -> None:
    from salver.words.errors import InvalidInput

    if not paths and not storage.registry:
        raise InvalidInput("no model is given", fix="Say: salver serve PATH")
    if bool(tls.cert) != bool(tls.key):
        raise InvalidInput("--tls-cert and --tls-key need each other", fix="Give both.")
    if tls.client_ca and not tls.cert:
        raise InvalidInput("--tls-client-ca needs --tls-cert and --tls-key")
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", tenant_header, re.ASCII):  # RFC 9110, section 5.6.2
        raise InvalidInput(f"--tenant-header {tenant_header!r} is not a header name")

"""``salver serve``: flags into a configuration, and the start-up block when the models are up."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from salver.cli.start import run
from salver.dialects.openai.flags import Speech
from salver.terminal import otel
from salver.terminal.options import Artifacts, Json, Registry, cache_of, default_state_dir, resources_of
from salver.terminal.options import drain_delay as seconds_to_drain

if TYPE_CHECKING:
    from salver.transport.access_check import ApiConfig
    from salver.transport.server import FrontConfig
    from salver.transport.watch import ConnectionLimits


@Parameter(name="*")
@dataclass(frozen=True)
class Tls:
    """Flags of the encrypted port, and of who may change something through it."""

    cert: Annotated[str, Parameter(name="--tls-cert", help="PEM file; needs --tls-key.")] = ""
    key: Annotated[str, Parameter(name="--tls-key", help="PEM file; needs --tls-cert.")] = ""
    client_ca: Annotated[
        str,
        Parameter(name="--tls-client-ca", help="PEM bundle; callers must show a certificate that it signed."),
    ] = ""
    token_file: Annotated[
        str,
        Parameter(
            name="--api-token-file",
            help="Holds the token that changes need, such as to load and unload models. Without one they are "
            "for this machine alone: refused when --host is an address that others reach.",
        ),
    ] = ""
    allows_remote: Annotated[
        bool,
        Parameter(
            name="--allow-remote-control",
            help="Take changes from other machines without a token, too, where there is none.",
        ),
    ] = False
    hosts: Annotated[
        tuple[str, ...],
        Parameter(
            name="--allowed-host",
            help="Name besides localhost by which a port of this machine alone may be asked, as by a proxy.",
        ),
    ] = ()

    def api(self) -> "ApiConfig":
        """As the server takes it."""
        from salver.transport.access_check import ApiConfig

        return ApiConfig(self.token_file, self.allows_remote, self.hosts)


@Parameter(name="*")
@dataclass(frozen=True)
class Kept:
    """Flags of what outlives the server."""

    state_dir: Annotated[
        str | None,
        Parameter(
            help="Where profiles of models with an objective are kept; '' = nowhere. "
            "Default: $XDG_STATE_HOME/salver, or ~/.local/state/salver."
        ),
    ] = None
    registry: Registry = ""
    artifacts: Artifacts = ""

    def profiles(self) -> str:
        """Folder of the profiles; empty = nowhere."""
        return default_state_dir() if self.state_dir is None else self.state_dir


@Parameter(name="*")
@dataclass(frozen=True)
class Logs:
    """Flags of the log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(name="--log-level", help="Least severe to log."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Parameter(name="--log-format", help="auto: console on a terminal, else json."),
    ] = "auto"
    access: Annotated[
        Literal["off", "errors", "all"],
        Parameter(name="--access-log", help="Which requests get a line in the log."),
    ] = "off"
    file: Annotated[
        str, Parameter(name="--log-file", help="Takes the log, behind what is in it; '' = standard error.")
    ] = ""
    predictions: Annotated[
        str,
        Parameter(
            name="--prediction-log",
            help="Folder that takes requests with their answers, of models whose [logging] says so.",
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
        str, Parameter(name="--trace-file", help="Takes traces of requests; '' = none can be traced.")
    ] = ""
    level: Annotated[
        Literal["off", "timestamps"],
        Parameter(name="--trace-level", help="What is traced until a caller changes it."),
    ] = "off"
    rate: Annotated[int, Parameter(name="--trace-rate", help="One request in so many is traced.")] = 1000
    count: Annotated[
        int, Parameter(name="--trace-count", help="So many traces, then no more; -1 = without end.")
    ] = -1
    log_frequency: Annotated[
        int,
        Parameter(
            name="--trace-log-frequency", help="Traces in each of FILE.0, FILE.1 and so on; 0 = all in FILE."
        ),
    ] = 0

    def table(self) -> dict[str, object]:
        """Return the table ``trace`` of the configuration."""
        return asdict(self)


@Parameter(name="*")
@dataclass(frozen=True)
class Runs:
    """Flags of how models run."""

    instances: Annotated[
        int,
        Parameter(
            name="--instances",
            help="Runs of a model at once, where its own configuration is silent; 0 = automatic.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Parameter(
            name="--threads",
            help="Threads in one run, where its own configuration is silent; 0 = automatic.",
        ),
    ] = 0
    resources: Annotated[
        tuple[str, ...],
        Parameter(
            name="--rate-limit-resource",
            help="NAME:COUNT that models share: a run waits until there is what its model takes.",
        ),
    ] = ()
    prefer: Annotated[
        Literal["tensorflow", "onnx"],
        Parameter(
            help="Who runs SavedModels. onnx: they are converted once, and what cannot be converted stays "
            "with TensorFlow."
        ),
    ] = "tensorflow"


@Parameter(name="*")
@dataclass(frozen=True)
class Bodies:
    """Flags of what callers may send, and of where it and the answers may stay."""

    max_body_mb: Annotated[int, Parameter(name="--max-body-mb", help="Most MiB of an HTTP body.")] = 64
    max_bodies_mb: Annotated[
        int,
        Parameter(
            name="--max-bodies-mb",
            help="Most MiB that the bodies of all requests may hold together; 0 = a quarter of the memory.",
        ),
    ] = 0
    max_connections_per_address: Annotated[
        int,
        Parameter(
            name="--max-connections-per-address",
            help="Most connections of one address, the newest being cut; 0 = as many as there may be.",
        ),
    ] = 0
    min_rate: Annotated[
        float,
        Parameter(
            name="--min-rate",
            help="Bytes a second that a caller sends of a request, or reads of its answer, over 30 s; "
            "slower connections are cut. 0 = any.",
        ),
    ] = 500.0
    max_message_mb: Annotated[int, Parameter(name="--max-message-mb", help="Most MiB of a gRPC message.")] = (
        2047
    )
    allow_client_shm: Annotated[
        bool,
        Parameter(
            name="--allow-client-shm",
            help="Let callers keep tensors in shared memory, in any segment of /dev/shm here.",
        ),
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Parameter(
            name="--cors-origin",
            help="Origin whose pages may ask from a browser, as https://app.example.org; * for every one.",
        ),
    ] = ()
    tenant_header: Annotated[
        str,
        Parameter(
            name="--tenant-header",
            help="Header or gRPC metadata that names a request's tenant; '' = none does.",
        ),
    ] = "x-tenant"
    response_cache: Annotated[
        str,
        Parameter(
            name="--response-cache",
            help="Where answers of models that want it are kept, as local,size=64m; '' = nowhere.",
        ),
    ] = ""

    def connections(self) -> "ConnectionLimits":
        """What a connection may cost."""
        from salver.transport.watch import ConnectionLimits

        return ConnectionLimits(self.max_connections_per_address, self.min_rate)


@Parameter(name="*")
@dataclass(frozen=True)
class Ending:
    """Flags of when the server ends, and how."""

    grace_seconds: Annotated[
        float, Parameter(name="--grace-seconds", help="For requests in flight when the server stops.")
    ] = 30.0
    drain_delay: Annotated[
        float | None,
        Parameter(
            name="--drain-delay",
            help="Seconds after SIGTERM in which it is not ready and goes on answering. "
            "Default: 0 on a terminal, else 5.",
        ),
    ] = None
    exit_on_error: Annotated[
        bool | None,
        Parameter(
            name="--exit-on-error",
            help="End with 1 where a model does not load at the start; false: not even where none does. "
            "Default: where none does.",
        ),
    ] = None


_NO_TLS, _LOGS, _TRACES, _RUNS, _BODIES, _SPEECH = Tls(), Logs(), Traces(), Runs(), Bodies(), Speech()
_KEPT, _ENDING = Kept(), Ending()


def serve(
    *paths: str,
    name: Annotated[str, Parameter(help="The model's name, when PATH holds exactly one.")] = "",
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="HTTP and gRPC share it; 0 picks a free one.")] = 8000,
    control: Annotated[
        Literal["poll", "none", "explicit"],
        Parameter(help="poll follows changes on disk, none looks once, explicit loads on request."),
    ] = "poll",
    poll_seconds: Annotated[float, Parameter(help="Between two looks at the disk.")] = 2.0,
    load: Annotated[
        tuple[str, ...], Parameter(help="A model to load at the start, with --control explicit.")
    ] = (),
    trust_pickle: Annotated[
        bool,
        Parameter(help="Allow pickles, machine code, and every format to whoever can have models loaded."),
    ] = False,
    runs: Runs = _RUNS,
    bodies: Bodies = _BODIES,
    kept: Kept = _KEPT,
    front: Annotated[
        Literal["h2corn", "uvicorn"], Parameter(help="HTTP server; uvicorn speaks no HTTP/2 and no gRPC.")
    ] = "h2corn",
    ending: Ending = _ENDING,
    tls: Tls = _NO_TLS,
    logs: Logs = _LOGS,
    traces: Traces = _TRACES,
    speech: Speech = _SPEECH,
    json: Json = False,
) -> int:
    """Serve models until Ctrl-C.

    With --compat triton it takes tritonserver's flags instead of these, and opens its three ports; with
    --compat tensorflow-serving those of tensorflow_model_server, with --compat torchserve (or as salver
    torchserve) those of torchserve: salver serve --compat triton --help lists them.

    Args:
        paths: A model file, a folder of one, or a repository of many (name/version/artefact);
            recognised by content. Or the URL of one in an object store: s3://bucket/path.
    """
    # Imported here: the server is most of the start-up time of --help.
    from salver.configuration import ServeConfig, Startup
    from salver.kernel.repository import RepositoryConfig

    _check(paths, tls, bodies.tenant_header, kept)
    config = ServeConfig(
        paths=paths,
        name=name,
        drain_delay=seconds_to_drain(ending.drain_delay),
        exits_on_error=ending.exit_on_error,
        exits_if_none_loads=ending.exit_on_error is None and not kept.registry,
        front=_front((host, port), front, ending.grace_seconds, tls, bodies.cors_origins),
        api=tls.api(),
        control=control,
        repository=RepositoryConfig(refuses_nothing=control != "explicit"),
        poll_seconds=poll_seconds,
        load=load,
        trust_pickle=trust_pickle,
        threads=runs.threads,
        instances=runs.instances,
        max_body_mb=bodies.max_body_mb,
        max_bodies_mb=bodies.max_bodies_mb,
        connections=bodies.connections(),
        max_message_mb=bodies.max_message_mb,
        allow_client_shm=bodies.allow_client_shm,
        tenant_header=bodies.tenant_header,
        state_dir=kept.profiles(),
        resources=resources_of(runs.resources, "--rate-limit-resource") or None,
        tables=_tables(runs, bodies, kept, logs, traces, speech),
    )
    notices = (*otel.notices(os.environ), *_registry_notices(kept.registry, os.environ, sys.argv))
    return run(Startup(config, notices, "", json))


def _tables(
    runs: Runs, bodies: Bodies, kept: Kept, logs: Logs, traces: Traces, speech: Speech
) -> dict[str, dict[str, object]]:
    """Return the tables of features and dialects."""
    return {
        "log": logs.table(),
        "cache": cache_of(filter(None, [bodies.response_cache]), "--response-cache"),
        "trace": traces.table(),
        "tracing": otel.from_environment(os.environ),
        "openai": speech.table(),
        "twins": {"prefer": runs.prefer},
        "tensorflow": {"prediction_log": logs.predictions},
        "registry": {"ledger": kept.registry, "artifacts": kept.artifacts},
    }


def _registry_notices(registry: str, environment: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Tell of a registry that nobody named on the command line."""
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


def _check(paths: tuple[str, ...], tls: Tls, tenant_header: str, kept: Kept) -> None:
    from salver.words.errors import InvalidInput

    if not paths and not kept.registry:
        raise InvalidInput("no model is given", fix="Say: salver serve PATH")
    if bool(tls.cert) != bool(tls.key):
        raise InvalidInput("--tls-cert and --tls-key belong together")
    if tls.client_ca and not tls.cert:
        raise InvalidInput("--tls-client-ca needs --tls-cert and --tls-key")
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", tenant_header, re.ASCII):  # RFC 9110, section 5.6.2
        raise InvalidInput(f"--tenant-header {tenant_header!r} is no name of a header")

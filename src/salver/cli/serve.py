"""``salver serve``: the configuration that its options make."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from salver.cli.serve_flags import Execution, Generation, Limits, Logs, Shutdown, Storage, Tls, Traces
from salver.terminal.options import Json, cache_of, resources_of
from salver.terminal.options import drain_delay as seconds_to_drain

Tables = dict[str, dict[str, object]]

if TYPE_CHECKING:
    from salver.cli.server_file import ServerFile
    from salver.transport.server import FrontConfig


_TLS, _LOGS, _TRACES, _EXECUTION = Tls(), Logs(), Traces(), Execution()
_LIMITS, _STORAGE, _SHUTDOWN, _GENERATION = Limits(), Storage(), Shutdown(), Generation()


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
    shutdown: Shutdown = _SHUTDOWN,
    tls: Tls = _TLS,
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

    _wait_for(paths, storage.wait)
    file = find(paths)
    _check(paths, tls, limits.tenant_header, storage)
    config = ServeConfig(
        paths=paths,
        name=name,
        drain_delay=seconds_to_drain(shutdown.drain_delay),
        exits_on_error=shutdown.exit_on_error,
        exits_if_none_loads=shutdown.exit_on_error is None and not storage.registry,
        front=_front(
            (host, port), shutdown.grace_seconds, tls, limits.cors_origins, shares_port=execution.fronts > 1
        ),
        api=tls.api(),
        control=control,
        repository=RepositoryConfig(refuses_nothing=control != "explicit"),
        poll_seconds=poll_seconds,
        load=load,
        trust_pickle=trust_pickle,
        allow_environments=execution.allow_environments,
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
        tables=_merged(file, _tables(execution, limits, storage, tls, logs, traces, generation)),
    )
    notices = (*_otel_notices(os.environ), *_registry_notices(storage.registry, os.environ, sys.argv))
    return Startup(config, notices, f"settings of {file.path} are used" if file else "", json)


def _merged(file: "ServerFile | None", given: Tables) -> Tables:
    """Return the tables that options give, with the keys that only a file or a variable can set."""
    from salver.cli.feature_tables import read_tables

    others = read_tables(file, os.environ)
    return {name: {**others.get(name, {}), **given.get(name, {})} for name in {**others, **given}}


def _tables(
    execution: Execution,
    limits: Limits,
    storage: Storage,
    tls: Tls,
    logs: Logs,
    traces: Traces,
    generation: Generation,
) -> Tables:
    """Return the tables of features and dialects; what is as by default is left to them."""
    tables: Tables = {
        "log": logs.table(),
        "trace": _changed(traces, _TRACES),
        "tracing": _tracing(os.environ),
        "openai": _changed(generation, _GENERATION),
    }
    if limits.response_cache:
        tables["cache"] = cache_of([limits.response_cache], "--response-cache")
    if limits.prefix_cache:
        tables["prefixes"] = {"settings": limits.prefix_cache}
    if execution.fronts != _EXECUTION.fronts:
        tables["fronts"] = {"count": execution.fronts}
    if execution.memory:
        tables["memory"] = {"budget": execution.memory}
    if execution.prefer != _EXECUTION.prefer:
        tables["twins"] = {"prefer": execution.prefer}
    tensorflow: dict[str, object] = {"prediction_log": logs.predictions} if logs.predictions else {}
    if limits.first_output:
        tensorflow["rules"] = {"first_output": True}
    if tensorflow:
        tables["tensorflow"] = tensorflow
    if events := logs.events():
        tables["cloudevents"] = events
    if limits.is_lenient:
        tables["oip"] = {"is_lenient": True}
    if execution.engine != _EXECUTION.engine:
        tables["cluster"] = {"engine": execution.engine, "nodes": execution.engine_nodes}
    if execution.rules_file:
        tables["rules"] = {"file": execution.rules_file}
    if tls.keys_file:
        tables["access"] = {"keys_file": tls.keys_file}
    if tls.identity_file:
        tables["identity"] = {"file": tls.identity_file}
    if storage.registry:
        tables["registry"] = {
            "ledger": storage.registry,
            "artifacts": storage.artifacts,
            "advertise": storage.advertise,
            "zone": storage.zone,
        }
    return tables


def _tracing(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the table ``tracing`` as OpenTelemetry's variables give it."""
    if not _has_otel(environment):
        return {}
    from salver.terminal import otel

    return otel.from_environment(environment)


def _otel_notices(environment: Mapping[str, str]) -> list[str]:
    if not _has_otel(environment):
        return []
    from salver.terminal import otel

    return otel.notices(environment)


def _has_otel(environment: Mapping[str, str]) -> bool:
    return any(name.startswith("OTEL_") for name in environment)


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
    address: tuple[str, int], grace: float, tls: Tls, origins: tuple[str, ...], *, shares_port: bool
) -> "FrontConfig":
    from salver.transport.server import FrontConfig

    if origins:
        from salver.transport.cors import check_origin

        origins = tuple(check_origin(origin) for origin in origins)

    files = (tls.cert, tls.key, tls.client_ca)
    front = FrontConfig(*address, grace, *files, cors_origins=origins, shares_port=shares_port)
    if "LISTEN_FDS" in os.environ:
        from salver.features.systemd.activation import activated

        return activated(front, os.environ, os.getpid())
    return front


def _wait_for(paths: Sequence[str], seconds: float | None) -> None:
    """Wait for models that come after the server, as the operator or KServe says."""
    is_kserve = os.environ.get("MODEL_INIT_MODE") == "async"
    if seconds or (seconds is None and is_kserve):
        from salver.cli.absent import KSERVE_S, wait_for

        wait_for(paths, KSERVE_S if seconds is None else seconds)


def _check(paths: tuple[str, ...], tls: Tls, tenant_header: str, storage: Storage) -> None:
    from salver.words.errors import InvalidInput

    if not paths and not storage.registry:
        raise InvalidInput("no model is given", fix="Say: salver serve PATH")
    if storage.advertise and not storage.registry:
        raise InvalidInput("--advertise writes to a ledger", fix="Say --registry, too.")
    if bool(tls.cert) != bool(tls.key):
        raise InvalidInput("--tls-cert and --tls-key need each other", fix="Give both.")
    if tls.client_ca and not tls.cert:
        raise InvalidInput("--tls-client-ca needs --tls-cert and --tls-key")
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", tenant_header, re.ASCII):  # RFC 9110, section 5.6.2
        raise InvalidInput(f"--tenant-header {tenant_header!r} is not a header name")

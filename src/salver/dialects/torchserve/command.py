"""TorchServe's options, config.properties and environment, as Salver's configuration."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from salver.configuration import ServeConfig, Startup
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.config import TorchServeConfig
from salver.dialects.torchserve.engine.gpus import count_gpus
from salver.dialects.torchserve.flags import KEY_FILE, Options
from salver.dialects.torchserve.keystore import pem_files
from salver.dialects.torchserve.logs import TorchServeLogConfig
from salver.dialects.torchserve.metrics import Mode, TorchServeMetricsConfig
from salver.dialects.torchserve.metrics_yaml import USUAL
from salver.dialects.torchserve.metrics_yaml import read as read_metrics
from salver.dialects.torchserve.model_settings import parse as parse_models
from salver.dialects.torchserve.registering import HandlerStoreConfig, StartupModel, name_of, of_snapshot
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.dialects.torchserve.settings import Address, Settings, find
from salver.dialects.torchserve.snapshots import SnapshotConfig, last
from salver.dialects.torchserve.view import TorchServeViewConfig
from salver.terminal import otel
from salver.terminal.options import default_state_dir, drain_delay
from salver.transport.access_check import ApiConfig, is_loopback
from salver.transport.doors import Kind
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

_ONLY_HERE: Final = "only this machine can connect; inference_address=http://0.0.0.0:8080 changes that"
_NO_CPP: Final = "there is no C++ backend"
_NO_JAVA: Final = "there is no Java"
_NO_LOG4J: Final = "Log4j is not used; --log-level says what is logged, LOG_LOCATION where"
_MIB: Final = 1 << 20
_MODES: Final[dict[str, Mode]] = {"log": "log", "prometheus": "prometheus", "legacy": "legacy"}
_KINDS: Final[dict[str, Kind]] = {
    "torchserve-inference": "torchserve-inference",
    "torchserve-management": "torchserve-management",
    "torchserve-metrics": "torchserve-metrics",
    "torchserve-inference-metrics": "torchserve-inference-metrics",
    "torchserve-management-metrics": "torchserve-management-metrics",
    "torchserve-all": "torchserve-all",
    "torchserve-grpc-inference": "torchserve-grpc-inference",
    "torchserve-grpc-management": "torchserve-grpc-management",
}


def configure(options: Options, environment: Mapping[str, str] = os.environ) -> Startup:
    """Return the configuration of options, files and environment.

    Raises:
        InvalidInput: one of them is wrong.
        Unsupported: one asks for something that Salver does not have.
    """
    logs = environment.get("LOG_LOCATION", "logs")
    folder = Path(logs) / "config"
    before = last(folder) if options.keeps_snapshots else None
    settings = Settings(find(options.config, environment, before, Path()), options.settings(), environment)
    first, *more = _fronts(settings, options.grace_seconds)
    largest = settings.number("max_request_size")
    config = ServeConfig(
        front=first,
        more=tuple(more),
        # TorchServe's own keys protect changes, unless its operator has disabled them.
        api=ApiConfig(allows_remote=True, hosts=options.hosts),
        control="none",
        max_body_mb=largest / _MIB,
        max_message_mb=max(1, -(-largest // _MIB)),
        state_dir=default_state_dir() if options.state_dir is None else options.state_dir,
        drain_delay=drain_delay(options.drain_delay, environment),
        exits_on_error=options.exits_on_error,
        waits_for_models=True,
        readiness="whole",
        tables={
            "torchserve": TorchServeConfig(
                _rules(settings),
                _view(settings, options, logs, environment.get("METRICS_LOCATION", "logs")),
                SnapshotConfig(str(folder), _written(settings)) if options.keeps_snapshots else None,
                _handlers(settings),
                settings.text("blacklist_env_vars"),
                settings.number("initial_worker_port"),
                settings.text("workflow_store"),
            ),
            "log": {"level": options.log_level},
            "tracing": otel.from_environment(environment),
        },
    )
    notices = (*settings.notices, *_notices(options), *otel.notices(environment))
    return Startup(config, notices, _ONLY_HERE if is_loopback(first.host) else "", options.json)


def _fronts(settings: Settings, grace: float) -> list[FrontConfig]:
    """Return the ports of REST, one for each address, and both of gRPC."""
    together: dict[Address, list[str]] = {}
    for surface in ("inference", "management", "metrics"):
        if surface != "metrics" or settings.is_on("enable_metrics_api"):
            together.setdefault(settings.address(f"{surface}_address"), []).append(surface)
    has_tls = settings.is_on("enable_grpc_ssl")
    files = _pem(settings) if has_tls or any(each.is_encrypted for each in together) else ("", "")
    found = []
    for address, surfaces in together.items():
        kind = (
            "torchserve-all"
            if surfaces[:2] == ["inference", "management"]
            else "-".join(["torchserve", *surfaces])
        )
        tls = files if address.is_encrypted else ("", "")
        found.append(
            FrontConfig(
                address.host,
                address.port,
                grace_seconds=grace,
                tls_cert=tls[0],
                tls_key=tls[1],
                serves=_KINDS[kind],
                path=address.path,
            )
        )
    tls = files if has_tls else ("", "")
    for surface in ("inference", "management"):
        host, port = settings.text(f"grpc_{surface}_address"), settings.number(f"grpc_{surface}_port")
        kind = _KINDS[f"torchserve-grpc-{surface}"]
        found.append(
            FrontConfig(host, port, grace_seconds=grace, tls_cert=tls[0], tls_key=tls[1], serves=kind)
        )
    return found


def _pem(settings: Settings) -> tuple[str, str]:
    """Return the files of the certificate and its key."""
    if store := settings.text("keystore"):
        return pem_files(store, settings.text("keystore_pass"))
    files = settings.text("certificate_file"), settings.text("private_key_file")
    if not all(files):
        raise InvalidInput(
            "an encrypted port needs certificate_file and private_key_file, or keystore",
            fix="Name them in config.properties.",
        )
    for name, path in zip(("certificate_file", "private_key_file"), files, strict=True):
        if not Path(path).is_file():
            raise InvalidInput(f"{name}: there is no file {path}")
    return files


def _handlers(settings: Settings) -> HandlerStoreConfig:
    """Return which models are loaded, and what requests may register."""
    store = settings.text("model_store")
    if not store:
        raise InvalidInput("Missing mandatory parameter --model-store")
    for name, folder in (("model", store), ("workflow", settings.text("workflow_store"))):
        if folder and not Path(folder).is_dir():
            raise InvalidInput(f"--{name}-store directory not found: {folder}")
    gpus = min(count_gpus(), settings.number("number_of_gpu"))
    workers = settings.number("default_workers_per_model")
    at_start, is_all = _models(settings)
    declared = settings.text("metrics_config")
    options = {
        "envelope": settings.text("service_envelope"),
        "decode": "" if settings.is_on("decode_input_request") else "false",
        "limit_max_image_pixels": "" if settings.is_on("limit_max_image_pixels") else "false",
        "metrics_config": str(Path(declared).resolve()) if declared else "",  # workers have another folder
    }
    return HandlerStoreConfig(
        ArchiveStoreConfig(store, tuple(settings.text("allowed_urls").split(","))),
        settings.is_on("enable_model_api"),
        at_start,
        is_all,
        workers,
        1 if settings.is_on("debug") else workers or gpus or len(os.sched_getaffinity(0)),
        settings.number("default_response_timeout"),
        settings.number("default_startup_timeout"),
        settings.number("job_queue_size"),
        settings.number("unregister_model_timeout"),
        settings.text("default_service_handler"),
        {name: value for name, value in options.items() if value},
        {name: dict(versions) for name, versions in parse_models(settings.text("models")).items()},
        gpus,
        settings.is_on("install_py_dep_per_model"),
    )


def _models(settings: Settings) -> tuple[tuple[StartupModel, ...], bool]:
    """Return the models to load at the start, and True if they are all of the store."""
    if told := settings.object("model_snapshot"):
        return of_snapshot(parse_models(json.dumps(told.get("models", {})), "model_snapshot")), False
    said = settings.text("load_models")
    if said.lower() == "all":
        return (), True
    found = []
    for each in filter(None, map(str.strip, said.split(","))):
        name, equals, url = each.partition("=")
        url = url if equals else name
        found.append(StartupModel(url, name if equals else "", name_of(url)))
    return tuple(found), False


def _rules(settings: Settings) -> TorchServeRules:
    wants_tokens = not settings.is_on("disable_token_authorization")
    return TorchServeRules(
        tokens=TokenRules(KEY_FILE, settings.float("token_expiration_min")) if wants_tokens else None,
        may_change=settings.is_on("enable_model_api"),
        max_request=settings.number("max_request_size"),
        max_response=settings.number("max_response_size"),
        sequence_headers=(
            settings.text("ts_header_key_sequence_id"),
            settings.text("ts_header_key_sequence_start"),
            settings.text("ts_header_key_sequence_end"),
        ),
        cors_origin=settings.text("cors_allowed_origin"),
        cors_methods=settings.text("cors_allowed_methods"),
        cors_headers=settings.text("cors_allowed_headers"),
        speaks_oip=settings.is_on("ts_open_inference_protocol"),
        has_metrics=settings.is_on("enable_metrics_api"),
        shows_metrics=settings.text("metrics_mode").lower() != "log",
    )


def _view(settings: Settings, options: Options, logs: str, metrics: str) -> TorchServeViewConfig:
    """Return the configuration of metrics and log files."""
    file = settings.text("metrics_config")
    named = TorchServeMetricsConfig(
        _MODES[settings.text("metrics_mode").lower()],
        read_metrics(file) if file else USUAL,
        settings.is_on("model_metrics_auto_detect"),
        0.0 if settings.is_on("disable_system_metrics") else settings.number("metric_time_interval"),
    )
    return TorchServeViewConfig(named if options.has_metrics else None, TorchServeLogConfig(logs, metrics))


def _written(settings: Settings) -> dict[str, str]:
    """Return the settings in a snapshot, besides the models."""
    return {
        name: value for name, value in settings.as_set().items() if name not in ("model_snapshot", "models")
    }


def _notices(options: Options) -> Iterator[str]:
    for flag, value, why in (
        ("--log-config", options.log_config, _NO_LOG4J),
        ("--cpp-log-config", options.cpp_log_config, _NO_CPP),
        ("--plugins-path", options.plugins, _NO_JAVA),
    ):
        if value:
            yield f"{flag} is accepted and has no effect here: {why}"

"""TorchServe's options, config.properties and environment, as Salver's configuration."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from salver.configuration import ServeConfig, Startup
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.config import TorchServeConfig
from salver.dialects.torchserve.flags import IGNORED, KEY_FILE, Options
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
from salver.kernel.repository.bounds import machine
from salver.machine import count_gpus
from salver.terminal import otel
from salver.terminal.options import drain_delay, state_dir_of
from salver.transport.access_check import ApiConfig, is_loopback
from salver.transport.doors import Kind
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

_ONLY_HERE: Final = "only this machine can connect; inference_address=http://0.0.0.0:8080 changes that"
_MIB: Final = 1 << 20


def configure(options: Options, environment: Mapping[str, str]) -> Startup:
    """Return the configuration of options, files and environment.

    Raises:
        InvalidInput: one of them is wrong.
        Unsupported: one asks for something that Salver does not have.
    """
    logs = environment.get("LOG_LOCATION", "logs")
    folder = Path(logs) / "config"
    before, snapshots = None, None
    if options.keeps_snapshots:
        before = last(folder)
    settings = Settings(find(options.config, environment, before, Path()), options.settings(), environment)
    if options.keeps_snapshots:
        snapshots = SnapshotConfig(str(folder), _snapshot_settings(settings))
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
        state_dir=state_dir_of(options.state_dir),
        drain_delay=drain_delay(options.drain_delay, environment),
        exits_on_error=options.exits_on_error,
        waits_for_models=True,
        readiness="whole",
        tables={
            "torchserve": TorchServeConfig(
                _rules(settings),
                _view(settings, options, logs, environment.get("METRICS_LOCATION", "logs")),
                snapshots,
                _handlers(settings),
                settings.text("blacklist_env_vars"),
                settings.number("initial_worker_port"),
                settings.text("workflow_store"),
            ),
            "log": {"level": options.log_level},
            "access": {"keys_file": options.keys_file},
            "identity": {"file": options.identity_file},
            "tracing": otel.from_environment(environment),
        },
    )
    notices = (*settings.notices, *_notices(options), *otel.notices(environment))
    hint = _ONLY_HERE if is_loopback(first.host) else ""
    return Startup(config, notices, hint, options.json)


def _fronts(settings: Settings, grace: float) -> list[FrontConfig]:
    """Return the ports of REST, one for each address, and both of gRPC."""
    by_address: dict[Address, list[str]] = {}
    for surface in ("inference", "management", "metrics"):
        if surface != "metrics" or settings.is_on("enable_metrics_api"):
            by_address.setdefault(settings.address(f"{surface}_address"), []).append(surface)
    ports = []
    for address, surfaces in by_address.items():
        kind = "-".join(["torchserve", *surfaces])
        if surfaces[:2] == ["inference", "management"]:
            kind = "torchserve-all"
        ports.append((address, kind))
    for surface in ("inference", "management"):
        host, port = settings.text(f"grpc_{surface}_address"), settings.number(f"grpc_{surface}_port")
        address = Address(host, port, settings.is_on("enable_grpc_ssl"))
        ports.append((address, f"torchserve-grpc-{surface}"))
    tls = {False: ("", "")}
    if any(address.is_encrypted for address, _ in ports):
        tls[True] = _pem(settings)
    return [
        FrontConfig(
            address.host,
            address.port,
            grace_seconds=grace,
            tls_cert=tls[address.is_encrypted][0],
            tls_key=tls[address.is_encrypted][1],
            serves=msgspec.convert(kind, Kind),
            path=address.path,
        )
        for address, kind in ports
    ]


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
    options = {}
    if envelope := settings.text("service_envelope"):
        options["envelope"] = envelope
    if not settings.is_on("decode_input_request"):
        options["decode"] = "false"
    if not settings.is_on("limit_max_image_pixels"):
        options["limit_max_image_pixels"] = "false"
    if metrics := settings.text("metrics_config"):
        options["metrics_config"] = str(Path(metrics).resolve())  # workers run in other folders
    workers_at_start = workers or gpus or machine().cores
    if settings.is_on("debug"):
        workers_at_start = 1
    return HandlerStoreConfig(
        ArchiveStoreConfig(store, tuple(settings.text("allowed_urls").split(","))),
        settings.is_on("enable_model_api"),
        at_start,
        is_all,
        workers,
        workers_at_start,
        settings.number("default_response_timeout"),
        settings.number("default_startup_timeout"),
        settings.number("job_queue_size"),
        settings.number("unregister_model_timeout"),
        settings.text("default_service_handler"),
        options,
        {name: dict(versions) for name, versions in parse_models(settings.text("models")).items()},
        gpus,
        settings.is_on("install_py_dep_per_model"),
    )


def _models(settings: Settings) -> tuple[tuple[StartupModel, ...], bool]:
    """Return the models to load at the start, and whether everything in the store is loaded."""
    if snapshot := settings.object("model_snapshot"):
        return of_snapshot(parse_models(json.dumps(snapshot.get("models", {})), "model_snapshot")), False
    listed = settings.text("load_models")
    if listed.lower() == "all":
        return (), True
    found = []
    for entry in filter(None, map(str.strip, listed.split(","))):
        name, equals, url = entry.partition("=")
        if not equals:
            name, url = "", entry
        found.append(StartupModel(url, name, name_of(url)))
    return tuple(found), False


def _rules(settings: Settings) -> TorchServeRules:
    tokens = None
    if not settings.is_on("disable_token_authorization"):
        tokens = TokenRules(KEY_FILE, settings.float("token_expiration_min"))
    return TorchServeRules(
        tokens=tokens,
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
    log_files = TorchServeLogConfig(logs, metrics)
    declared, interval = USUAL, 0
    if file := settings.text("metrics_config"):
        declared = read_metrics(file)
    if not settings.is_on("disable_system_metrics"):
        interval = settings.number("metric_time_interval")
    if options.metrics == "false":
        return TorchServeViewConfig(None, log_files)
    mode = msgspec.convert(settings.text("metrics_mode").lower(), Mode)
    detects = settings.is_on("model_metrics_auto_detect")
    return TorchServeViewConfig(TorchServeMetricsConfig(mode, declared, detects, interval), log_files)


def _snapshot_settings(settings: Settings) -> dict[str, str]:
    """Return the settings in a snapshot, besides the models."""
    return {
        name: value for name, value in settings.as_set().items() if name not in ("model_snapshot", "models")
    }


def _notices(options: Options) -> Iterator[str]:
    for flag, value, hint in (
        ("--log-config", options.log_config, "; see --log-level and LOG_LOCATION"),
        ("--cpp-log-config", options.cpp_log_config, ""),
        ("--plugins-path", options.plugins, ""),
    ):
        if value:
            yield f"{flag} is accepted and has no effect here: {IGNORED[flag]}{hint}"

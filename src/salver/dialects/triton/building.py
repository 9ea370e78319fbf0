"""Parts of Triton's extensions of the Open Inference Protocol."""

import time
from typing import Any

from salver.dialects.oip.faults import http_fault
from salver.dialects.oip.regions import NO_REGIONS, RegionRegistry
from salver.dialects.triton.metrics import FIRST_BOUNDS, TritonMetricsConfig, TritonView
from salver.dialects.triton.routes import OPERATIONS
from salver.dialects.triton.statistics import Statistics
from salver.kernel.logs import LogConfig, let_through
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.ports import ConfigSource, ModelStatistics
from salver.lazy import is_made, lazily, lazy_imports
from salver.parts import Kernel, MetricsPage, Parts
from salver.transport.first_call import endpoints_later, imported_first
from salver.transport.routes import HttpTable
from salver.words.artifacts import Manifest

with lazy_imports():
    from salver.dialects.triton.agents import vet
    from salver.dialects.triton.config_view import first_response_bounds, metric_tags
    from salver.dialects.triton.grpc_methods import TritonMethods
    from salver.dialects.triton.http_operations import TritonOperations
    from salver.dialects.triton.log_settings import LogSwitches
    from salver.dialects.triton.settings import LogChange, LogSettings, TraceChange, TraceSetting
    from salver.dialects.triton.trace_settings import trace_config
    from salver.dialects.triton.tracing import Tracing
    from salver.dialects.triton.version_config import ModelConfigs, config_before_load
    from salver.transport.grpc_table import GrpcTable


class _Monitor:
    """Statistics and settings of a server (:class:`salver.dialects.triton.ports.TritonMonitor`)."""

    def __init__(self, bus: Bus, statistics: Statistics, switches: LogSwitches, tracing: Tracing) -> None:
        self._bus = bus
        self._statistics = statistics
        self._switches = switches
        self._tracing = tracing

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return statistics in Triton's form."""
        self._bus.flush()
        return self._statistics.snapshot(model, version)

    def log_settings(self, change: LogChange) -> LogSettings:
        """Return the log settings after a change."""
        self._bus.flush()
        return self._switches.update(change)

    def trace_setting(self, model: str, change: TraceChange) -> TraceSetting:
        """Return the trace settings of a model, or without a name the server's, after a change."""
        self._bus.flush()
        return self._tracing.update(model, change)


class _Programs:
    """Configuration of models (:class:`salver.kernel.serving.loading.Programs`)."""

    def config(self, manifest: Manifest, instances: int) -> str:
        """Return the configuration as the model reads it."""
        return config_before_load(manifest, instances)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the operations, methods, metrics and traces of Triton's extensions."""
    tables, state = kernel.config.table, kernel.state
    log = tables("log", LogConfig)
    statistics = Statistics(time.time)

    def trace() -> Tracing:
        tracing = Tracing(trace_config(kernel.config), state)
        kernel.bus.join(tracing)
        return tracing

    tracing = trace() if kernel.config.tables.get("trace") else lazily(trace)
    switches = lazily(LogSwitches, log.file, log.levels(), let_through)
    monitor = _Monitor(kernel.bus, statistics, switches, tracing)
    kernel.services.offer(ModelStatistics, monitor)
    if (page := kernel.services.find(MetricsPage)) is not None:
        page.add_view(TritonView(tables("metrics", TritonMetricsConfig)))

    def tags_of(manifest: Manifest) -> tuple[tuple[str, str], ...]:
        if manifest.foreign_config:
            return metric_tags(manifest.foreign_config)
        return ()

    def first_bounds_of(manifest: Manifest) -> tuple[float, ...]:
        if manifest.foreign_config:
            return first_response_bounds(manifest.foreign_config)
        return FIRST_BOUNDS

    state.tags_of, state.first_bounds_of = tags_of, first_bounds_of
    configs, control = lazily(ModelConfigs, kernel.models), kernel.control
    kernel.services.offer(ConfigSource, configs)

    def config_of(model: str, version: str = "") -> bytes:
        return configs.of(model, version)

    def check_files(manifest: Manifest) -> None:
        if manifest.foreign_config:
            vet(manifest)

    def grpc() -> GrpcTable:
        return imported_first(TritonMethods(kernel.door, control, monitor, config_of, regions).table())

    async def close() -> None:
        if is_made(tracing):
            await tracing.close()

    regions = kernel.services.find(RegionRegistry) or NO_REGIONS

    def http() -> HttpTable:
        operations = TritonOperations(kernel.door, control, monitor, config_of, kernel.context, regions)
        return operations.table(kernel.exposition.token_room)

    return Parts(
        [statistics],
        http=[HttpTable(OPERATIONS, endpoints_later(http), http_fault)],
        grpc=[lazily(grpc)],
        additions=Additions(programs=lazily(_Programs)),
        checks=[check_files],
        close=close,
    )

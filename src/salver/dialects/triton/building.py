"""Parts of Triton's extensions of the Open Inference Protocol."""

import tempfile
import time
from pathlib import Path
from typing import Any

from salver.dialects.oip.regions import NO_REGIONS, RegionRegistry
from salver.dialects.triton.agents import vet
from salver.dialects.triton.config_view import first_response_bounds, metric_tags
from salver.dialects.triton.grpc_methods import TritonMethods
from salver.dialects.triton.http_operations import TritonOperations
from salver.dialects.triton.loading import TritonPrograms
from salver.dialects.triton.log_settings import Switches
from salver.dialects.triton.metrics import TritonMetricsConfig, TritonView
from salver.dialects.triton.settings import LogChange, LogSettings, TraceChange, TraceSetting
from salver.dialects.triton.statistics import Statistics
from salver.dialects.triton.trace_settings import TraceConfig
from salver.dialects.triton.tracing import Tracing
from salver.dialects.triton.version_config import ModelConfigs
from salver.kernel.logs import LogConfig, let_through
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.ports import ConfigSource, ModelStatistics
from salver.parts import Kernel, MetricsPage, Parts
from salver.transport.orca import TokenRoom
from salver.transport.ports import Exposition


class _Exposition:
    """Numbers in Triton's form, and settings (:class:`salver.dialects.triton.ports.TritonExposition`)."""

    def __init__(
        self, common: Exposition, bus: Bus, statistics: Statistics, switches: Switches, tracing: Tracing
    ) -> None:
        self._common = common
        self._bus = bus
        self._statistics = statistics
        self._switches = switches
        self._tracing = tracing

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        return self._common.metrics(accept)

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        """Return how full a model that answers token by token is."""
        return self._common.token_room(model, version)

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Return where the time of requests went."""
        return self._common.explain(model, version, request)

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return Triton-shaped statistics."""
        self._bus.flush()
        return self._statistics.snapshot(model, version)

    def log_settings(self, change: LogChange) -> LogSettings:
        """Return what is logged, after a change."""
        self._bus.flush()
        return self._switches.update(change)

    def trace_setting(self, model: str, change: TraceChange) -> TraceSetting:
        """Return what is traced of a model, or, without a name, of all, after a change."""
        self._bus.flush()
        return self._tracing.update(model, change)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the operations, methods, metrics and traces of Triton's extensions."""
    tables, state = kernel.config.table, kernel.state
    log = tables("log", LogConfig)
    statistics, tracing = Statistics(time.time), Tracing(tables("trace", TraceConfig), state)
    switches = Switches(log.file, log.levels(), let_through)
    common = kernel.exposition
    exposition = _Exposition(common, kernel.bus, statistics, switches, tracing)
    kernel.services.offer(ModelStatistics, exposition)
    if (page := kernel.services.find(MetricsPage)) is not None:
        page.add_view(TritonView(tables("metrics", TritonMetricsConfig)))
    state.tags_of = lambda manifest: metric_tags(manifest.foreign_config)
    state.first_bounds_of = lambda manifest: first_response_bounds(manifest.foreign_config)
    configs, control = ModelConfigs(kernel.models), kernel.control
    kernel.services.offer(ConfigSource, configs)
    regions = kernel.services.find(RegionRegistry) or NO_REGIONS
    http = TritonOperations(kernel.door, control, exposition, configs.of, kernel.context, regions)
    return Parts(
        [statistics, tracing],
        http=[http.table()],
        grpc=[TritonMethods(kernel.door, control, exposition, configs.of, regions).table()],
        additions=Additions(programs=TritonPrograms(Path(tempfile.gettempdir()))),
        checks=[vet],
        close=tracing.close,
    )

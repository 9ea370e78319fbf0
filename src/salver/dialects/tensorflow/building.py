"""Parts of TensorFlow Serving's interfaces."""

import random
from pathlib import Path
from typing import Final

import msgspec

from salver.dialects.tensorflow.config import NamedModels, TensorFlowConfig
from salver.dialects.tensorflow.loading import RecordingAttachment, ReplayAttachment
from salver.dialects.tensorflow.metrics import TensorFlowMetrics, with_colons
from salver.dialects.tensorflow.routes import table_of
from salver.kernel.repository import Formats
from salver.kernel.serving.loading import Additions, Attachment, SamplesOf
from salver.kernel.serving.ports import Observer
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, MetricsPage, Parts, PortView
from salver.transport.doors import App, with_metrics_at
from salver.transport.first_call import endpoints_later, imported_first
from salver.transport.ports import NO_NAMES, ModelNames
from salver.transport.routes import HttpTable
from salver.transport.server import FrontConfig

with lazy_imports():
    from salver.dialects.tensorflow.batching_parameters import read_batching
    from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
    from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
    from salver.dialects.tensorflow.prediction_log import PredictionLog
    from salver.dialects.tensorflow.reloading import ModelListReloader
    from salver.dialects.tensorflow.replay import samples_of
    from salver.transport.grpc_table import GrpcTable


#: In the folder of a SavedModel, where models have parameters of their own.
FORMATS: Final = Formats(batching={"batching_params.pbtxt": read_batching})


class _Ports(PortView):
    """The metrics page at a further path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def shown(self, app: App, config: FrontConfig) -> App:
        """Show the page there, too."""
        return with_metrics_at(app, self._path)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the REST operations, gRPC methods, metrics, records and lists of models."""
    settings = kernel.config.table("tensorflow", TensorFlowConfig)
    log: PredictionLog | None = None
    if settings.prediction_log:
        log = PredictionLog(Path(settings.prediction_log))
    observers: list[Observer] = []
    collectors = []
    if settings.metrics.requests != "none":
        metrics = TensorFlowMetrics(settings.metrics, log.counts if log else dict)
        observers.append(metrics)
        collectors.append(metrics)
        if (page := kernel.services.find(MetricsPage)) is not None:
            page.add_rewrite(with_colons)
    recording = RecordingAttachment(random.random if log else None)
    optional = {}
    if log is not None:
        optional["predictions"] = recording.switch
        observers.append(log)
        kernel.state.records_lost = lambda: log.lost
    names = kernel.services.find(ModelNames) or NO_NAMES
    reloading = lazily(ModelListReloader, kernel.plane, kernel.models, settings.served)
    exposition = kernel.exposition
    door, control, context, rules = kernel.door, kernel.control, kernel.context, settings.rules

    def http() -> HttpTable:
        return TensorFlowServingOperations(
            door, control, lambda name: names.of(name).model, exposition, context, rules
        ).table()

    async def reload(config: bytes) -> None:
        await reloading.reload_config(config)

    def grpc() -> GrpcTable:
        return imported_first(TensorFlowServingMethods(door, control, exposition, reload, rules).table())

    kernel.services.offer(SamplesOf, samples_of)
    attachments: list[Attachment] = [ReplayAttachment(kernel.bus.emit, kernel.clock), recording]

    async def close() -> None:
        if log is not None:
            await log.close()

    parts = Parts(
        observers,
        collectors,
        http=[table_of(endpoints_later(http), rules)],
        grpc=[lazily(grpc)],
        ports=_Ports(settings.metrics_path) if settings.metrics_path else None,
        additions=Additions(attachments=attachments),
        optional=optional,
        close=close,
    )
    if settings.served == NamedModels():
        return parts
    return msgspec.structs.replace(parts, start=reloading.start, look=reloading.look, stop=reloading.stop)

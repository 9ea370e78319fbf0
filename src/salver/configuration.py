"""What may a whole server be told?

One record, :class:`ServeConfig`, of the rooms' own; command lines and programs fill it in, ``app.py`` wires
it. It decides nothing.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from salver.dialects.openai.voices import VoiceConfig
from salver.dialects.tensorflow.metrics import TensorFlowMetricsConfig
from salver.dialects.tensorflow.reloading import Served
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.rules import TorchServeRules
from salver.dialects.torchserve.snapshots import SnapshotConfig
from salver.dialects.torchserve.view import TorchServeViewConfig
from salver.dialects.triton.metrics import TritonMetricsConfig
from salver.dialects.triton.trace_settings import TraceConfig
from salver.features.cache import CacheConfig
from salver.features.telemetry.logs import LogConfig
from salver.features.telemetry.otlp import SpanConfig
from salver.kernel.lifecycle.config import LifecycleConfig
from salver.kernel.repository import NamedModelDefaults, RepositoryConfig
from salver.kernel.repository.bounds import check_server
from salver.kernel.serving.readiness import Rule
from salver.transport.access_check import ApiConfig
from salver.transport.calls import HeaderRules
from salver.transport.forward import Forwarding
from salver.transport.restrict import Guard, Restriction
from salver.transport.server import FrontConfig
from salver.transport.watch import ConnectionLimits


class HeaderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What headers mean, beyond the protocol.

    Attributes:
        restrictions: Operations that need a header with a secret value.
        forward: Headers with a name in which this regular expression is found become request parameters;
            empty = none does.
    """

    restrictions: tuple[Restriction, ...] = ()
    forward: str = ""

    def rules(self, prefix: str = "", *, is_grpc: bool = False) -> HeaderRules:
        """As the front asks them. Raises InvalidInput where they are wrong."""
        return HeaderRules(
            Guard(self.restrictions, prefix) if self.restrictions else None,
            Forwarding(self.forward, is_grpc=is_grpc) if self.forward else None,
        )


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``salver serve`` can be told.

    Attributes:
        paths: Model files, folders of one, repositories of many; of this machine or in an object store.
        name: The model's name, when there is exactly one.
        opens_ports: False = it is asked from within this process alone.
        more: Ports beside ``front``'s, each with a part of what there is to serve.
        server_name: What server metadata call it.
        tritons_words: Errors of the Open Inference Protocol are told in Triton's words.
        api: Who may change something over the management interface.
        http, grpc: Restricted operations and forwarded headers of each protocol.
        control: ``poll`` follows changes on disk, ``none`` looks once, ``explicit`` loads on request.
        load: What to load at the start in explicit mode.
        trust_pickle: Allow files whose loading runs code that is in them, and requests that bring models of
            formats that can touch the machine.
        threads, instances: Stand in where a model's own configuration is silent; 0 = by traits.
        max_body_mb: Most MiB of an HTTP body.
        connections: What a connection may cost.
        max_bodies_mb: MiB that the bodies of all requests may hold together; 0 = a quarter of the memory.
        max_message_mb: Most MiB of a gRPC message.
        grpc_compression: How hard answers to inference over gRPC are compressed, 1 to 9; 0 = not.
        state_dir: Where profiles of models with an objective are kept, and graphs that were made of others;
            empty = nowhere, so that they are measured and made at each start.
        prefer: ``onnx`` = SavedModels run as ONNX graphs, as far as they can be converted.
        tenant_header: HTTP header and gRPC metadata that names a request's tenant; empty = none does.
        readiness: When the server is ready: ``serving`` = each model has a version that answers; ``whole`` =
            all that is wanted is loaded; ``settled`` = from the end of the first loads on.
        drain_delay: Seconds after the wish to end in which it is not ready and goes on answering, so that
            load balancers see it.
        exits_on_error: True = a model that does not load at the start ends the server; False = not even one
            that is not there does; None = that one only.
        exits_if_none_loads: The server ends where models are wanted at the start and none of them loads.
        allow_client_shm: Let callers keep tensors in segments of this machine's ``/dev/shm``.
        response_cache: Where answers are kept, of models that want it.
        spans: Where OpenTelemetry's spans go; None = nowhere.
        keeps_timeouts: A request's ``timeout`` is a deadline where its model has no queue policy; False = it
            does nothing there, as in Triton.
        ignores_surplus: Entries of ``raw_input_contents`` that no input takes are left out, as in Triton;
            else the request is refused.
        resources: What models share, and how much there is; None = nothing is counted.
        repository: How the paths become models; ``name`` and ``trust_pickle`` go before its own.
        lifecycle: How versions are brought up.
        voice: How OpenAI's routes speak to models that say nothing of it.
        served: Models by name, beside those of the paths.
        customs: What holds for those.
        waits_for_models: Ports open when each model has loaded, or failed to (X-27).
        tfs: How TensorFlow Serving's clients are answered.
        tensorflow_metrics: Which metrics have TensorFlow Serving's names.
        metrics_path: Where the metrics page is, besides ``/metrics``; empty = nowhere.
        torchserve: What TorchServe's routes do.
        torchserve_view: What operators see under TorchServe's names; None = nothing.
        snapshots: Where it is written down what handlers are served; None = nowhere.
        hides: Regular expression of environment variables that handlers do not see; empty = they see all.
        first_worker: Number of the first worker of a handler.
        prediction_log: Folder that takes requests with their answers, of models that want it; empty = none.
        handlers: Which handlers are there at the start, and what requests may register.
        registry: Folder of a registry whose models are served, or the URL of its ledger; empty = none,
            and no releases.
        artifacts: Folder of the registry's files; empty = beside the ledger.
        features: Records of the tables of features, by their names; a missing one is the default.
        workflow_store: Folder of archives of workflows; empty = they lie beside those of handlers.
    """

    paths: tuple[str, ...] = ()
    name: str = ""
    front: FrontConfig = FrontConfig()
    opens_ports: bool = True
    more: tuple[FrontConfig, ...] = ()
    server_name: str = "salver"
    tritons_words: bool = False
    api: ApiConfig = ApiConfig()
    http: HeaderConfig = HeaderConfig()
    grpc: HeaderConfig = HeaderConfig()
    control: Literal["none", "poll", "explicit"] = "poll"
    poll_seconds: float = 2.0
    load: tuple[str, ...] = ()
    trust_pickle: bool = False
    threads: int = 0
    instances: int = 0
    max_body_mb: float = 64
    max_bodies_mb: float = 0
    connections: ConnectionLimits = ConnectionLimits()
    max_message_mb: int = 2047
    grpc_compression: int = 0
    tenant_header: str = "x-tenant"
    state_dir: str = ""
    prefer: Literal["tensorflow", "onnx"] = "tensorflow"
    readiness: Rule = "serving"
    drain_delay: float = 0.0
    exits_on_error: bool | None = None
    exits_if_none_loads: bool = False
    allow_client_shm: bool = False
    log: LogConfig = LogConfig()
    triton_metrics: TritonMetricsConfig = TritonMetricsConfig()
    trace: TraceConfig = TraceConfig()
    response_cache: CacheConfig = CacheConfig()
    spans: SpanConfig | None = None
    keeps_timeouts: bool = True
    ignores_surplus: bool = False
    resources: Mapping[str, int] | None = None
    repository: RepositoryConfig = RepositoryConfig()
    lifecycle: LifecycleConfig = LifecycleConfig()
    voice: VoiceConfig = VoiceConfig()
    served: Served = Served()
    customs: NamedModelDefaults = NamedModelDefaults()
    waits_for_models: bool = False
    tfs: TfsRules = TfsRules()
    tensorflow_metrics: TensorFlowMetricsConfig = TensorFlowMetricsConfig()
    metrics_path: str = ""
    torchserve: TorchServeRules = TorchServeRules()
    torchserve_view: TorchServeViewConfig | None = None
    snapshots: SnapshotConfig | None = None
    hides: str = ""
    first_worker: int = 9000
    prediction_log: str = ""
    handlers: HandlerStoreConfig = HandlerStoreConfig()
    registry: str = ""
    artifacts: str = ""
    workflow_store: str = ""
    features: Mapping[str, msgspec.Struct] = {}

    def __post_init__(self) -> None:
        """Raises InvalidInput where a number is more than this machine can bear."""
        check_server(self)

    @property
    def whole_lifecycle(self) -> LifecycleConfig:
        """Sequences of a version that is replaced have as long as requests when the server stops."""
        return msgspec.structs.replace(self.lifecycle, sequences_s=self.front.grace_seconds)

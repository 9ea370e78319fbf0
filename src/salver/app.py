"""How do all the rooms become one server?

The only place that composes. :class:`Server` wires a configuration into planes, transports and
observers, starts and stops them; ``running.py`` runs one until a signal. Nothing starts in a
constructor.
"""

import asyncio
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from salver import __version__, feature
from salver.backends.discovery import backends as find_backends
from salver.backends.discovery import recogniser, touches_machine
from salver.backends.protocol import Backend
from salver.configuration import ServeConfig
from salver.dialects.formats import formats
from salver.dialects.oip.loading import WarmupFiles
from salver.dialects.oip.regions import NO_REGIONS, RegionRegistry
from salver.dialects.oip.rules import OipRules
from salver.dialects.oip.shared_memory import SharedMemory
from salver.dialects.openai.loading import VoiceAttachment
from salver.dialects.openai.voices import VoiceConfig, Voices
from salver.dialects.tables import Lookups, grpc_tables, http_router, platform_app, torchserve_ports
from salver.dialects.tensorflow.config import TensorFlowConfig
from salver.dialects.tensorflow.loading import RecordingAttachment, ReplayAttachment
from salver.dialects.tensorflow.metrics import TensorFlowMetrics, with_colons
from salver.dialects.tensorflow.prediction_log import PredictionLog
from salver.dialects.tensorflow.reloading import Reloading
from salver.dialects.tensorflow.replay import samples_of
from salver.dialects.torchserve.config import TorchServeConfig
from salver.dialects.torchserve.foreign_forms import HandlerForms
from salver.dialects.torchserve.front import Backing
from salver.dialects.torchserve.handler_store import HandlerStore
from salver.dialects.torchserve.loading import HandlerLoader, HandlerRules
from salver.dialects.torchserve.ports import TorchServePorts, exact_ports
from salver.dialects.torchserve.registrations import Registrations
from salver.dialects.torchserve.snapshots import Snapshots
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.dialects.torchserve.unpacking import Unpacking
from salver.dialects.torchserve.view import TorchServeView
from salver.dialects.torchserve.workflow_operations import WorkflowOperations
from salver.dialects.torchserve.workflows import Workflows, WorkflowsConfig
from salver.dialects.triton.agents import vet
from salver.dialects.triton.config_view import first_response_bounds, metric_tags
from salver.dialects.triton.loading import TritonPrograms
from salver.dialects.triton.log_settings import Switches
from salver.dialects.triton.metrics import TritonMetricsConfig, TritonView
from salver.dialects.triton.settings import LogChange, LogSettings, TraceChange, TraceSetting
from salver.dialects.triton.statistics import Statistics
from salver.dialects.triton.trace_settings import TraceConfig
from salver.dialects.triton.tracing import Tracing
from salver.dialects.triton.version_config import ModelConfigs
from salver.features.cache import CacheConfig, ResponseCache
from salver.features.cache.caching import Caching
from salver.features.cache.loading import CacheAttachment
from salver.features.cache.opening import open_cache
from salver.features.graphs.loading import EnsembleLoader
from salver.features.management import Api, Management
from salver.features.management.serving_operations import serving_operations
from salver.features.registry.config import RegistryConfig
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.gauges import ReleaseGauges
from salver.features.releases.shadow import Shadowing
from salver.features.releases.splitting import Splitting
from salver.features.telemetry.eventlog import EventLog
from salver.features.telemetry.explain import Explanations
from salver.features.telemetry.logs import LogConfig, let_through, reopen
from salver.features.telemetry.metrics import Metrics
from salver.features.telemetry.otlp import SpanConfig, SpanExport
from salver.features.tuning.loading import LoadTuning
from salver.features.tuning.profiles import ProfileStore
from salver.features.twins.config import TwinsConfig
from salver.features.twins.twins import Twins
from salver.kernel.engine.turns import ResourcePool
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.repository import Repository
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.controlplane import ControlMode, ControlPlane
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.fetching import Fetching
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Attachment, Terms
from salver.kernel.serving.model_callbacks import ModelCallbacks
from salver.kernel.serving.ports import Observer
from salver.kernel.serving.present import CacheUse, Load, Losses
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.stages import Stage
from salver.stores import Copies, open_store
from salver.transport.access import Watched
from salver.transport.access_check import Access, AccessRules, Changing
from salver.transport.asgi import Front
from salver.transport.budget import Budget
from salver.transport.calls import RequestContext, id_maker
from salver.transport.cors import Cors
from salver.transport.doors import App, Kind, with_metrics_at
from salver.transport.doors import door as shown_at
from salver.transport.grpc import GrpcFront
from salver.transport.hangup import HangUps
from salver.transport.listeners import Listeners
from salver.transport.orca import TokenRoom
from salver.transport.pages import Sites
from salver.transport.parting import Parting
from salver.transport.restrict import GRPC_PREFIX
from salver.transport.routes import HttpRouter
from salver.transport.server import FrontConfig
from salver.words.artifacts import Instances
from salver.words.errors import SalverError
from salver.words.handlers import FORMAT as HANDLERS
from salver.words.messages import ModelId, Signature, VersionStatus

if TYPE_CHECKING:
    from salver.features.releases.composition import LedgerParts

_LOG = logging.getLogger("salver")
_PLATFORMS: Final[tuple[tuple[Kind, str], ...]] = (
    ("openai", "OpenAI"),
    ("sagemaker", "SageMaker"),
    ("vertex-ai", "Vertex"),
    ("torchserve-all", "REST"),
    ("torchserve-inference", "predict"),
    ("torchserve-management", "manage"),
    ("torchserve-metrics", "metrics"),
    ("torchserve-grpc-inference", "gRPC"),
    ("torchserve-grpc-management", "gRPC mgmt"),
)


class ReadyInfo(msgspec.Struct, frozen=True):
    """What there is to tell once the first models are up (or have failed).

    Attributes:
        is_ready: It is, by the rule of its readiness.
        hosts: Addresses on which it listens.
        url: Base of every HTTP route; empty = there is none.
        grpc: Address of gRPC; empty = there is none.
        metrics: Of the metrics page; empty = there is none.
        console: Of the pages for people; empty = there are none.
        platforms: Of SageMaker's and Vertex AI's ports, each with its name.
        seconds: From the start of the process's server to now.
        signatures: Of the versions that answer.
        changing: Who may change something at a port that other machines reach.
        takes_short: Requests may have inputs by name (:mod:`salver.dialects.oip.short_json`).
    """

    hosts: tuple[str, ...]
    url: str
    seconds: float
    statuses: tuple[VersionStatus, ...]
    signatures: Mapping[ModelId, Signature]
    front: str = "h2corn"
    grpc: str = ""
    metrics: str = ""
    platforms: tuple[tuple[str, str], ...] = ()
    console: str = ""
    changing: Changing = "open"
    takes_short: bool = True
    is_ready: bool = True


class Server:
    """A whole server inside this process's event loop.

    Example::

        async with Server(ServeConfig(paths=("model.onnx",))) as server:
            print(server.url)
    """

    def __init__(self, config: ServeConfig, backends: Mapping[str, Backend] | None = None) -> None:
        self.config = config
        self._log = config.table("log", LogConfig)
        self._of_tensorflow = config.table("tensorflow", TensorFlowConfig)
        self._of_torchserve = config.table("torchserve", TorchServeConfig)
        self._of_registry = config.table("registry", RegistryConfig)
        self._backends = backends
        self._snapshots: Snapshots | None = None
        self._hangups = HangUps()
        self._began = time.monotonic()
        self._changing: Changing = "open"
        self.ledgered: LedgerParts | None = None
        self._parting = Parting()
        self._budget = Budget(int(config.max_bodies_mb * (1 << 20)))
        as_json = self._log.is_json()
        fronts = (config.front, *config.more) if config.opens_ports else ()
        self.listeners = Listeners(
            [msgspec.structs.replace(front, logs_json=as_json) for front in fronts],
            config.connections,
            self._parting,
            self._hangups,
        )
        self._is_up = False  # everybody who loads is there

    def __repr__(self) -> str:
        return f"<Server {self.url}>" if self.listeners.is_open else "<Server not started>"

    @property
    def port(self) -> int:
        """Where it listens; the one chosen when the configuration says 0."""
        return self.listeners.port

    @property
    def url(self) -> str:
        """Base of every HTTP route."""
        assert self.listeners.is_open, "not started"
        return self.listeners.urls()[0]

    async def start(self) -> None:
        """Open the port, then begin to load; doors open at once and readiness tells the truth.

        Where it waits for models it opens them later, as the configuration says.

        Raises:
            SalverError: the port, a path or a setting is wrong.
        """
        self._began = time.monotonic()
        config = self.config
        clock = time.monotonic
        new_id = id_maker()
        backends = find_backends() if self._backends is None else self._backends
        self._kernel = kernel = feature.Kernel(clock, new_id, __version__)
        self._parts = await feature.build(feature.discover(), kernel, config.table)
        self._observe(clock, new_id)
        self._cache: ResponseCache | None = open_cache(config.table("cache", CacheConfig))
        self._caching = Caching(self._cache, clock) if self._cache else None
        self.inner = kernel.inner = inner = Inner(lambda: door)
        callbacks = ModelCallbacks(inner, lambda: self.control, self._metrics.own, clock, new_id)
        terms = self._terms(callbacks)
        self._voices = VoiceAttachment(await asyncio.to_thread(config.table("openai", VoiceConfig).read))
        loader = Loader(backends, self._bus, clock, terms, self._additions(terms, clock))
        self._live(loader, backends, clock)
        self._regions: RegionRegistry = SharedMemory() if config.allow_client_shm else NO_REGIONS
        self.shadows = Shadowing(self._manager, self._bus.emit, clock)
        self.splits = Splitting(Router(), self.shadows, self._collector.answers.append, self._under_way)
        self._decoders = Decoders()
        door: DataPlane[Any, Any] = DataPlane(self._path(clock, new_id))
        self.signature = door.signature
        if self._of_registry.ledger:
            await self._keep_ledger(new_id)
        context = RequestContext(
            clock,
            new_id,
            config.tenant_header.lower().encode(),
            config.server_name,
            config.http.rules(),
            config.grpc.rules(GRPC_PREFIX, is_grpc=True),
            config.max_message_mb << 20,
            config.grpc_compression,
            self.splits.router,
            self._decoders,
            self._budget,
            config.tritons_words,
            self._hangups,
            self._parting,
            HandlerForms(),
        )
        max_body = int(config.max_body_mb * (1 << 20))
        oip = OipRules(self._regions, max_body, config.ignores_surplus)
        self._torchserve = self._as_torchserve(door, context, max_body)
        behind = (door, self.control, self._lookups, self, context, oip, self._of_tensorflow.rules)
        tables = (*grpc_tables(*behind), *self._torchserve.methods.tables())
        self._grpc = GrpcFront(tables, self.control, context)
        router = http_router(*behind)
        self._token = config.api.digest()
        self._kept = self.ledgered.kept(new_id) if self.ledgered else None
        known = (config.server_name, __version__)
        managing = serving_operations(self.control, self, known, has_registry=self._kept is not None)
        managing += self._kept.operations() if self._kept else []
        self._api = Api([*managing, *(o for part in self._parts for o in part.operations)], self._decoders)
        self._pages = Sites(*(pages for part in self._parts for pages in part.pages))
        doors = [self._door(router, f, context) for f in self.listeners.configs]
        if config.waits_for_models:
            await self._load()
            await self._manager.tried({status.id.name for status in self._manager.statuses()})
            await self._open(doors)
        else:
            await self._open(doors)
            await self._load()
        self._is_up = True

    def _path(self, clock: Callable[[], float], new_id: Callable[[], str]) -> RequestPath:
        return RequestPath(
            self._manager,
            self._bus.emit,
            clock,
            new_id,
            self._spans.samples if self._spans else None,
            self.config.keeps_timeouts,
            self._stage(),
            self._decoders,
            self.config.tritons_words,
        )

    def _stage(self) -> Stage | None:
        """The releases' stage of the data plane, which a server without a registry does not have."""
        return self.splits if self._of_registry.ledger else None

    async def _keep_ledger(self, new_id: Callable[[], str]) -> None:
        """The registry and releases, which a server without them does not import."""
        from salver.features.releases.composition import LedgerParts, home_of

        home = home_of(self._of_registry.ledger, self._of_registry.artifacts)
        traffic = (self.splits.router, self._collector, self._pending, self.shadows)
        self.ledgered = await LedgerParts.open(home, traffic, (self._manager, self._plane), new_id)
        self._metrics.join(ReleaseGauges(self.ledgered.releases))

    def _as_torchserve(
        self, door: DataPlane[Any, Any], context: RequestContext, max_body: int
    ) -> TorchServePorts:
        """The interfaces that its clients know."""
        config, clock = self._of_torchserve, context.clock
        is_open, shelf = config.handlers.is_open, config.handlers.shelf
        rules = msgspec.structs.replace(config.rules, may_change=is_open)
        shelf = msgspec.structs.replace(shelf, store=config.workflow_store or shelf.store)
        flows = Workflows(WorkflowsConfig(shelf, is_open), self.handlers, self.inner, self._archives, clock)
        more = WorkflowOperations(flows, context, rules.max_response).http()
        backing = Backing(door, self.handlers, self, context, rules, more=more, max_body=max_body)
        return torchserve_ports(backing, self.control)

    def _live(self, loader: Loader, backends: Mapping[str, Backend], clock: Callable[[], float]) -> None:
        """Everyone who has a say in what is loaded, and the one who loads."""
        config = self.config
        self._copies = Copies()
        self._archives = UnpackedArchives()
        unpacking = Unpacking(
            loader, self._archives, installs=self._of_torchserve.handlers.installs_requirements
        )
        self._manager: Manager[Servable] = Manager(
            Fetching(unpacking, self._copies, (vet,)), clock, self._bus.emit, config.whole_lifecycle
        )
        repository = Repository(
            config.paths,
            formats(recogniser(backends), touches_machine(backends)),
            msgspec.structs.replace(config.repository, name=config.name, trusts_code=config.trust_pickle),
            lambda path: open_store(path, self._copies),
            config.named_defaults,
        )
        mode = ControlMode(
            config.control, config.poll_seconds, config.load, spares_missing=config.exits_on_error is False
        )
        registrations = Registrations(self._manager)
        self._plane = ControlPlane(repository, self._manager, mode, clock, changes=registrations)
        self.handlers = HandlerStore(
            self._of_torchserve.handlers, registrations, self._plane, self._manager, clock
        )
        self._reloading = Reloading(self._plane, self._manager, self._of_tensorflow.served)
        speech = Voices(config.table("openai", VoiceConfig), self._manager, self._voices.of).of
        self.model_configs = ModelConfigs(self._manager)
        self._lookups = Lookups(speech, self.model_configs.of, self._reloading.reload_config)
        self._readiness = Readiness(config.readiness, self._manager, self._plane)
        self._kernel.models, self._kernel.plane = self._manager, self._plane
        self.control = self._kernel.control = ServerControl(self._plane, self._manager, self._readiness)

    def _observe(self, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        """Everyone who counts what happens, on one road of events."""
        config = self.config
        self._statistics = Statistics(time.time)
        folder = self._of_tensorflow.prediction_log
        self._predictions = PredictionLog(Path(folder)) if folder else None
        records = self._predictions.counts if self._predictions else dict
        names = self._of_tensorflow.metrics
        serving = TensorFlowMetrics(names, records) if names.requests != "none" else None
        self._view = TorchServeView(self._of_torchserve.view) if self._of_torchserve.view else None
        of_view = self._view.metrics if self._view else None
        rewrites = [with_colons] if serving else []
        self._metrics = Metrics(self, [TritonView(config.table("metrics", TritonMetricsConfig))], rewrites)
        for shown in (serving, of_view):
            if shown is not None:
                self._metrics.join(shown)
        self._explanations = Explanations(clock, self)
        self._switches = Switches(self._log.file, self._log.levels(), let_through)
        self._tracing = Tracing(config.table("trace", TraceConfig), self)
        spans = config.table("tracing", SpanConfig)
        self._spans = SpanExport(spans, new_id, __version__) if spans.url else None
        log = EventLog(self._log.access_log)
        observers: list[Observer] = [self._metrics, self._statistics, self._explanations, log, self._tracing]
        optional = (self._spans, serving, self._predictions)
        observers += [observer for observer in optional if observer is not None]
        observers += self._view.observers if self._view else ()
        for part in self._parts:
            observers += part.observers
            for collector in part.collectors:
                self._metrics.join(collector)
        self._pending = Pending()
        self._under_way = ActiveRequests(clock)
        self._collector = Collector(self._pending, time.time, under_way=self._under_way)
        if self._of_registry.ledger:
            observers.append(self._collector)
        self._bus = Bus(observers)

    async def _load(self) -> None:
        if self._view:
            self._view.start()
        for part in self._parts:
            await part.start()
        if self.ledgered is not None:  # first, so that nobody is ready without its models
            await self.ledgered.registered.start()
        await self._plane.start()
        if self.ledgered is not None:
            await self.ledgered.start()
        await self._reloading.start()
        await self.handlers.start()
        if self._of_torchserve.snapshots is not None:
            self._snapshots = Snapshots(self._of_torchserve.snapshots, self.handlers.snapshot)
            await self._snapshots.write("startup")
            self.handlers.changed = self._snapshots.changed

    async def _open(self, doors: Sequence[App]) -> None:
        """Listen, and answer from now on."""
        most_body = int(self.config.max_body_mb * (1 << 20))
        most_request = self._of_torchserve.rules.max_request or most_body
        exact = exact_ports(most_request, self._budget)
        await self.listeners.open(doors, exact, max(most_request, most_body))

    def _terms(self, callbacks: ModelCallbacks) -> Terms:
        config = self.config
        return Terms(
            len(os.sched_getaffinity(0)),
            config.trust_pickle,
            Instances(config.instances, config.threads),
            callbacks,
            None if config.resources is None else ResourcePool(config.resources),
        )

    def _additions(self, terms: Terms, clock: Callable[[], float]) -> Additions:
        """What dialects and features add to the loading of models."""
        config, emit, of_torchserve = self.config, self._bus.emit, self._of_torchserve
        heard = self._view.heard if self._view else None
        first, gpus = of_torchserve.first_worker, of_torchserve.handlers.gpus_used
        handlers = HandlerRules(heard, first, gpus, of_torchserve.hides)
        prefers_onnx = config.table("twins", TwinsConfig).prefer == "onnx"
        attachments: list[Attachment] = [
            self._voices,
            WarmupFiles(),
            ReplayAttachment(emit, clock),
            RecordingAttachment(random.random if self._of_tensorflow.prediction_log else None),
        ]
        if self._caching is not None:
            attachments.append(CacheAttachment(self._caching))
        return Additions(
            {
                HANDLERS: HandlerLoader(terms, emit, clock, handlers),
                "ensemble": EnsembleLoader(self.inner, emit, clock),
            },
            (Twins(config.state_dir, by_default=prefers_onnx, samples_of=samples_of),),
            attachments,
            LoadTuning(ProfileStore(config.state_dir), clock, terms.cores),
            TritonPrograms(Path(tempfile.gettempdir())),
        )

    def _door(self, router: HttpRouter, config: FrontConfig, context: RequestContext) -> App:
        """The application as that port shows it, and as operators of TorchServe see it."""
        shown = self._shown(router, config, context)
        return Watched(shown, self._bus.emit) if self._view is not None else shown

    def _access(self, config: FrontConfig, context: RequestContext, *, of_torchserve: bool = False) -> Access:
        """Who may change something at that port.

        Args:
            of_torchserve: By TorchServe's routes, whose keys take the token's place.
        """
        api, rules, serves = self.config.api, self._of_torchserve.rules, config.serves
        of_torchserve = of_torchserve or serves.startswith("torchserve-grpc")
        has_keys = of_torchserve and rules.tokens is not None
        # At its own ports TorchServe's operations are what others expect, and nobody else's.
        allows = has_keys or (api.allows_remote and (of_torchserve or not serves.startswith("torchserve")))
        origins = frozenset({rules.cors_origin.lower()} if of_torchserve and rules.cors_origin else ())
        differing = AccessRules(allows, api.hosts, origins, self._torchserve.closed(serves))
        host, guard = "" if config.path else config.host, context.http.guard
        if has_keys:
            return Access(host, guard=guard, rules=differing)
        return Access(host, self._token, guard, self._kept.caller if self._kept else None, differing)

    def _shown(self, router: HttpRouter, config: FrontConfig, context: RequestContext) -> App:
        access = self._access(config, context)
        front: App = Front(
            router,
            self._grpc,
            context,
            max_body=int(self.config.max_body_mb * (1 << 20)),
            hears_http1=self.config.front.server != "h2corn",
            access=access,
        )
        if self._of_tensorflow.metrics_path:
            front = with_metrics_at(front, self._of_tensorflow.metrics_path)
        of_torchserve = self._access(config, context, of_torchserve=True)
        front = self._torchserve.shown(front, config.serves, of_torchserve)
        if not access.is_local:
            is_its_own = config.serves.startswith("torchserve")
            has_keys = is_its_own and self._of_torchserve.rules.tokens is not None
            self._changing = "token" if has_keys else (of_torchserve if is_its_own else access).changing
        if config.cors_origins:
            front = Cors(front, config.cors_origins)
        if config.serves in ("sagemaker", "vertex-ai"):
            return platform_app(front, config, self.control, context.http.guard, access)
        if config.serves != "all":
            return shown_at(front, config.serves)
        return Management(front, self._api, access, self._pages, context.new_id, __version__)

    async def reload(self) -> None:
        """Look again at models, their configurations and the log file; the log says what that was."""
        reopen(self._log)
        if not self._is_up:
            _LOG.info("starting: there is nothing to look at again")
            return
        _LOG.info("looking again at the models, their files and configurations, and at the log file")
        for look in (self._plane.look, self._reloading.look):
            try:
                await look()
            except SalverError as error:
                _LOG.error("the models stay as they are: %s", error)
        _LOG.info("looked again; flags, environment, ports, certificates and tokens need a restart")

    def hurry(self) -> None:
        """End the drain delay of a ``stop`` that is under way."""
        self._parting.hurry.set()

    async def stop(self, delay_s: float = 0.0) -> None:
        """Readiness fails at once; what is in flight ends; then models go, with their memory.

        Args:
            delay_s: Seconds in which it goes on taking connections, so that those who send callers here can
                see that it is not ready any more.
        """
        grace = self.config.front.grace_seconds
        self._readiness.is_ending = self.handlers.is_ending = self._parting.is_told = True
        if self._snapshots is not None:
            await self._snapshots.close()
        await self.listeners.leave(delay_s)
        if self.listeners.is_open:
            self._grpc.stop()
            await self.listeners.closed(grace + 5)
        await self.shadows.close()
        self._bus.flush()
        if self.ledgered is not None:
            await self.ledgered.stop()
        await self._reloading.stop()
        await self._plane.stop()
        await self._manager.drain(grace)
        await self._plane.close()
        await asyncio.to_thread(self._copies.close)
        await asyncio.to_thread(self._archives.close)
        if self._regions.is_allowed:
            self._regions.unregister()
        for part in reversed(self._parts):
            await part.stop()
        self._bus.flush()
        self._decoders.close()
        await self._tracing.close()
        if self._cache is not None:
            await self._cache.close()
        if self._spans:
            await self._spans.close()
        if self._predictions:
            await self._predictions.close()
        if self._view:
            self._view.close()

    async def __aenter__(self) -> "Server":
        await self.start()
        await self.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def info(self) -> ReadyInfo:
        """What the start-up block shows."""
        urls: dict[Kind, str] = {}
        for config, url in zip(self.listeners.configs, self.listeners.urls(), strict=True):
            urls.setdefault(config.serves, url)
        common = urls.get("all", "")
        grpc = urls.get("grpc", common if self.config.front.server == "h2corn" else "")
        page = urls.get("metrics", common)
        return ReadyInfo(
            tuple(dict.fromkeys(config.host for config in self.listeners.configs)),
            urls.get("http", common),
            time.monotonic() - self._began,
            self.control.statuses(),
            {s.manifest.id: s.signature for s in self._manager.servables()},
            self.config.front.server,
            grpc.partition("//")[2],
            page and f"{page}/metrics",
            tuple((name, urls[kind]) for kind, name in _PLATFORMS if kind in urls),
            common and f"{common}/console/",
            self._changing,
            not self.config.tritons_words,
            await self.control.is_ready(),
        )

    async def settled(self) -> bool:
        """Returns when every load under way has ended: did all end well?"""
        await self._manager.settled()
        self._readiness.has_settled = True
        return self._manager.ready() and not self.handlers.has_failed

    def has_nothing(self) -> bool:
        """Are models wanted, and none of them is there?"""
        wanted = self._manager.wanted() or self._plane.missing
        return bool(wanted) and not self._manager.servables()

    async def ended(self) -> None:
        """Returns when a front has ended, whatever the reason."""
        await self.listeners.ended()

    # What observers and transports ask for (telemetry.ports.Present, transport.ports.Exposition).

    def statuses(self) -> Sequence[VersionStatus]:
        """Every version known."""
        return self.control.statuses()

    def loads(self) -> Sequence[Load]:
        """How busy each engine is."""
        return [
            Load(
                s.manifest.id,
                sum([engine.queued for engine in s.engines]),
                sum([engine.running for engine in s.engines]),
                s.placement.slots,
                s.engine.insight(),
                tuple(s.manifest.config.fairness.weights),
                metric_tags(s.manifest.foreign_config),
                s.capabilities.uncached is not None,
                first_response_bounds(s.manifest.foreign_config) if s.capabilities.stream is not None else (),
            )
            for s in self._manager.servables()
        ]

    def cache(self) -> CacheUse | None:
        """What the response cache was asked, and what it holds; None where there is none."""
        return self._caching.use() if self._caching else None

    def losses(self) -> Losses:
        """What observers missed."""
        records = self._predictions.lost if self._predictions else 0
        return Losses(self._bus.dropped, self._spans.lost if self._spans else 0, records)

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics page and its content type."""
        self._bus.flush()
        return self._metrics.render(accept)

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Triton-shaped statistics."""
        self._bus.flush()
        return self._statistics.snapshot(model, version)

    def log_settings(self, change: LogChange) -> LogSettings:
        """What is logged, after a change."""
        self._bus.flush()
        return self._switches.update(change)

    def trace_setting(self, model: str, change: TraceChange) -> TraceSetting:
        """What is traced of a model, or, without a name, of all, after a change."""
        self._bus.flush()
        return self._tracing.update(model, change)

    def token_room(self, model: str, version: str) -> TokenRoom | None:
        """How full a model that answers token by token is."""
        try:
            lease = self._manager.acquire(model, version)
        except SalverError:
            return None
        try:
            steps = lease.servable.manifest.config.steps
            running = lease.servable.engine.running
            return TokenRoom(running, steps.max_sequences, steps.max_context) if steps.vocabulary else None
        finally:
            lease.release()

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Where the time of requests went, or of the one with this id."""
        self._bus.flush()
        if request:
            return self._explanations.request(model, request)
        return self._explanations.model(model, version)

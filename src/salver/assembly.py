"""Assembly of a server's kernel, before features are built into it.

Nothing starts here; ``app.py`` starts and stops the parts.
"""

import time
from collections.abc import Mapping
from itertools import chain
from typing import Any

import msgspec

from salver import __version__
from salver.backends.discovery import backends as find_backends
from salver.backends.discovery import recogniser, touches_machine
from salver.backends.protocol import Backend
from salver.configuration import ServeConfig
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.repository import Repository
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.controlplane import ControlMode, ControlPlane
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.fetching import Fetching
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.kernel.serving.ports import OwnNumbers
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.state import ServerState
from salver.lazy import lazily, lazy_imports
from salver.machine import usable_cores
from salver.parts import Kernel, MetricsPage, formats
from salver.stores import Copies, open_store
from salver.transport.budget import Budget
from salver.transport.calls import RequestContext, id_maker
from salver.transport.parting import Parting
from salver.transport.watch import StreamingPeers
from salver.words.artifacts import Instances

with lazy_imports():
    from salver.kernel.engine.fork_client import ForkServers
    from salver.kernel.engine.turns import ResourcePool
    from salver.kernel.environments.cache import EnvironmentCache
    from salver.kernel.environments.service import Environments, cache_folder
    from salver.kernel.serving.inner import Inner
    from salver.kernel.serving.model_callbacks import ModelCallbacks


class Assembly:
    """Kernel, with the resources that the server must close.

    Args:
        backends: Backends by name; None = all installed ones.

    Attributes:
        kernel: Kernel, which can serve models without any feature.
        forks: Processes from which host processes are forked.
        copies: Local copies of models in object stores.
        decoders: Processes that decode large bodies.
    """

    kernel: Kernel

    def __init__(
        self,
        config: ServeConfig,
        backends: Mapping[str, Backend] | None,
        streaming: StreamingPeers,
        parting: Parting,
    ) -> None:
        clock, new_id, bus = time.monotonic, id_maker(), Bus()
        if backends is None:
            backends = find_backends()
        inner = lazily(Inner, lambda: self.kernel.door)
        callbacks = lazily(lambda: self._model_callbacks(inner))
        self.forks = lazily(ForkServers)
        terms = Terms(
            usable_cores(),
            config.trust_pickle,
            Instances(config.instances, config.threads),
            callbacks,
            None if config.resources is None else ResourcePool(config.resources),
            self.forks,
            lazily(
                lambda: Environments(EnvironmentCache(cache_folder()), allows_all=config.allow_environments)
            ),
        )
        self._loader = Loader(backends, bus, clock, terms)
        self.copies = lazily(Copies)
        self._fetching = Fetching(self._loader, self.copies)
        models: Manager[Servable] = Manager(self._fetching, clock, bus.emit, config.whole_lifecycle)
        repository = Repository(
            config.paths,
            formats(recogniser(backends), touches_machine(backends)),
            msgspec.structs.replace(config.repository, name=config.name, trusts_code=config.trust_pickle),
            lambda path: open_store(path, self.copies),
            config.named_defaults,
        )
        mode = ControlMode(
            config.control, config.poll_seconds, config.load, spares_missing=config.exits_on_error is False
        )
        plane = ControlPlane(repository, models, mode, clock, repository.rest)
        self.readiness = Readiness(config.readiness, models, plane)
        control = ServerControl(plane, models, self.readiness)
        self.decoders = Decoders()
        path = RequestPath(
            models,
            bus.emit,
            clock,
            new_id,
            keeps_timeouts=config.keeps_timeouts,
            decoders=self.decoders,
            tritons_words=config.tritons_words,
        )
        door = DataPlane[Any, Any](path)
        context = RequestContext(
            clock,
            new_id,
            config.tenant_header.lower().encode(),
            config.server_name,
            config.http.rules(),
            config.grpc.rules(is_grpc=True),
            config.max_message_mb << 20,
            config.grpc_compression,
            decoders=self.decoders,
            budget=Budget(int(config.max_bodies_mb * (1 << 20))),
            tritons_words=config.tritons_words,
            streaming=streaming,
            parting=parting,
            began=int(time.time()),
        )
        state = ServerState(models, control, bus)
        self.kernel = Kernel(
            config, clock, new_id, __version__, bus, terms, callbacks, models, plane, control, state,
            inner, door, context, token=config.api.digest(),
        )  # fmt: skip

    def _model_callbacks(self, inner: Inner) -> ModelCallbacks:
        kernel = self.kernel
        numbers = kernel.services.find(OwnNumbers)
        return ModelCallbacks(inner, lambda: kernel.control, kernel.clock, kernel.new_id, numbers)

    def attach(self) -> None:
        """Attach the parts of the built features to the kernel."""
        kernel, parts = self.kernel, self.kernel.parts
        page = kernel.services.find(MetricsPage)
        for part in parts:
            for observer in part.observers:
                kernel.bus.join(observer)
            if page is not None:
                for collector in part.collectors:
                    page.join(collector)
            if part.additions is not None:
                self._loader.add(part.additions)
            if part.wrap_loader is not None:
                self._fetching.loader = part.wrap_loader(self._fetching.loader)
            if part.changes is not None:
                kernel.plane.changes = part.changes
            if part.residence is not None:
                kernel.models.residence = part.residence
            if part.stage is not None:
                kernel.door.path = msgspec.structs.replace(kernel.door.path, stage=part.stage)
        self._fetching.checks = tuple(chain.from_iterable(part.checks for part in parts))

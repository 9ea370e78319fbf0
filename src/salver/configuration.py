"""Configuration of a server: fields of the kernel and the transport, and a table for each feature.

Command lines and programs fill it in; ``app.py`` hands each table to its feature.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from salver.kernel.lifecycle.ports import LifecycleConfig
from salver.kernel.repository import NamedModelDefaults, RepositoryConfig
from salver.kernel.repository.bounds import check_server
from salver.kernel.serving.readiness import Rule
from salver.lazy import lazy_imports
from salver.transport.access_check import ApiConfig
from salver.transport.calls import HeaderRules
from salver.transport.restrict import GRPC_PREFIX, Guard, Restriction
from salver.transport.server import FrontConfig
from salver.transport.watch import ConnectionLimits
from salver.words.errors import InvalidInput

with lazy_imports():
    from salver.transport.forward import Forwarding


Record = TypeVar("Record", bound=msgspec.Struct)
#: A table as its feature's record, or as plain values by key.
Table = msgspec.Struct | Mapping[str, object]


class HeaderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Meaning of headers beyond the protocol.

    Attributes:
        restrictions: Operations that need a header with a secret value.
        forward: Regular expression; headers whose names contain a match become request parameters. Empty =
            none.
    """

    restrictions: tuple[Restriction, ...] = ()
    forward: str = ""

    def rules(self, *, is_grpc: bool = False) -> HeaderRules:
        """Return the rules for the transport. Raises InvalidInput where they are wrong."""
        return HeaderRules(
            Guard(self.restrictions, GRPC_PREFIX if is_grpc else "") if self.restrictions else None,
            Forwarding(self.forward, is_grpc=is_grpc) if self.forward else None,
        )


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a server.

    Attributes:
        paths: Model files, folders of one, repositories of many; local or URLs of an object store.
        name: The model's name, when there is exactly one.
        opens_ports: False = only this process calls the server.
        more: Ports beside ``front``'s, each with a part of the interfaces.
        server_name: Name in the server's metadata.
        tritons_words: Errors of the Open Inference Protocol have Triton's texts.
        api: Who may change something over the management interface.
        http, grpc: Restricted operations and forwarded headers of each protocol.
        control: ``poll`` follows changes on disk, ``none`` looks once, ``explicit`` loads on request.
        poll_seconds: Time between two looks at the disk.
        load: Models to load at the start in explicit mode.
        trust_pickle: Allow files whose loading runs code that is in them, and requests that bring models of
            formats that can touch the machine.
        allow_environments: Allow Python environments of models that are not programs themselves.
        threads, instances: Defaults for models that do not configure them; 0 = by the backend's traits.
        max_body_mb: Largest HTTP body, in MiB.
        connections: Limits of each connection.
        max_bodies_mb: MiB that the bodies of all requests may hold together; 0 = a quarter of the memory.
        max_message_mb: Largest gRPC message, in MiB.
        grpc_compression: Compression level of answers to inference over gRPC, 1 to 9; 0 = none.
        state_dir: Folder of profiles of models with an objective, and of graphs made from other formats;
            empty = none: they are measured and made at each start.
        tenant_header: HTTP header and gRPC metadata that names a request's tenant; empty = none.
        readiness: When the server is ready: ``serving`` = each model has a version that answers; ``whole`` =
            all wanted versions are loaded; ``settled`` = from the end of the first loads on.
        drain_delay: Seconds after the stop signal in which the server is not ready and still answers, so that
            load balancers notice.
        exits_on_error: True = exit if a model does not load at the start; False = never, even if a model is
            missing; None = only if a model is missing.
        exits_if_none_loads: Exit if models are wanted at the start and none of them loads.
        allow_client_shm: Let callers keep tensors in segments of this machine's ``/dev/shm``.
        keeps_timeouts: A request's ``timeout`` is a deadline where its model has no queue policy; False = it
            does nothing there, as in Triton.
        ignores_surplus: Ignore entries of ``raw_input_contents`` that no input takes, as Triton does; else
            refuse the request.
        resources: Resources that models share, and how much there is of each; None = not counted.
        repository: How the paths become models; ``name`` and ``trust_pickle`` override its own.
        lifecycle: How versions are loaded.
        named_defaults: Defaults for models that are configured by name.
        waits_for_models: Open the ports when each model has loaded or failed.
        tables: Configuration of features and dialects, by name; :meth:`table` reads one.
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
    allow_environments: bool = False
    threads: int = 0
    instances: int = 0
    max_body_mb: float = 64
    max_bodies_mb: float = 0
    connections: ConnectionLimits = ConnectionLimits()
    max_message_mb: int = 2047
    grpc_compression: int = 0
    tenant_header: str = "x-tenant"
    state_dir: str = ""
    readiness: Rule = "serving"
    drain_delay: float = 0.0
    exits_on_error: bool | None = None
    exits_if_none_loads: bool = False
    allow_client_shm: bool = False
    keeps_timeouts: bool = True
    ignores_surplus: bool = False
    resources: Mapping[str, int] | None = None
    repository: RepositoryConfig = RepositoryConfig()
    lifecycle: LifecycleConfig = LifecycleConfig()
    named_defaults: NamedModelDefaults = NamedModelDefaults()
    waits_for_models: bool = False
    tables: Mapping[str, Table] = {}

    def __post_init__(self) -> None:
        """Raises InvalidInput where a number exceeds what this machine can bear."""
        check_server(self)

    @property
    def max_body(self) -> int:
        """Bytes of the largest HTTP body."""
        return int(self.max_body_mb * (1 << 20))

    def table(self, name: str, kind: type[Record]) -> Record:
        """Return the table of a feature; its defaults where nothing is configured.

        Raises:
            InvalidInput: a key is unknown or has a value that it cannot have.
        """
        try:
            found = msgspec.convert(self.tables.get(name, {}), kind)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the configuration of {name} is wrong: {error}", field=name) from error
        check_server(found, name)
        return found

    @property
    def whole_lifecycle(self) -> LifecycleConfig:
        """Sequences of a version that is replaced have as long as requests when the server stops."""
        return msgspec.structs.replace(self.lifecycle, sequences_s=self.front.grace_seconds)


class Startup(msgspec.Struct, frozen=True):
    """A server's configuration as another server's command line gives it.

    Attributes:
        notices: Warnings for the log, such as flags without an effect.
        remark: Last line of the start-up block; may be empty.
        json: Print the start-up block as JSON.
    """

    config: ServeConfig
    notices: tuple[str, ...]
    remark: str
    json: bool

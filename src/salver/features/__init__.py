"""Capabilities beside the kernel, a package each."""

import os
import re
from typing import Literal

import msgspec

from salver.feature import Feature
from salver.words.errors import InvalidInput

_MOST_FRONTS = 256
_MOST_MB, _LEAST_PRIORITY = 1 << 40, 0.001


class FrontsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of front processes.

    Attributes:
        count: Processes that answer at the port, the home process included.
        channel: Descriptor of the socket to the home process; -1 = this is the home process.
    """

    count: int = 1
    channel: int = -1

    def __post_init__(self) -> None:
        """Raises InvalidInput for a number that no machine can bear."""
        if not 1 <= self.count <= _MOST_FRONTS:
            raise InvalidInput(f"there may be 1 to {_MOST_FRONTS} fronts", field="--fronts")


class TenantMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of the memory budget of one tenant, whose models name it (``memory.tenant``).

    Attributes:
        share_mb: MiB that other tenants' models leave it.
        max_mb: MiB that its models may take together; 0 = the whole budget.
        priority: Weight of the value of its models when room is needed.
        gpu_share_mb, gpu_max_mb: As the first two, of the memory of each device.
    """

    share_mb: float = 0.0
    max_mb: float = 0.0
    priority: float = 1.0
    gpu_share_mb: float = 0.0
    gpu_max_mb: float = 0.0


class TenantsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of tenants, by the name that models have as ``memory.tenant``.

    Attributes:
        memory: Parts of the memory budget.
    """

    memory: dict[str, TenantMemory] = {}

    def __post_init__(self) -> None:
        """Raises InvalidInput for numbers that make no sense together."""
        for name, tenant in self.memory.items():
            pairs = ((tenant.share_mb, tenant.max_mb), (tenant.gpu_share_mb, tenant.gpu_max_mb))
            numbers = (*pairs[0], *pairs[1], tenant.priority - _LEAST_PRIORITY)
            if not all(0 <= number < _MOST_MB for number in numbers):
                raise InvalidInput(f"the tenant {name!r} has a number out of bounds", field="tenants.memory")
            if any(0 < most < share for share, most in pairs):
                raise InvalidInput(
                    f"the tenant {name!r} has a share above its max_mb", field=f"tenants.memory.{name}"
                )


class MemoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the memory budget.

    Attributes:
        budget: Memory of the server with its host processes, such as ``8GiB``; ``auto`` = nine tenths of what
            the machine or the control group has; empty = no budget, and every model stays in memory. Then,
            after commas, memory of devices: ``8GiB,gpu0=20GiB,gpu1=auto``.
    """

    budget: str = ""


class PrefixConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the prefix cache of step-wise models.

    Attributes:
        settings: Its bytes, then other settings, such as ``512m,policy=lru``; empty = there is none.
    """

    settings: str = ""


class BrownoutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the brown-out.

    Attributes:
        off: What is switched off under load, one after the other; empty = nothing ever is.
        enter: Strain from which the next one is: 1 = a model refuses requests.
        leave: Strain up to which the last one is switched on again.
        raise_s: Seconds at ``enter`` for each step.
        lower_s: Seconds at ``leave`` for each step.
    """

    off: tuple[str, ...] = ()
    enter: float = 0.8
    leave: float = 0.5
    raise_s: float = 1.0
    lower_s: float = 30.0

    def __post_init__(self) -> None:
        """Raises InvalidInput for numbers that make no sense together."""
        if not 0 <= self.leave < self.enter < float("inf"):
            raise InvalidInput("leave must be below enter", field="brownout.leave")
        if not (0 <= self.raise_s < float("inf") and 0 <= self.lower_s < float("inf")):
            raise InvalidInput("raise_s and lower_s are seconds, from 0 up", field="brownout.raise_s")
        if len(set(self.off)) < len(self.off):
            raise InvalidInput("a name is there twice", field="brownout.off")


class CloudEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of CloudEvents. Those of the sender are the agent's of KServe.

    Attributes:
        url: Receives requests and answers of inference over HTTP; empty = nobody does.
        mode: What it receives.
        answers: Whether a request that is an event is answered by one.
        source: Source of the events, such as the URI of the pod.
        service: Name of the inference service; empty = ``INFERENCE_SERVICE_NAME``.
        namespace, component, endpoint: More attributes of the events.
        headers: Names of headers of the request that events carry as ``metadata``.
        annotations: Annotations that events carry.
    """

    url: str = ""
    mode: Literal["all", "request", "response"] = "all"
    answers: bool = False
    source: str = "salver"
    service: str = ""
    namespace: str = ""
    component: str = "predictor"
    endpoint: str = ""
    headers: tuple[str, ...] = ()
    annotations: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be sent."""
        if self.url and not self.url.startswith(("http://", "https://")):
            raise InvalidInput(
                f"events cannot go to {self.url!r}", field="--log-url", fix="Give an http:// or https:// URL."
            )
        for value in (self.source, self.service, self.namespace, self.component, self.endpoint):
            if not (value.isascii() and (value.isprintable() or not value)):
                raise InvalidInput(f"{value!r} cannot be sent as a header", field="cloudevents")


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the machines that run models.

    Attributes:
        engine: ``local`` = this server; ``processes`` = replicas in host processes of this machine; ``ray`` =
            actors of a Ray cluster of this machine, ``ray://HOST:PORT`` of the one with this head.
        nodes: Nodes of a Ray cluster that are to be there before models load, if they come within two
            minutes after the first one that has memory for models.
    """

    engine: str = "local"
    nodes: int = 1

    def __post_init__(self) -> None:
        """Raises InvalidInput for an engine that does not exist."""
        is_known = self.engine in ("local", "processes", "ray")
        if not is_known and not re.fullmatch(r"ray://[^/\s]+:\d{1,5}", self.engine):
            raise InvalidInput(
                f"there is no engine {self.engine!r}",
                field="--engine",
                fix="Use local, processes, ray, or ray://HOST:PORT with the address of the cluster's head.",
            )

    @property
    def address(self) -> str:
        """Return the HOST:PORT of the cluster's head; empty = a cluster of this machine."""
        return self.engine.partition("://")[2]


# Described here, so that a server that uses neither imports nothing of them.
fronts_feature = Feature(
    "fronts",
    "salver.features.fronts.building:build",
    config=FrontsConfig,
    has_table=False,
    is_used=lambda config: config.count > 1 or config.channel >= 0,
)
memory_feature = Feature(
    "memory",
    "salver.features.memory.building:build",
    config=MemoryConfig,
    has_table=False,
    is_used=lambda config: bool(config.budget),
)
prefixes_feature = Feature(
    "prefixes",
    "salver.features.cache.prefixes.building:build",
    config=PrefixConfig,
    has_table=False,
    is_used=lambda config: bool(config.settings),
)


cluster_feature = Feature(
    "cluster",
    "salver.features.cluster.building:build",
    config=ClusterConfig,
    has_table=False,
    is_used=lambda config: config.engine != "local",
    after=("routing",),
)


def _is_under_systemd(config: object) -> bool:
    return "NOTIFY_SOCKET" in os.environ


systemd_feature = Feature("systemd", "salver.features.systemd.notifying:build", is_used=_is_under_systemd)
brownout_feature = Feature(
    "brownout",
    "salver.features.brownout.building:build",
    config=BrownoutConfig,
    is_used=lambda config: bool(config.off),
)
cloudevents_feature = Feature(
    "cloudevents",
    "salver.features.cloudevents.building:build",
    config=CloudEventsConfig,
    is_used=lambda config: bool(config.url) or config.answers,
)

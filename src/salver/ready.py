"""Content of the start-up report."""

import time
from collections.abc import Mapping
from typing import Final

import msgspec

from salver.app import Server
from salver.transport.access_check import Changing
from salver.transport.doors import Kind
from salver.words.messages import ModelId, Signature, VersionStatus

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
    """State of a server after its first models have loaded or failed.

    Attributes:
        is_ready: The server is ready, by its readiness rule.
        hosts: Addresses on which it listens.
        url: Base of every HTTP route; empty = none.
        grpc: Address of gRPC; empty = none.
        metrics: URL of the metrics page; empty = none.
        console: URL of the console; empty = none.
        platforms: Names and URLs of SageMaker's and Vertex AI's ports.
        seconds: Seconds since the server was started.
        signatures: Signatures of the loaded versions.
        changing: Who may change something at a port that other machines reach.
        needs_key: Every request needs a key.
        refuses_inference: Nobody may run a model at such a port.
        takes_short: Requests may have inputs by name (:mod:`salver.dialects.oip.short_json`).
    """

    hosts: tuple[str, ...]
    url: str
    seconds: float
    statuses: tuple[VersionStatus, ...]
    signatures: Mapping[ModelId, Signature]
    grpc: str = ""
    metrics: str = ""
    platforms: tuple[tuple[str, str], ...] = ()
    console: str = ""
    changing: Changing = "open"
    needs_key: bool = False
    refuses_inference: bool = False
    takes_short: bool = True
    is_ready: bool = True


async def ready_info(server: Server) -> ReadyInfo:
    """Return the state of a server whose first loads have ended."""
    config, listeners, kernel = server.config, server.listeners, server.kernel
    urls: dict[Kind, str] = {}
    for front, url in zip(listeners.configs, listeners.urls(), strict=True):
        urls.setdefault(front.serves, url)
    common = urls.get("all", "")
    grpc = urls.get("grpc", common)
    page = urls.get("metrics", common)
    has_console = any(site.root == "/console" for part in kernel.parts for site in part.pages)
    return ReadyInfo(
        tuple(dict.fromkeys(front.host for front in listeners.configs)),
        urls.get("http", common),
        time.monotonic() - server.began,
        kernel.control.statuses(),
        {s.manifest.id: s.signature for s in kernel.models.servables()},
        grpc.partition("//")[2],
        page and f"{page}/metrics",
        tuple((name, urls[kind]) for kind, name in _PLATFORMS if kind in urls),
        f"{common}/console/" if common and has_console else "",
        server.ports.changing,
        kernel.keys is not None and not kernel.keys.is_open,
        server.ports.refuses_inference,
        not config.tritons_words,
        await kernel.control.is_ready(),
    )

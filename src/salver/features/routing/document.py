"""Reading of ``instances.toml``: the instances of a model, and how requests are spread over them. Pure."""

from pathlib import PurePath
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from salver.features.routing.health import EjectionConfig
from salver.kernel.repository.toml import read_document
from salver.words.errors import InvalidInput, LoadFailed

FILE: Final = "instances.toml"
MOST: Final = 1000
#: Values of ``discover`` beside URLs: the ledger's servers, and before the name of SRV records.
LEDGER: Final = "ledger:"
SRV: Final = "srv:"
PolicyName = Literal["round-robin", "least-requests", "measured", "peak-ewma", "consistent-hash"]


class InstanceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instance.

    Attributes:
        url: A server that speaks the Open Inference Protocol with binary tensors, such as Salver and Triton.
        weight: Share of the requests, relative to others.
        priority: 0 is asked first; others as far as those before them are not available.
        zone: Where it is; those in the zone of this server come first, then those of its region, which is
            what stands before the slash of ``eu/a``.
        group: Group to which rules can send requests.
    """

    url: str
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0
    zone: str = ""
    group: str = ""


class ProbeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request whose answer is known.

    Attributes:
        request: File beside ``instances.toml`` with an Open Inference request as JSON.
        expect: File with its right answer, as a server gave it.
        tolerance: Largest difference of a number that is right, absolute or relative.
        every_s: Seconds between two probes of an instance, at least ``check_s``.
    """

    request: str
    expect: str
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 1e-4
    every_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 10.0


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of ``instances.toml``.

    Attributes:
        instances: URLs, or tables with a URL and a weight.
        discover: In place of ``instances``: a URL whose host is a name with an address for each; ``srv:``
            and a name with an SRV record for each; or ``ledger:`` for the servers of this server's ledger
            that serve the model.
        discover_s: Seconds between two looks at these.
        model: Name of the model there; empty = the same as here.
        version: Version there; empty = each chooses its own.
        zone: Zone of this server; empty = zones do not matter.
        slow_start_s: Seconds in which the share of an instance grows to the whole, when it comes back.
        policy: Balancing policy.
        key: Parameter of a request whose value is the key of ``consistent-hash``.
        attempts: Most attempts of a request, each at another instance.
        attempt_s: Most seconds of an attempt.
        retry_ratio: Retries per request, above a reserve of ``retry_reserve``.
        hedge: Quantile of the latency after which another instance is asked, too, and the first answer
            counts; 0 = never. It draws on the budget of retries.
        max_requests: Most requests under way at an instance; where all have as many, further ones are
            refused. 0 = no limit.
        check_s: Seconds between two health checks of an instance; 0 = none.
        token: Variable with the token or key that the instances want; empty = they want none.
        ejection: When an instance that fails is left out.
        probe: Request whose answer is known, to find instances that answer wrongly.
    """

    instances: tuple[str | InstanceTable, ...] = ()
    discover: str = ""
    discover_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 5.0
    model: str = ""
    version: str = ""
    zone: str = ""
    slow_start_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    policy: PolicyName = "measured"
    key: str = ""
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    attempt_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 10.0
    retry_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    retry_reserve: Annotated[float, msgspec.Meta(ge=0, le=10000)] = 100.0
    hedge: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    max_requests: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    check_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 2.0
    token: str = ""
    ejection: EjectionConfig = EjectionConfig()
    probe: ProbeTable | None = None

    @property
    def tables(self) -> list[InstanceTable]:
        """Instances as tables."""
        return [each if isinstance(each, InstanceTable) else InstanceTable(each) for each in self.instances]


def parse(content: bytes, origin: str) -> Document:
    """Return the content of a file.

    Args:
        origin: The file's path, for messages.

    Raises:
        LoadFailed: it is no TOML, or a field is unknown or has a wrong value.
    """
    try:
        document = msgspec.convert(read_document(content, origin)[0], Document)
    except (msgspec.ValidationError, InvalidInput) as error:
        raise LoadFailed(f"{origin}: {error}") from error
    if document.discover:
        if document.instances:
            raise LoadFailed(f"{origin}: it has instances and discover", field="discover")
        if urlsplit(document.discover).scheme == "https":
            # Certificates are for names, and requests go to addresses.
            raise LoadFailed(f"{origin}: instances that are discovered are asked by http", field="discover")
        if not document.check_s:
            raise LoadFailed(f"{origin}: instances that are discovered need health checks", field="check_s")
    elif not 0 < len(document.instances) <= MOST:
        raise LoadFailed(f"{origin}: there are 1 to {MOST} instances", field="instances")
    if document.policy == "consistent-hash" and not document.key:
        raise LoadFailed(
            f"{origin}: consistent-hash needs a key",
            field="key",
            fix='Name a parameter of the requests, such as key = "user".',
        )
    if document.probe is not None:
        _check_probe(document, document.probe, origin)
    urls = [table.url.rstrip("/") for table in document.tables]
    if document.discover and document.discover != LEDGER and not document.discover.startswith(SRV):
        urls.append(document.discover)
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise LoadFailed(
                f"{origin}: {url[:200]!r} is not the URL of a server",
                field="instances",
                fix='Write one such as "http://10.0.0.5:8000".',
            )
    if len(set(urls)) < len(urls):
        raise LoadFailed(f"{origin}: an instance is there twice", field="instances")
    return document


def _check_probe(document: Document, probe: ProbeTable, origin: str) -> None:
    if not document.check_s:
        raise LoadFailed(f"{origin}: a probe needs health checks", field="check_s")
    for field, name in (("probe.request", probe.request), ("probe.expect", probe.expect)):
        # Another folder's file would be sent to whoever is named as an instance.
        if PurePath(name).name != name:
            raise LoadFailed(f"{origin}: {name[:200]!r} is not a file beside it", field=field)

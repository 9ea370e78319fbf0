"""Routes of TorchServe's three ports.

Each route (TS-R1 to TS-R11, TS-M1 to TS-M11) exists at the ports that serve it and is 404 at others (TS-P2).
Raw paths are matched; a name is decoded after its segment is cut out. Pure.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from salver.lazy import lazy_imports
from salver.words.errors import NoRoute, WrongVerb

with lazy_imports():
    from salver.dialects.torchserve.bodies import check_escapes


Surface = Literal["inference", "management", "metrics"]
#: First segments of TorchServe's paths on a port for everything; the oldest routes come last.
OWN: Final = frozenset(
    {
        *("ping", "predictions", "explanations", "invocations", "wfpredict"),
        *("models", "workflows", "api-description", "token"),
    }
)
#: Kind of a port -> what it serves; two addresses that are one are one port (TS-P1).
SURFACES: Final[Mapping[str, frozenset[Surface]]] = {
    "torchserve-inference": frozenset(("inference",)),
    "torchserve-management": frozenset(("management",)),
    "torchserve-metrics": frozenset(("metrics",)),
    "torchserve-inference-metrics": frozenset(("inference", "metrics")),
    "torchserve-management-metrics": frozenset(("management", "metrics")),
    "torchserve-all": frozenset(("inference", "management", "metrics")),
}
#: TorchServe's own Open Inference service over gRPC.
OPEN_INFERENCE: Final = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
#: gRPC methods of management that change something.
CHANGING: Final = frozenset(
    f"/org.pytorch.serve.grpc.management.ManagementAPIsService/{name}"
    for name in ("RegisterModel", "ScaleWorker", "SetDefault", "UnregisterModel")
)
_PREDICTING: Final = frozenset(("predictions", "explanations"))


class PathMatch(NamedTuple):
    """Operation and arguments of a path.

    Attributes:
        surface: Interface of the route, whose key callers need; empty = no key.
        extra: Path after the version, for the handler (TS-R4); None = the route has no such part.
        explains: Whether an explanation is wanted instead of a prediction; None = the route does not say.
        takes_query: Whether fields of the query are parts of the handler's form.
    """

    operation: str
    surface: Surface | Literal[""] = ""
    model: str = ""
    version: str = ""
    extra: str | None = None
    explains: bool | None = None
    takes_query: bool = False


def find(verb: str, raw_path: bytes, surfaces: Collection[Surface], *, speaks_oip: bool = False) -> PathMatch:
    """Return the match of a path.

    Args:
        surfaces: Interfaces that the port serves.
        speaks_oip: See :attr:`salver.dialects.torchserve.rules.TorchServeRules.speaks_oip`.

    Raises:
        NoRoute: the port has no such path.
        WrongVerb: the path does not allow this verb.
        NamedFault: a name is not percent-encoded correctly.

    >>> find("POST", b"/predictions/m/1.0/v1/chat", ["inference"])[:5]
    ('predict', 'inference', 'm', '1.0', 'v1/chat')
    """
    segments = raw_path.decode("latin-1").split("/")[1:]
    while segments and not segments[-1]:
        segments.pop()
    if not segments and verb != "OPTIONS":
        raise WrongVerb("/ allows OPTIONS only")
    if not segments or segments == ["api-description"]:
        return PathMatch("describe_port")
    names = _Names(raw_path)
    for surface, finder in _FINDERS:
        if surface in surfaces:
            found = finder(verb, segments, names, speaks_oip)
            if found is not None:
                return found
    raise NoRoute("no such path at this port")


def find_oldest(verb: str, raw_path: bytes) -> PathMatch | None:
    """Return the match of a route that begins with a model's name (TS-R9); None = no match."""
    segments = raw_path.decode("latin-1").split("/")[1:]
    return _oldest(segments, _Names(raw_path))


def is_own(path: bytes) -> bool:
    """Return whether a path begins as TorchServe's do and no other protocol's."""
    return path[1:].partition(b"/")[0].decode("latin-1") in OWN


def may_be_own(verb: str, path: bytes, query: bytes) -> bool:
    """Return whether TorchServe may answer a path on a port for everything."""
    if path.startswith((b"/v2/", b"/v1/", b"/V1/")):
        return False
    if path == b"/metrics":
        return query != b""
    return is_own(path) or path.endswith(b"/predict") or verb == "OPTIONS"


class _Names:
    """Decoder of the names in one path."""

    def __init__(self, raw_path: bytes) -> None:
        self._path = raw_path

    def __call__(self, quoted: str) -> str:
        data = quoted.encode("latin-1")
        if b"%" in data:
            check_escapes(self._path)
            data = unquote_to_bytes(data)
        return data.decode("utf-8", "replace")


def _inference(verb: str, segments: list[str], name: _Names, speaks_oip: bool) -> PathMatch | None:
    match segments:
        case [first, model, *rest] if first in _PREDICTING:
            version, *extra = [*map(name, rest)] or [""]
            explains = first == "explanations"
            return PathMatch("predict", "inference", name(model), version, "/".join(extra), explains)
        case ["ping", *_]:
            return PathMatch("ping", "inference")
        case ["invocations"]:
            return PathMatch("invocations", "inference", takes_query=True)
        case ["models", model, "invoke"]:
            return PathMatch("predict", "inference", name(model), takes_query=True)
        case ["wfpredict", workflow, *_]:
            return PathMatch("predict_workflow", "inference", name(workflow))
        case ["v1", "models", last] if ":predict" in last or ":explain" in last:
            model, _, what = last.partition(":")
            return PathMatch("predict", "inference", name(model), explains=not what.startswith("predict"))
        case ["v2", "models", model, "infer" | "explain" as what]:
            return PathMatch("predict", "inference", name(model), explains=what == "explain")
        case ["v2", *rest] if speaks_oip:
            return _open_inference(verb, rest)
    return _oldest(segments, name)


def _open_inference(verb: str, rest: list[str]) -> PathMatch | None:
    if verb in ("GET", "HEAD"):
        match rest:
            case []:
                return PathMatch("oip_server", "inference")
            case ["health", "live"]:
                return PathMatch("oip_live", "inference")
            case ["health", "ready"]:
                return PathMatch("oip_ready", "inference")
    if len(rest) >= 4 and rest[0] == "models" and rest[2] == "versions":
        return PathMatch("oip_version", "inference")
    return None


def _oldest(segments: list[str], name: _Names) -> PathMatch | None:
    match segments:
        case [model, "predict"] if model and model != "models":
            return PathMatch("predict", "inference", name(model), takes_query=True)
        case [model, version, "predict"] if model and model != "models":
            return PathMatch("predict", "inference", name(model), name(version), takes_query=True)
    return None


def _management(verb: str, segments: list[str], name: _Names, _: bool) -> PathMatch | None:
    match segments:
        case ["models"]:
            return _by_verb(verb, PathMatch("", "management"), GET="list", POST="register")
        case ["models", model, version, "set-default"] if verb == "PUT":
            return PathMatch("set_default", "management", name(model), name(version))
        case ["models", model, *rest] if rest[1:] in ([], ["set-default"]):
            found = PathMatch("", "management", name(model), "".join(map(name, rest[:1])))
            return _by_verb(
                verb, found, GET="describe", PUT="scale", DELETE="unregister", OPTIONS="describe_managed"
            )
        case ["v1", "models", last]:
            return _by_verb(verb, PathMatch("", "management", name(last.partition(":")[0])), GET="is_ready")
        case ["workflows"]:
            found = PathMatch("", "management")
            return _by_verb(verb, found, GET="list_workflows", POST="register_workflow")
        case ["workflows", workflow]:
            found = PathMatch("", "management", name(workflow))
            return _by_verb(verb, found, GET="describe_workflow", DELETE="unregister_workflow")
        case ["token", *_]:
            return PathMatch("token")
    return None


def _by_verb(verb: str, match: PathMatch, **operations: str) -> PathMatch:
    if verb not in operations:
        raise WrongVerb(f"the path does not allow {verb}")
    return match._replace(operation=operations[verb])


def _metrics(verb: str, segments: list[str], name: _Names, _: bool) -> PathMatch | None:
    if segments[:1] == ["metrics"]:
        return PathMatch("metrics")
    return None


_Finder = Callable[[str, list[str], _Names, bool], PathMatch | None]
_FINDERS: Final[tuple[tuple[Surface, _Finder], ...]] = (
    ("inference", _inference),
    ("management", _management),
    ("metrics", _metrics),
)

"""Which path of TorchServe's is this?

Its routes at its three ports (TS-R1 to TS-R11, TS-M1 to TS-M11), each at the ports that serve it and 404 at
others (TS-P2). Matched on the raw path: a name is decoded after its segment is cut out (X-26). Pure.
"""

from collections.abc import Callable, Collection
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from salver.dialects.torchserve.bodies import check_escapes
from salver.words.errors import NoRoute, WrongVerb

Surface = Literal["inference", "management", "metrics"]
#: First segments of paths that are TorchServe's on a port for everything; the oldest routes come last (X-23).
OWN: Final = frozenset(
    {
        *("ping", "predictions", "explanations", "invocations", "wfpredict"),
        *("models", "workflows", "api-description", "token"),
    }
)
#: What they are asked by, with the name of a model or more.
_ASKING: Final = frozenset(("predictions", "explanations"))


class PathMatch(NamedTuple):
    """What a path asks for.

    Attributes:
        surface: Whose route it is, and so whose key it wants; empty = it wants none.
        extra: What follows a version, for the handler (TS-R4); None = the route has no such thing.
        explains: An explanation is wanted, and not a prediction; None = the route does not say.
        takes_query: The query's fields are parts of what the handler gets.
    """

    operation: str
    surface: Surface | Literal[""] = ""
    model: str = ""
    version: str = ""
    extra: str | None = None
    explains: bool | None = None
    takes_query: bool = False


def find(verb: str, raw_path: bytes, surfaces: Collection[Surface], *, speaks_oip: bool = False) -> PathMatch:
    """What is meant.

    Args:
        surfaces: What the port serves.
        speaks_oip: See :attr:`salver.dialects.torchserve.rules.TorchServeRules.speaks_oip`.

    Raises:
        NoRoute: nothing, at this port.
        WrongVerb: nothing by this verb.
        NamedFault: a name is not encoded as it should be.

    >>> find("POST", b"/predictions/m/1.0/v1/chat", ["inference"])[:5]
    ('predict', 'inference', 'm', '1.0', 'v1/chat')
    """
    segments = raw_path.decode("latin-1").split("/")[1:]
    while segments and not segments[-1]:
        segments.pop()
    if not segments and verb != "OPTIONS":
        raise WrongVerb("there is nothing at / but the description")
    if not segments or segments == ["api-description"]:
        return PathMatch("describe_port")
    names = _Names(raw_path)
    for surface, finder in _FINDERS:
        if surface in surfaces:
            found = finder(verb, segments, names, speaks_oip)
            if found is not None:
                return found
    raise NoRoute("there is no such path")


def find_oldest(verb: str, raw_path: bytes) -> PathMatch | None:
    """One of the routes that begin with a model's name; None = it is none (TS-R9)."""
    segments = raw_path.decode("latin-1").split("/")[1:]
    return _oldest(segments, _Names(raw_path))


class _Names:
    """Decodes names of one path."""

    def __init__(self, raw_path: bytes) -> None:
        self._path = raw_path

    def __call__(self, quoted: str) -> str:
        data = quoted.encode("latin-1")
        if b"%" in data:
            check_escapes(self._path)
            data = unquote_to_bytes(data)
        return data.decode("utf-8", "replace")


def _inference(verb: str, segments: list[str], name: _Names, speaks_oip: bool) -> PathMatch | None:
    count = len(segments)
    match segments:
        case [first, model, *rest] if first in _ASKING:
            extra = "/".join(name(segment) for segment in rest[1:])
            version = name(rest[0]) if rest else ""
            return PathMatch("predict", "inference", name(model), version, extra, first == "explanations")
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
    return _oldest(segments, name) if count in (2, 3) else None


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
            return _by(
                verb, {"GET": PathMatch("list", "management"), "POST": PathMatch("register", "management")}
            )
        case ["models", model, version, "set-default"] if verb == "PUT":
            return PathMatch("set_default", "management", name(model), name(version))
        case ["models", model] | ["models", model, _] | ["models", model, _, "set-default"]:
            version = name(segments[2]) if len(segments) > 2 else ""
            names = {
                "GET": "describe",
                "PUT": "scale",
                "DELETE": "unregister",
                "OPTIONS": "describe_managed",
            }
            rows = {by: PathMatch(what, "management", name(model), version) for by, what in names.items()}
            return _by(verb, rows)
        case ["v1", "models", last]:
            return _by(verb, {"GET": PathMatch("is_ready", "management", name(last.partition(":")[0]))})
        case ["workflows"]:
            every = PathMatch("list_workflows", "management")
            return _by(verb, {"GET": every, "POST": PathMatch("register_workflow", "management")})
        case ["workflows", workflow]:
            names = {"GET": "describe_workflow", "DELETE": "unregister_workflow"}
            rows = {by: PathMatch(what, "management", name(workflow)) for by, what in names.items()}
            return _by(verb, rows)
        case ["token", *_]:
            return PathMatch("token")
    return None


def _by(verb: str, rows: dict[str, PathMatch]) -> PathMatch:
    found = rows.get(verb)
    if found is None:
        raise WrongVerb(f"not by {verb}")
    return found


def _metrics(verb: str, segments: list[str], name: _Names, _: bool) -> PathMatch | None:
    return PathMatch("metrics") if segments and segments[0] == "metrics" else None


_Finder = Callable[[str, list[str], _Names, bool], PathMatch | None]
_FINDERS: Final[tuple[tuple[Surface, _Finder], ...]] = (
    ("inference", _inference),
    ("management", _management),
    ("metrics", _metrics),
)

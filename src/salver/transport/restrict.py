"""Groups of operations that need a shared secret: Triton's restricted APIs (TR-R34, TR-G15).

A :class:`Guard` is made once for each protocol; a server without restrictions has none.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, Literal

import msgspec

from salver.words.errors import Forbidden, InvalidInput, Unauthenticated

#: Patterns of HTTP paths with their groups; the first match counts. Other paths, such as the API description
#: and the metrics, are unrestricted.
_OF_PATHS: Final = (
    (r"/v2/(system|cuda)sharedmemory\b", "shared-memory"),
    (r"/v2/repository\b|/v1/models/.*/(load|unload)$", "model-repository"),
    (r".*/trace/setting$", "trace"),
    (r"/v2/logging$", "logging"),
    (r".*/config$", "model-config"),
    (r".*/(stats|explain)\b", "statistics"),
    (r".*(/infer|/generate|/generate_stream|:predict|:classify|:regress|:explain)$", "inference"),
    (r"/v1/(chat/completions|completions|embeddings|audio/(transcriptions|translations))$", "inference"),
    (r"/v2/health/|.*/ready$", "health"),
    (r"/$|/v2$|/v[12]/models\b", "metadata"),
)
#: Paths of pipelines; GET tells the state of a model.
_OF_PIPELINES: Final = re.compile(r"/v1/models/[^/:]+(/versions/[^/:]+)?")
#: Parts of gRPC method names with their groups; the first match counts.
_OF_METHODS: Final = (
    ("SharedMemory", "shared-memory"),
    ("Repository", "model-repository"),
    ("Trace", "trace"),
    ("LogSettings", "logging"),
    ("ModelConfig", "model-config"),
    ("ModelStatistics", "statistics"),
    ("HandleReloadConfigRequest", "model-repository"),
    ("Predict", "inference"),
    ("Classify", "inference"),
    ("Regress", "inference"),
    ("Infer", "inference"),
    ("Live", "health"),
    ("Ready", "health"),
    ("Health", "health"),
    ("Metadata", "metadata"),
    ("GetModelStatus", "metadata"),
)
#: The groups of Triton's OpenAI front end, and the operations in each.
OPENAI_GROUPS: Final = {
    "inference": ("chat", "completions", "embeddings", "transcriptions", "translations"),
    "model-repository": ("list_v1", "model_v1"),
    "model-management": ("load_v1", "unload_v1"),
    "metrics": ("metrics",),
    "health": ("ready_plain",),
}
GROUPS: Final = tuple(dict.fromkeys(group for _, group in (*_OF_PATHS, *_OF_METHODS)))
GRPC_PREFIX: Final = "triton-grpc-protocol-"
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # RFC 9110, section 5.6.2


#: Ends of gRPC methods that need no key, or any key.
_OPEN_METHODS: Final = ("/ServerLive",)
_KNOWN_METHODS: Final = (
    *("/ServerReady", "/ServerMetadata", "/Ping", "Health/Check", "Health/Watch"),
    "/ServerReflectionInfo",
)
#: Right that an operation needs: ``open`` = none, ``known`` = any key is enough.
Right = Literal["open", "known", "infer", "read", "models", "registry", "releases", "outcomes", "access"]


class Restriction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requirement of a header with a value for the operations of some groups.

    Attributes:
        is_openai: The groups belong to Triton's OpenAI front end.
    """

    groups: tuple[str, ...]
    header: str
    value: str
    is_openai: bool = False


def parse(text: str, flag: str) -> Restriction:
    """Parse a restriction in the form of tritonserver's flags, ``group,group:header=value``.

    Raises:
        InvalidInput: the text is malformed, or names an unknown group.

    >>> parse("inference,model-config:admin-key=sesame", "--http-restricted-api")
    Restriction(groups=('inference', 'model-config'), header='admin-key', value='sesame', is_openai=False)
    """
    names, colon, rest = text.partition(":")
    header, equals, value = rest.partition("=")
    if not colon or not equals or not value or not _HEADER.fullmatch(header):
        raise InvalidInput(
            f"{flag} {text!r} is not a restriction", fix="Write GROUP[,GROUP...]:HEADER=VALUE."
        )
    return Restriction(_groups(names, GROUPS, flag), header, value)


def parse_openai(groups: str, header: str, value: str, flag: str) -> Restriction:
    """Parse a restriction from the three values of the flag of Triton's OpenAI front end.

    Raises:
        InvalidInput: a value is malformed, or a group is unknown.
    """
    if not value or not _HEADER.fullmatch(header):
        raise InvalidInput(f"{flag} is not a restriction", fix="Write GROUP[,GROUP...] HEADER VALUE.")
    return Restriction(_groups(groups, tuple(OPENAI_GROUPS), flag), header, value, is_openai=True)


def _groups(names: str, known: tuple[str, ...], flag: str) -> tuple[str, ...]:
    groups = tuple(name.strip() for name in names.split(","))
    for group in groups:
        if group not in known:
            raise InvalidInput(
                f"{flag}: there is no group of operations {group!r}", fix=f"Groups: {', '.join(known)}."
            )
    return groups


class Guard:
    """Checks the headers of calls against restrictions.

    Args:
        restrictions: Restrictions, with each group in at most one.
        prefix: Prefix of the header names (:data:`GRPC_PREFIX` for gRPC).

    Raises:
        InvalidInput: two restrictions have the same group.
    """

    def __init__(self, restrictions: Iterable[Restriction], prefix: str = "") -> None:
        self._wanted: dict[str, tuple[bytes, bytes, str]] = {}
        self._openai: dict[str, tuple[bytes, bytes, str]] = {}  # by operation
        for restriction in restrictions:
            header = prefix + restriction.header
            secret = (header.lower().encode(), restriction.value.encode(), header)
            for group in restriction.groups:
                names = OPENAI_GROUPS[group] if restriction.is_openai else (group,)
                wanted = self._wanted
                if restriction.is_openai:
                    wanted = self._openai
                if not wanted.keys().isdisjoint(names):
                    raise InvalidInput(f"operations of the group {group!r} are restricted twice")
                wanted |= dict.fromkeys(names, secret)

    def __repr__(self) -> str:
        return f"<Guard of {', '.join((*self._wanted, *self._openai))}>"

    def check(self, group: str, headers: Mapping[bytes, bytes], operation: str = "") -> None:
        """Check the secret of an HTTP request.

        Args:
            operation: Name of the operation, for the restrictions of the OpenAI front end.

        Raises:
            Forbidden: the secret is missing or wrong (TR-R37).
            Unauthenticated: the secret of the OpenAI front end is missing or wrong.
        """
        if header := self.lacks(group, headers):
            raise Forbidden(f"This API is restricted, expecting header '{header}'")
        if (wanted := self._openai.get(operation)) is not None and not _has(wanted, headers):
            raise Unauthenticated(f"This API is restricted, expecting header '{wanted[2]}' with valid value")

    def lacks(self, group: str, headers: Mapping[bytes, bytes]) -> str:
        """Return the header that the call lacks; empty if the call is allowed.

        Args:
            headers: Headers by name in lower case.
        """
        if (wanted := self._wanted.get(group)) is None:
            return ""
        if _has(wanted, headers):
            return ""
        return wanted[2]


def _has(wanted: tuple[bytes, bytes, str], headers: Mapping[bytes, bytes]) -> bool:
    return hmac.compare_digest(headers.get(wanted[0], b""), wanted[1])


def group_of_path(verb: str, path: str) -> str:
    """Return the group of an HTTP operation; empty for what nobody may restrict.

    >>> group_of_path("POST", "/v2/models/{model}/infer")
    'inference'
    """
    if verb == "POST" and (path.endswith("/explain") or _OF_PIPELINES.fullmatch(path)):
        return "inference"  # GET tells numbers
    return next((group for pattern, group in _OF_PATHS if re.match(pattern, path)), "")


def right_of(group: str, *, changes: bool) -> Right:
    """Return the right that an operation of a group needs; a change needs the one to manage models."""
    if changes:
        return "models"
    return "infer" if group == "inference" else "read"


def right_of_method(path: str, *, changes: bool) -> Right:
    """Return the right that a gRPC method needs.

    >>> right_of_method("/inference.GRPCInferenceService/ModelInfer", changes=False)
    'infer'
    """
    if path.endswith(_OPEN_METHODS):
        return "open"
    if path.endswith(_KNOWN_METHODS):
        return "known"
    return right_of(group_of_method(path), changes=changes)


@cache
def group_of_method(path: str) -> str:
    """Return the group of a known gRPC method.

    >>> group_of_method("/inference.GRPCInferenceService/ModelConfig")
    'model-config'
    """
    return next((group for part, group in _OF_METHODS if part in path.rpartition("Service")[2]), "")

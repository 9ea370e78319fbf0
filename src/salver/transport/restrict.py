"""Which operations does a caller need a shared secret for?

Triton's restricted APIs (TR-R34, TR-G15): groups of operations that want a header with a given
value. A :class:`Guard` is made once for each protocol; a server without restrictions has none, and
asks nothing. It knows no socket and no body.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from salver.errors import InvalidInput
from salver.transport.routes import OPERATIONS

#: Path of an HTTP operation -> its group; the first that matches. What none matches is free: the
#: description of the interface, and the metrics, whose place is a port of their own.
_OF_PATHS: Final = (
    (r"/v2/(system|cuda)sharedmemory\b", "shared-memory"),
    (r"/v2/repository\b", "model-repository"),
    (r".*/trace/setting$", "trace"),
    (r"/v2/logging$", "logging"),
    (r".*/config$", "model-config"),
    (r".*/(stats|explain)\b", "statistics"),
    (r".*(/infer|/generate|/generate_stream|:predict)$", "inference"),
    (r"/v2/health/|.*/ready$", "health"),
    (r"/$|/v2$|/v[12]/models\b", "metadata"),
)
#: Name of a gRPC method -> its group; the first that is found in it.
_OF_METHODS: Final = (
    ("SharedMemory", "shared-memory"),
    ("Repository", "model-repository"),
    ("Trace", "trace"),
    ("LogSettings", "logging"),
    ("ModelConfig", "model-config"),
    ("ModelStatistics", "statistics"),
    ("Infer", "inference"),
    ("Live", "health"),
    ("Ready", "health"),
    ("Health", "health"),
    ("Metadata", "metadata"),
)
GROUPS: Final = tuple(dict.fromkeys(group for _, group in (*_OF_PATHS, *_OF_METHODS)))
GRPC_PREFIX: Final = "triton-grpc-protocol-"
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # RFC 9110, section 5.6.2


class Restriction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operations of these groups want this header to have this value."""

    groups: tuple[str, ...]
    header: str
    value: str


def parse(text: str, flag: str) -> Restriction:
    """A restriction as tritonserver's flags write it: ``group,group:header=value``.

    Raises:
        InvalidInput: it is none, or names an unknown group.

    >>> parse("inference,model-config:admin-key=sesame", "--http-restricted-api")
    Restriction(groups=('inference', 'model-config'), header='admin-key', value='sesame')
    """
    names, colon, rest = text.partition(":")
    header, equals, value = rest.partition("=")
    if not colon or not equals or not value or not _HEADER.fullmatch(header):
        raise InvalidInput(f"{flag} {text!r} is no restriction", fix="Write GROUP[,GROUP...]:HEADER=VALUE.")
    groups = tuple(name.strip() for name in names.split(","))
    for group in groups:
        if group not in GROUPS:
            raise InvalidInput(
                f"{flag}: there is no group of operations {group!r}", fix=f"Groups: {', '.join(GROUPS)}."
            )
    return Restriction(groups, header, value)


class Guard:
    """Tells who may not call what.

    Args:
        restrictions: Each group in at most one.
        prefix: Stands before each header's name (:data:`GRPC_PREFIX` for gRPC).

    Raises:
        InvalidInput: a group is in two.
    """

    def __init__(self, restrictions: Iterable[Restriction], prefix: str = "") -> None:
        self._wanted: dict[str, tuple[bytes, bytes, str]] = {}
        self._groups = {o.name: group_of_path(o.path) for o in OPERATIONS}
        for restriction in restrictions:
            header = prefix + restriction.header
            for group in restriction.groups:
                if group in self._wanted:
                    raise InvalidInput(f"operations of the group {group!r} are restricted twice")
                self._wanted[group] = (header.lower().encode(), restriction.value.encode(), header)

    def __repr__(self) -> str:
        return f"<Guard of {', '.join(self._wanted)}>"

    def lacks(self, operation: str, headers: Mapping[bytes, bytes]) -> str:
        """The header that the call should have brought; empty if it may go on.

        Args:
            operation: Name of an HTTP operation, or path of a gRPC method.
            headers: By names in lower case.
        """
        group = self._groups.get(operation)
        if group is None:
            group = self._groups[operation] = group_of_method(operation)
        if (wanted := self._wanted.get(group)) is None:
            return ""
        header, value, name = wanted
        return "" if hmac.compare_digest(headers.get(header, b""), value) else name


def group_of_path(path: str) -> str:
    """The group of an HTTP operation; empty for what nobody may restrict.

    >>> group_of_path("/v2/models/{model}/infer")
    'inference'
    """
    return next((group for pattern, group in _OF_PATHS if re.match(pattern, path)), "")


def group_of_method(path: str) -> str:
    """The group of a gRPC method.

    >>> group_of_method("/inference.GRPCInferenceService/ModelConfig")
    'model-config'
    """
    return next((group for part, group in _OF_METHODS if part in path.rpartition("Service")[2]), "")

"""Paths of one port: what they mean, and who may ask for it."""

from collections.abc import Mapping
from typing import Final

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.paths import PathMatch, Surface, find, find_oldest, is_own
from salver.dialects.torchserve.predict import Prediction
from salver.dialects.torchserve.queries import Target
from salver.dialects.torchserve.tokens import SCOPES, Scope
from salver.transport.access_check import CallerKeys
from salver.transport.restrict import Right, right_of
from salver.words.errors import SalverError

_KNOWN_PATHS: Final = 4096
#: Operations -> their group in Triton's restrictions (TR-R34); all others are inference.
_GROUPS: Final = {
    **dict.fromkeys(("register", "unregister", "scale", "set_default"), "model-repository"),
    **dict.fromkeys(("list", "describe", "describe_managed", "is_ready"), "metadata"),
    "ping": "health",
}
#: Operations -> the right that they need; others change something, or read.
_RIGHTS: Final[dict[str, Right]] = {
    **dict.fromkeys(("predict", "invocations", "predict_workflow"), "infer"),
    **dict.fromkeys(("ping", "describe_port", "oip_ready", "oip_server"), "known"),
    "oip_live": "open",
}
#: Match of an unknown path, which needs a key as well.
_ANYTHING: Final = PathMatch("anything", "inference")


class PortPaths:
    """Paths of one port.

    Args:
        surfaces: Interfaces that the port serves; None = a port for everything.
        callers: Keys of the server's callers, which are as good as TorchServe's own; None = there are none.

    Attributes:
        is_common: It is a port for everything.
        is_guarded: Predictions may need a key or a secret (:meth:`check`).
        targets: Targets of earlier predictions, by verb and path.
    """

    def __init__(
        self, backing: Backing, surfaces: frozenset[Surface] | None, callers: CallerKeys | None = None
    ) -> None:
        self._callers = callers
        self.is_common = surfaces is None
        self.surfaces: frozenset[Surface] = surfaces or frozenset(("inference", "management"))
        self.targets: dict[tuple[str, bytes], Target] = {}
        self._rules = backing.rules
        self._handlers = backing.handlers
        self._keys = backing.keys
        self._guard = backing.context.http.guard
        self.is_guarded = self._keys is not None or self._guard is not None

    def match(self, verb: str, path: bytes, headers: Mapping[bytes, bytes]) -> PathMatch | None:
        """Return the match of a path; None = Salver's own application answers it.

        Raises:
            NoRoute, WrongVerb, NamedFault: the path has no match.
            Unauthenticated: the caller has no key, and is not told that.
        """
        if self.is_common:
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                return None
            if path == b"/metrics":
                return PathMatch("metrics")
            if not is_own(path):
                if verb == "OPTIONS":
                    return PathMatch("describe_port")
                return find_oldest(verb, path)
        try:
            return find(verb, path, self.surfaces, speaks_oip=self._rules.speaks_oip)
        except SalverError:
            self.check(_ANYTHING, headers)
            raise

    def check(self, match: PathMatch, headers: Mapping[bytes, bytes]) -> None:
        """Check that the caller may do what a path asks for.

        Raises:
            Unauthenticated: it needs a key (TS-B11).
            Forbidden: it needs a secret (TR-R34).
        """
        if self.is_common and self._guard is not None:
            self._guard.check(_GROUPS.get(match.operation, "inference"), headers)
        if self._keys is not None and match.surface in ("inference", "management"):
            if self._callers is not None and self._callers.own(headers.items()) is not None:
                return  # its rights have been checked
            scopes: tuple[Scope, ...] = (match.surface,)
            if match is _ANYTHING:
                scopes = tuple([scope for scope in SCOPES if scope in self.surfaces])
                if not scopes:
                    return
            self._keys.check(headers.get(b"authorization", b"").decode("latin-1"), *scopes)

    def right(self, match: PathMatch, *, changes: bool) -> Right | None:
        """Return the right that a path needs if the server has keys; None = it asks for a key of its own."""
        if match.operation == "token":
            return None
        return _RIGHTS.get(match.operation) or right_of("", changes=changes)

    def has_own_keys(self, match: PathMatch) -> bool:
        """Return whether a key of TorchServe's own is enough for a path."""
        return self._keys is not None and bool(match.surface)

    def target(self, verb: str, path: bytes, match: PathMatch) -> Target:
        """Return the target of a path, and remember it."""
        headers = {}
        if match.explains is not None:
            headers["explain"] = str(match.explains)
        if match.extra is not None:
            headers["url_path"] = match.extra
        # Routes with an extra path or a query for the handler are TorchServe's alone.
        is_shared = match.extra is None and not match.takes_query
        target = Target(match, self.codec(match.model, match.version), headers, is_shared)
        if verb != "OPTIONS":
            if len(self.targets) >= _KNOWN_PATHS:  # callers choose the paths
                self.targets.clear()
            self.targets[verb, path] = target
        return target

    def codec(self, model: str, version: str) -> Prediction:
        """Return the codec of a model's predictions."""
        return Prediction(model, version, self._knows, self._rules.max_response)

    def _knows(self, model: str) -> bool:
        try:
            self._handlers.describe(model)
        except SalverError:
            return False
        return True

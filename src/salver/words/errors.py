"""Tree of errors, independent of any protocol.

Every error that leaves a package is a :class:`SalverError` with one of the codes below. Each dialect has a
table that turns a code into its protocol's own form. This module does not know HTTP, gRPC or any framework.
"""

import enum
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

#: Why a request was rejected before it ran (a label of the metrics): the queue is full, the limit on the
#: queue's delay is reached, or the model's objective or the request's own deadline cannot be met.
Refusal = Literal["queue_full", "limit", "objective", "deadline"]
#: Why a request failed, if its code does not tell: the outputs do not match the model's signature; a handler
#: answered with a status of 500 or more, which the caller sees (the code is ``ok``); one of the responses
#: that the model sent is an error.
Fault = Literal["output", "status", "response"]
NO_REFUSAL: Final = frozenset(("", *get_args(Fault)))
#: Maximum characters of an error text, which may quote a caller's input: a name of a megabyte is not sent
#: back.
LONGEST_TEXT: Final = 4096
_TAIL: Final = 1024


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """Shorten a text to the limit by removing its middle.

    >>> cut("short"), len(cut("x" * 1_000_000)) <= LONGEST_TEXT
    ('short', True)
    """
    if len(text) <= longest:
        return text
    mark = f" ...({len(text)} characters)... "
    return text[: longest - _TAIL - len(mark)] + mark + text[-_TAIL:]


class ReachedLimit(NamedTuple):
    """Limit of a caller.

    Attributes:
        quota: Units that it allows in ``window_s``.
        window_s: Seconds; 0 = so many at once.
        unit: ``requests``, ``rows`` or ``tokens``.
    """

    name: str
    quota: int
    window_s: int = 0
    unit: str = "requests"


class Code(enum.StrEnum):
    """Kinds of failure that a caller can distinguish."""

    INVALID_INPUT = "invalid_input"  # the request itself is wrong; repeating it cannot help
    NOT_FOUND = "not_found"  # unknown model or version
    NOT_READY = "not_ready"  # the version exists but cannot answer now
    CONFLICT = "conflict"  # already exists, or another change is in progress
    NO_ROUTE = "no_route"  # no such path or method
    WRONG_VERB = "wrong_verb"  # the path exists, but not with this verb
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"  # the caller exceeds its own limit
    OVERLOADED = "overloaded"  # the queue is full: not the caller's fault
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"  # the caller closed the connection
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"  # understood, but not supported by this server or model
    MODEL_FAILED = "model_failed"  # the model raised, or its host process died
    UNKNOWN = "unknown"  # an error from the model without a kind
    INTERNAL = "internal"  # a bug in Salver; carries an id that the log explains


class SalverError(Exception):
    """Root of all errors.

    Args:
        message: What is wrong, naming the thing (model, file, field).
        field: Path of the offending field, in the caller's terms (``inputs[0].shape``).
        fix: What to do about it, as a sentence.

    Attributes:
        about: The caller's id of the invalid request, empty if it has none; None = the message is not about
            one request. Some protocols report it.
        is_late: The error came from the model, or while waiting for it, not from admission.
        triton: The whole text in Triton's wording, if that differs.
        in_tritons_words: Use Triton's wording, for callers of a server that replaces Triton.
        repeated: Records so many more requests of this caller, which got copies of the answer; None = each
            has to be decided by itself.
        step: Step of a unit that failed, in a graph; empty = the whole of what was asked.
        reply: Its form in the protocol that told it, for further requests with the same head that are refused
            by it; None = none yet.
    """

    code: Code = Code.INTERNAL
    why: Refusal | Fault | Literal[""] = ""
    about: str | None = None
    is_late: bool = False
    #: Maximum characters of the text.
    longest: int = LONGEST_TEXT
    triton: str = ""
    in_tritons_words: bool = False
    repeated: Callable[[int], None] | None = None
    step: str = ""
    reply: Any = None

    def __init__(self, message: str, *, field: str = "", fix: str = "") -> None:
        message = cut(message, self.longest)
        super().__init__(message)
        self.message = message
        self.field = field and cut(field)
        self.fix = fix and cut(fix)

    def __str__(self) -> str:
        """Return the message, followed by the field and the fix if they are set."""
        text = self.message
        if self.field and self.field not in text:
            text = f"{text} (at {self.field})"
        if self.fix:
            text = f"{text.rstrip('.')}. {self.fix}"
        return cut(text, self.longest)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep field and fix when an error crosses a process boundary."""
        return (_rebuild, (type(self), self.message, self.field, self.fix))


_ErrorT = TypeVar("_ErrorT", bound=SalverError)


def tritons(error: _ErrorT, text: str) -> _ErrorT:
    """Return the error with the text that callers of a Triton replacement expect (TR-R30)."""
    error.triton = cut(text, error.longest)
    return error


def _rebuild(kind: "type[SalverError]", message: str, field: str, fix: str) -> SalverError:
    return kind(message, field=field, fix=fix)


class InvalidInput(SalverError):
    """Invalid request; the message names the field and the fix."""

    code = Code.INVALID_INPUT


class NoVersion(InvalidInput):
    """Version that is neither a number nor a label; some protocols have no such path."""


class FailedPrecondition(InvalidInput):
    """Request with a wrong assumption about the model; a separate code in some protocols."""


class NotFound(SalverError):
    """Unknown model or version."""

    code = Code.NOT_FOUND


class NotReady(SalverError):
    """Known model version that is loading, draining or failed."""

    code = Code.NOT_READY


class NotResident(NotReady):
    """Version that is not in memory.

    Attributes:
        arrives: Brings it there, and raises why it cannot; then the request can be repeated. None = nobody
            does, as in another process.
    """

    arrives: Callable[[], Awaitable[None]] | None = None


class Conflict(SalverError):
    """Change that contradicts the current state."""

    code = Code.CONFLICT


class Outdated(Conflict):
    """Change based on a state that is no longer current."""


class NoRoute(SalverError):
    """Unknown path or RPC method."""

    code = Code.NO_ROUTE


class WrongVerb(SalverError):
    """Known path without this HTTP verb."""

    code = Code.WRONG_VERB


class Unauthenticated(SalverError):
    """Missing or invalid credentials."""

    code = Code.UNAUTHENTICATED


class Unidentified(Unauthenticated):
    """Request of nobody who is known.

    Args:
        has_credential: The request has a credential, which is not valid.
    """

    def __init__(self, message: str, *, field: str = "", fix: str = "", has_credential: bool = False) -> None:
        super().__init__(message, field=field, fix=fix)
        self.has_credential = has_credential

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``has_credential`` when an error crosses a process boundary."""
        return (*super().__reduce__(), {"has_credential": self.has_credential})


class Forbidden(SalverError):
    """Operation that the caller may not perform."""

    code = Code.FORBIDDEN


class OutOfScope(Forbidden):
    """Operation or model outside the scopes of the caller's key.

    Args:
        scope: Scope that the operation needs; empty = no key would help.
    """

    def __init__(self, message: str, *, field: str = "", fix: str = "", scope: str = "") -> None:
        super().__init__(message, field=field, fix=fix)
        self.scope = scope

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``scope`` when an error crosses a process boundary."""
        return (*super().__reduce__(), {"scope": self.scope})


class Overloaded(SalverError):
    """Rejection before any work was done, because there is more work than time.

    Args:
        retry_after: Seconds after which to try again.
        why: Limit that was reached.

    Attributes:
        recur: Records so many more requests at a time, which came with this one and are refused for the same
            reason; None = each has to be decided by itself.
    """

    code = Code.OVERLOADED
    recur: Callable[[int, float], None] | None = None

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        fix: str = "",
        retry_after: float = 1.0,
        why: Refusal = "queue_full",
    ) -> None:
        super().__init__(message, field=field, fix=fix)
        self.retry_after = retry_after
        self.why = why

    def __reduce__(self) -> tuple[object, ...]:
        """Keep ``retry_after`` and ``why`` when an error crosses a process boundary."""
        return (*super().__reduce__(), {"retry_after": self.retry_after, "why": self.why})


class RateLimited(SalverError):
    """Rejection because the caller exceeds a limit of its own.

    Args:
        limit: Limit that was reached; None = not told.
        retry_after: Seconds after which to try again.
        is_final: The same request is never accepted.
    """

    code = Code.RATE_LIMITED

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        fix: str = "",
        limit: ReachedLimit | None = None,
        retry_after: float = 1.0,
        is_final: bool = False,
    ) -> None:
        super().__init__(message, field=field, fix=fix)
        self.limit = limit
        self.retry_after = retry_after
        self.is_final = is_final

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the attributes when an error crosses a process boundary."""
        more = {"limit": self.limit, "retry_after": self.retry_after, "is_final": self.is_final}
        return (*super().__reduce__(), more)


class QuotaExceeded(RateLimited):
    """Rejection because a quota of the caller is used up; it is renewed after ``retry_after`` seconds."""


class QuotaUnsettled(RateLimited):
    """Rejection that is not decided: what is left of a quota of the caller has to be asked for.

    Attributes:
        settled: What to await before the request is asked about again.
    """

    settled: Awaitable[None]


class DeadlineExceeded(SalverError):
    """Deadline that passed, or was certain to pass, before the answer was there."""

    code = Code.DEADLINE_EXCEEDED
    why: Refusal | Fault | Literal[""] = "deadline"


class WaitedTooLong(DeadlineExceeded):
    """Timeout of the model's queue policy, reached before a run started."""

    code = Code.OVERLOADED


class Cancelled(SalverError):
    """Request whose caller has gone away."""

    code = Code.CANCELLED


class TooLarge(SalverError):
    """Body or tensor over its limit."""

    code = Code.TOO_LARGE


class Unsupported(SalverError):
    """Operation that this server or model does not support."""

    code = Code.UNSUPPORTED


class OnlyStreams(Unsupported):
    """Single answer requested from a model that returns any number of responses."""

    @classmethod
    def of(cls, model: str) -> "OnlyStreams":
        """Return the error with a list of the operations that are available."""
        return cls(
            f"model '{model}' gives any number of responses, and this request has room for one",
            fix=f"Ask '{model}' over gRPC by ModelStreamInfer, or POST to "
            f"/v2/models/{model}/generate_stream.",
        )


class NotOneResponse(InvalidInput):
    """Single answer requested from a model that returned none, or several that are not parts of one."""


class SegmentFailed(SalverError):
    """Shared-memory region named by a caller that cannot be opened or is too small.

    Often the caller's fault, but the code is the one that Triton uses.
    """

    code = Code.INTERNAL


class ModelFailed(SalverError):
    """Failure in the model: it raised, returned invalid outputs, or its host process died."""

    code = Code.MODEL_FAILED
    longest = 65_536  # a model's own text may be a traceback


class InvalidOutput(ModelFailed):
    """Outputs that do not match the model's signature."""

    why: Refusal | Fault | Literal[""] = "output"


class UnknownError(SalverError):
    """Error from the model without a kind."""

    code = Code.UNKNOWN
    longest = ModelFailed.longest


class Internal(SalverError):
    """Bug in Salver; the message carries the id under which the log has the cause."""

    code = Code.INTERNAL

    @classmethod
    def incident(cls, id: str) -> "Internal":
        """Return the text that a caller sees: where to look, without the cause."""
        return cls(f"internal error, incident {id}; the log has the cause")


class LoadFailed(SalverError):
    """Artefact that could not be turned into a runnable model; the message gives the reason.

    Attributes:
        retries: Further tries that it is worth, at least.
    """

    code = Code.INVALID_INPUT
    retries = 0


class HostKilled(LoadFailed):
    """Host process that was killed from outside while it loaded a model, which may load the next time."""

    retries = 2


class MissingExtra(LoadFailed):
    """Missing framework that an artefact needs.

    Args:
        backend: The backend's name, as in ``salver doctor``.
        extra: The pip extra that installs it.
        module: The module whose import failed.
    """

    def __init__(self, backend: str, extra: str, module: str) -> None:
        super().__init__(
            f"the {backend} backend needs the package {module!r}, which is not installed",
            fix=f"Install it with: pip install 'salver[{extra}]'",
        )
        self._parts = (backend, extra, module)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the three arguments."""
        return (MissingExtra, self._parts)


class HostDied(ModelFailed):
    """Host process that ended while working; whether it answered is unknown."""


class HostGone(HostDied):
    """Host process that ended before it read its request, so that another may run it."""


# Models registered by name and version, and workflows of them.


class NoModel(NotFound):
    """Unknown model name, or nothing at the place that its registration names."""


class NoModelVersion(NotFound):
    """Known model without that version."""


class NoWorkflow(NotFound):
    """Unknown workflow name or archive."""


class StillDefault(Forbidden):
    """Default version that cannot be removed while there are others."""


class BadArchive(InvalidInput):
    """File that is not a complete model archive."""


class NoDownload(InvalidInput):
    """Archive that could not be fetched from the URL of its registration."""


class BadGraph(InvalidInput):
    """Graph of a workflow that cannot be run."""


class WorkersFailed(ModelFailed):
    """Workers of a model that did not start."""


class WorkflowFailed(ModelFailed):
    """Workflow that could not be registered, or that has a failed node."""


class HandlerFailed(ModelFailed):
    """Failure of a handler with a status of its own.

    Args:
        status: HTTP status that the caller receives.
    """

    def __init__(self, message: str, status: int = 503, *, field: str = "", fix: str = "") -> None:
        super().__init__(message, field=field, fix=fix)
        self.message = message  # the handler's own answer, complete
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the status when an error crosses a process boundary."""
        return (*super().__reduce__(), {"status": self.status})

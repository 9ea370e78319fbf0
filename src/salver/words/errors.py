"""What can go wrong, in words that know no protocol?

One tree: every error that leaves a room is a :class:`SalverError` with one of the codes
below. ``transport/faults.py`` turns a code into each protocol's own form. This module does not
know HTTP, gRPC or any framework.
"""

import enum
from typing import Final, Literal, TypeVar, get_args

#: Why a request was given up before it ran (a label of the metrics): as many wait as may; the limit on
#: the queue's delay; the model's objective, or the request's own deadline, cannot be met.
Refusal = Literal["queue_full", "limit", "objective", "deadline"]
#: Why else a request has failed, where its code does not tell: outputs are not those that a model promises; a
#: handler has answered with a status of 500 or more, which is the caller's to see (the code is ``ok``); one
#: of the responses that the model sent is an error.
Fault = Literal["output", "status", "response"]
NO_REFUSAL: Final = frozenset(("", *get_args(Fault)))
#: Characters of an error's text, which may quote what a caller sent: a name of a megabyte is not sent back.
LONGEST_TEXT: Final = 4096
_TAIL: Final = 1024


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, without its middle where it is longer than that.

    >>> cut("short"), len(cut("x" * 1_000_000)) <= LONGEST_TEXT
    ('short', True)
    """
    if len(text) <= longest:
        return text
    mark = f" ...({len(text)} characters)... "
    return text[: longest - _TAIL - len(mark)] + mark + text[-_TAIL:]


class Code(enum.StrEnum):
    """The kinds of failure that a caller can tell apart."""

    INVALID_INPUT = "invalid_input"  # the request itself is wrong; retrying it as it is cannot help
    NOT_FOUND = "not_found"  # unknown model or version
    NOT_READY = "not_ready"  # the version is known but cannot answer now
    CONFLICT = "conflict"  # already there, or another change is under way
    NO_ROUTE = "no_route"  # no such path or method
    WRONG_VERB = "wrong_verb"  # the path exists, not with this verb
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"  # the caller is over a limit of its own
    OVERLOADED = "overloaded"  # the queue is full: the server's fault, not the caller's
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"  # the caller went away
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"  # understood, but this server or model does not do it
    MODEL_FAILED = "model_failed"  # the model raised, or its host process died
    UNKNOWN = "unknown"  # the model's own error, of no kind that it names
    INTERNAL = "internal"  # a defect of ours; carries an id that the log explains


class SalverError(Exception):
    """Root of all errors.

    Args:
        message: What is wrong, naming the thing (model, file, field).
        field: Path of the offending field, in the caller's terms (``inputs[0].shape``).
        fix: What to do about it, as a sentence.

    Attributes:
        about: The id that the caller gave the request that does not fit, empty for none; None = the
            message is not about one request. Some protocols say it.
        is_late: It came from the model, or while it waited for the model, and is no refusal at the door.
        triton: The whole text in Triton's words, where these are others.
        in_tritons_words: It is told to a caller of a server that stands in for Triton.
    """

    code: Code = Code.INTERNAL
    why: Refusal | Fault | Literal[""] = ""
    about: str | None = None
    is_late: bool = False
    #: Characters of its text.
    longest: int = LONGEST_TEXT
    triton: str = ""
    in_tritons_words: bool = False

    def __init__(self, message: str, *, field: str = "", fix: str = "") -> None:
        message = cut(message, self.longest)
        super().__init__(message)
        self.message = message
        self.field = cut(field)
        self.fix = cut(fix)

    def __str__(self) -> str:
        """The message, then the field and the fix where they are known."""
        text = self.message
        if self.field and self.field not in text:
            text = f"{text} (at {self.field})"
        if self.fix:
            text = f"{text.rstrip('.')}. {self.fix}"
        return cut(text, self.longest)

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps field and fix when an error crosses a process border."""
        return (_rebuild, (type(self), self.message, self.field, self.fix))


_ErrorT = TypeVar("_ErrorT", bound=SalverError)


def tritons(error: _ErrorT, text: str) -> _ErrorT:
    """The error, with what callers of a server read that stands in for Triton (TR-R30)."""
    error.triton = cut(text, error.longest)
    return error


def _rebuild(kind: "type[SalverError]", message: str, field: str, fix: str) -> SalverError:
    return kind(message, field=field, fix=fix)


class InvalidInput(SalverError):
    """The request is wrong; the message names the field and the fix."""

    code = Code.INVALID_INPUT


class NoVersion(InvalidInput):
    """The version asked for is neither a number nor a label; some protocols have no such path."""


class FailedPrecondition(InvalidInput):
    """The request takes something of the model for granted that is not so; some protocols tell it apart."""


class NotFound(SalverError):
    """No such model or version."""

    code = Code.NOT_FOUND


class NotReady(SalverError):
    """The model version is known, but it is loading, draining or failed."""

    code = Code.NOT_READY


class Conflict(SalverError):
    """The change contradicts the present state."""

    code = Code.CONFLICT


class Outdated(Conflict):
    """The change was meant for a state that is no longer there."""


class NoRoute(SalverError):
    """No such path or RPC method."""

    code = Code.NO_ROUTE


class WrongVerb(SalverError):
    """The path exists, but not with this HTTP verb."""

    code = Code.WRONG_VERB


class Unauthenticated(SalverError):
    """The caller has not said who it is, as it has to."""

    code = Code.UNAUTHENTICATED


class Forbidden(SalverError):
    """The caller may not do this."""

    code = Code.FORBIDDEN


class Overloaded(SalverError):
    """There is more work than time for it; this was refused before it cost anything.

    Args:
        retry_after: Seconds after which another try is worth it.
        why: Which bound it met.
    """

    code = Code.OVERLOADED

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
        """Keeps when to come back and the bound as well."""
        return (*super().__reduce__(), {"retry_after": self.retry_after, "why": self.why})


class DeadlineExceeded(SalverError):
    """The deadline passed before the answer was there, or was certain to."""

    code = Code.DEADLINE_EXCEEDED
    why: Refusal | Fault | Literal[""] = "deadline"


class WaitedTooLong(DeadlineExceeded):
    """The time to wait that the model's queue policy sets was over before a run began."""

    code = Code.OVERLOADED


class Cancelled(SalverError):
    """The caller went away."""

    code = Code.CANCELLED


class TooLarge(SalverError):
    """A body or a tensor is over its limit."""

    code = Code.TOO_LARGE


class Unsupported(SalverError):
    """Understood, but not done by this server or model."""

    code = Code.UNSUPPORTED


class OnlyStreams(Unsupported):
    """One answer was asked of a model that gives any number of them."""

    @classmethod
    def of(cls, model: str) -> "OnlyStreams":
        """With the roads that there are."""
        return cls(
            f"model '{model}' gives any number of responses, and this request has room for one",
            fix=f"Ask '{model}' over gRPC by ModelStreamInfer, or POST to "
            f"/v2/models/{model}/generate_stream.",
        )


class NotOneResponse(InvalidInput):
    """One answer was asked of a model that gave none, or several that are no parts of one."""


class SegmentFailed(SalverError):
    """A segment of shared memory that a caller named cannot be opened, or cannot take what is to go there.

    The caller's fault as often as not; the code is the one that Triton gives it.
    """

    code = Code.INTERNAL


class ModelFailed(SalverError):
    """The model raised, answered nonsense, or its host process died."""

    code = Code.MODEL_FAILED
    longest = 65_536  # what a model says of itself may be a traceback


class InvalidOutput(ModelFailed):
    """The model answered with outputs that are not those that it promises."""

    why: Refusal | Fault | Literal[""] = "output"


class UnknownError(SalverError):
    """The model answered with an error that it gives no kind."""

    code = Code.UNKNOWN
    longest = ModelFailed.longest


class Internal(SalverError):
    """A defect of Salver's own; the message carries the id under which the log has the cause."""

    code = Code.INTERNAL

    @classmethod
    def incident(cls, id: str) -> "Internal":
        """What a caller is told of a defect: where to look, and nothing of the cause."""
        return cls(f"internal error, incident {id}; the log has the cause")


class LoadFailed(SalverError):
    """An artefact could not be turned into a runnable model; the message is its reason."""

    code = Code.INVALID_INPUT


class MissingExtra(LoadFailed):
    """The framework that this artefact needs is not installed.

    Args:
        backend: The backend's name, as in ``salver doctor``.
        extra: The pip extra that brings it.
        module: The module whose import failed.
    """

    def __init__(self, backend: str, extra: str, module: str) -> None:
        super().__init__(
            f"the {backend} backend needs the package {module!r}, which is not installed",
            fix=f"Install it with: pip install 'salver[{extra}]'",
        )
        self._parts = (backend, extra, module)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuilds from its own three arguments."""
        return (MissingExtra, self._parts)


class HostDied(ModelFailed):
    """The host process of a model ended while it was working; nothing is known of the answer."""


class HostGone(HostDied):
    """It ended before it had read what it was to do, so that another one may do it."""


# Of models that are registered by name and version, and of workflows of them.


class NoModel(NotFound):
    """No model of that name, or nothing at the place that its registration names."""


class NoModelVersion(NotFound):
    """The model is there, but not in that version."""


class NoWorkflow(NotFound):
    """No workflow of that name, or no such archive."""


class StillDefault(Forbidden):
    """The default version stays as long as there are others."""


class BadArchive(InvalidInput):
    """What lies there is no archive of a model, or not a whole one."""


class NoDownload(InvalidInput):
    """An archive could not be fetched from where its registration says that it is."""


class BadGraph(InvalidInput):
    """The graph of a workflow is none that can be run."""


class WorkersFailed(ModelFailed):
    """The workers of a model did not start."""


class WorkflowFailed(ModelFailed):
    """A workflow could not be registered, or one of its nodes failed."""


class HandlerFailed(ModelFailed):
    """A handler failed, in a way that has a status of its own.

    Args:
        status: HTTP status that its caller is to see.
    """

    def __init__(self, message: str, status: int = 503, *, field: str = "", fix: str = "") -> None:
        super().__init__(message, field=field, fix=fix)
        self.message = message  # the handler's own answer, whole
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        """Keeps the status as well."""
        return (*super().__reduce__(), {"status": self.status})

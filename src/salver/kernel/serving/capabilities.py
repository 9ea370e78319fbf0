"""Capabilities of a servable, beyond answering one request with one response."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from typing import Any, Protocol

import msgspec

from salver.kernel.engine.delivery import ReplyCallback
from salver.words.artifacts import Logging
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, Standing


class Post(Protocol):
    """Method that answers a request through a callback."""

    def __call__(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """Start a request and return a function that cancels it.

        ``told`` is called once, possibly before this returns.

        Raises:
            SalverError: the request was not started; ``told`` is not called.
        """
        ...


class Infer(Protocol):
    """Method that answers a request with one response."""

    def __call__(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> Coroutine[Any, Any, InferResponse]:
        """Return the response.

        Raises:
            SalverError: the request failed.
        """
        ...


class Stream(Protocol):
    """Method that answers a request in pieces, as Triton's decoupled models do."""

    def __call__(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield any number of responses, each computed after the previous one was taken.

        A response may carry an ``error``, and others may follow it. ``is_last`` marks the last one, if the
        model knows. Closing the iterator early cancels the request.

        Raises:
            SalverError: the request is invalid, or the model failed and sends no more.
        """
        ...


class Stale(Protocol):
    """Method that answers from the response cache only."""

    def __call__(self, request: InferRequest, max_age_s: float) -> Coroutine[Any, Any, InferResponse | None]:
        """Return an answer of at most this age, even if its time to live has passed; None = none."""
        ...


class Sequences(Protocol):
    """Active sequences of a version."""

    def knows(self, request: InferRequest) -> bool:
        """Return whether the request continues an active sequence."""
        ...


class Recording(Protocol):
    """Choice of the requests that are logged with their answers."""

    @property
    def wish(self) -> Logging:
        """Configuration of the log."""
        ...

    def takes(self) -> bool:
        """Return whether to log the current request."""
        ...


class Capabilities(msgspec.Struct, frozen=True, eq=False):
    """Capabilities of a servable, declared so that the data plane need not probe for methods.

    Attributes:
        stream: Answers in pieces; None = each request has one response. If set, ``infer`` raises OnlyStreams
            unless the pieces are parts of one answer.
        gives_parts: The pieces are parts of one answer, like the tokens of a text.
        takes_forms: It is a handler (:mod:`salver.words.handlers`), which may send its one answer in pieces.
        post: Answers through a callback, without a task; None = not possible. The callback is called once,
            possibly before ``post`` returns.
        may_be_long: Its answers may be so long that writing them delays other requests.
        sequences: Active sequences; None = it keeps none.
        owns_timeout: The engine's queue policy handles a request's ``timeout``, which then is not a deadline.
        asks_others: It may call other models while it answers, and needs ``trace`` and ``request_id`` in its
            requests.
        recording: Chooses the requests to log; None = no log.
        uncached: Answers without the response cache; None = there is no cache, and ``infer`` does.
        stale: Answers from the response cache what has expired; None = no such cache.
        foresee: Refuses a request before it is decoded, by raising the error that it would raise afterwards;
            None = no error is known that early.
        is_remote: Other servers answer.
    """

    stream: Stream | None = None
    gives_parts: bool = False
    takes_forms: bool = False
    post: Post | None = None
    may_be_long: bool = True
    sequences: Sequences | None = None
    owns_timeout: bool = False
    asks_others: bool = False
    recording: Recording | None = None
    uncached: Infer | None = None
    stale: Stale | None = None
    foresee: Callable[[Call], None] | None = None
    is_remote: bool = False

    @property
    def is_decoupled(self) -> bool:
        """Whether any number of responses may answer one request."""
        return self.stream is not None and not self.takes_forms


#: Capabilities of a servable that gives one response to each request, and nothing else.
PLAIN = Capabilities()

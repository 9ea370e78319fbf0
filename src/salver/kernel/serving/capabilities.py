"""What a servable can do, beyond answering one request with one response."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from typing import Any, Protocol

import msgspec

from salver.kernel.engine.dispatch import Told
from salver.words.artifacts import Logging
from salver.words.messages import ANYBODY, Call, InferRequest, InferResponse, Standing


class Post(Protocol):
    """The method that answers a request through a callback."""

    def __call__(
        self, request: InferRequest, deadline: float | None, told: Told, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """Begin, and return what gives the request up. ``told`` is called once, perhaps before this returns.

        Raises:
            SalverError: it does not begin; ``told`` is not called.
        """
        ...


class Infer(Protocol):
    """The method that answers a request with one response."""

    def __call__(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> Coroutine[Any, Any, InferResponse]:
        """Return the response.

        Raises:
            SalverError: there is none.
        """
        ...


class Stream(Protocol):
    """The method that answers a request in pieces, as Triton's decoupled models do."""

    def __call__(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield none, one or many responses, each computed when the one before it has been taken.

        A response may carry an ``error``; others may follow it. ``is_last`` says that none follows, where
        the model knows. Closing the iterator early gives the request up.

        Raises:
            SalverError: the request does not fit, or the model failed and gives no more.
        """
        ...


class Sequences(Protocol):
    """The sequences of requests that are under way in a version."""

    def knows(self, request: InferRequest) -> bool:
        """Return whether the request continues one of them."""
        ...


class Recording(Protocol):
    """Chooses requests that are written down with their answers."""

    @property
    def wish(self) -> Logging:
        """How they are written down."""
        ...

    def takes(self) -> bool:
        """Return whether the request at hand is written down."""
        ...


class Capabilities(msgspec.Struct, frozen=True, eq=False):
    """What a servable can do; the data plane reads it, so that it need not probe for methods.

    Attributes:
        stream: Answers in pieces; None = each request has one response. ``infer`` then raises OnlyStreams,
            unless its pieces are parts of one answer.
        gives_parts: The pieces are parts of one answer, as tokens are of a text.
        takes_forms: It is a handler (:mod:`salver.words.handlers`), which may send its one answer in pieces.
        post: Answers through a callback, so that nobody waits in a task; None = it cannot. The callback is
            called once, perhaps before ``post`` returns.
        sequences: Sequences of requests that are under way in it; None = it keeps none.
        owns_timeout: The engine's queue policy reads a request's ``timeout``, which then is no deadline.
        asks_others: It may ask other models while it answers. Its requests bring ``trace`` and
            ``request_id`` for that.
        recording: Chooses the requests that are written down; None = none is.
        uncached: Answers past the response cache; None = there is no cache, and ``infer`` does.
        foresee: Refuses a request before it is decoded, by raising what it would raise afterwards; None =
            nothing can be told so early.
    """

    stream: Stream | None = None
    gives_parts: bool = False
    takes_forms: bool = False
    post: Post | None = None
    sequences: Sequences | None = None
    owns_timeout: bool = False
    asks_others: bool = False
    recording: Recording | None = None
    uncached: Infer | None = None
    foresee: Callable[[Call], None] | None = None

    @property
    def is_decoupled(self) -> bool:
        """Any number of responses may answer one request."""
        return self.stream is not None and not self.takes_forms


#: Of a servable that gives one response to each request, and nothing else.
PLAIN = Capabilities()

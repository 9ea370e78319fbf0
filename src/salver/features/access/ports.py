"""Protocols of the accounts of keys (features/usage), which count what they use."""

from collections.abc import Awaitable, Iterable
from typing import Protocol

import msgspec

from salver.words.errors import RateLimited
from salver.words.messages import LimitState, Timing


def compute_seconds(timing: Timing, rows: int) -> float:
    """Return the share of a run of so many rows in the time of its batch."""
    if timing.batch_rows > rows:
        return timing.inference * rows / timing.batch_rows
    return timing.inference


class Meter(Protocol):
    """Counts what one key uses, by model."""

    def record(self, model: str, rows: int, received: int, sent: int, timing: Timing) -> None:
        """Count a run that has ended.

        Args:
            model: Empty = none that is served.
            received, sent: Bytes.
        """
        ...

    def add_tokens(self, model: str, prompt: int, answer: int) -> None:
        """Count tokens of a run."""
        ...

    def refuse(self, model: str, count: int = 1) -> None:
        """Count refused requests; empty = they name no model that is known."""
        ...


class Quotas(Protocol):
    """Quotas of one key, and what is left of them."""

    def refusal(self, *, is_trial: bool) -> RateLimited | None:
        """Return why a request is refused now; None = it is accepted.

        A :class:`QuotaUnsettled` says that it can be told after a wait.

        Args:
            is_trial: The request will be asked about again, so that one that may be accepted is.
        """
        ...

    def take(self, rows: int) -> bool:
        """Count a request with its rows, by all quotas or by none; return False if it has to wait.

        Raises:
            RateLimited: there are not so many left.
        """
        ...

    def settle(self, rows: int) -> Awaitable[None]:
        """Count a request that has to wait. Raises RateLimited."""
        ...

    def spend(self, *, requests: int = 0, tokens: int = 0, micros: int = 0) -> None:
        """Count what is known only afterwards: failed requests, tokens, and microseconds of compute."""
        ...

    def states(self) -> Iterable[LimitState]:
        """Return each quota with what is left of it."""
        ...


class Account(msgspec.Struct, frozen=True):
    """Account of one key, which rotation keeps.

    Attributes:
        quotas: None = it has none.
    """

    meter: Meter
    quotas: Quotas | None = None


class Accounts(Protocol):
    """Accounts of all keys."""

    def account(self, key: str, quotas: tuple[str, ...]) -> Account:
        """Return the account of a key, by its id. What is used of quotas stays when their numbers change."""
        ...

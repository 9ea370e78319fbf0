"""Diagnosis of slow requests: dominant phase, cause and advice.

Maps sums of phases to text. Queue, formation, inference and the rest add up to the latency of each request,
and so also for any group of them. Pure: it knows no event, clock or terminal.
"""

from typing import Final

import msgspec

PHASES: Final = ("queue", "formation", "inference", "rest")
#: Fraction of the capacity from which a queue is expected.
_SATURATED = 0.9
_LARGE_BYTES = 64 * 1024
_MORE: Final = "more instances (instances.count), or another server beside this one"


class Split(msgspec.Struct, frozen=True):
    """Breakdown of a request, or the mean of several.

    Attributes:
        requests: Number of requests.
        latency, queue, formation, inference: Seconds; see :class:`~salver.words.messages.Timing`.
        rows, size: Rows and bytes of the request.
        batch_rows: Rows of its batch.
        ahead: Rows that were waiting on arrival.
    """

    requests: float
    latency: float
    queue: float
    formation: float
    inference: float
    rows: float = 0.0
    size: float = 0.0
    batch_rows: float = 0.0
    ahead: float = 0.0

    @property
    def rest(self) -> float:
        """Return the time of decoding, merging, splitting, encoding and scheduling: the remainder."""
        return self.latency - self.queue - self.formation - self.inference

    def phase(self, name: str) -> float:
        """Return the seconds of a phase by name."""
        seconds: float = getattr(self, name)
        return seconds


class Pressure(msgspec.Struct, frozen=True):
    """Offered load and capacity of a model.

    Attributes:
        offered: Arriving rows per second at the busiest time, including rejected ones.
        capacity: Rows per second of the best observed batches on all instances; 0 = unknown.
        batch_rows: Rows of such a batch.
        refused: Requests rejected before they ran.
        is_of_steps: It is an ensemble, whose time is that of its models.
    """

    offered: float = 0.0
    capacity: float = 0.0
    batch_rows: float = 0.0
    refused: int = 0
    is_of_steps: bool = False

    @property
    def load(self) -> float:
        """Return offered load divided by capacity; 0 = unknown."""
        if self.capacity > 0:
            return self.offered / self.capacity
        return 0.0


class Verdict(msgspec.Struct, frozen=True):
    """Dominant phase with cause and advice.

    Attributes:
        phase: The longest phase, and its ``share`` of the latency.
        cause: Cause, as a clause.
        advice: Suggestions, the most promising first.
    """

    phase: str
    share: float
    cause: str
    advice: tuple[str, ...]


def judge(slow: Split, typical: Split, pressure: Pressure) -> Verdict:
    """Return the dominant phase of slow requests, its cause, and what to do.

    >>> slow = Split(10, latency=0.1, queue=0.083, formation=0, inference=0.016, batch_rows=32)
    >>> verdict = judge(slow, slow, Pressure(offered=910, capacity=889, batch_rows=32))
    >>> verdict.phase, round(verdict.share, 2), verdict.cause
    ('queue', 0.83, 'every instance was busy: 910 rows/s came, batches of 32 rows allow 889 rows/s')
    """
    phase = max(PHASES, key=slow.phase)
    share = 0.0
    if slow.latency > 0:
        share = min(1.0, slow.phase(phase) / slow.latency)
    cause, advice = _CAUSES[phase](slow, typical, pressure)
    return Verdict(phase, share, cause, advice)


def _queue(slow: Split, typical: Split, pressure: Pressure) -> tuple[str, tuple[str, ...]]:
    if pressure.load >= _SATURATED:
        earlier = "objective.latency_p99_ms in salver.toml: what cannot be in time is refused early"
        if pressure.refused:
            earlier = "a smaller objective.latency_p99_ms, if these are still too slow: more is refused early"
        return (
            f"every instance was busy: {pressure.offered:.0f} rows/s came, batches of "
            f"{pressure.batch_rows:.0f} rows allow {pressure.capacity:.0f} rows/s",
            (
                _MORE,
                earlier,
                "a larger batching.max_rows, if runs grow slower than their rows",
            ),
        )
    if slow.ahead > max(slow.batch_rows, typical.ahead + slow.rows):
        return (
            f"requests came in bursts: {slow.ahead:.0f} rows waited already, though the model is busy "
            f"for {pressure.load:.0%} of its capacity only",
            (
                "more instances (instances.count) shorten a burst",
                "service class bulk for work that can wait, so that it waits instead of the rest",
            ),
        )
    return (
        f"every instance was busy with a run of about {_ms(slow.inference)}, which is waited for to its end",
        (
            "a smaller batching.max_rows shortens a run, at the price of throughput",
            "more instances (instances.count), if there are cores to spare",
        ),
    )


def _formation(slow: Split, typical: Split, pressure: Pressure) -> tuple[str, tuple[str, ...]]:
    return (
        f"an idle instance waited {_ms(slow.formation)} for a batch to fill; it closed with "
        f"{slow.batch_rows:.0f} rows",
        (
            "a smaller batching.max_delay_ms; 0 takes what is there",
            "batching.preferred_rows closes a batch as soon as it has a size worth running",
        ),
    )


def _inference(slow: Split, typical: Split, pressure: Pressure) -> tuple[str, tuple[str, ...]]:
    if pressure.is_of_steps:
        took = f"its steps took {_ms(slow.inference)}, typically {_ms(typical.inference)}"
        return took, ("ask the same about its models: `salver explain MODEL`",)
    took = f"runs of {slow.batch_rows:.0f} rows took {_ms(slow.inference)}"
    if slow.inference > 2 * typical.inference > 0 and slow.batch_rows <= 1.5 * typical.batch_rows:
        return (
            f"{took}, typical ones of {typical.batch_rows:.0f} rows {_ms(typical.inference)}",
            (
                "look for other work on the same cores, and for inputs that cost more than their rows say",
                "fewer instances.threads or instances.count, if together they exceed the cores",
            ),
        )
    if slow.batch_rows >= 2 * max(slow.rows, 1):
        if pressure.load >= _SATURATED:
            return (
                f"{took}: batches are large because {pressure.offered:.0f} rows/s came, where "
                f"{pressure.capacity:.0f} rows/s are possible",
                (
                    _MORE,
                    "objective.latency_p99_ms in salver.toml: batches stay small enough for it",
                ),
            )
        return (
            took,
            (
                "a smaller batching.max_rows shortens a run, at the price of throughput",
                "more instances.threads, if there are cores to spare",
            ),
        )
    return (
        took,
        (
            "more instances.threads, if there are cores to spare",
            "fewer rows in a request, or a faster model",
        ),
    )


def _rest(slow: Split, typical: Split, pressure: Pressure) -> tuple[str, tuple[str, ...]]:
    if slow.size >= _LARGE_BYTES:
        return (
            f"decoding and encoding: a request brings {slow.size / 1e3:.0f} kB of tensors",
            ("binary tensors or gRPC instead of JSON", "fewer rows in a request"),
        )
    return (
        "the server's own work on this and on other requests",
        (
            "look at the CPU: a server with no idle time needs company (another process, another machine)",
            "look for large requests in JSON to any model of this server; they hold up the small ones",
        ),
    )


_CAUSES: Final = {"queue": _queue, "formation": _formation, "inference": _inference, "rest": _rest}


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"

"""Simulation of a step-wise model under given traffic.

It uses the real :class:`~salver.kernel.engine.steps.StepScheduler` on simulated time. Arrivals, lengths and
the duration of steps are arguments, so equal arguments give equal results. Pure.
"""

import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from salver.kernel.engine.steps import StepScheduler, StepSequence
from salver.words.artifacts import Steps

Floats = npt.NDArray[np.float64]


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """Arrival of a sequence, with the tokens of its prompt and answer."""

    time: float
    prompt: int
    answer: int


class StepSimulationResult(msgspec.Struct, frozen=True):
    """Result of a simulation; times in the unit of the arrivals.

    Attributes:
        latencies: Time from arrival to the last token, in order of arrival.
        firsts: Time from arrival to the first token, likewise.
        steps: Duration of each step.
        tokens: Total tokens of the answers.
        seconds: Total duration of the steps, without pauses.
    """

    latencies: Floats
    firsts: Floats
    steps: Floats
    tokens: int
    seconds: float


def simulate_steps(
    limits: Steps, arrivals: Iterable[Arrival], seconds: Callable[[int, int], float]
) -> StepSimulationResult:
    """Simulate all sequences to their ends.

    Args:
        arrivals: In order of time.
        seconds: Returns the duration of a step by number of sequences and tokens of a prompt chunk; assumed
            to be additive.

    >>> done = simulate_steps(Steps(max_sequences=2), [Arrival(0, 1, 3), Arrival(0, 1, 1)], lambda b, n: 1.0)
    >>> done.latencies.tolist(), done.tokens, done.seconds
    ([3.0, 1.0], 4, 3.0)
    """
    scheduler = StepScheduler(limits, max_queue=1 << 40)
    pending = list(arrivals)
    latencies, firsts = np.full(len(pending), math.nan), np.full(len(pending), math.nan)
    steps: list[float] = []
    came = tokens = 0
    now = 0.0
    while came < len(pending) or scheduler.active or scheduler.waiting:
        if not scheduler.active and not scheduler.waiting:
            now = max(now, pending[came].time)
        while came < len(pending) and pending[came].time <= now:
            scheduler.offer(StepSequence(came, pending[came].prompt, pending[came].answer))
            came += 1
        plan = scheduler.plan(now)
        alone = seconds(len(plan.rows), 0)
        whole = seconds(len(plan.rows), plan.chunk_tokens)
        if plan.rows:
            scheduler.pace.stepped(len(plan.rows), alone)
        if plan.chunk is not None:
            scheduler.pace.prefilled(plan.chunk_tokens, whole - alone)
        now += whole
        steps.append(whole)
        plan.advance()
        for sequence in plan.everyone:
            if sequence.read == sequence.prompt:
                tokens += 1
                if not sequence.given:
                    firsts[sequence.payload] = now - pending[sequence.payload].time
                sequence.given += 1
                if sequence.given == sequence.most:
                    scheduler.finish(sequence)
                    latencies[sequence.payload] = now - pending[sequence.payload].time
    return StepSimulationResult(latencies, firsts, np.array(steps), tokens, float(np.sum(steps)))

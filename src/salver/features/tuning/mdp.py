"""Exact solution of the batching decision for a known law, price and traffic.

An average-cost semi-Markov decision process. An idle instance sees n waiting rows and the regime of the
traffic; it runs b of 1..min(n, M) rows, or (b = 0) waits for one more. Its cost meanwhile is
``latency_weight`` times the waiting time of all requests in the system, including those in the run, divided
by the arrival rate (Little: E[W] = E[L]/λ), plus ``energy_weight`` times the energy of the run. Solved by
Howard's policy iteration: a few steps, each of which evaluates a policy exactly, up to the truncation of the
queue.

The top 2M states must serve full batches. Otherwise a truncated queue with a large energy price never serves,
or a row at a time, because arrivals at a full queue cost nothing.

Pure. It knows no clock, no queue object and no model.

    J. Xu, Z. Sun, S. Zhou, Z. Niu: SMDP-based dynamic batching for efficient inference (2023).
"""

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]
#: Rows to run by [regime, waiting rows]; 0 = wait for one more.
Policy = npt.NDArray[np.int64]

_TAIL = 1e-13  # probability of arrivals in one run that may be neglected
_IMPROVES = 1e-9  # relative to the cost of a decision: rounding errors


class Traffic(msgspec.Struct, frozen=True):
    """Poisson arrivals whose rate depends on a changing regime (MMPP).

    Attributes:
        rates: Rows per second by regime; a single regime is a Poisson process.
        leaves: Rate per second at which a regime changes to the next one, cyclically.

    >>> Traffic((100.0, 300.0), (1.0, 1.0)).mean_rate
    200.0
    """

    rates: tuple[float, ...]
    leaves: tuple[float, ...] = (0.0,)

    def switching(self) -> Floats:
        """Return the generator of the regimes."""
        size = len(self.rates)
        generator = np.zeros((size, size))
        if size > 1:
            for regime, leaving in enumerate(self.leaves):
                generator[regime, (regime + 1) % size] += leaving
                generator[regime, regime] -= leaving
        return generator

    @property
    def mean_rate(self) -> float:
        """Return the long-run rows per second."""
        if len(self.rates) == 1:
            return self.rates[0]
        shares = 1.0 / np.array(self.leaves)
        return float(shares @ self.rates / shares.sum())


class Problem(msgspec.Struct, frozen=True):
    """The decision problem.

    Attributes:
        largest: Maximum rows of a run (M).
        states: Number of distinct queue lengths; longer queues count as the longest. 0 = enough for the load.
    """

    law: BatchLaw
    price: Price
    traffic: Traffic
    largest: int
    states: int = 0

    @property
    def load(self) -> float:
        """Return the load: traffic divided by the maximum rate, that of full batches (ρ)."""
        return self.traffic.mean_rate * self.law.seconds(self.largest) / self.largest

    @property
    def horizon(self) -> int:
        """Return the longest distinct queue.

        The probability of more than n falls as z^-n with ln z = ρ(z - 1), so z - 1 is about 2(1 - ρ): thirty
        times its inverse beyond four batches truncates less than any tolerance.
        """
        busiest = max(self.traffic.rates) * self.law.seconds(self.largest) / self.largest
        return self.states or int(4 * self.largest + 15 / max(1.0 - busiest, 0.02))


class Value(msgspec.Struct, frozen=True):
    """Long-run value of a policy."""

    cost: float
    latency_s: float
    watts: float


class Chain:
    """Transitions and costs of a problem, computed once.

    Raises:
        InvalidInput: the problem has no solution: no traffic, too much traffic, or invalid values.
    """

    def __init__(self, problem: Problem) -> None:
        _check(problem)
        self.problem = problem
        self.regimes = len(problem.traffic.rates)
        self.top = problem.horizon
        largest = problem.largest
        runs = np.array([problem.law.seconds(b) for b in range(1, largest + 1)])
        counts, areas = _arrivals_during(runs, problem.traffic)
        waits, first = _until_an_arrival(problem.traffic)
        # Everything by [regime, action]; action 0 brings exactly one arrival.
        self.seconds = np.column_stack([waits, np.tile(runs, (self.regimes, 1))])
        self.areas = np.column_stack([np.zeros(self.regimes), areas])
        self.joules = np.array([0.0, *(problem.price.joules(b) for b in range(1, largest + 1))])
        self.arrivals = np.zeros((largest + 1, counts.shape[1], self.regimes, self.regimes))
        self.arrivals[1:] = counts
        self.arrivals[0, 1] = first
        self.allowed = self._allowed()

    def _allowed(self) -> npt.NDArray[np.bool_]:
        waiting = np.arange(self.top + 1)[:, None]
        rows = np.arange(self.problem.largest + 1)[None, :]
        allowed: npt.NDArray[np.bool_] = rows <= waiting
        # Waiting never pays once a largest batch is there, except at the truncation, where arrivals are lost
        # at no cost.
        allowed[self.problem.largest :, 0] = False
        allowed[self.top - 2 * self.problem.largest :, :-1] = False
        return allowed

    def costs(self) -> Floats:
        """Return the cost of each decision, by [regime, waiting, action]."""
        price, rate = self.problem.price, self.problem.traffic.mean_rate
        waiting = np.arange(self.top + 1)[None, :, None]
        areas = waiting * self.seconds[:, None, :] + self.areas[:, None, :]
        costs: Floats = price.latency_weight * 1e3 * areas / rate + price.energy_weight * self.joules
        return costs

    def expected(self, bias: Floats) -> Floats:
        """Return the mean of ``bias[regime, waiting]`` after each [regime, waiting, action]."""
        longest = self.arrivals.shape[1]
        padded = np.concatenate([bias, np.repeat(bias[:, -1:], longest - 1, axis=1)], axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, longest, axis=1)  # [regime', left, k]
        left = np.einsum("jmk,bkij->imb", windows, self.arrivals)
        # Infinite where more rows would run than wait: no decision may choose that.
        after = np.full((self.regimes, self.top + 1, self.problem.largest + 1), np.inf)
        for rows in range(self.problem.largest + 1):
            after[:, rows:, rows] = left[:, : self.top + 1 - rows, rows]
        return after

    def evaluate(self, policy: Policy) -> tuple[Value, Floats]:
        """Return a policy's value and its relative values (bias), by [regime, waiting]."""
        steps, rewards = self._steps(policy)
        solved = self._by_elimination(steps.copy(), rewards.copy())
        gains, biases = _by_equations(steps, rewards) if solved is None else solved
        rate, price = self.problem.traffic.mean_rate, self.problem.price
        latency, watts = float(gains[0]) / rate, float(gains[1])
        value = Value(price.of(latency, watts), latency, watts)
        bias = 1e3 * price.latency_weight / rate * biases[:, 0] + price.energy_weight * biases[:, 1]
        return value, bias.reshape(self.top + 1, self.regimes).T

    def _by_elimination(self, steps: Floats, rewards: Floats) -> tuple[Floats, Floats] | None:
        """Return gain and bias of area and energy; None if the policy never returns to the empty queue.

        States are eliminated from the longest queue down, each replaced by its successors and costs, without
        subtraction (Grassmann, Taksar and Heyman 1985). The cycle from the empty queue to itself remains:
        gain = cost of a cycle / its seconds. (No LAPACK: its threads cost more than they save at this size,
        especially on busy cores.)
        """
        up = self.regimes * (self.arrivals.shape[1] + 1)
        down = self.regimes * (self.problem.largest + 1)
        for state in range(len(steps) - 1, 0, -1):
            low, left = max(0, state - up), max(0, state - down)
            onward = steps[state, left:state]
            total = onward.sum()
            if total <= 0:
                return None
            onward /= total
            rewards[state] /= total
            into = steps[low:state, state, None]
            steps[low:state, left:state] += into * onward
            rewards[low:state] += into * rewards[state]
        gains = rewards[0, 1:] / rewards[0, 0]
        biases = rewards[:, 1:] - rewards[:, :1] * gains
        biases[0] = 0.0
        for state in range(1, len(steps)):
            left = max(0, state - down)
            biases[state] += (steps[state, left:state, None] * biases[left:state]).sum(axis=0)
        return gains, biases

    def _steps(self, policy: Policy) -> tuple[Floats, Floats]:
        """Return the chain of a policy and each state's (seconds, area, joules), by (waiting, regime)."""
        size, longest = self.top + 1, self.arrivals.shape[1]
        waiting, regime, arrived, then = np.indices((size, self.regimes, longest, self.regimes))
        rows = policy.T[:, :, None, None]
        chances = self.arrivals[rows, arrived, regime, then]
        after = np.minimum(waiting - rows + arrived, self.top)
        steps = np.zeros((size, self.regimes, size, self.regimes))
        np.add.at(steps, (waiting, regime, after, then), chances)
        states, regimes = np.indices((size, self.regimes))
        seconds = self.seconds[regimes, policy.T]
        areas = states * seconds + self.areas[regimes, policy.T]
        rewards = np.stack([seconds, areas, self.joules[policy.T]], axis=-1)
        flat = size * self.regimes
        return steps.reshape(flat, flat), rewards.reshape(flat, 3)

    def solve(self) -> tuple[Policy, Value]:
        """Return the best policy and its value."""
        costs = self.costs()
        costs[:, ~self.allowed] = np.inf
        policy = greedy(self.problem)
        while True:
            value, bias = self.evaluate(policy)
            decisions = costs - value.cost * self.seconds[:, None, :] + self.expected(bias)
            best = decisions.argmin(axis=2)
            kept = np.take_along_axis(decisions, policy[:, :, None], 2)[:, :, 0]
            found = np.take_along_axis(decisions, best[:, :, None], 2)[:, :, 0]
            better = found < kept - _IMPROVES * (1.0 + np.abs(kept))
            if not better.any():  # a policy that no step improves is optimal (Howard)
                return policy, value
            policy = np.where(better, best, policy)


def _by_equations(steps: Floats, rewards: Floats) -> tuple[Floats, Floats]:
    """Solve linear equations instead, for (rare, intermediate) policies that never empty the queue."""
    system = np.eye(len(steps)) - steps
    # bias + gain·seconds = reward + steps·bias; the place of bias[0] = 0 holds the gain
    system[:, 0] = rewards[:, 0]
    biases = np.linalg.solve(system, rewards[:, 1:]).astype(np.float64)
    gains = biases[0].copy()
    biases[0] = 0.0
    return gains, biases


def greedy(problem: Problem) -> Policy:
    """Return the policy that takes everything waiting (drain)."""
    return control_limit(problem, 1)


def control_limit(problem: Problem, limit: int) -> Policy:
    """Return the policy that waits for that many rows, then takes everything."""
    waiting = np.arange(problem.horizon + 1)
    rows = np.where(waiting >= min(limit, problem.largest), np.minimum(waiting, problem.largest), 0)
    return np.tile(rows, (len(problem.traffic.rates), 1))


def limits(policy: Policy) -> tuple[int, ...]:
    """Return the least number of waiting rows that is served, by regime."""
    return tuple(int(np.flatnonzero(rows)[0]) for rows in policy)


def _check(problem: Problem) -> None:
    law, price, traffic = problem.law, problem.price, problem.traffic
    numbers = (law.a, law.t0, *msgspec.structs.astuple(price), *traffic.rates, *traffic.leaves)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise InvalidInput("batch law, price and traffic must be finite and not negative")
    if min(traffic.rates) <= 0 or law.seconds(1) <= 0 or problem.largest < 1:
        raise InvalidInput("rates, run times and the largest batch must be above zero")
    if len(traffic.rates) > 1 and (len(traffic.leaves) != len(traffic.rates) or min(traffic.leaves) <= 0):
        raise InvalidInput("each regime of the traffic needs a rate of leaving above zero")
    if problem.load >= 1:
        raise InvalidInput(f"a load of {problem.load:.2f} has no long run", fix="Ask for a load below 1")
    if problem.horizon < 3 * problem.largest:
        raise InvalidInput(f"{problem.horizon} states are too few", fix="Use at least 3 largest batches")


def _uniformized(seconds: Floats, traffic: Traffic) -> tuple[float, Floats, int]:
    """Return the uniformized process: event rate, law of events in each run, events that matter."""
    switching = traffic.switching()
    event_rate = float(max(rate - switching[i, i] for i, rate in enumerate(traffic.rates)))
    mean = event_rate * seconds
    most = int(mean.max() + 8 * math.sqrt(mean.max()) + 20)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    events = np.exp(-mean[:, None] + np.arange(most + 1) * np.log(mean)[:, None] - logs)
    return event_rate, events, most


def _arrivals_during(seconds: Floats, traffic: Traffic) -> tuple[Floats, Floats]:
    """Return distributions of arrivals during a run, and the total time that they have waited.

    Probabilities of k arrivals and of the regime at the end, [run, k, regime, regime at the end]; and the
    total waiting time of these arrivals by then, [regime, run].
    """
    size = len(traffic.rates)
    event_rate, events, most = _uniformized(seconds, traffic)
    rates = np.diag(traffic.rates)
    arrive = rates / event_rate
    stay = np.eye(size) + (traffic.switching() - rates) / event_rate
    # by_events[k, m]: probability of k arrivals and a regime after m events.
    by_events = np.zeros((most + 1, most + 1, size, size))
    by_events[0, 0] = np.eye(size)
    for m in range(1, most + 1):
        by_events[:, m] = by_events[:, m - 1] @ stay
        by_events[1:, m] += by_events[:-1, m - 1] @ arrive
    counts = np.einsum("bm,kmij->bkij", events, by_events, optimize=True)
    needed = int(np.flatnonzero(counts.sum(axis=(0, 2, 3)) > _TAIL)[-1]) + 1
    counts = counts[:, : max(needed, 2)]
    counts /= counts.sum(axis=(1, 3), keepdims=True)
    # Mean of the integral of (t - u)·rate(u): over events, (t/θ)·P[> m] - (m+1)/θ²·P[> m+1].
    beyond = 1.0 - np.cumsum(events, axis=1)
    beyond = np.column_stack([beyond, np.zeros(len(seconds))])
    areas = np.zeros((size, len(seconds)))
    moved = np.array(traffic.rates)
    for m in range(most + 1):
        weight = seconds / event_rate * beyond[:, m] - (m + 1) / event_rate**2 * beyond[:, m + 1]
        areas += moved[:, None] * weight
        moved = (stay + arrive) @ moved
    return counts, areas


def _until_an_arrival(traffic: Traffic) -> tuple[Floats, Floats]:
    """Return the mean seconds until the next arrival, by regime, and the distribution of the regime then."""
    inverse: Any = np.linalg.inv(np.diag(traffic.rates) - traffic.switching())
    return inverse.sum(axis=1), inverse @ np.diag(traffic.rates)

"""Exact means of batching queues, for tests and benchmarks to be measured against."""

import math

import numpy as np


def drained_queue(a: float, t0: float, rate: float) -> tuple[float, float]:
    """Mean time in the system and mean batch of drain-the-queue without a cap.

    Poisson arrivals, a run of b rows takes a·b + t0, one server, rate·a < 1. The chain of batch
    sizes, next = max(1, Poisson(rate·(a·b + t0))), solved on a truncated space (Inoue, Performance
    Evaluation 2021).
    """
    centre = rate * t0 / (1 - rate * a)
    size = int(centre + 10 * math.sqrt(centre / (1 - (rate * a) ** 2) + 1)) + 40
    b = np.arange(1, size + 1)
    tau = a * b + t0
    m = rate * tau
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(b))])
    counts = np.arange(size + 1)
    pmf = np.exp(-m[:, None] + counts * np.log(m)[:, None] - log_factorial)
    step = pmf[:, 1:]
    step[:, 0] += pmf[:, 0]
    step /= step.sum(axis=1, keepdims=True)
    equations = step.T - np.eye(size)
    equations[0] = 1.0  # one balance equation follows from the others; probabilities sum to one
    pi = np.linalg.solve(equations, np.eye(size)[0])
    p0 = np.exp(-m)
    total = pi @ (m * tau / 2 + a * (m + m**2) + t0 * m + p0 * (a + t0))
    return float(total / (pi @ (m + p0))), float(pi @ b)


def former(rate: float, delay: float, largest: int) -> tuple[float, float]:
    """Mean batch and mean wait of a batch former: closes at ``largest``, or ``delay`` after the first."""
    k = np.arange(1, largest)
    pmf = np.exp(-rate * delay + k * math.log(rate * delay) - np.array([math.lgamma(i + 1) for i in k]))
    below = math.exp(-rate * delay) + np.concatenate([[0.0], np.cumsum(pmf)[:-1]])
    q = 1 - below  # P[Poisson(rate·delay) >= k]
    size = 1 + q.sum()
    return float(size), float((k * q).sum() / size / rate)

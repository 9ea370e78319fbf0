"""A published law and price, and the optimum of batching by it, for solver and learner to reach."""

from salver.features.tuning.mdp import Chain, Problem, Traffic
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price

LAW = BatchLaw(a=0.3051e-3, t0=1.0524e-3)  # GoogLeNet on a P4
LARGEST = 32
FULL_RATE = LARGEST / LAW.seconds(LARGEST)
# Load, energy weight, cost of the optimum, its least number of rows that is served, cost of draining.
TABLE = [
    (0.3, 0.0, 2.3998, 1, 2.3998),
    (0.3, 0.2, 7.7273, 2, 8.0579),
    (0.3, 1.0, 25.990, 4, 30.690),
    (0.5, 0.0, 3.3167, 1, 3.3167),
    (0.5, 0.2, 10.912, 3, 11.159),
    (0.5, 1.0, 38.860, 7, 42.528),
    (0.7, 0.0, 4.9531, None, 4.9536),
    (0.7, 0.2, 14.514, 3, 14.562),
    (0.7, 1.0, 51.706, 8, 52.994),
]


def price(energy_weight: float) -> Price:
    return Price(1.0, energy_weight, joules_per_row=19.899e-3, joules_per_run=19.603e-3)


def problem(load: float, energy_weight: float, states: int = 0) -> Problem:
    return Problem(LAW, price(energy_weight), Traffic((load * FULL_RATE,)), LARGEST, states)


def chain(load: float, energy_weight: float, states: int = 0) -> Chain:
    return Chain(problem(load, energy_weight, states))

"""Batching tables from a law and a price, and reports of their gain.

Two ways: :func:`solved_table` computes a table (``mdp``); :class:`Learner` learns it from transitions
(``qlearning``), first in a simulator given as argument, later from live runs. Either way the record has the
long-run cost of the table, of draining and of the best policy, computed exactly for the law. Pure: random
numbers and the simulator are arguments.

A table takes some tenths of a second of CPU: not for an event loop's thread.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from salver.features.tuning import mdp
from salver.features.tuning.mdp import Chain, Policy, Problem, Traffic
from salver.features.tuning.qlearning import Agent
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.stats.batch_table import Table, Transition
from salver.words.artifacts import LearnedPolicy
from salver.words.errors import InvalidInput

#: Fractions of the maximum rate for which tables are made.
LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Longer queues are always drained; the optimum is within a millionth of that.
MOST_ROWS = 64
#: Fraction of the maximum rate beyond which a queue converges too slowly for its cost to be known.
_CARRIED = 0.95
#: Relative gain over draining below which it counts as none.
_NONE = 2e-4

#: Lets an agent decide under Poisson traffic of that many rows per second, and reports the outcomes to it.
Environment = Callable[[Agent, float], None]


def table_rows(law: BatchLaw, max_rows: int) -> int:
    """Return the largest batch for a table: the one with the highest rate, within limits.

    Raises:
        InvalidInput: the law is unknown.
    """
    if law.seconds(1) <= 0:
        raise InvalidInput("the batch law says that runs take no time", fix="Profile the model first")
    return max(range(1, min(max_rows, MOST_ROWS) + 1), key=lambda rows: (law.rate(rows), rows))


def price_of(learned: LearnedPolicy, law: BatchLaw) -> Price:
    """Return the configured price; without measured joules a run takes ``watts`` for its duration.

    >>> price_of(LearnedPolicy(energy_weight=1.0, watts=10.0), BatchLaw(a=0.001, t0=0.004)).joules(2)
    0.06
    """
    per_row, per_run = learned.joules_per_row, learned.joules_per_run
    if not per_row and not per_run:
        per_row, per_run = learned.watts * law.a, learned.watts * law.t0
    return Price(learned.latency_weight, learned.energy_weight, per_row, per_run)


def solved_table(law: BatchLaw, price: Price, max_rows: int, loads: Sequence[float] = LOADS) -> Table:
    """Return the best table for a known law.

    Args:
        loads: Fractions of the maximum rate, ascending, below 1.

    Raises:
        InvalidInput: there is no optimum for this law, price or load.
    """
    largest = table_rows(law, max_rows)
    chains = _chains(law, price, largest, [load * law.rate(largest) for load in loads])
    lines = [chain.solve()[0][0, : chain.problem.largest + 1].tolist() for chain in chains]
    return _table(chains, lines, "exact")


class Learner:
    """Agents for several loads, and the table that they make.

    Args:
        memory: Transitions that an agent remembers per batch size.
    """

    def __init__(
        self,
        law: BatchLaw,
        price: Price,
        max_rows: int,
        rng: np.random.Generator,
        loads: Sequence[float] = LOADS,
        memory: float = 1e6,
    ) -> None:
        self._law = law
        self._price = price
        self._largest = table_rows(law, max_rows)
        self._rates = [load * law.rate(self._largest) for load in loads]
        self._agents = [Agent(price, self._largest, rng, memory=memory) for _ in loads]

    def __repr__(self) -> str:
        return f"<Learner of {len(self._agents)} loads>"

    def train(self, environment: Environment, rounds: int = 8) -> None:
        """Let each agent act and learn; its decisions improve with each round."""
        for agent, rate in zip(self._agents, self._rates, strict=True):
            for _ in range(rounds):
                environment(agent, rate)
                agent.improve()

    def refine(self, transitions: Iterable[Transition]) -> int:
        """Learn from live runs; return how many were usable, being near one of the rates."""
        touched: dict[int, int] = {}
        for seen in transitions:
            if seen.rate > 0:
                nearest = min(range(len(self._rates)), key=lambda i: abs(self._rates[i] - seen.rate))
                if 0.67 < seen.rate / self._rates[nearest] < 1.5:
                    self._agents[nearest].saw(seen)
                    touched[nearest] = touched.get(nearest, 0) + 1
        for nearest in touched:
            self._agents[nearest].improve()
        return sum(touched.values())

    def table(self, law: BatchLaw | None = None) -> Table:
        """Return the table of the agents' current policies.

        Args:
            law: Current law, by which lines are evaluated and rates beyond its capacity are omitted; None =
                the initial one.

        Raises:
            InvalidInput: all rates are beyond its capacity.
        """
        law = law or self._law
        known = [
            (rate, agent)
            for rate, agent in zip(self._rates, self._agents, strict=True)
            if rate < _CARRIED * law.rate(self._largest)
        ]
        if not known:
            raise InvalidInput("every rate that was learned is beyond what the model can carry now")
        chains = _chains(law, self._price, self._largest, [rate for rate, _ in known])
        return _table(chains, [agent.policy().tolist() for _, agent in known], "learned")


def report(table: Table) -> str:
    """Describe the table's gain over draining by load, with a verdict."""
    price = table.price
    lines = [
        f"Batching by table ({table.method}), up to {table.largest} rows; "
        f"cost = {price.latency_weight:g} x mean latency (ms) + {price.energy_weight:g} x power (W)",
        "  rows/s  waits for      cost  draining      best   saved",
    ]
    saved = [1 - cost / greedy for cost, greedy in zip(table.costs, table.greedy_costs, strict=True)]
    costs = zip(table.costs, table.greedy_costs, table.best_costs, strict=True)
    for rate, limit, (cost, greedy, best), share in zip(table.rates, table.limits, costs, saved, strict=True):
        lines.append(f"{rate:8.4g} {limit:10d} {cost:9.5g} {greedy:9.5g} {best:9.5g} {share:7.2%}")
    if table.is_greedy:
        off = max(g / b - 1 for g, b in zip(table.greedy_costs, table.best_costs, strict=True))
        lines.append(f"Draining the queue is within {off:.3%} of the optimum at every load, so that is done.")
        if not price.energy_weight:
            lines.append("With latency alone in the price there is next to nothing to gain by waiting.")
    else:
        most = max(range(len(saved)), key=saved.__getitem__)
        lines.append(
            f"Most is saved at {table.rates[most]:.4g} rows/s: {saved[most]:.1%} of draining's cost."
        )
    return "\n".join(lines)


def _chains(law: BatchLaw, price: Price, largest: int, rates: Sequence[float]) -> list[Chain]:
    return [Chain(Problem(law, price, Traffic((rate,)), largest)) for rate in rates]


def _table(chains: Sequence[Chain], lines: Sequence[list[int]], method: Literal["exact", "learned"]) -> Table:
    """Make a table in which lines without gain are replaced by draining."""
    first = chains[0].problem
    rows, costs, greedy_costs, best_costs = [], [], [], []
    for chain, line in zip(chains, lines, strict=True):
        policy: Policy = mdp.greedy(chain.problem)
        greedy = chain.evaluate(policy)[0].cost
        drain = policy[0, : first.largest + 1].tolist()
        # The rest of the policy, longer queues, stays drained: a table has no more lines.
        policy[0, : first.largest + 1] = line
        cost = chain.evaluate(policy)[0].cost
        is_better = cost < (1 - _NONE) * greedy
        rows.append(tuple(line if is_better else drain))
        costs.append(cost if is_better else greedy)
        greedy_costs.append(greedy)
        best_costs.append(chain.solve()[1].cost)
    return Table(
        first.law, first.price, first.largest, tuple(chain.problem.traffic.mean_rate for chain in chains),
        tuple(rows), tuple(costs), tuple(greedy_costs), tuple(best_costs), method,
    )  # fmt: skip

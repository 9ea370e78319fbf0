"""How near to the exact optimum does learned batching come, and what does a look-up cost?

Three tables, for a published batch law and price (GoogLeNet on a P4): the exact optimum, what the learner
reaches after training in the simulator, and draining, at each load and weight of energy; the same across
load steps, in the simulator, beside a rule that knows the moment of the step; and the time of a decision in
front of a run.

    python benchmarks/learned.py [--arrivals 60000]

Exits with 1 when the learner is further than 1 % from the optimum, the rule further than 2 % from
clairvoyance, or a decision takes longer than 5 microseconds.
"""

import argparse
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from salver.features.tuning.mdp import Chain, Problem, Traffic, greedy, limits
from salver.features.tuning.qlearning import Agent
from salver.features.tuning.simulator import poisson, simulate
from salver.features.tuning.training import Learner, report, solved_table
from salver.kernel.engine.learned import LearnedRule, TrainingRule
from salver.kernel.engine.waiting import QueuedRequest
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.stats.batch_table import Table
from salver.words.artifacts import Batching

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from clairvoyant import Clairvoyant, Line

LAW = BatchLaw(a=0.3051e-3, t0=1.0524e-3)
PRICE = Price(1.0, 1.0, 19.899e-3, 19.603e-3)
LARGEST = 32
FULL_RATE = LAW.rate(LARGEST)
POLICY = Batching(max_rows=LARGEST, max_queue=1 << 30)
WEIGHTS = (0.0, 0.2, 1.0)
NEAR, NEAR_STEP, LOOK_UP_US = 0.01, 0.02, 5.0


def loads(arrivals: int) -> float:
    """The table by load; the learner's largest distance."""
    print("load  energy   optimum  learned      off  draining      off  waits for  seconds")
    worst = 0.0
    for load in (0.3, 0.5, 0.7):
        for weight in WEIGHTS:
            price = msgspec.structs.replace(PRICE, energy_weight=weight)
            chain = Chain(Problem(LAW, price, Traffic((load * FULL_RATE,)), LARGEST))
            best = chain.solve()[1].cost
            rng = np.random.default_rng(1)
            began = time.perf_counter()
            agent = Agent(price, LARGEST, rng)
            for _ in range(6):
                times = poisson(load * FULL_RATE, arrivals // 6, rng)
                simulate(POLICY, times.tolist(), LAW.seconds, rule=TrainingRule(agent))
                agent.improve()
            took = time.perf_counter() - began
            policy = greedy(chain.problem)
            drained = chain.evaluate(policy)[0].cost
            policy[0, : LARGEST + 1] = agent.policy()
            learned = chain.evaluate(policy)[0].cost
            worst = max(worst, learned / best - 1)
            print(
                f"{load:4} {weight:7} {best:9.4f} {learned:8.4f} {learned / best - 1:8.3%} {drained:9.4f} "
                f"{drained / best - 1:8.2%} {limits(policy)[0]:10} {took:8.1f}"
            )
    return worst


def taught(price: Price) -> Table:
    """A table that was learned in the simulator, from transitions alone."""
    rng = np.random.default_rng(1)
    learner = Learner(LAW, price, LARGEST, rng, loads=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))

    def play(agent: Agent, rate: float) -> None:
        simulate(POLICY, poisson(rate, 6_000, rng).tolist(), LAW.seconds, rule=TrainingRule(agent))

    learner.train(play, rounds=6)
    return learner.table()


def steps() -> float:
    """Costs of learned tables across load steps; the rule's largest distance from clairvoyance."""
    print("\nstep       energy  clairvoyant     rule      off  draining      off   (mean of 5 seeds)")
    worst = 0.0
    for weight in WEIGHTS:
        price = msgspec.structs.replace(PRICE, energy_weight=weight)
        table = taught(price)
        for before, after in ((0.3, 0.7), (0.7, 0.3)):
            known = [
                Chain(Problem(LAW, price, Traffic((load * FULL_RATE,)), LARGEST)).solve()[0][0].tolist()
                for load in (before, after)
            ]
            costs = np.zeros(3)
            for seed in range(5):
                rng = np.random.default_rng(seed)
                first = poisson(before * FULL_RATE, 3_000, rng)
                times = np.concatenate([first, first[-1] + poisson(after * FULL_RATE, 6_000, rng)])
                rules = (Clairvoyant(known, float(first[-1])), LearnedRule(table, POLICY), None)
                for at, rule in enumerate(rules):
                    done = simulate(POLICY, times.tolist(), LAW.seconds, rule=rule)
                    halves = [
                        np.nanmean(done.by_request[: len(first)]),
                        np.nanmean(done.by_request[len(first) :]),
                    ]
                    joules = sum(price.joules(int(rows)) for rows in done.rows)
                    costs[at] += price.of(float(np.mean(halves)), joules / times[-1]) / 5
            off, greedy_off = costs[1:] / costs[0] - 1
            worst = max(worst, off)
            print(
                f"{before} -> {after} {weight:7} {costs[0]:12.4f} {costs[1]:8.4f} {off:8.3%} {costs[2]:9.4f} "
                f"{greedy_off:8.2%}"
            )
    return worst


def look_up() -> float:
    """Microseconds of a decision (due and choose) in front of a run; of an arrival and a run's end, too."""
    rule = LearnedRule(solved_table(LAW, PRICE, LARGEST), POLICY)
    now = 0.0
    for now in poisson(0.5 * FULL_RATE, 500, np.random.default_rng(0)).tolist():
        rule.arrived(1, now)
    line = Line([QueuedRequest(None, 1, None, now) for _ in range(9)])
    bare = msgspec.structs.replace(POLICY)
    count, times = 50_000, []
    actions = (
        lambda: rule.rows_for(9),
        lambda: (line.rows, line.rows),
        lambda: (rule.due(line, now), rule.choose(line, now)),
        lambda: rule.arrived(1, now),
        lambda: rule.ran(9, LAW.seconds(9), now),
        lambda: bare,
    )
    for action in actions:
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(count):
                action()
            best = min(best, time.perf_counter() - began)
        times.append(1e6 * best / count)
    table, counting, deciding, arriving, ending, calling = times
    decision = deciding - counting + calling
    print(
        f"\nlook-up {table - calling:.2f} us; whole decision {decision:.2f} us; "
        f"told of an arrival {arriving - calling:.2f} us, of a run's end {ending - calling:.2f} us"
    )
    return decision


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrivals", type=int, default=60_000, help="to train on, for each load")
    arguments = parser.parse_args()
    off, step_off = loads(arguments.arrivals), steps()
    decision = look_up()
    print()
    print(report(solved_table(LAW, PRICE, LARGEST)))
    print()
    print(report(solved_table(LAW, msgspec.structs.replace(PRICE, energy_weight=0.0), LARGEST)))
    return int(not (off <= NEAR and step_off <= NEAR_STEP and decision <= LOOK_UP_US))


if __name__ == "__main__":
    sys.exit(main())

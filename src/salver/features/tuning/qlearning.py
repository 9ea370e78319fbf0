"""Q-learning of batch sizes from observed decisions.

The agent knows neither the batch law nor the arrival rate: it sees transitions (waiting rows, rows run,
seconds, arrivals, their waiting time) and finds the policy with the least average cost. Q-learning with
experience replay in full sweeps (fitted Q-iteration), in its average-cost semi-Markov form. It is fast
because arrivals during a run do not depend on the number of waiting rows, so that each transition of a batch
size updates every queue length (the value belongs to the *post-decision* state).

Pure: random numbers are an argument. It knows no clock, no queue object and no simulator.

    D. Ernst, P. Geurts, L. Wehenkel: Tree-based batch mode reinforcement learning (JMLR 2005).
    J. Abounadi, D. Bertsekas, V. Borkar: Learning algorithms for Markov decision processes with average
    cost (2001).  W. Powell: Approximate Dynamic Programming (2011), chapter 4, post-decision states.
"""

import numpy as np
import numpy.typing as npt

from salver.stats.batch_price import Price
from salver.stats.batch_table import Transition

Floats = npt.NDArray[np.float64]

_SETTLED = 3e-4  # of the gain, tolerance of the value iteration
_MOST_SWEEPS = 500  # maximum sweeps per call; the next call continues


class Agent:
    """Agent for one load and one price.

    Args:
        largest: Maximum rows of a run.
        rng: For exploration only.
        explore: Fraction of decisions with a random batch size.
        memory: Transitions remembered per batch size; older ones decay.
    """

    def __init__(
        self, price: Price, largest: int, rng: np.random.Generator, explore: float = 0.2, memory: float = 1e6
    ) -> None:
        self.price = price
        self.largest = largest
        self.explore = explore
        self.top = 6 * largest
        self._rng = rng
        self._memory = memory
        self._target = 0  # batch size being explored; 0 = none
        self._values = np.zeros(self.top + 1)
        self._rows = np.minimum(np.arange(self.top + 1), largest)
        # Replay memory, by action: weight of each number of arrivals, and sums over transitions.
        self._arrivals = np.zeros((largest + 1, 4 * largest + 8))
        self._seconds = np.zeros(largest + 1)
        self._areas = np.zeros(largest + 1)

    def __repr__(self) -> str:
        return f"<Agent up to {self.largest} rows, {self._arrivals.sum():.0f} transitions>"

    def decide(self, waiting: int) -> int:
        """Return the rows to run now; 0 = wait for one more."""
        if not self._target and self._rng.random() < self.explore:
            self._target = int(self._rng.integers(1, self.largest + 1))
        if self._target:
            target = self._target
            if waiting < target:
                return 0
            self._target = 0
            return target
        return int(self._rows[min(waiting, self.top)])

    def saw(self, seen: Transition) -> None:
        """Record the outcome of a decision."""
        rows = seen.rows
        if rows > self.largest or seen.seconds <= 0:
            return
        line = self._arrivals[rows]
        total = line.sum()
        if total >= self._memory:
            fade = 1 - 1 / self._memory
            line *= fade
            self._seconds[rows] *= fade
            self._areas[rows] *= fade
        line[min(seen.arrived, len(line) - 1)] += 1
        self._seconds[rows] += seen.seconds
        self._areas[rows] += seen.area

    def improve(self) -> None:
        """Replay all recorded transitions until the values converge, and use them from now on."""
        counts = self._arrivals.sum(axis=1)
        known = np.flatnonzero(counts > 0)
        if len(known) < 2 or known[0] != 0:
            return  # no wait, or no run, has been observed
        chances, seconds, arriving, rate = self._outcomes(known, counts[known])
        longest = chances.shape[1]
        waiting = np.arange(self.top + 1)
        areas = waiting[:, None] * seconds + arriving
        joules = np.array([self.price.joules(int(b)) if b else 0.0 for b in known])
        costs = self.price.latency_weight * 1e3 * areas / rate + self.price.energy_weight * joules
        after = waiting[:, None] - known
        forbidden = after < 0
        forbidden[self.top - 2 * self.largest :, :-1] = True  # see mdp: the truncated queue must be served
        costs[forbidden] = np.inf
        after = np.maximum(after, 0)
        # Steps in proportion to 1/seconds: the data transformation of semi-Markov processes.
        step = 0.95 * seconds.min() / seconds
        values = self._values
        columns = np.arange(len(known))
        for _ in range(_MOST_SWEEPS):
            padded = np.concatenate([values, np.full(longest - 1, values[-1])])
            windows = np.lib.stride_tricks.sliding_window_view(padded, longest)
            left = np.einsum("nk,bk->nb", windows, chances)
            q = values[:, None] + step * (costs + left[after, columns] - values[:, None])
            new = q.min(axis=1)
            drift = new - values
            values = new - new[0]
            if drift.max() - drift.min() < _SETTLED * abs(drift.mean()):
                break
        self._values = values
        self._rows = known[q.argmin(axis=1)]

    def _outcomes(self, known: npt.NDArray[np.int64], counts: Floats) -> tuple[Floats, Floats, Floats, float]:
        """Return distributions of arrivals, mean seconds and mean area of each known action, and the rate.

        Arrivals do not depend on the running batch, so an action's mean arrivals are the rate times its
        seconds. The rate is estimated from all transitions, much better than one action's mean, whose random
        deviation is removed (a control variate).
        """
        longest = int(np.flatnonzero(self._arrivals.sum(axis=0))[-1]) + 2
        chances = self._arrivals[known, :longest] / counts[:, None]
        number = np.arange(longest)
        arrivals = chances @ number
        rate = float((arrivals @ counts) / self._seconds[known].sum())
        seconds = self._seconds[known] / counts
        seconds[0] = arrivals[0] / rate
        areas = self._areas[known] / counts
        for action, luck in enumerate(arrivals - rate * seconds):
            cumulated = np.concatenate([[0.0], chances[action].cumsum()])
            edges = np.arange(longest + 1) + luck
            chances[action] = np.diff(np.interp(edges, np.arange(longest + 1), cumulated))
            chances[action, 0] += 1 - chances[action].sum()
            areas[action] -= luck * seconds[action] / 2
        return chances, seconds, areas, rate

    def policy(self) -> npt.NDArray[np.int64]:
        """Return the rows to run by waiting rows 0..largest; 0 = wait."""
        rows: npt.NDArray[np.int64] = self._rows[: self.largest + 1].copy()
        rows[-1] = rows[-1] or self.largest
        return rows

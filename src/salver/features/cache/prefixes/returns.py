"""Worth of keeping a prompt's state, by its kind and age: when prompts are gone on with.

A prompt returns if a later one begins with all of it, as the next turn of a conversation does. How likely
that is in the next seconds depends on its age, learned from all prompts (Kaplan and Meier, 1958), times a
factor for its kind (proportional hazards; Cox, 1972), and on a law of the kind's own where enough was seen.
Kinds are how often its conversation has returned and, for a first prompt, its length.

The worth of a prompt is the best ratio, over all times *t* to keep it, of the chance that it returns within
*t* to the mean time for which it is held until then (Gittins, 1979). Pure.
"""

from bisect import bisect_right
from collections import OrderedDict
from typing import Final

import numpy as np

from salver.words.tensor import Array

#: Ages are told apart by powers of two of so many seconds.
_FIRST: Final = 16.0
_BUCKETS: Final = 12
_EDGES: Final = np.concatenate([[0.0], _FIRST * 2.0 ** np.arange(_BUCKETS)])
_INNER: Final = _EDGES[1:-1].tolist()
_WIDTHS: Final = np.diff(_EDGES)
#: Turns that are told apart, and lengths of first prompts, in powers of four blocks.
_TURNS: Final = 6
_LENGTHS: Final = 4
#: Factors of turns before anything was seen, and how many expected returns they weigh. Who has come back
#: comes back more often (Fader and Hardie, 2007).
_PRIOR: Final = (0.7, 1.0, 1.4, 1.8, 2.0, 2.0)
_WEIGHT: Final = 10.0
_SHAPE: Final = 30.0  # prompts of an age that weigh as much as the law of all kinds
_PROMPTS: Final = 8192  # latest prompts that are watched
_REFRESH: Final = 32  # prompts between two computations of the worths
_MANY: Final = 20_000  # returns after which all counts are halved


class Prompt:
    """A prompt that has come.

    Attributes:
        turn: Earlier prompts of its conversation.
        kind: See :meth:`Returns.kind`.
        came_at: Seconds.
    """

    __slots__ = ("came_at", "kind", "turn")

    def __init__(self, turn: int, kind: int, came_at: float) -> None:
        self.turn = turn
        self.kind = kind
        self.came_at = came_at


class Returns:
    """Prompts of one model, and the worth of their states.

    >>> returns = Returns()
    >>> for number in range(2000):
    ...     _ = returns.came([b"first %d" % number], number * 10.0)
    ...     _ = returns.came([b"first %d" % number, b"second %d" % number], number * 10.0 + 5.0)
    >>> once, twice = returns.kind(0, 1), returns.kind(1, 2)
    >>> returns.worth(once, 1.0) > 3 * returns.worth(twice, 1.0)
    True
    """

    def __init__(self) -> None:
        self._prompts: OrderedDict[bytes, Prompt] = OrderedDict()  # by the digest of their last block
        kinds = _TURNS + _LENGTHS - 1
        self._returned = np.zeros((kinds, _BUCKETS))
        self._lost = np.zeros((kinds, _BUCKETS))  # ages at which nobody watched any more
        self._prior = np.array([_PRIOR[0]] * _LENGTHS + list(_PRIOR[1:]))
        self._worths: list[list[float]] = []
        self._fresh = 0
        self._compute(0.0)

    @staticmethod
    def kind(turn: int, blocks: int) -> int:
        """Return the kind of a prompt.

        Args:
            turn: Earlier prompts of its conversation.
            blocks: Its length.

        >>> [Returns.kind(0, blocks) for blocks in (1, 4, 16, 64, 1000)]
        [0, 1, 2, 3, 3]
        >>> Returns.kind(2, 8), Returns.kind(99, 8)
        (5, 8)
        """
        if turn:
            return _LENGTHS + min(turn, _TURNS - 1) - 1
        return min(_LENGTHS - 1, (blocks.bit_length() - 1) // 2)

    def came(self, digests: list[bytes], now: float) -> Prompt:
        """Note a prompt.

        Args:
            digests: Of its blocks.
        """
        turn = 0
        for digest in reversed(digests):
            before = self._prompts.pop(digest, None)
            if before is not None:
                self._returned[before.kind, _bucket(now - before.came_at)] += 1
                turn = before.turn + 1
                break
        prompt = Prompt(turn, self.kind(turn, len(digests) or 1), now)
        if digests:
            self._prompts[digests[-1]] = prompt
            if len(self._prompts) > _PROMPTS:
                lost = self._prompts.popitem(last=False)[1]
                self._lost[lost.kind, _bucket(now - lost.came_at)] += 1
        self._fresh += 1
        if self._fresh >= _REFRESH:
            self._compute(now)
        return prompt

    def worth(self, kind: int, age: float) -> float:
        """Return the expected returns for a second of keeping a prompt's state."""
        return self._worths[kind][_bucket(age)]

    def _compute(self, now: float) -> None:
        self._fresh = 0
        if self._returned.sum() > _MANY:
            self._returned /= 2
            self._lost /= 2
        watched = self._lost.copy()
        if self._prompts:
            kinds = [prompt.kind for prompt in self._prompts.values()]
            ages = np.array([now - prompt.came_at for prompt in self._prompts.values()])
            buckets = np.searchsorted(_EDGES[1:-1], ages, side="right")
            np.add.at(watched, (np.array(kinds), buckets), 1)
        # Before anything was seen: the older, the less likely.
        returned = self._returned.sum(axis=0) + 1e-3
        hazard = returned / _at_risk(returned + watched.sum(axis=0) + 1e-2)
        until = np.concatenate([[0.0], np.cumsum(hazard)])
        expected = self._returned @ until[1:] + watched @ until[:-1]
        factors = (self._returned.sum(axis=1) + _WEIGHT * self._prior) / (expected + _WEIGHT)
        # Each kind has a law of its own as soon as enough of it was seen at an age.
        own = self._returned + _SHAPE * factors[:, None] * hazard
        risks = np.minimum(1.0, own / (_at_risk(self._returned + watched) + _SHAPE))
        self._worths = _indices(risks).tolist()


def _at_risk(ended: Array) -> Array:
    """Return how many reached the beginning of each age."""
    return np.cumsum(ended[..., ::-1], axis=-1)[..., ::-1]


def _indices(hazard: Array) -> Array:
    """Return the best ratio of returns to seconds, from the beginning of each age on, for each kind."""
    indices = np.empty_like(hazard)
    for start in range(hazard.shape[1]):
        left = np.cumprod(1.0 - hazard[:, start:], axis=1)
        kept = np.concatenate([np.ones((len(hazard), 1)), left[:, :-1]], axis=1)
        returns = np.cumsum(kept * hazard[:, start:], axis=1)
        seconds = np.cumsum(_WIDTHS[start:] * (kept + left) / 2, axis=1)
        indices[:, start] = (returns / seconds).max(axis=1)
    return indices


def _bucket(age: float) -> int:
    """Return the bucket of an age.

    >>> [_bucket(age) for age in (0.0, 15.9, 16.0, 32.0, 64.0, 1e9)]
    [0, 0, 1, 2, 3, 11]
    """
    return bisect_right(_INNER, age)

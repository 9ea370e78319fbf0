"""Choice of the next token from its scores.

Greedy, or drawn from the softmax, restricted to the likeliest ``top_k`` and to the mass ``top_p``. The random
number is a function of the sequence's seed and the token's position, so that tokens do not depend on which
sequences share a step. Pure.
"""

import msgspec
import numpy as np

from salver.words.tensor import Array

_MASK = (1 << 64) - 1


class Sampling(msgspec.Struct, frozen=True, gc=False):
    """Sampling parameters.

    Attributes:
        temperature: Divisor of the scores; 0 = always the likeliest token.
        top_k: Number of likeliest tokens to draw from; 0 = all.
        top_p: Draw from the likeliest tokens with this total probability; 1 = all.
        seed: Equal seeds draw equal tokens for equal prompts.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def draw(scores: Array, sampling: Sampling, place: int) -> int:
    """Return the next token; ``scores`` are finite or -inf, at least one finite.

    >>> scores = np.log(np.array([0.1, 0.6, 0.3]))
    >>> draw(scores, Sampling(temperature=0), 0)
    1
    >>> tokens = [draw(scores, Sampling(seed=7), place) for place in range(1000)]
    >>> [round(tokens.count(token) / 1000, 1) for token in range(3)]
    [0.1, 0.6, 0.3]
    >>> {draw(scores, Sampling(top_k=1), place) for place in range(50)}
    {1}
    >>> sorted({draw(scores, Sampling(top_p=0.7), place) for place in range(50)})
    [1, 2]
    """
    if sampling.temperature == 0:
        return int(np.argmax(scores))
    values = scores.astype(np.float64)
    chances = np.exp((values - values.max()) / sampling.temperature)
    if 0 < sampling.top_k < len(chances) or sampling.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        kept = order
        if sampling.top_k:
            kept = order[: sampling.top_k]
        if sampling.top_p < 1:
            mass = np.cumsum(chances[kept])
            kept = kept[: int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1]
        cut = np.zeros_like(chances)
        cut[kept] = chances[kept]
        chances = cut
    mass = np.cumsum(chances)
    return int(np.searchsorted(mass, uniform(sampling.seed, place) * mass[-1], side="right"))


def uniform(seed: int, place: int) -> float:
    """Return a number in [0, 1) (SplitMix64 of seed and position; Steele, Lea, Flood, OOPSLA 2014).

    >>> uniform(1, 2) == uniform(1, 2) != uniform(1, 3)
    True
    """
    state = _mixed((_mixed(seed & _MASK) + place * 0x9E3779B97F4A7C15) & _MASK)
    return (state >> 11) / (1 << 53)


def _mixed(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)

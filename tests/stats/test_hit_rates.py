"""Expected hit ratios of caches: published figures and bounds."""

import pytest
from hit_rates import best_hit_ratio, fifo_hit_ratio, lru_hit_ratio, zipf

#: Exponent, capacity, LRU, FIFO, best: of 10,000 items, to four digits.
ROWS = (
    (0.6, 1000, 0.2432, 0.2200, 0.3861),
    (0.8, 100, 0.1566, 0.1336, 0.3000),
    (0.8, 500, 0.3312, 0.2937, 0.4756),
    (0.8, 1000, 0.4367, 0.3942, 0.5706),
    (0.8, 2000, 0.5677, 0.5222, 0.6798),
    (1.0, 100, 0.3905, 0.3423, 0.5300),
    (1.0, 500, 0.5867, 0.5394, 0.6940),
    (1.0, 1000, 0.6756, 0.6309, 0.7648),
    (1.0, 2000, 0.7683, 0.7283, 0.8356),
    (1.2, 100, 0.6563, 0.6033, 0.7508),
    (1.2, 1000, 0.8614, 0.8318, 0.9034),
)


@pytest.mark.parametrize(("exponent", "capacity", "lru", "fifo", "best"), ROWS)
def test_formulas_give_the_published_figures(exponent, capacity, lru, fifo, best):
    shares = zipf(10_000, exponent)
    found = [f(shares, capacity) for f in (lru_hit_ratio, fifo_hit_ratio, best_hit_ratio)]
    assert found == pytest.approx([lru, fifo, best], abs=5e-5)


def test_bounds():
    shares = zipf(10, 1.0)
    assert (lru_hit_ratio(shares, 0), lru_hit_ratio(shares, 10), fifo_hit_ratio(shares, 12)) == (
        0.0,
        1.0,
        1.0,
    )

"""Tuning: choice of instances, threads and batch size from measurements.

``profile`` stores measurements of a model, ``search`` chooses what to measure next, ``choose`` selects the
setting that meets the objective, ``roofline`` bounds what the machine could do at best. ``mdp`` solves the
batching decision exactly, ``qlearning`` learns it, ``training`` makes the batching tables of both. All of
these are pure; measurements are made in ``features/tuning/profiling.py``.
"""

from salver.feature import Feature
from salver.lazy import lazily, lazy_imports

with lazy_imports():
    from salver.features.tuning.loading import LoadTuning
    from salver.features.tuning.profiles import ProfileStore
    from salver.kernel.serving.loading import Additions
    from salver.parts import Kernel, Parts

feature = Feature("tuning", "salver.features.tuning:build")


async def build(kernel: Kernel, config: None) -> Parts:
    """Return what finds settings for models that have an objective."""
    profiles = lazily(ProfileStore, kernel.config.state_dir)
    return Parts(additions=Additions(tuning=lazily(LoadTuning, profiles, kernel.clock, kernel.terms.cores)))

"""Tuning: choice of instances, threads and batch size from measurements.

``profile`` stores measurements of a model, ``search`` chooses what to measure next, ``choose`` selects the
setting that meets the objective, ``roofline`` bounds what the machine could do at best. ``mdp`` solves the
batching decision exactly, ``qlearning`` learns it, ``training`` makes the batching tables of both. All of
these are pure; measurements are made in ``features/tuning/profiling.py``.
"""

from salver.feature import Feature

feature = Feature(
    "tuning",
    "salver.features.tuning.building:build",
)

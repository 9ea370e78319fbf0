"""Ensembles: graphs of models that answer as one."""

from salver.feature import Feature

feature = Feature(
    "graphs",
    "salver.features.graphs.building:build",
)

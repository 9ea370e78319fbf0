"""Decisions about releases: whether a new version stays, and how much traffic it gets next.

Pure functions from evidence to verdict, so that each decision can be recomputed from its log, bit by bit.
Counting and routing are elsewhere.
"""

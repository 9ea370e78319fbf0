"""Management API over HTTP.

``/api/v1/…``: operations declared once (``transport/operations.py``), parsed and formatted by their records,
and described by them (``openapi.py``). Operations delegate to the planes behind them.
"""

from salver.feature import Feature

feature = Feature(
    "management",
    "salver.features.management.building:build",
    after=("clouds", "registry", "console", "triton"),
)

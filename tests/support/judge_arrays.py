"""The judge on arrays and its simulated worlds, which are benchmarks, for the tests."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.append(str(FOLDER))
try:
    (
        judge_twin,
        judge_worlds,
        judge_peers,
        judge_course,
        judge_together,
        judge_frontier,
        judge_cells,
        judge_report,
        judge_resources,
    ) = (
        importlib.import_module(f"judge_{name}")
        for name in [
            "twin",
            "worlds",
            "peers",
            "course",
            "together",
            "frontier",
            "cells",
            "report",
            "resources",
        ]
    )
finally:
    sys.path.remove(str(FOLDER))

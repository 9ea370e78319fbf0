"""docs/reference/statistics.md names each method, and nothing that is not there."""

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "statistics.md"
MODULES = (
    "binomial_evidence", "bounded_mean", "boundaries", "calibration", "calibration_fitting",
    "combine", "exact", "group_sequential",
    "mean_evidence", "mean_sequence", "multinomial_evidence", "pending", "quantile_sequence", "sample_ratio",
    "scoring", "sign_flip", "strata",
)  # fmt: skip
#: What others of Salver's modules take from these.
INNER = {"checked_counts", "checked_shares"}


def public(module: str) -> set[str]:
    whole = importlib.import_module(f"salver.stats.{module}")
    return {
        name
        for name, thing in vars(whole).items()
        if callable(thing) and getattr(thing, "__module__", "") == whole.__name__ and name[0] != "_"
    }


def test_each_method_is_named_by_the_reference() -> None:
    rows = "".join(row for row in PAGE.read_text().splitlines() if row.startswith("|"))
    named = {name.partition(".")[0] for name in re.findall(r"`([\w.]+)`", rows)}
    there = set().union(*map(public, MODULES))
    assert there - INNER <= named
    # of assignment, what the router takes from it is more than others need
    assert named <= there | {*MODULES, "assignment"} | public("assignment")

"""Sizes of long loops: enough to prove the claim in ``make test``, in full in ``make soak``.

A test whose loop has two sizes is marked ``soak`` and takes its count from :func:`size`. Further cases of
a claim that one case proves already carry :data:`ONLY`: they run in ``make soak`` alone. Of the rows of a
table :func:`one_in` takes some, and leaves the others to ``make soak``.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")

#: Whether this is a run at full size.
IS_SOAK = os.environ.get("SALVER_SOAK", "") not in ("", "0")
#: Mark of a test, or of a parameter, that runs in ``make soak`` alone.
ONLY = pytest.mark.soak(only=True)


def one_in(many: int, cases: Iterable[object]) -> list[object]:
    """Return parameters of which all but one in ``many`` run in ``make soak`` alone."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=ONLY if number % many else ())
        for number, case in enumerate(cases)
    ]


def size(full: T, once: T) -> T:
    """Return ``full`` in a soak run, and ``once`` otherwise."""
    return full if IS_SOAK else once

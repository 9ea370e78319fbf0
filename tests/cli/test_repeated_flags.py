"""Flags that are given twice."""

import pytest

from salver.cli import _without_repeated, app
from salver.cli.repeated import later_wins

TABLE = [
    ("serve x --port=1 --port 2", "serve x --port 2"),
    ("serve --port 1 x --host=a --port=2 --host=b", "serve x --port=2 --host=b"),
    ("serve x --port=1 --port=2 --port=3", "serve x --port=3"),
    ("serve --trust-pickle x --trust-pickle", "serve x --trust-pickle"),
    ("serve x --load=a --load=b", "serve x --load=a --load=b"),
    ("serve x --port=1 --nope --port=2", "serve x --nope --port=2"),
    ("serve x --port=one --port=2", "serve x --port=2"),
    ("models --json", "models --json"),
]


@pytest.mark.parametrize(("given", "kept"), TABLE)
def test_the_later_one_wins(given: str, kept: str) -> None:
    assert _without_repeated(given.split()) == kept.split()
    assert later_wins(app(), given.split()) == kept.split()

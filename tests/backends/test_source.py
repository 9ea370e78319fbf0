"""Loading an owner's code beside imports of other threads."""

import sys
from pathlib import Path

from salver.backends.source import importable


def test_the_list_of_places_that_an_import_goes_through_stays_as_it_is(tmp_path: Path) -> None:
    """An entry taken out of it under an import makes that skip the next place, and miss what is installed."""
    before, content = sys.path, list(sys.path)
    with importable(tmp_path, "m"):
        within, there = sys.path, list(sys.path)
        assert there == [str(tmp_path), *content]
    assert (before, within, sys.path) == (content, there, content)

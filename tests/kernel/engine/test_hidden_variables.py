"""Environment variables that a host process does not see (TS-C3)."""

import pytest

from salver.kernel.engine.spawn import _seen


@pytest.mark.clause("TS-C3")
def test_hidden_variables_are_those_that_match_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "x")
    monkeypatch.setenv("MY_AWS_SECRET", "y")
    assert "AWS_SECRET" in _seen("")
    seen = _seen("AWS_.*|OTHER")
    assert "AWS_SECRET" not in seen
    assert seen["MY_AWS_SECRET"] == "y"

"""Progress of what takes long and has no measure."""

import os
import pty
import sys

import pytest

from salver.terminal.output import under_way


def test_a_terminal_shows_what_is_done_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with under_way("loading [fraud] once"):
            written = ""
            while "0:00:00" not in written:
                written += os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "loading [fraud] once" in written


def test_a_pipe_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with under_way("loading fraud once"):
        pass
    assert capsys.readouterr() == ("", "")

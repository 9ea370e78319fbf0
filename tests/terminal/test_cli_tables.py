"""What a terminal shows of a table that is too wide for it, and what a pipe gets."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

from salver.cli import main
from salver.terminal import output
from salver.terminal.output import fitted, plain_table

WORDS = st.text("abc1 ,\n", max_size=30)


@given(st.lists(st.lists(WORDS, min_size=4, max_size=4), max_size=5), st.integers(10, 200))
def test_a_table_is_no_wider_than_its_terminal_nor_than_it_need_be(rows: list[list[str]], width: int) -> None:
    columns = ("model", "by", "why", "size")
    found = fitted(columns, rows, width, ("size", "by"))
    assert sum(found.values()) + 2 * (len(found) - 1) <= width
    assert {0, 2} <= found.keys()  # are needed
    whole = [
        max(map(len, "\n".join((name, *cells)).split("\n")))
        for name, *cells in zip(columns, *rows, strict=True)
    ]
    assert all(1 <= found[index] <= whole[index] for index in found)
    if sum(whole) + 6 <= width:
        assert found == dict(enumerate(whole))


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, {"model": 5, "digest": 12, "when": 20, "why": 30}),
        (60, {"model": 5, "digest": 12, "when": 20, "why": 17}),
        (50, {"model": 5, "when": 20, "why": 21}),
        (30, {"model": 5, "why": 23}),
        (8, {"model": 3, "why": 3}),
    ],
)
def test_columns_go_in_their_order_before_words_are_broken(width: int, shown: dict[str, int]) -> None:
    columns = ("model", "digest", "when", "why")
    rows = [["fraud", "4304968f68d9", "2026-11-27 00:28:29Z", "it is better in every way, too"]]
    found = fitted(columns, rows, width, ("digest", "when"))
    assert {columns[index]: size for index, size in found.items()} == shown


def test_a_time_is_broken_before_a_word() -> None:
    rows = [["release.rolled_back", "2026-11-27 00:28:29Z"]]
    assert fitted(("what", "when"), rows, 41) == {0: 19, 1: 20}
    assert fitted(("what", "when"), rows, 34) == {0: 19, 1: 13}


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry of a model with much that can be told of it."""
    monkeypatch.setenv("SALVER_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("LOGNAME", "ann")
    zoo.write_mlp(tmp_path / "mlp", 1)
    for alias in ("champion", "challenger"):
        words = ["--tag", "team=risk", "--tag", "data=2026-11", "--metric", "auc=.93", "--metric", "f1=.88"]
        why = ["--why", "trained on all of november, too, after what we have seen"]
        push = ["registry", "push", str(tmp_path / "mlp"), "--name", "fraud", "--unloaded", "--alias", alias]
        assert main([*push, *words, *why]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("list", "fraud"), ("version", "aliases", "pushed", "challenger,", "latest")),
        (("history",), ("when", "what", "of", "to", "why", "challenger", "november,")),
        (("list",), ("model", "latest", "versions", "aliases", "challenger=2,")),
    ],
)
def test_lists_of_the_registry_fit_a_terminal(
    versions: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: Sequence[str],
    needed: Sequence[str],
    width: int,
) -> None:
    """A pipe gets them whole, a line a row."""
    assert main(["registry", *words]) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["registry", *words]) == 0
    table, _, left_out = capsys.readouterr().out.partition("too narrow for: ")
    assert max(map(len, table.splitlines())) <= width
    assert set(needed) <= set(table.split())
    columns = re.split("  +", whole.splitlines()[0])
    assert {*table.splitlines()[0].split(), *re.findall(r"\w+", left_out)} == set(columns)
    if width > 60:  # below that words have to be broken
        assert set(table.split()) <= set(whole.split())
    if width == 120:
        assert not left_out


@pytest.mark.parametrize("is_seen", [True, False])
def test_what_traffic_can_show_fits_a_terminal(
    versions: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_seen)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["rollout", "start", "fraud", "2", "--rate", "40", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert (max(map(len, told.splitlines())) <= 60) == is_seen
    assert "in which the canary alone has some roll it back" in " ".join(told.split())
    assert "\nfound after  ×1.25 " in told


def test_a_pipe_gets_a_line_a_row() -> None:
    assert plain_table(("model", "why"), [("fraud", "a\nb " + "c" * 300)])[1] == "fraud  a b " + "c" * 300

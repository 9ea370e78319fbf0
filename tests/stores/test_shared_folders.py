"""Folders that several hold: made once, whole for all, gone with the last one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE_S, until

from salver.stores.shared_folders import SharedFolder, SharedFolders


def fill(held: SharedFolder) -> None:
    held.folder.mkdir()
    (held.folder / "file").write_text(held.key)


def test_a_folder_is_made_once_for_many_and_goes_with_the_last(tmp_path: Path) -> None:
    holdings, made = SharedFolders(), []

    def once(held: SharedFolder) -> None:
        made.append(held)
        fill(held)

    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: holdings.hold("k", lambda: tmp_path, once), range(8)))
    assert len(made) == len(set(held)) == len(holdings) == 1
    assert repr(held[0]).endswith("8 holders>")
    for each in held[1:]:
        holdings.release(each)
        assert (held[0].root / "file").read_text() == "k"
    holdings.release(held[0])
    assert list(tmp_path.iterdir()) == [] and len(holdings) == 0


def test_who_waited_for_one_that_failed_makes_it(tmp_path: Path) -> None:
    holdings, begun, go_on = SharedFolders(), threading.Event(), threading.Event()

    def fails(held: SharedFolder) -> None:
        fill(held)
        begun.set()
        assert go_on.wait(PATIENCE_S)
        raise OSError("no room")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(holdings.hold, "k", lambda: tmp_path, fails)
        assert begun.wait(PATIENCE_S)
        second = pool.submit(holdings.hold, "k", lambda: tmp_path, fill)
        until(lambda: "2 holders" in repr(next(iter(holdings._held.values()))))
        go_on.set()
        with pytest.raises(OSError, match="no room"):
            first.result(PATIENCE_S)
        held = second.result(PATIENCE_S)
    assert (held.folder / "file").exists()
    holdings.release(held)
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def fails(held: SharedFolder) -> None:
        fill(held)
        raise ValueError("as asked")

    holdings = SharedFolders()
    with pytest.raises(ValueError, match="as asked"):
        holdings.hold("k", lambda: tmp_path, fails)
    assert list(tmp_path.iterdir()) == [] and len(holdings) == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_what_is_held_is_there_and_nothing_else_is(steps: list[tuple[str, bool]]) -> None:
    import tempfile

    holdings = SharedFolders()
    mine: dict[str, list[SharedFolder]] = {"a": [], "b": []}
    with tempfile.TemporaryDirectory() as place:
        for key, comes in steps:
            if comes:
                mine[key].append(holdings.hold(key, lambda: Path(place), fill))
            elif mine[key]:
                holdings.release(mine[key].pop())
            there = {folder.joinpath("file").read_text() for folder in Path(place).iterdir()}
            assert there == {key for key, held in mine.items() if held}

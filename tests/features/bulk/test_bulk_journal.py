"""What the journal promises: whole lines count, nothing else does, and one run at a time."""

from pathlib import Path

import pytest

from salver.features.bulk.journal import Journal, Mark, Parts, publish
from salver.features.bulk.rows import Place
from salver.words.errors import Conflict, InvalidInput

JOB = {"model": "m", "rows": 4, "keep": ["a"]}
MARKS = [Mark(4 * i, i, Place(100 * i, i), [10 * i, i]) for i in (1, 2, 3)]


def begun(path: Path) -> bytes:
    journal = Journal.open(path, JOB, restart=False)
    assert journal.mark is None
    for mark in MARKS:
        journal.add(mark)
    journal.close()
    return path.read_bytes()


def test_any_cut_leaves_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    whole = begun(path)
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        journal = Journal.open(path, JOB, restart=False)
        marks = sum(end <= cut for end in ends[1:])
        assert journal.mark == (MARKS[marks - 1] if marks else None)
        journal.add(MARKS[0])  # goes on after what is whole
        journal.close()
        again = Journal.open(path, JOB, restart=False)
        assert again.mark == MARKS[0]
        again.close()


def test_noise_at_the_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    whole = begun(path)
    path.write_bytes(whole + b"\x00" * 50 + b"\n")
    journal = Journal.open(path, JOB, restart=False)
    assert journal.mark == MARKS[-1]
    journal.close()
    assert path.read_bytes() == whole


def test_another_job_is_refused_until_restart(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    whole = begun(path)
    with pytest.raises(Conflict, match='another keep: \\["a"\\] then, \\["b"\\] now'):
        Journal.open(path, {**JOB, "keep": ["b"]}, restart=False)
    assert path.read_bytes() == whole
    journal = Journal.open(path, {**JOB, "keep": ["b"]}, restart=True)
    assert journal.mark is None
    journal.close()


def test_a_job_that_had_done_nothing_binds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    journal = Journal.open(path, JOB, restart=False)
    journal.add(Mark(0, 0, Place(), [0, 0]))
    journal.close()
    other = Journal.open(path, {**JOB, "rows": 5}, restart=False)
    assert other.mark is None
    other.close()


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    begun(path)
    path.write_bytes(b"not JSON\n" + path.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(Conflict, match="is not a journal"):
        Journal.open(path, JOB, restart=False)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.journal"
    first = Journal.open(path, JOB, restart=False)
    with pytest.raises(Conflict, match=r"another run is writing .*out\.csv just now"):
        Journal.open(path, JOB, restart=True)
    first.remove()
    assert not path.exists()
    Journal.open(path, JOB, restart=False).close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot write"):
        Journal.open(tmp_path / "none" / "out.journal", JOB, restart=False)


def test_parts_are_cut_to_the_mark(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    parts = Parts(paths, None)
    parts.write([b"12345", b"x"])
    sizes = parts.sync()
    parts.write([b"lost", b"lost"])
    parts.close()
    parts = Parts(paths, Mark(1, 0, Place(), sizes))
    parts.write([b"6", b""])
    assert parts.sync() == [6, 1]
    parts.close()
    assert paths[0].read_bytes() == b"123456"
    with pytest.raises(Conflict, match="shorter than its journal says"):
        Parts(paths, Mark(1, 0, Place(), [7, 1]))
    paths[1].unlink()
    with pytest.raises(Conflict, match="cannot go on with"):
        Parts(paths, Mark(1, 0, Place(), [6, 1]))


def test_a_finished_file_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "out").write_text("old")
    publish(tmp_path / "part", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "new"
    assert not (tmp_path / "part").exists()

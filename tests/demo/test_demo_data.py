"""The demo's inputs are what its models expect; no server and no model here."""

import sys
from pathlib import Path

import numpy as np
import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))
import build  # noqa: E402
import data  # noqa: E402


@pytest.mark.parametrize("name", ["astronaut", "camera", "china", "coffee"])
def test_pictures(name: str) -> None:
    scene, portrait = data.scene(data.PICTURES[name]), data.portrait(data.PICTURES[name])
    assert (scene.shape, scene.dtype) == ((1, 3, 224, 224), np.float32)
    assert (portrait.shape, portrait.dtype) == ((1, 128, 128, 3), np.float32)
    assert -1 <= portrait.min() < portrait.max() <= 1
    assert abs(scene.mean()) < 3


def test_held_out_rows_were_not_trained_on() -> None:
    for split in (data.tumours, data.wines, data.handwriting):
        (train, _), (held_out, labels) = split()
        assert len(held_out) == len(labels) > 50
        assert not {row.tobytes() for row in train} >= {row.tobytes() for row in held_out}
        np.testing.assert_array_equal(split()[1][0], held_out)


def test_notes_have_their_names() -> None:
    assert [data.note_name(key) for key in (0, 39, 48, 87)] == ["A0", "C4", "A4", "C8"]
    assert data.tone(440).shape == (1, 43844, 1)


def test_a_short_file_is_padded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"  abc\n")
    row = data.ends_of_file(tmp_path / "x")[0]
    assert (row.shape, row.dtype) == ((2048,), np.int32)
    assert row[:4].tolist() == [
        *b"abc\n",
    ]
    assert bytes(row[-5:].tolist()) == b"  abc"
    assert set(row[4:2043].tolist()) == {256}


def test_the_labelled_files_exist() -> None:
    kinds = data.file_kinds()
    known = data.known_files()
    assert len(kinds) == 214
    assert len(known) >= 20
    assert all(label in kinds for _, label in known)


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> None:
        """Never works."""
        (folder / "half").write_text("x")
        raise RuntimeError("broken")

    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(build, "BUILDERS", {"broken": broken})
    with pytest.raises(RuntimeError):
        build.repository(lambda step: None)
    assert list(tmp_path.iterdir()) == []


def test_a_build_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(folder: Path) -> None:
        """A small one."""
        (folder / "model").write_text("x")

    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(build, "BUILDERS", {"small": small})
    steps: list[str] = []
    first = build.repository(steps.append)
    monkeypatch.setattr(build, "BUILDERS", {})
    assert build.repository(steps.append) == first
    assert (first / "small" / "1" / "model").read_text() == "x"
    assert steps == ["building small: A small one", f"models are in {first}"]

"""``salver calibrate``: predictions with outcomes in, parameters and reliability out."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salver.cli import main
from salver.features.evaluation.labelled import labels_of
from salver.features.pipelines.steps.calibrate import calibrating, read_calibration
from salver.words.errors import InvalidInput

RANDOM = np.random.default_rng(4)
ROWS = 400
LOGITS = RANDOM.normal(size=(ROWS, 3)) * 4
RIGHT = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum(axis=1, keepdims=True)  # twice too certain
LABELS = (RANDOM.random((ROWS, 1)) > RIGHT.cumsum(axis=1)[:, :2]).sum(axis=1)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
NAMES = ["cat", "dog", "cow"]
Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command, and return what --json says."""

    def run(*words: object) -> dict[str, object]:
        assert main(["calibrate", *map(str, words), "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    return run


def write(path: Path) -> None:
    """Write the rows in the format of the file's suffix."""
    rows = [
        {"scores": shares.tolist(), "label": NAMES[label]}
        for shares, label in zip(SHARES, LABELS, strict=True)
    ]
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            lines = [",".join(map(repr, [*map(float, row["scores"])])) + f",{row['label']}" for row in rows]
            path.write_text("\n".join(["a,b,c,label", *lines]) + "\n")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_a_file_are_calibrated(suffix: str, tmp_path: Path, run: Run) -> None:
    source, target = tmp_path / f"rows{suffix}", tmp_path / "calibration.json"
    write(source)
    columns = ["--scores", "a,b,c"] if suffix == ".csv" else []
    found = run(source, *columns, "--classes", "cat,dog,cow", "--to", target)
    assert found["method"] == "temperature" and found["file"] == str(target)
    parameters = read_calibration(target)
    assert 1.5 < parameters.temperature < 2.8 and parameters.columns == 3
    again = calibrating(parameters)(SHARES)
    np.testing.assert_allclose(again, RIGHT, atol=0.12)
    losses = {each["method"]: each["log_loss"]["value"] for each in found["methods"]}  # type: ignore[attr-defined]
    assert losses["temperature"] < losses["none"]


def test_people_see_a_table_and_a_diagram(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "calibration.json"
    text = "p,churned\n" + "".join(
        f"{share:.9f},{'yes' if label else 'no'}\n"
        for share, label in zip(SHARES[:, 1], LABELS == 1, strict=True)
    )
    source.write_text(text)
    svg = tmp_path / "reliability.svg"
    words = ["--scores", "p", "--label", "churned", "--bins", "5", "--to", str(target), "--diagram", str(svg)]
    assert main(["calibrate", str(source), *words]) == 0
    said = capsys.readouterr()
    assert "chosen: " in said.out and "0.80 to 1.00" in said.out and f"written to {target}" in said.out
    assert "salver models load NAME" in said.err
    drawing = ElementTree.fromstring(svg.read_text())
    names = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"as it is", "calibrated", "rows.csv"} <= set(names)


def test_good_scores_stay_as_they_are(tmp_path: Path, run: Run) -> None:
    source = tmp_path / "rows.jsonl"
    rows = zip(LOGITS / 2, LABELS, strict=True)
    source.write_text("".join(json.dumps({"z": z.tolist(), "label": int(y)}) + "\n" for z, y in rows))
    found = run(source, "--scores", "z", "--logits")
    assert found["method"] == "none" and len(found["methods"]) == 4  # type: ignore[arg-type]
    asked = run(source, "--scores", "z", "--logits", "--method", "isotonic")
    assert asked["method"] == "isotonic" and len(asked["methods"]) == 2  # type: ignore[arg-type]


WRONG = [
    (["rows.csv", "--label", "truth"], "no truth"),
    (["rows.csv", "--scores", "p,q"], "no column q"),
    (["rows.csv", "--scores", "p", "--to", "nowhere/calibration.json"], "the folder nowhere does not exist"),
    (["rows.csv", "--scores", "p", "--diagram", "x.png"], "x.png is no .svg"),
    (["rows.csv", "--scores", "p", "--folds", "1"], "too few for 1 folds"),
    (["rows.csv", "--scores", "p", "--bins", "1"], "--bins must be from 2"),
    (["rows.csv", "--scores", "p", "--classes", "a,b,c"], "names 3 classes, and there are 2"),
    (["rows.csv", "--scores", "p", "--classes", "a,b"], "row 1 has the label '0', which is none of: a, b"),
    (["rows.csv", "--scores", "z"], "scores are from -1 to 3, and probabilities from 0 to 1"),
    (["rows.csv", "--scores", "p,r"], "the scores of row 1 add up to 0.9"),
    (["rows.csv", "--scores", "broken"], "line 2: scores holds 'x'"),
    (["none.csv"], "none.csv is no file"),
    (["empty.csv", "--scores", "p"], "empty.csv has no rows"),
    (["rows.txt"], "not a known format"),
    (["gap.csv", "--scores", "p"], "a score that is not finite"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_is_wrong_is_named(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(
        "p,r,z,broken,label\n0.5,0.4,3,x,0\n0.5,0.5,-1,y,1\n0.5,0.5,2,z,1\n0.5,0.5,2,z,0\n"
    )
    Path("empty.csv").write_text("p,label\n")
    Path("gap.csv").write_text("p,label\n0.5,0\nnan,1\n")
    Path("rows.txt").write_text("p,label\n")
    assert main(["calibrate", *words]) == 1
    assert said in capsys.readouterr().err


def test_labels_are_read_in_every_form() -> None:
    told = [0, 1, True, False, "yes", "No", " 1 ", b"0", 1.0, "TRUE"]
    assert labels_of(told, (), 2).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 1, 1]
    with pytest.raises(InvalidInput, match="row 1 has the label 'yes'"):
        labels_of(["yes"], (), 3)

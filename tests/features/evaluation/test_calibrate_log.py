"""``salver calibrate`` on a prediction log: answers are joined with what came true for their requests."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert

from salver.cli import main
from salver.dialects.tensorflow.log_reader import LoggedAnswer, logged_answers
from salver.dialects.tensorflow.log_records import log_record
from salver.dialects.tensorflow.tfrecord import record
from salver.features.evaluation.joining import Selection, join
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import OUTCOME
from salver.features.registry.opening import ledger_url
from salver.words.artifacts import Logging
from salver.words.errors import InvalidInput
from salver.words.events import Predicted
from salver.words.messages import InferRequest, InferResponse
from salver.words.releases import unit_number
from salver.words.tensor import tensor

ROWS = 300
RANDOM = np.random.default_rng(11)
TRUE = RANDOM.random(ROWS)
SAID = TRUE**2 / (TRUE**2 + (1 - TRUE) ** 2)  # twice too certain
CAME_TRUE = RANDOM.random(ROWS) < TRUE
NOW = 1_767_225_600.0


def answer(
    request: str, score: object = 0.5, version: str = "1", model: str = "m", time: int = 0
) -> LoggedAnswer:
    return LoggedAnswer(
        request, model, version, time, {"score": np.array(score), "label": np.array([b"a"], object)}
    )


def of(**labels: object) -> dict[int, object]:
    return {unit_number(request): label for request, label in labels.items()}


def test_the_last_version_with_outcomes_is_taken_and_the_rest_is_counted() -> None:
    answers = [
        answer("a", [0.1], "9"),
        answer("b", [0.2], "10"),
        answer("c", 0.3, "10"),
        answer("d", [0.4, 0.5], "10"),
        answer("e", [0.6], "10"),
        answer("", [0.7], "10"),
        LoggedAnswer("f", "m", "10", 0, {}),
        answer("g", [0.8], "11"),
    ]
    found = join(answers, of(a=0.0, b=40.0, c=0.0, d=1.0, f=1.0), Selection())
    assert (found.model, found.version, found.output) == ("m", "10", "score")
    assert found.scores.tolist() == [[0.2], [0.3]] and found.labels == [1, 0]
    assert found.left == {
        "of several rows": 1,
        "without an outcome": 2,
        "without the id of their request": 1,
        "without outputs that can be read": 1,
        "of other versions": 1,
    }
    (label,) = join(answers, of(a="no", b=1.0), Selection(version="9")).labels
    assert label == "no"


def test_requests_without_an_outcome_may_have_a_label_when_it_is_certain() -> None:
    answers = [answer("a", time=10), answer("b", time=20), answer("c", time=30)]
    found = join(answers, of(a=1.0), Selection(absent="0", until=20.0))
    assert found.labels == [1, "0"] and found.left == {"without an outcome": 1}


@pytest.mark.parametrize(
    ("answers", "selection", "said"),
    [
        ([], Selection(), "no logged answer"),
        ([answer("z")], Selection(), "1 without an outcome"),
        ([answer("a"), answer("a", model="n")], Selection(), "several models: m, n"),
        ([answer("a")], Selection(output="label"), "--scores label is no output with numbers"),
        ([answer("a")], Selection(output="none"), "The answers have: label, score"),
        ([answer("a", [[0.1, 0.9]]), answer("a", [[0.1]])], Selection(), "differ in outputs or shape"),
        ([answer("a", [np.nan])], Selection(), "not finite"),
        ([LoggedAnswer("a", "m", "1", 0, dict.fromkeys("xy", np.ones(1)))], Selection(), "not clear which"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_says_why(answers: list[LoggedAnswer], selection: Selection, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        join(answers, of(a=1.0), selection)
    assert said in f"{caught.value} {caught.value.fix}"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a log in two files, of which the second is still written."""
    folder = tmp_path_factory.mktemp("requests")
    records = []
    for row, score in enumerate(SAID):
        request = InferRequest("fraud", (tensor("x", np.zeros((1, 2), np.float32)),))
        outputs = (tensor("p", np.array([[1 - score, score]], np.float32)), tensor("n", np.array([3])))
        event = Predicted(request, InferResponse("fraud", "3", outputs), "", "d", Logging(), f"r-{row}")
        records.append(record(log_record(event, int(NOW) + row)))
    (folder / "fraud-1.tfrecord").write_bytes(b"".join(records[:200]))
    (folder / "fraud-2.tfrecord").write_bytes(b"".join(records[200:]) + records[0][:-5])
    return folder


def test_a_file_that_grows_is_read_and_a_damaged_one_is_not(logged: Path, tmp_path: Path) -> None:
    found = [*logged_answers(logged / "fraud-2.tfrecord")]
    assert len(found) == 100
    assert (found[0].request, found[0].version, found[0].time) == ("r-200", "3", int(NOW) + 200)
    np.testing.assert_allclose(found[0].outputs["p"][0, 1], SAID[200], rtol=1e-6)
    content = bytearray((logged / "fraud-1.tfrecord").read_bytes())
    content[40] ^= 1
    (tmp_path / "torn.tfrecord").write_bytes(content)
    with pytest.raises(InvalidInput, match="damaged"):
        list(logged_answers(tmp_path / "torn.tfrecord"))
    (tmp_path / "other.tfrecord").write_bytes(record(b"\xff\xff"))
    with pytest.raises(InvalidInput, match="record 0 is no PredictionLog"):
        list(logged_answers(tmp_path / "other.tfrecord"))


def outcome(
    id: str, request: str, value: float, after: float, name: str = "fraud", **more: object
) -> dict[str, object]:
    row = {"id": id, "key_kind": "prediction", "key": unit_number(request), "name": name, "value": value}
    return {**row, "event_time": NOW + after, "ingest_time": NOW, "source": "", "supersedes": None, **more}


async def post(folder: Path) -> None:
    rows = [outcome(f"o-{row}", f"r-{row}", float(came), row) for row, came in enumerate(CAME_TRUE)]
    first = float(CAME_TRUE[0])
    rows.append(outcome("wrong", "r-0", 1 - first, 990))
    rows.append(outcome("right", "r-0", first, 980, supersedes="wrong"))
    rows.append(outcome("unit", "ada", 1.0, 0, "sale", key_kind="unit"))
    async with await Ledger.open(ledger_url(str(folder))) as ledger:
        await ledger.write(lambda connection: connection.execute(insert(OUTCOME), rows))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    asyncio.run(post(folder))
    return folder


def test_a_log_is_calibrated_on_the_outcomes_of_a_registry(
    logged: Path, registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(logged), "--outcomes", str(registry), "--label", "fraud"]
    assert main([*words, "--to", str(tmp_path / "calibration.json"), "--json"]) == 0
    said = capsys.readouterr()
    assert "fraud:3, p: 300 answers with outcomes\n" in said.err
    found = json.loads(said.out)
    assert found["method"] == "temperature" and 1.4 < found["parameters"]["temperature"] < 2.9
    # A file says the same, and what it leaves out has a label of its own.
    rows = ["request,label", *(f"r-{row},yes" for row in range(ROWS) if CAME_TRUE[row])]
    (tmp_path / "outcomes.csv").write_text("\n".join(rows))
    words = ["calibrate", str(logged), "--outcomes", str(tmp_path / "outcomes.csv"), "--absent", "no"]
    assert main([*words, "--model", "fraud", "--scores", "p", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == found["parameters"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["LOG", "--outcomes", "REGISTRY", "--label", "fruad"], "'fruad' are of requests; there are: fraud"),
        (["LOG", "--outcomes", "nowhere"], "neither a file nor a registry"),
        (["REGISTRY", "--outcomes", "REGISTRY"], "has no prediction log"),
        (["LOG", "--outcomes", "REGISTRY", "--label", "fraud", "--model", "m"], "has none of this model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    words: list[str], said: str, logged: Path, registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"LOG": str(logged), "REGISTRY": str(registry)}
    assert main(["calibrate", *(paths.get(word, word) for word in words)]) == 1
    assert said in " ".join(capsys.readouterr().err.split())

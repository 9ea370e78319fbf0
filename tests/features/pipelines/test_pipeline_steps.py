"""Steps of pipelines: each with a reference, and with the conformance suite."""

# ruff: noqa: RUF012  # what a suite is given

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pipeline_graphs import texts
from scipy import special

from salver.features.pipelines.steps.lists import Collect, Each, Merge, Reduce, Suppress
from salver.features.pipelines.steps.scores import ArgMax, Cast, Normalise, Pool, Sigmoid, Softmax, TopK
from salver.features.pipelines.steps.step import OFFSETS, Step, step_class, step_names
from salver.features.pipelines.steps.texts import (
    Detokenize,
    Labels,
    TextJoin,
    TextNormalise,
    TextSplit,
    Tokenize,
)
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NOWHERE = Path("/nowhere")
RECORDED = Path(__file__).parent / "recorded" / "tokenizers"
RANDOM = np.random.default_rng(5)
LOGITS = RANDOM.normal(size=(3, 5)).astype(np.float32)
SCORES = special.softmax(LOGITS, axis=-1)


class TestSoftmax(StepConformance):
    name, inputs, outputs = "softmax", {"logits": LOGITS}, {"scores": special.softmax(LOGITS, axis=-1)}


class TestSoftmaxOfATemperature(StepConformance):
    name, options = "softmax", {"temperature": 2.5}
    inputs, outputs = {"logits": LOGITS}, {"scores": special.softmax(LOGITS / np.float32(2.5), axis=-1)}


class TestSigmoid(StepConformance):
    name, inputs, outputs = "sigmoid", {"logits": LOGITS}, {"scores": special.expit(LOGITS)}


class TestArgMax(StepConformance):
    name, inputs = "arg-max", {"scores": SCORES}
    outputs = {"index": SCORES.argmax(-1), "score": SCORES.max(-1)}


class TestTopK(StepConformance):
    name, options, inputs = "top-k", {"k": 2}, {"scores": SCORES}
    outputs = {"index": np.argsort(-SCORES, -1)[:, :2], "score": -np.sort(-SCORES, -1)[:, :2]}


class TestPick(StepConformance):
    name, options = "pick", {"at": -2}
    inputs, outputs = {"values": LOGITS}, {"value": LOGITS[:, 3]}


class TestThreshold(StepConformance):
    name, options = "threshold", {"least": 0.25}
    inputs, outputs = {"values": [0.25, 0.1, 0.3]}, {"reached": [True, False, True]}


class TestNormalise(StepConformance):
    name, inputs = "normalise", {"vector": LOGITS}
    outputs = {"vector": LOGITS / np.linalg.norm(LOGITS, axis=-1, keepdims=True)}


class TestCast(StepConformance):
    name, options = "cast", {"to": "INT32"}
    inputs, outputs = {"values": [1.9, -1.9, 0.0]}, {"values": np.array([1, -1, 0], np.int32)}


class TestJson(StepConformance):
    name, inputs = "json", {"label": ["a", "ü"], "score": np.array([0.5, 1.0], np.float32)}
    outputs = {"json": ['{"label":"a","score":0.5}', '{"label":"ü","score":1.0}']}


class TestPool(StepConformance):
    name, pads = "pool", False
    inputs = {
        "states": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "attention_mask": np.array([[1, 1, 0], [1, 1, 1]]),
    }
    outputs = {"embedding": np.array([[2, 3, 4, 5], [16, 17, 18, 19]], np.float32)}


class TestLabels(StepConformance):
    name, options = "labels", {"names": ("cat", "dog")}
    inputs, outputs = {"index": [1, 0, 7]}, {"label": ["dog", "cat", "LABEL_7"]}


class TestTextNormalise(StepConformance):
    name, options = "text-normalise", {"lower": True, "collapse": True, "form": "NFKC"}
    inputs, outputs = {"text": ["  A\n B ", "ﬁn"]}, {"text": ["a b", "fin"]}


class TestTextSplit(StepConformance):
    name, inputs = "text-split", {"text": ["One. Two! Three", "", "Four?"]}
    outputs = {"text": ["One.", "Two!", "Three", "Four?"], OFFSETS: [0, 3, 3, 4]}


class TestTextJoin(StepConformance):
    name, options = "text-join", {"separator": "+"}
    inputs, outputs = {"text": ["a", "b", "c"], OFFSETS: [0, 2, 2, 3]}, {"text": ["a+b", "", "c"]}


class TestEach(StepConformance):
    name, inputs = "each", {"list": LOGITS, "count": [2, 0, 5]}
    outputs = {"item": np.concatenate([LOGITS[0, :2], LOGITS[2]]), OFFSETS: [0, 2, 2, 7]}


class TestCollect(StepConformance):
    name, pads = "collect", True
    inputs = {"item": np.array([1, 2, 3], np.float32), OFFSETS: [0, 2, 2, 3]}
    outputs = {"list": np.array([[1, 2], [0, 0], [3, 0]], np.float32), "count": [2, 0, 1]}


class TestReduce(StepConformance):
    name, inputs = "reduce", {"values": LOGITS, OFFSETS: [0, 2, 2, 3]}
    outputs = {"value": np.stack([LOGITS[:2].mean(0), np.zeros(5, np.float32), LOGITS[2]])}


class TestNms(StepConformance):
    name = "nms"
    inputs = {
        "boxes": np.array([[[0, 0, 2, 2], [0, 0, 2, 1.9], [4, 4, 5, 5]], [[0, 0, 1, 1]] * 3], np.float32),
        "scores": np.array([[0.8, 0.9, 0.7], [0.1, 0.2, 0.3]], np.float32),
    }
    outputs = {
        "box": np.array([[0, 0, 2, 1.9], [4, 4, 5, 5]], np.float32),
        "score": np.array([0.9, 0.7], np.float32),
        "index": [1, 2],
        OFFSETS: [0, 2, 2],
    }


class TestTokenize(StepConformance):
    name, pads = "tokenize", True
    options = {"path": "tokens"}
    inputs = {"text": ["a", "a longer text"]}

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path, monkeypatch):
        (tmp_path / "tokens").mkdir()
        content = sorted(RECORDED.glob("*.json"))[0].read_text()
        (tmp_path / "tokens" / "tokenizer.json").write_text(content)
        monkeypatch.setattr(type(self), "folder", tmp_path)
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(content)
        tokenizer.no_truncation()
        tokenizer.enable_padding()
        found = tokenizer.encode_batch(self.inputs["text"])
        outputs = {
            "input_ids": np.array([each.ids for each in found]),
            "attention_mask": np.array([each.attention_mask for each in found]),
            "token_type_ids": np.array([each.type_ids for each in found]),
        }
        monkeypatch.setattr(type(self), "outputs", outputs, raising=False)

    def test_the_padded_length_is_a_multiple(self) -> None:
        found = Tokenize(path="tokens", pad_to=8).open(self.folder)({"text": texts("a", "b c")})
        assert all(array.shape == (2, 8) for array in found.values())

    def test_a_request_that_is_no_text_fails_alone(self) -> None:
        bad = np.array([b"\xff"], object)
        one, two = Tokenize(path="tokens").open_many(self.folder)([{"text": bad}, {"text": texts("a")}])
        assert isinstance(one, InvalidInput) and two["input_ids"].shape[0] == 1

    def test_a_long_text_is_refused_where_it_is_not_cut(self) -> None:
        run = Tokenize(path="tokens", max_length=4, truncation="no").open(self.folder)
        with pytest.raises(InvalidInput, match="more than the 4 tokens"):
            run({"text": texts("a b c d e f g")})
        cut = Tokenize(path="tokens", max_length=4).open(self.folder)({"text": texts("a b c d e f g")})
        assert cut["input_ids"].shape == (1, 4)

    def test_tokens_become_texts_again(self) -> None:
        values = texts("a b", "a longer one")
        ids = Tokenize(path="tokens").open(self.folder)({"text": values})["input_ids"]
        found = Detokenize(path="tokens").open(self.folder)({"ids": ids})["text"]
        again = Tokenize(path="tokens").open(self.folder)({"text": found})["input_ids"]
        assert again.tolist() == ids.tolist()
        shown = Detokenize(path="tokens", special=True).open(self.folder)({"ids": ids})["text"]
        assert len(shown[0]) > len(found[0])
        with pytest.raises(InvalidInput, match="not negative"):
            Detokenize(path="tokens").open(self.folder)({"ids": -ids})
        with pytest.raises(InvalidInput, match="31 bits"):
            Detokenize(path="tokens").open(self.folder)({"ids": ids << 40})

    def test_a_path_that_leads_out_of_the_folder_is_refused(self) -> None:
        with pytest.raises(LoadFailed, match="outside"):
            Tokenize(path="..").open(self.folder / "tokens")


FLOATS = st.floats(-50, 50, width=32)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=FLOATS))
def test_scores_are_those_of_scipy(logits) -> None:
    scores = Softmax().open(NOWHERE)({"logits": logits})["scores"]
    np.testing.assert_allclose(scores, special.softmax(logits, axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    sigmoid = Sigmoid().open(NOWHERE)({"logits": logits})["scores"]
    np.testing.assert_allclose(sigmoid, special.expit(logits), rtol=1e-5, atol=1e-7)
    best = ArgMax().open(NOWHERE)({"scores": logits})
    top = TopK(k=1).open(NOWHERE)({"scores": logits})
    assert (best["index"] == top["index"][:, 0]).all() and (best["score"] == top["score"][:, 0]).all()


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=FLOATS))
def test_vectors_of_length_one_stay_what_they_are(vectors) -> None:
    vectors[np.abs(vectors) < 1e-3] = 0  # shorter than 1e-12, a vector is not stretched to 1
    run = Normalise().open(NOWHERE)
    once = run({"vector": vectors})["vector"]
    np.testing.assert_allclose(run({"vector": once})["vector"], once, rtol=1e-5, atol=1e-6)


@given(st.lists(st.lists(FLOATS, max_size=4), min_size=1, max_size=5))
def test_lists_taken_apart_are_those_put_together(rows) -> None:
    items = np.array([value for row in rows for value in row], np.float32)
    offsets = np.cumsum([0, *map(len, rows)])
    found = Collect().open(NOWHERE)({"item": items, OFFSETS: offsets})
    again = Each().open(NOWHERE)(dict(found))
    assert again["item"].tolist() == items.tolist() and again[OFFSETS].tolist() == offsets.tolist()
    total = Reduce(by="sum").open(NOWHERE)({"values": items, OFFSETS: offsets})["value"]
    np.testing.assert_allclose(total, [np.float32(sum(row)) for row in rows], rtol=1e-4, atol=1e-3)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4))
def test_texts_in_normal_form_stay_what_they_are(values) -> None:
    run = TextNormalise(form="NFC", collapse=True).open(NOWHERE)
    once = run({"text": texts(*values)})["text"]
    assert run({"text": once})["text"].tolist() == once.tolist()
    parts = TextSplit(by="words").open(NOWHERE)({"text": texts(*values)})
    joined = TextJoin().open(NOWHERE)(parts)["text"]
    assert [text.decode().split() for text in joined] == [text.split() for text in values]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans())
def test_branches_merge_to_the_rows_that_they_came_from(mask, whole) -> None:
    mask = np.array(mask)
    rows = np.arange(len(mask), dtype=np.float32)
    second = -rows if whole else -rows[~mask]
    offsets = np.concatenate([[0], np.cumsum(mask)])
    found = Merge().open(NOWHERE)({"first": rows[mask], "second": second, f"first.{OFFSETS}": offsets})
    assert found["merged"].tolist() == np.where(mask, rows, -rows).tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_boxes_that_stay_do_not_overlap_and_cover_the_others(seed, overlap) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 10, size=(1, 12, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(2), corners.max(2)], -1)
    scores = random.uniform(0, 1, size=(1, 12)).astype(np.float32)
    kept = (
        Suppress(overlap=overlap, least=0.2)
        .open(NOWHERE)({"boxes": boxes, "scores": scores})["index"]
        .tolist()
    )
    assert sorted(kept, key=lambda i: -scores[0, i]) == kept
    for one in kept:
        assert all(_iou(boxes[0, one], boxes[0, other]) <= overlap for other in kept if other != one)
    for box in set(range(12)) - set(kept):
        better = [one for one in kept if scores[0, one] >= scores[0, box]]
        assert scores[0, box] < 0.2 or any(_iou(boxes[0, box], boxes[0, one]) > overlap for one in better)


def _iou(a, b) -> float:
    a, b = a.astype(float), b.astype(float)
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / max(sum(areas) - shared, 1e-12)


@pytest.mark.parametrize("mode", ["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"])
def test_padding_has_no_part_in_an_embedding(mode: str) -> None:
    states = RANDOM.normal(size=(1, 4, 3)).astype(np.float32)
    padded = np.concatenate([states, np.full((1, 2, 3), 9, np.float32)], 1)
    run = Pool(mode=mode).open(NOWHERE)
    mask = np.array([[1, 1, 1, 1, 0, 0]])
    bare = run({"states": states})["embedding"]
    np.testing.assert_array_equal(run({"states": padded, "attention_mask": mask})["embedding"], bare)


def test_a_text_without_tokens_has_no_embedding() -> None:
    with pytest.raises(InvalidInput, match="without tokens"):
        Pool().open(NOWHERE)(
            {"states": np.ones((1, 2, 3), np.float32), "attention_mask": np.zeros((1, 2), int)}
        )


@pytest.mark.parametrize("said", [["a", "b"], {"id2label": {"0": "a", "1": "b"}}, {"0": "a", "1": "b"}])
def test_labels_are_read_from_a_file(said, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps(said))
    found = Labels(file="names.json").open(tmp_path)({"index": np.array([[1, 0]])})
    assert found["label"].tolist() == [[b"b", b"a"]]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Softmax(temperature=0), "temperature"),
        (Labels(), "`names` or `file`"),
        (Labels(file="absent.json"), "cannot be read"),
        (Suppress(overlap=2), "overlap"),
        (Tokenize(pad_to=0), "pad_to"),
        (Tokenize(), "tokenizer.json"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(step: Step, said: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=said):
        step.open(tmp_path)


@pytest.mark.parametrize("step", [TopK(k=0), Cast(to="BYTES")])
def test_options_that_decide_types_are_refused_before(step: Step) -> None:
    with pytest.raises(LoadFailed):
        step.described(NOWHERE)


def test_every_installed_step_has_a_description() -> None:
    for name in step_names():
        kind = step_class(name)
        assert kind is not None and issubclass(kind, Step) and kind.__doc__

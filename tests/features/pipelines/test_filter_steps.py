"""Steps that check and clean texts: personal data, block lists, lengths, templates."""

# ruff: noqa: RUF012  # what a suite is given

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import salver.pipelines
from salver.features.pipelines.steps.filters import KINDS, BlockList, FilterPii, Format, Length, masked
from salver.features.pipelines.tasks.scores import object_row
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NOWHERE = Path("/nowhere")


class TestFilterPii(StepConformance):
    name, inputs = "filter-pii", {"text": ["Ask ada@example.org.", "Ask nobody.", ""]}
    outputs = {"text": ["Ask [email].", "Ask nobody.", ""], "found": [True, False, False]}


class TestFilterPiiThatFlags(StepConformance):
    name, options = "filter-pii", {"kinds": ("ip",), "action": "flag"}
    inputs = {"text": ["ada@example.org", "10.0.0.1"]}
    outputs = {"text": ["ada@example.org", "10.0.0.1"], "found": [False, True]}


class TestBlockList(StepConformance):
    name = "block-list"
    inputs = {"text": ["A DARN shame, Oh  my, oh!", "darning", "ｄａｒｎ\u200b", "d\u00adarn it"]}
    outputs = {
        "text": ["A **** shame, ******, oh!", "darning", "****", "**** it"],
        "found": [True, False, True, True],
    }

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        (tmp_path / "blocked.txt").write_text("# what we do not want\ndarn\noh my # a phrase\n\nStraße\n")
        self.folder = tmp_path


class TestLength(StepConformance):
    name, options = "length", {"least": 1, "most": 3, "action": "flag"}
    inputs = {"text": ["", "äöü", "abcd"]}
    outputs = {"text": ["", "äöü", "abcd"], "fits": [False, True, False]}


class TestFormat(StepConformance):
    name, options = "format", {"template": "{label}: {score} of {{{all}}}"}
    inputs = {"label": ["cat", "dög"], "score": [0.5, 1.0], "all": [[1, 2], [3, 4]]}
    outputs = {"text": ["cat: 0.5 of {[1,2]}", "dög: 1.0 of {[3,4]}"]}


FOUND = [
    ("email", "x.y+z@mail.example.co.uk", "a@b", "a@@b.org", "@example.org", "a@example.c"),
    ("iban", "GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 33", "GB82WEST"),
    ("iban", "DE89370400440532013000", "XDE89370400440532013000"),
    ("iban", "NO93-8601-1117-947", "NO9386011117946"),
    ("card", "4539 1488 0343 6467", "4539 1488 0343 6468", "0000 0000 0000 0000", "45391488034364671234567"),
    ("card", "378282246310005", "37828224631000"),
    ("ssn", "219-09-9999", "000-12-3456", "666-12-3456", "900-12-3456", "219-00-9999", "219-09-0000"),
    ("ip", "192.168.0.254", "1.2.3", "1.2.3.4.5", "256.1.1.1", "10:30:15", "std::vector", "::"),
    ("ip", "2001:db8::8a2e:370:7334", "2001:db8:::1"),
    ("phone", "+49 (0)30 901820", "+49 30"),
    ("phone", "(415) 555-2671", "01.02.2024", "01/02/2024"),
    ("phone", "415-555-2671", "1-2-3", "415-555"),
    ("phone", "030/9018-2000", "2024-01-02", "0.12345678912"),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), [(kind, right, wrong) for kind, right, *wrong in FOUND])
def test_personal_data_is_found_by_pattern_and_check(kind: str, right: str, wrong: list[str]) -> None:
    for text in (right, f"It is {right}, I think.", f"<{right}>", f"{right}\nAND MORE"):
        assert masked(text, [kind]) == (text.replace(right, f"[{kind}]"), [kind])
    for text in wrong:
        assert masked(f"It is {text} here", [kind]) == (f"It is {text} here", [])


def test_words_in_capitals_may_follow_an_account_number() -> None:
    assert masked("NL91ABNA0417164300 BANK DESK", ["iban"])[0] == "[iban] BANK DESK"


@given(st.text(), st.sampled_from([right for _, right, *_ in FOUND]), st.text())
def test_masking_again_changes_nothing(before: str, data: str, after: str) -> None:
    once, _ = masked(f"{before} {data} {after}", list(KINDS))
    assert masked(once, list(KINDS)) == (once, [])


HOSTILE = [
    "a", "1", "a.", "a@", "a@a.", "1 ", "1-", "+1 ", "0", "(1", "GB82 ", "GB82 WEST", "A1", "1.",
    "1.1.1.", ":",
    "::1 ", "a:", "+1(2)", "@", ".", "-", "[email]", "12-", "\u200b", "ß", "a@b.c-", "123-45-", "01.",
]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_texts_take_linear_time(part: str) -> None:
    # It takes some hundredths of a second of processor time, and minutes with patterns that backtrack.
    began = time.process_time()
    masked(part * (100_000 // len(part)), list(KINDS))
    assert time.process_time() - began < 5


def test_errors_do_not_repeat_what_they_found(tmp_path: Path) -> None:
    (tmp_path / "blocked.txt").write_text("darn\n")
    texts = {"text": object_row([b"fine", b"ada@example.org, darn"])}
    with pytest.raises(InvalidInput, match="text 2 has personal data: email") as refused:
        FilterPii(action="refuse").open(NOWHERE)(texts)
    assert "ada" not in str(refused.value)
    with pytest.raises(InvalidInput, match="text 2 has what is not allowed: a blocked word") as refused:
        BlockList(action="refuse").open(tmp_path)(texts)
    assert "darn" not in str(refused.value)
    with pytest.raises(InvalidInput, match="text 2 has 21 characters") as refused:
        Length(most=20).open(NOWHERE)(texts)
    assert refused.value.fix == "Send texts of 0 to 20 characters."
    with pytest.raises(InvalidInput, match="text 1 has 1 words"):
        Length(least=2, unit="words").open(NOWHERE)(texts)
    assert Length(most=4, unit="bytes").open(NOWHERE)({"text": object_row(["äö".encode()])})["fits"].all()


def blocked(text: str, folder: Path) -> Any:
    (folder / "blocked.txt").write_text(text)
    return BlockList().open(folder)


WRONG: list[tuple[Any, str]] = [
    (lambda folder: FilterPii(kinds=("mail",)).open(folder), "'mail' is no kind"),
    (lambda folder: BlockList().open(folder), "cannot be read"),
    (lambda folder: BlockList(file="../x").open(folder), "outside"),
    (lambda folder: blocked("# nothing\n", folder), "has no entries"),
    (lambda folder: blocked("a b c d e f g h i\n", folder), "line 1: an entry has at most 8 words"),
    (lambda folder: Length(least=2, most=1).open(folder), "nor above `most`"),
    (lambda folder: Format(template="{a} {").check_others(["a"]), "a brace at 4 has no other"),
    (lambda folder: Format(template="{a}").check_others(["a", "b"]), "The template has: a; the inputs: a, b"),
    (lambda folder: Format(template="x").check_others([]), "the inputs: none"),
]


@pytest.mark.parametrize(("act", "said"), WRONG)
def test_options_that_do_not_fit_are_refused(act: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as refused:
        act(tmp_path)
    assert said in f"{refused.value.message} {refused.value.fix}"


@given(st.lists(st.sampled_from(["darn", "oh", "my", "Darn", "darning", "x"]), max_size=9))
def test_a_block_list_is_that_of_a_search_for_whole_words(words: list[str]) -> None:
    import tempfile

    text = " ".join(words)
    with tempfile.TemporaryDirectory() as folder:
        run = blocked("darn\noh my\n", Path(folder))
    found = run({"text": object_row([text.encode()])})["text"].tolist()[0].decode()
    assert found == re.sub(r"(?i)\b(darn|oh my)\b", lambda match: "*" * len(match[0]), text)


def test_a_pipeline_names_the_hole_that_nothing_fills(tmp_path: Path) -> None:
    document = '[inputs]\nname = "BYTES[-1]"\n[steps.hello]\nuse = "format"\ntemplate = "Hello {nam}!"\n'
    document += 'inputs = { name = "name" }\n'
    (tmp_path / "pipeline.toml").write_text(document)
    with pytest.raises(LoadFailed, match="step `hello`: format: the inputs are not those of the template"):
        salver.pipelines.load(tmp_path)
    (tmp_path / "pipeline.toml").write_text(document.replace("{nam}", "{name}"))
    with salver.pipelines.load(tmp_path) as pipeline:
        assert pipeline({"name": np.array([b"Ada"], object)})["text"].tolist() == [b"Hello Ada!"]

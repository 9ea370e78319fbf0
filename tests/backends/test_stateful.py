"""Programs with states, stepped: slots keep apart what belongs apart, and a culprit is found."""

import numpy as np
import pytest

from salver.backends.stateful import StatefulSteps
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType

TOKENS = TensorSpec("tokens", DataType.INT64, (-1, -1))
ONE_TOKEN = TensorSpec("tokens", DataType.INT64, (-1, 1))
POSITION = TensorSpec("position", DataType.INT64, (-1,))
SUM = TensorSpec("sum", DataType.FP64, (-1, 2))
SEEN = TensorSpec("seen", DataType.INT64, (-1,))
SCORES = TensorSpec("scores", DataType.FP32, (-1, 5))
AFTER = (TensorSpec("sum_after", DataType.FP64, (-1, 2)), TensorSpec("seen_after", DataType.INT64, (-1,)))


class Program:
    """Scores tell the sum of a slot's tokens, how many there were, and the position; 13 raises."""

    def __init__(self, inputs=(TOKENS, POSITION, SUM, SEEN), outputs=(SCORES, *AFTER), deep=False):
        self.signature = Signature(inputs, outputs, batched=True)
        self.deep = deep
        self.runs = []
        self.closed = 0

    def run(self, inputs):
        tokens = inputs["tokens"]
        self.runs.append(tokens.shape)
        if (tokens == 13).any():
            raise IndexError("13 is out of bounds")
        total = inputs["sum"] + tokens.sum(axis=1, keepdims=True)
        seen = inputs["seen"] + tokens.shape[1]
        scores = np.zeros((len(tokens), 5), "f4")
        scores[:, 0], scores[:, 1] = total[:, 0], seen
        scores[:, 2] = inputs.get("position", 0)
        if self.deep:
            scores = np.stack([scores - 99, scores], axis=1)
        return {"scores": scores, "sum_after": total, "seen_after": seen}

    def close(self):
        self.closed += 1


def stepped(program=None, slots=3):
    return StatefulSteps(program or Program(), "m", slots)


def test_each_slot_has_its_own_states():
    model = stepped()
    assert model.prefill(1, np.array([1, 2, 3])).tolist() == [6, 3, 0, 0, 0]
    assert model.step(np.array([2, 1]), np.array([9, 4])).tolist() == [[9, 1, 0, 0, 0], [10, 4, 3, 0, 0]]
    assert model.prefill(1, np.array([1])).tolist() == [11, 5, 4, 0, 0]
    model.release(1)
    assert model.step(np.array([1, 2]), np.array([7, 1])).tolist() == [[7, 1, 0, 0, 0], [10, 2, 1, 0, 0]]


def test_a_program_of_one_token_reads_a_prompt_token_by_token():
    program = Program((ONE_TOKEN, SUM, SEEN))
    assert stepped(program).prefill(0, np.array([1, 2, 3])).tolist() == [6, 3, 0, 0, 0]
    assert program.runs == [(1, 1)] * 3


def test_of_scores_at_every_place_the_last_count():
    assert stepped(Program(deep=True)).prefill(0, np.array([1, 2])).tolist() == [3, 2, 0, 0, 0]


def test_only_the_slot_that_makes_it_raise_fails_and_the_others_move_once():
    model = stepped(slots=8)
    slots = np.arange(7)
    scores = model.step(slots, np.array([1, 2, 3, 13, 5, 6, 7]))
    assert np.isnan(scores[:, 0]).tolist() == [False] * 3 + [True] + [False] * 3
    again = model.step(slots, np.ones(7, "i8"))
    assert again[:, 1].tolist() == [2, 2, 2, 1, 2, 2, 2]  # the one that failed has not moved


def test_a_prompt_that_raises_says_why_and_moves_nothing():
    model = stepped()
    with pytest.raises(IndexError, match="13"):
        model.prefill(0, np.array([1, 13]))
    assert model.prefill(0, np.array([1])).tolist() == [1, 1, 0, 0, 0]


def test_close_closes_the_program():
    program = Program()
    stepped(program).close()
    assert program.closed == 1


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ((SUM,), (SCORES,), "no input tokens"),
        ((TensorSpec("tokens", DataType.FP32, (-1, -1)),), (SCORES,), "no input tokens, INT64"),
        ((TensorSpec("tokens", DataType.INT64, (-1,)),), (SCORES,), "no input tokens"),
        ((TensorSpec("tokens", DataType.INT64, (-1, 7)),), (SCORES,), r"\[-1, 7\]; the time must be free"),
        ((TOKENS, SUM), (SCORES,), r"states \['sum'\] and the outputs \['scores'\]"),
        ((TOKENS,), (), "the outputs"),
        ((TOKENS, TensorSpec("c", DataType.FP32, (-1, 4, -1))), (SCORES, SUM), "must be fixed"),
        ((TOKENS, TensorSpec("c", DataType.FP32, (2, 4))), (SCORES, SUM), "must be fixed"),
    ],
)
def test_programs_of_another_form_are_refused(inputs, outputs, reason):
    with pytest.raises(LoadFailed, match=reason):
        stepped(Program(inputs, outputs))

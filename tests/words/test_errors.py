"""Do errors say what is wrong and what to do, and survive a process border?"""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.words import errors
from salver.words.errors import LONGEST_TEXT, Code, HandlerFailed, InvalidInput, MissingExtra, SalverError

KINDS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, SalverError) and value is not MissingExtra
]


def test_the_message_is_followed_by_the_field_and_the_fix() -> None:
    error = InvalidInput(
        "the shape has 3 numbers, the data 4", field="inputs[0].shape", fix="Send shape [4]."
    )
    assert str(error) == "the shape has 3 numbers, the data 4 (at inputs[0].shape). Send shape [4]."
    assert error.args == ("the shape has 3 numbers, the data 4",)


def test_a_field_that_the_message_names_is_not_repeated() -> None:
    assert str(InvalidInput("inputs[0].data is empty", field="inputs[0].data")) == "inputs[0].data is empty"


def test_a_full_stop_is_not_doubled_before_the_fix() -> None:
    assert str(SalverError("no room left.", fix="Unload a model.")) == "no room left. Unload a model."


@given(kind=st.sampled_from(KINDS), message=st.text(), field=st.text(), fix=st.text())
def test_pickling_keeps_kind_message_field_and_fix(
    kind: type[SalverError], message: str, field: str, fix: str
) -> None:
    error = kind(message, field=field, fix=fix)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.message, twin.field, twin.fix, twin.code) == (message, field, fix, error.code)
        assert str(twin) == str(error)


def test_a_missing_extra_names_the_command_and_survives_pickling() -> None:
    error = MissingExtra("onnx", "onnx", "onnxruntime")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is MissingExtra
    assert str(twin) == str(error)
    assert "pip install 'salver[onnx]'" in str(twin)
    assert twin.code is Code.INVALID_INPUT


def test_what_a_handler_says_survives_pickling_with_its_status() -> None:
    twin = pickle.loads(pickle.dumps(HandlerFailed("no", 418, field="body", fix="Say yes.")))
    assert (type(twin), twin.status, str(twin)) == (HandlerFailed, 418, "no (at body). Say yes.")


def test_an_error_of_no_special_kind_is_a_defect_of_ours() -> None:
    assert SalverError("what?").code is Code.INTERNAL


@pytest.mark.parametrize("code", list(Code))
def test_codes_are_metric_labels(code: Code) -> None:
    assert code.value == code.name.lower()


def test_when_to_come_back_and_why_cross_a_process_border() -> None:
    twin = pickle.loads(pickle.dumps(errors.Overloaded("full", fix="Wait.", retry_after=2.5, why="limit")))
    assert (str(twin), twin.retry_after, twin.why) == ("full. Wait.", 2.5, "limit")


def test_what_was_given_up_says_why_in_a_bounded_word() -> None:
    said = {kind.__name__: kind("x").why for kind in KINDS if kind("x").why}
    late = {"DeadlineExceeded": "deadline", "WaitedTooLong": "deadline"}
    assert said == {"Overloaded": "queue_full", "InvalidOutput": "output", **late}


def test_an_error_does_not_send_back_a_name_of_a_megabyte() -> None:
    error = InvalidInput(f"no input '{'x' * 1_000_000}' here", field="y" * 1_000_000, fix="Send another.")
    assert len(str(error)) <= LONGEST_TEXT
    assert str(error).startswith("no input 'xxx")
    assert str(error).endswith("Send another.")
    assert len(error.message) <= LONGEST_TEXT
    assert len(error.field) <= LONGEST_TEXT
    assert len(pickle.loads(pickle.dumps(error)).message) <= LONGEST_TEXT


def test_what_a_handler_says_is_sent_whole() -> None:
    assert len(HandlerFailed("x" * 100_000, 503).message) == 100_000

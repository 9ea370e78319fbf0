"""Sequence settings in both configuration formats, and the errors of wrong ones (TR-C9)."""

from pathlib import Path

import numpy as np
import pytest

from salver.dialects.triton.config.pbtxt import parse_pbtxt
from salver.dialects.triton.config_view import Facts, as_json, complete
from salver.kernel.repository.settings import read_settings
from salver.kernel.repository.toml import parse_toml
from salver.parts import formats
from salver.stores import FileStore
from salver.words.artifacts import Control, ModelConfig, Sequences, SequenceState
from salver.words.errors import InvalidInput
from salver.words.messages import ModelId, Signature, TensorSpec
from salver.words.tensor import DataType

START = "control_input { name: %s control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }"
STATE = 'state { input_name: "I" output_name: "O" data_type: TYPE_FP32 dims: [-1, 2] %s }'
INITIAL = 'initial_state { name: "n" data_type: TYPE_FP32 dims: [3, 2] %s }'


def pbtxt(text: str, rows: int = 4) -> ModelConfig:
    whole = f'backend: "onnxruntime" max_batch_size: {rows} {text}'
    return parse_pbtxt(whole.encode(), "config.pbtxt", "m").config


def sequences(text: str) -> Sequences:
    return pbtxt(f"sequence_batching {{ {text} }}").sequences


def toml(text: str) -> ModelConfig:
    return parse_toml(text.encode(), "salver.toml")


@pytest.mark.clause("TR-C9")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Sequences("direct")),
        ("direct { }", Sequences("direct")),
        (
            "direct { max_queue_delay_microseconds: 1500 minimum_slot_utilization: 0.5 }",
            Sequences("direct", max_delay_ms=1.5, min_fill=0.5),
        ),
        ("oldest { }", Sequences("oldest")),
        (
            "oldest { max_candidate_sequences: 9 preferred_batch_size: [4, 2] "
            "max_queue_delay_microseconds: 100 preserve_ordering: true }",
            Sequences("oldest", candidates=9, max_delay_ms=0.1, preferred_rows=(2, 4)),
        ),
        ("max_sequence_idle_microseconds: 5000", Sequences("direct", idle_ms=5.0)),
        ("iterative_sequence: true", Sequences("direct", iterative=True)),
        (
            START
            % '"S"'
            + 'control_input { name: "E" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [-1, 2.5] } }'
            'control_input { name: "R" '
            "control { kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] } }"
            'control_input { name: "C" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }',
            Sequences(
                "direct",
                controls=(
                    Control("S", "start"),
                    Control("E", "end", DataType.FP32, (-1.0, 2.5)),
                    Control("R", "ready", DataType.BOOL),
                    Control("C", "corrid", DataType.BYTES),
                ),
            ),
        ),
        (
            STATE % "use_same_buffer_for_input_output: true use_growable_memory: true",
            Sequences("direct", states=(SequenceState("I", "O", DataType.FP32, (-1, 2)),)),
        ),
        (
            STATE % (INITIAL % "zero_data: true"),
            Sequences("direct", states=(SequenceState("I", "O", DataType.FP32, (-1, 2), (3, 2)),)),
        ),
        (
            STATE % (INITIAL % 'data_file: "f"'),
            Sequences("direct", states=(SequenceState("I", "O", DataType.FP32, (-1, 2), (3, 2), "f"),)),
        ),
    ],
)
def test_sequence_batching(text: str, expected: Sequences) -> None:
    assert sequences(text) == expected


@pytest.mark.clause("TR-C9")
def test_models_without_it_have_no_sequences() -> None:
    assert pbtxt("").sequences == Sequences()
    assert not toml("").sequences.strategy


KIND = "CONTROL_SEQUENCE_START"
FLAGS = "'int32_false_true', 'fp32_false_true'"


@pytest.mark.clause("TR-C9")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("direct { minimum_slot_utilization: 1.5 }", "utilization must be in range [0.0, 1.0] for m"),
        ("oldest { preferred_batch_size: [5] }", "preferred batch size must be <= max batch size for m"),
        ("oldest { preferred_batch_size: [0] }", "preferred batch size must be positive for m"),
        (START % '""', "sequence batching control tensor must have a name for m"),
        (
            START % '"S"' + START.replace("START", "END") % '"S"',
            "sequence batching control tensor 'S' is specified for multiple control kinds for m",
        ),
        (START % '"S"' + START % '"T"', f"sequence batching specifies multiple {KIND} tensors for m"),
        (
            f'control_input {{ name: "S" control {{ kind: {KIND} }} }}',
            f"sequence batching must specify either {FLAGS} or 'bool_false_true' for {KIND} for m",
        ),
        (
            f'control_input {{ name: "S" control {{ kind: {KIND} int32_false_true: [0, 1] '
            "fp32_false_true: [0, 1] } }",
            f"sequence batching specifies more than one from {FLAGS} and 'bool_false_true' for {KIND} for m",
        ),
        (
            f'control_input {{ name: "S" control {{ kind: {KIND} int32_false_true: [0] }} }}',
            f"sequence batching control 'int32_false_true' must have exactly 2 entries for {KIND} for m",
        ),
        (
            'control_input { name: "C" control { kind: CONTROL_SEQUENCE_CORRID int32_false_true: [0, 1] } }',
            f"sequence batching must not specify either {FLAGS} or 'bool_false_true' for "
            "CONTROL_SEQUENCE_CORRID for m",
        ),
        (
            'control_input { name: "C" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } }',
            "unexpected data type FP32 for control CONTROL_SEQUENCE_CORRID",
        ),
        ('control_input { name: "C" control { kind: CONTROL_SEQUENCE_CORRID } }', "must have a data_type"),
        ('state { input_name: "I" output_name: "O" }', "the state 'I' must have a data_type"),
        ('state { input_name: "I" data_type: TYPE_FP32 }', "must have outputs of their own"),
        (STATE % "" + STATE % "", "'I' is specified for multiple"),
        ((STATE % "").replace("-1", "-2"), "dims of state 'I' must be positive"),
        (
            STATE % (INITIAL % "zero_data: true") * 2,
            "'I' is specified for multiple",
        ),
        (
            STATE % ((INITIAL % "zero_data: true") * 2),
            "state input 'I' must contain exactly one or zero element. Found '2' elements.",
        ),
        (
            STATE % (INITIAL % "zero_data: true").replace("FP32", "FP64"),
            "'initial_state' field of state 'I' does not match the state data type.",
        ),
        (
            STATE % (INITIAL % "zero_data: true").replace('"n"', '""'),
            "Field 'name' must be set when using initial_state for state input 'I'.",
        ),
        (STATE % (INITIAL % ""), "initial_state setting expects state'I' to have state_data set"),
        (STATE % (INITIAL % "zero_data: true").replace("3, 2", "3"), "for state input 'I'. 1 != 2"),
        (STATE % (INITIAL % "zero_data: true").replace("3, 2", "-1, 2"), "'I' contains variable dimensions."),
        (
            STATE % (INITIAL % "zero_data: true").replace("3, 2", "3, 4"),
            "'initial_state' dim for input name 'I' doesn't match 'state' dim description. 4 != 2",
        ),
        (STATE % (INITIAL % 'data_file: "../secret"'), "must lie in the model's folder initial_state"),
    ],
)
def test_wrong_ones_are_refused_in_tritons_words(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        sequences(text)
    assert words in str(refused.value)
    assert refused.value.field == "sequence_batching"


@pytest.mark.clause("TR-C9")
def test_not_with_ragged_batches() -> None:
    ragged = 'input { name: "x" data_type: TYPE_FP32 dims: [-1] allow_ragged_batch: true }'
    ragged += " sequence_batching { }"
    with pytest.raises(InvalidInput, match="`sequence_batching` cannot be honoured with"):
        pbtxt(ragged)
    python = f'backend: "python" max_batch_size: 4 {ragged}'.encode()
    assert parse_pbtxt(python, "", "m").config.sequences.strategy


TOML = """
[sequences]
strategy = "oldest"
candidates = 8
idle_ms = 500

[[sequences.controls]]
name = "S"
kind = "start"
datatype = "BOOL"

[[sequences.states]]
input = "I"
output = "O"
datatype = "FP32"
shape = [-1, 2]
initial_shape = [3, 2]
"""


@pytest.mark.clause("TR-C9")
def test_the_same_in_toml() -> None:
    assert toml(TOML).sequences == Sequences(
        "oldest",
        candidates=8,
        idle_ms=500,
        controls=(Control("S", "start", DataType.BOOL),),
        states=(SequenceState("I", "O", DataType.FP32, (-1, 2), (3, 2)),),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sequences]\ncandidates = 3", 'key `sequences.strategy`: must be "direct" or "oldest"'),
        ("[sequences]\nstrategy = 'oldest'\ncandidate = 3", "Did you mean `candidates`?"),
        ("[sequences]\nstrategy = 'newest'", "sequences.strategy"),
        ("[sequences]\nstrategy = 'direct'\nmin_fill = 2", "must be in range [0.0, 1.0]"),
        ("[sequences]\nstrategy = 'direct'\nidle_ms = 0", "must be at least 1"),
        (TOML + "content = 'eA=='", "unknown key `sequences.states.content`"),
        ("objective = 'throughput'" + TOML, "key `objective`: is not for models with sequences"),
        (TOML + "[ragged]\ninputs = ['x']", "key `ragged`: "),
        (TOML + "[steps]\nvocabulary = 'bytes'", "key `steps`: is not for models with sequences"),
    ],
)
def test_wrong_keys_are_named(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        toml(text)
    assert words in str(refused.value)


@pytest.mark.clause("TR-C9")
def test_a_state_that_begins_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "m" / "initial_state").mkdir(parents=True)
    state = STATE % (INITIAL % 'data_file: "begin"')
    config = f"max_batch_size: 4 sequence_batching {{ {state} }}"
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    store = FileStore(tmp_path)
    assert "initial_state/begin" in read_settings(store, "m", "m", formats(lambda path: None)).problem
    file = tmp_path / "m" / "initial_state" / "begin"
    file.write_bytes(bytes(23))
    problem = read_settings(store, "m", "m", formats(lambda path: None)).problem
    words = "initial_state setting expects 24 bytes, but the data provided from begin only has 23 bytes."
    assert words in problem
    content = np.arange(6, dtype="<f4").tobytes()
    file.write_bytes(content)
    settings = read_settings(store, "m", "m", formats(lambda path: None))
    assert not settings.problem
    assert settings.config.sequences.states[0].content == content
    assert "m/initial_state/begin" in settings.files


SPEC = TensorSpec("x", DataType.FP32, (-1, 1))
SIGNATURE = Signature((SPEC,), (SPEC,), batched=True)


@pytest.mark.clause("TR-C9")
def test_a_configuration_in_toml_reads_as_tritons() -> None:
    config = toml(TOML)
    facts = Facts("onnx", "model.onnx", max_rows=4, sequences=config.sequences)
    shown = as_json(complete(b"", ModelId("m", "1"), SIGNATURE, facts))["sequence_batching"]
    assert shown["oldest"]["max_candidate_sequences"] == 8
    assert shown["oldest"]["preferred_batch_size"] == [4]
    assert shown["max_sequence_idle_microseconds"] == 500_000
    assert shown["control_input"][0]["control"][0]["bool_false_true"] == [False, True]
    assert shown["state"][0]["initial_state"][0] == {
        "data_type": "TYPE_FP32",
        "dims": ["3", "2"],
        "zero_data": True,
        "name": "initial",
    }
    again = complete(complete(b"", ModelId("m", "1"), SIGNATURE, facts), ModelId("m", "1"), SIGNATURE, facts)
    assert as_json(again)["sequence_batching"] == shown


@pytest.mark.clause("TR-C9")
def test_idle_time_has_tritons_default() -> None:
    config = pbtxt("sequence_batching { }")
    told = parse_pbtxt(b"max_batch_size: 4 sequence_batching { }", "", "m").message
    facts = Facts("onnx", "model.onnx", max_rows=4, sequences=config.sequences)
    shown = as_json(complete(told, ModelId("m", "1"), SIGNATURE, facts))
    assert shown["sequence_batching"]["max_sequence_idle_microseconds"] == 1_000_000
    assert "direct" not in shown["sequence_batching"]

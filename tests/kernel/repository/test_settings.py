"""What configuration files come to, and what is said of wrong ones."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, json_format, text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from salver.dialects.triton.config.parameters import PLAIN
from salver.dialects.triton.config.pbtxt import parse_json, parse_pbtxt
from salver.dialects.triton.config.translate import HONOURED, Translation
from salver.dialects.triton.config_view import first_response_bounds
from salver.dialects.triton.model_config import model_config_class
from salver.kernel.repository.toml import parse_toml
from salver.words.artifacts import (
    Batching,
    Bulk,
    Chat,
    Fairness,
    Instances,
    LearnedPolicy,
    Limit,
    Logging,
    ModelConfig,
    Objective,
    Priorities,
    Queue,
    Ragged,
    Reshape,
    Steps,
    Versions,
    Warmup,
    WarmupInput,
    WarmupSample,
)
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import DataType

FULL = """
name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [3, -1, -1] format: FORMAT_NCHW },
        { name: "mask" data_type: TYPE_BF16 dims: [1] optional: true } ]
output [ { name: "y" data_type: TYPE_STRING dims: [1000] label_filename: "labels.txt" } ]
version_policy: { latest { num_versions: 2 } }
default_model_filename: "net.onnx"
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [0] }, { count: 9 passive: true } ]
dynamic_batching {
  preferred_batch_size: [8, 4] max_queue_delay_microseconds: 500
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 2000 allow_timeout_override: true }
}
model_warmup [ { name: "a" batch_size: 4 count: 5
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [3, 224, 224] random_data: true } } } ]
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters { key: "other" value { string_value: "2" } }
optimization { cuda { graphs: true } }
metric_tags { key: "a" value: "b" }
response_cache { enable: true }
"""


X = 'input { name: "x" data_type: TYPE_FP32'


def pbtxt(text: str) -> Translation:
    return parse_pbtxt(text.encode(), "/r/m/config.pbtxt", "m")


def test_what_is_honoured_and_what_is_reported() -> None:
    config, labels, notices, _ = pbtxt(FULL)
    assert config == ModelConfig(
        backend="onnx",
        filename="net.onnx",
        inputs=(
            TensorSpec("x", DataType.FP32, (-1, 3, -1, -1)),
            TensorSpec("mask", DataType.BF16, (-1, 1), optional=True),
        ),
        outputs=(TensorSpec("y", DataType.BYTES, (-1, 1000)),),
        batching=Batching(max_rows=8, max_delay_ms=0.5, preferred_rows=(4, 8), max_queue=1 << 16),
        instances=Instances(count=3, threads=2),
        versions=Versions(latest=2),
        warmup=Warmup(
            (4,),
            5,
            224,
            samples=(WarmupSample({"x": WarmupInput(DataType.FP32, (3, 224, 224), "random")}, "a", 4, 5),),
        ),
        only_outputs=True,
        priorities=Priorities(2, 2),
        queue=Queue(7, 2.0, "reject", True),
        response_cache=True,
    )
    assert labels == {"y": "labels.txt"}
    silent = {n.split("`")[1] for n in notices}
    assert silent == {
        "input.format",
        "instance_group.gpus",
        "parameters",
        "optimization",
    }
    assert "config.pbtxt: field `optimization` is accepted, and has no effect here" in notices


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ModelConfig()),
        ("max_batch_size: 0", ModelConfig(batching=Batching(enabled=False, has_rows=False))),
        ("max_batch_size: 1", ModelConfig(batching=Batching(max_rows=1))),
        ("version_policy { all {} }", ModelConfig(versions=Versions(all=True))),
        (
            "version_policy { specific { versions: [1, 3] } }",
            ModelConfig(versions=Versions(specific=("1", "3"))),
        ),
        ('backend: "pytorch"', ModelConfig(backend="torch")),
        ('platform: "tensorflow_savedmodel"', ModelConfig(backend="tensorflow")),
        ('backend: "fil"', ModelConfig(options={"interface": "fil"})),
        ("# only a comment\n", ModelConfig()),
        (
            'input { name: "x" data_type: TYPE_INT64 dims: [-1, 4] }',
            ModelConfig(inputs=(TensorSpec("x", DataType.INT64, (-1, 4)),)),
        ),
        ("model_transaction_policy { decoupled: false }", ModelConfig()),
    ],
)
def test_small_configurations(text: str, expected: ModelConfig) -> None:
    config, _, notices, _ = pbtxt(text)
    assert config == expected
    assert notices == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\nname: "z"', "names the model 'z', but its folder is 'm'"),
        (
            "\nmax_batch_sze: 3",
            "line 2: ModelConfig has no field `max_batch_sze`. Did you mean `max_batch_size`",
        ),
        (
            'input { data_tipe: TYPE_FP32 name: "x" }',
            "ModelInput has no field `data_tipe`. Did you mean `data_type`",
        ),
        ("input { data_type: TYPE_FP31 }", "there is no DataType `TYPE_FP31`. Did you mean `TYPE_FP32`"),
        ('input { name: "x" }', "`input[0]` has no `data_type`"),
        ("input { data_type: TYPE_FP32 }", "`input[0]` has no `name`"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [0] }', "`input[0].dims` of 'x' must be positive"),
        ("\n\ninput {", 'line 3: Expected "}"'),
        ("max_batch_size: -1", "must not be negative"),
        ('backend: "python" platform: "onnxruntime_onnx"', "differ"),
        ("model_transaction_policy { decoupled: true }", "only models of the Python backend"),
        ('model_repository_agents { agents { name: "x" } }', "there is no agent 'x'"),
        (f"{X} dims: [4] reshape {{ shape: [2, 3] }} }}", "model input 'x' has different size for dims and"),
        (f"{X} dims: [-1, 4] reshape {{ shape: [4] }} }}", "different number of variable-size dimensions"),
        (f"{X} dims: [-1, 4] reshape {{ shape: [4, -1] }} }}", "model input 'x' has different size for dims"),
        (f"{X} dims: [4] reshape {{ shape: [4, 0] }} }}", "extents that are neither positive nor -1"),
        (f"{X} dims: [1] reshape {{ }} }}", "empty reshape for non-batching model as scalar tensors are not"),
    ],
)
def test_wrong_and_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pbtxt(text)
    assert str(caught.value).startswith(("/r/m/config.pbtxt: ", "config.pbtxt: "))
    assert message in str(caught.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidInput, match="byte 3 is not UTF-8"):
        parse_pbtxt(b"# \n\xff", "x", "m")


@pytest.mark.clause("TR-C4", "TR-C5")
def test_shapes_of_the_models_own() -> None:
    """TR-C4, TR-C5."""
    outputs = 'output { name: "y" data_type: TYPE_FP32 dims: [1] reshape { } }'
    text = f"max_batch_size: 4 {X} dims: [2, -1, 6] reshape {{ shape: [1, 2, -1, 3, 2] }} }} {outputs}"
    config, _, notices, _ = pbtxt(text)
    assert [spec.shape for spec in (*config.inputs, *config.outputs)] == [(-1, 2, -1, 6), (-1, 1)]
    assert config.reshape == Reshape({"x": (-1, 1, 2, -1, 3, 2)}, {"y": (-1,)})
    assert notices == ()
    config, *_ = pbtxt(f"{X} dims: [4] reshape {{ shape: [2, 2] }} }}")
    assert config.reshape == Reshape({"x": (2, 2)})


METRIC = "metric_identifier { family: 'nv_inference_first_response_histogram_ms' }"


@pytest.mark.clause("TR-C15")
def test_buckets_of_a_metric() -> None:
    told = f"model_metrics {{ metric_control {{ {METRIC} histogram_options {{ buckets: [1, 2.5] }} }} }}"
    config, _, notices, message = pbtxt(told)
    assert (config, notices) == (pbtxt("").config, ())
    assert first_response_bounds(message) == (1.0, 2.5)
    assert first_response_bounds(b"") == (100.0, 500.0, 2000.0, 5000.0)
    for buckets in ("2, 1", "1, 1", "0, 1", "nan"):
        with pytest.raises(InvalidInput, match="must be ascending numbers above 0"):
            pbtxt(told.replace("1, 2.5", buckets))
    (notice,) = pbtxt(told.replace("first_response", "other")).notices
    assert "`model_metrics` of 'nv_inference_other_histogram_ms' has no effect yet" in notice


def test_json_of_a_load_request() -> None:
    config, _, notices, _ = parse_json('{"maxBatchSize": 4, "ccModelFilenames": {"a": "b"}}', "m")
    assert config.batching.max_rows == 4
    assert notices == ("config.pbtxt: field `cc_model_filenames` has no effect yet",)


@pytest.mark.parametrize(
    "text", ['{"nme": 3}', "[", "3", "[1]", "null", '{"input": [{"dataType": "FP32"}]}', '{"a":' * 5000]
)
def test_json_that_is_wrong(text: str) -> None:
    with pytest.raises(InvalidInput, match="in the load request of 'm'"):
        parse_json(text, "m")


def _fields(message: descriptor_pb2.DescriptorProto, prefix: str) -> dict[str, tuple[object, ...]]:
    """Every field of a message and of those nested in it, in a form that flattens nested names."""
    rows: dict[str, tuple[object, ...]] = {}
    for field in message.field:
        kind = field.type_name.removeprefix(".inference.").replace(".", "")
        rows[f"{prefix}.{field.name}"] = (field.number, field.type, field.label, kind)
    for nested in message.nested_type:
        rows |= _fields(nested, prefix + nested.name)
    return rows


def test_the_table_is_tritons() -> None:
    theirs = descriptor_pb2.FileDescriptorProto()
    model_config_pb2.DESCRIPTOR.CopyToProto(theirs)
    ours = descriptor_pb2.FileDescriptorProto()
    model_config_class().DESCRIPTOR.file.CopyToProto(ours)
    expected: dict[str, tuple[object, ...]] = {}
    found: dict[str, tuple[object, ...]] = {}
    for message in theirs.message_type:
        expected |= _fields(message, message.name)
    for message in ours.message_type:
        found |= _fields(message, message.name)
    assert found == expected

    def enums(file: descriptor_pb2.FileDescriptorProto) -> set[tuple[str, int]]:
        queue = [file.enum_type, *(m.enum_type for m in file.message_type)]
        queue += [n.enum_type for m in file.message_type for n in m.nested_type]
        return {(v.name, v.number) for many in queue for e in many for v in e.value}

    assert enums(ours) == enums(theirs)


@st.composite
def messages(draw: st.DrawFn, cls: type = model_config_pb2.ModelConfig, depth: int = 0) -> object:
    """Any configuration that Triton's own schema can express."""
    message = cls()
    for field in draw(st.lists(st.sampled_from(list(cls.DESCRIPTOR.fields) or [None]), max_size=4)):
        if field is None or depth > 3:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            key = 1 if field.message_type.fields_by_name["key"].type != 9 else "k"
            if value.message_type:
                getattr(message, field.name)[key].SetInParent()
            else:
                getattr(message, field.name)[key] = "v"
        elif field.message_type:
            inner = draw(messages(field.message_type._concrete_class, depth + 1))
            if field.is_repeated:
                getattr(message, field.name).append(inner)
            else:
                getattr(message, field.name).CopyFrom(inner)
        else:
            kinds = {9: "text", 8: True, 2: 0.5, 14: field.enum_type and field.enum_type.values[-1].number}
            value = kinds.get(field.type, 3)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


@given(messages())
def test_every_configuration_of_triton_parses_and_no_field_is_ignored(message: object) -> None:
    text = text_format.MessageToString(message)  # type: ignore[arg-type]
    again = text_format.Parse(text, model_config_class()())
    assert json_format.MessageToDict(again) == json_format.MessageToDict(message)  # type: ignore[arg-type]
    message.ClearField("name")  # type: ignore[attr-defined]
    text = text_format.MessageToString(message)  # type: ignore[arg-type]
    try:
        config, _, notices, _ = pbtxt(text)
    except InvalidInput:
        return  # refused, with the reason
    is_program = config.backend not in PLAIN
    for field, _value in message.ListFields():  # type: ignore[attr-defined]
        touched = any(n.split("`")[1].split(".")[0] == field.name for n in notices)
        is_read = is_program and field.name == "parameters"
        assert touched or is_read or any(h.split(".")[0] == field.name for h in HONOURED)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_input_escapes_as_another_error(content: bytes) -> None:
    for parse in (
        lambda: parse_pbtxt(content, "f", "m"),
        lambda: parse_toml(content, "f"),
        lambda: parse_json(content.decode("utf-8", "replace"), "m"),
    ):
        try:
            parse()
        except InvalidInput as error:
            assert str(error)


# -- salver.toml -------------------------------------------------------------------------------


def test_toml() -> None:
    text = """
    backend = "onnx"
    timeout_ms = 250
    [batching]
    max_rows = 16
    max_delay_ms = 2
    preferred_rows = [4, 8]
    [instances]
    runner = "process"
    [versions]
    specific = ["3", "5"]
    [options]
    graph_optimization_level = "all"
    [[inputs]]
    name = "x"
    datatype = "FP32"
    shape = [-1, 4]
    """
    assert parse_toml(text.encode(), "f") == ModelConfig(
        backend="onnx",
        timeout_ms=250.0,
        batching=Batching(max_rows=16, max_delay_ms=2.0, preferred_rows=(4, 8)),
        instances=Instances(runner="process"),
        versions=Versions(specific=("3", "5")),
        options={"graph_optimization_level": "all"},
        inputs=(TensorSpec("x", DataType.FP32, (-1, 4)),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bakend = 'onnx'", "f: line 1: unknown key `bakend`. Did you mean `backend`?"),
        ("\n[batching]\nmax_row = 3", "f: line 3: unknown key `batching.max_row`. Did you mean `max_rows`?"),
        (
            "[[inputs]]\nname = 'x'\ndtype = 'FP32'",
            "f: line 3: unknown key `inputs.dtype`. Did you mean `datatype`",
        ),
        ("xyzzy = 3", "f: line 1: unknown key `xyzzy`. Known here: backend, filename"),
        (
            "[batching.learned]\nenergy_wait = 1",
            "f: line 2: unknown key `batching.learned.energy_wait`. Did you mean `energy_weight`?",
        ),
        ("[batching.learned]\nwatts = -1", "line 2: key `batching.learned.watts`: must not be negative"),
        ("batching.learned.energy_weight = 1e300", "key `batching.learned`: has a number above 1e+06"),
        ("batching.learned.latency_weight = 0", "key `batching.learned.latency_weight`: must be above 0"),
        ("\nbatching = { max_rows = 'x' }", "f: line 2: key `batching.max_rows`: expected `int`, got `str`"),
        ("batching.max_rows = 0", "f: line 1: key `batching.max_rows`: must be at least 1"),
        ("[batching]\nmax_rows = 0", "f: line 2: key `batching.max_rows`: must be at least 1"),
        ("[instances]\nrunner = 'gpu'", "f: line 2: key `instances.runner`: invalid enum value 'gpu'"),
        ("[[inputs]]\nname = 'x'\nshape = [1]", "missing required field `datatype`"),
        ("[[inputs]]\nname='x'\nshape=[-2]\ndatatype='FP32'", "extents are -1 or more"),
        ("[[warmup.samples]]\nrows = 0\ninputs = {}", "`rows` and `rounds` must be at least 1"),
        (
            "[[warmup.samples]]\ninputs.x = {datatype = 'FP32', shape = [-1]}",
            "shapes must be known in full",
        ),
        ("[warmup]\nfile = 'a'\n[[warmup.samples]]\ninputs = {}", "has both `file` and `samples`"),
        ("[[warmup.samples]]\ninput = {}", "unknown key `warmup.samples.input`"),
        ("[versions]\nall = true\nspecific = ['1']", "has both `all` and `specific`"),
        ("[labels]\n3 = '1'", "key `labels`: '3' cannot be a label, because it would be a version"),
        ("[labels]\nstable = 3", "key `labels[...]`: expected `str`, got `int`"),
        ("timeout_ms = -1", "line 1: key `timeout_ms`: must not be negative"),
        ("timeout_ms = \n", "f: Invalid value (at line 1, column 14)"),
        ("[batching]\n[batching]", "f: Cannot declare"),
        ("objective = 'fast'", "line 1: key `objective`: is \"throughput\" or a table, not 'fast'"),
        (
            "\n[objective]\nlatency_p99 = '50'",
            "f: line 3: key `objective.latency_p99`: '50' is not a positive time with a unit",
        ),
        ("objective = {latency = '5ms'}", "unknown key `objective.latency`. Did you mean `latency_p99`?"),
        ("objective = {latency_p99 = '5ms', deadline = '5ms'}", "has more than one aim"),
        ("batching.policy = 'aimd'", "line 1: key `batching.policy`: aimd needs"),
        ("[priorities]\nlevels = 2\nweights = [1]", "line 3: key `priorities.weights`: must have one weight"),
        ("[priorities]\nlevels = 2\ndefault = 3", "line 3: key `priorities.default`: is beyond"),
        ("[queue]\nmax_sise = 1", "f: line 2: unknown key `queue.max_sise`. Did you mean `max_size`?"),
        ("[queue]\ntimeout_action = 'wait'", "line 2: key `queue.timeout_action`: invalid enum value 'wait'"),
        ("[queue]\nmax_size = -1", "line 2: key `queue.max_size`: must not be negative"),
        ("[queue]\ntimeout_ms = inf", "line 2: key `queue.timeout_ms`: must be a finite number"),
        ("[queue.levels.2]\nmax_size = 1", "key `queue.levels`: has a level that"),
        (
            "batching.preserve_order = true\npriorities.levels = 2",
            "key `batching.preserve_order`: is not for",
        ),
        (
            "batching.preserve_order = true\n[queue]\ntimeout_action = 'delay'",
            'line 3: key `queue.timeout_action`: "delay" contradicts',
        ),
        ("[fairness.weights]\na = 0", "key `fairness.weights`: must be from 0.001 to 1000"),
        ("[reshape.inputs]\nx = [4]", "key `reshape.inputs`: 'x' has a reshape, and no shape that callers"),
        (
            "inputs = [{name = 'x', datatype = 'FP32', shape = [-1, 4]}]\n[reshape]\ninputs = {x = [-1, 5]}",
            "key `reshape.inputs`: 'x' has different size for dims and reshape",
        ),
        ("[steps]\nvocabulary = 'bytes'\n[reshape]\noutputs = {x = [1]}", "key `reshape`: is not for"),
        ("[logging]\nrate = 1.5", "line 2: key `logging.rate`: must be from 0 to 1"),
        ("[logging]\nrate = nan", "line 2: key `logging.rate`: must be from 0 to 1"),
        (
            '[logging]\nprefix = "../up"',
            "line 2: key `logging.prefix`: must be the beginning of a file's name",
        ),
        ("[logging]\nfiles = 1", "key `logging`: `max_mb` must be at least 1, and `files` at least 2"),
        ("[logging]\nmax_mb = 0", "key `logging`: `max_mb` must be at least 1"),
        ("[limit]\ntarget_delay_ms = inf", "line 2: key `limit.target_delay_ms`: must be finite"),
        ("[limit]\ntarget_delay_ms = nan", "line 2: key `limit.target_delay_ms`: must be finite"),
        ("a = " + "[" * 20_000, "f: "),
        ("timeout_ms = " + "9" * 5000, "f: "),
    ],
)
def test_toml_that_is_wrong_names_line_key_and_neighbour(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_toml(text.encode(), "f")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("objective = 'throughput'", Objective(throughput=True)),
        ("objective = { latency_p99 = '50ms' }", Objective(latency_p99_ms=50)),
        ("[objective]\ndeadline = '0.2 s'", Objective(deadline_ms=200)),
        ("[objective]\nlatency_p99_ms = 12.5", Objective(latency_p99_ms=12.5)),
    ],
)
def test_an_objective_is_a_wish_in_words(text: str, objective: Objective) -> None:
    assert parse_toml(text.encode(), "f").objective == objective


def test_the_reference_page_has_every_key_and_field() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/config.md").read_text()
    for table, fields in (
        ("batching", Batching.__struct_fields__),
        ("batching.learned", LearnedPolicy.__struct_fields__),
        ("instances", Instances.__struct_fields__),
        ("versions", Versions.__struct_fields__),
        ("warmup", Warmup.__struct_fields__),
        ("steps", Steps.__struct_fields__),
        ("chat", Chat.__struct_fields__),
        ("priorities", Priorities.__struct_fields__),
        ("fairness", Fairness.__struct_fields__),
        ("bulk", Bulk.__struct_fields__),
        ("limit", Limit.__struct_fields__),
        ("logging", Logging.__struct_fields__),
        ("queue", Queue.__struct_fields__),
        ("ragged", Ragged.__struct_fields__),
    ):
        assert [f for f in fields if f"| `{table}.{f}` |" not in page] == []
    assert [
        f for f in ModelConfig.__struct_fields__ + TensorSpec.__struct_fields__ if f"`{f}" not in page
    ] == []
    fields = [f.name for f in model_config_class().DESCRIPTOR.fields]
    assert [f for f in fields if f"`{f}" not in page] == []


def test_how_a_model_is_spoken_to() -> None:
    keys = {"chat_template": "chat.jinja", "tokenizer": "words", "tool_call_parser": "mistral"}
    told = "".join(
        f'parameters {{ key: "salver_{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in keys.items()
    )
    found = parse_pbtxt(f'backend: "onnxruntime"\n{told}'.encode(), "config.pbtxt", "m")
    assert found.config.chat == Chat("chat.jinja", "words", "mistral")
    assert found.notices == ()
    toml = b'[chat]\ntemplate = "chat.jinja"\ntokenizer = "words"\ntools = "mistral"\n'
    assert parse_toml(toml, "salver.toml").chat == found.config.chat
    with pytest.raises(InvalidInput, match="is llama3 or mistral, not 'hermes'"):
        parse_pbtxt(told.replace("mistral", "hermes").encode(), "config.pbtxt", "m")
    with pytest.raises(InvalidInput, match=r"line 2: key `chat\.tools`"):
        parse_toml(b'[chat]\ntools = "hermes"\n', "salver.toml")

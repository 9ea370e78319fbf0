"""Effect of Triton's scheduling and backend fields, and of the same keys in ``salver.toml``."""

import pytest

from salver.dialects.triton.config.pbtxt import parse_pbtxt
from salver.dialects.triton.config.translate import Translation
from salver.kernel.repository.toml import parse_toml
from salver.words.artifacts import BatchInput, Instances, Queue, QueuePolicy, Ragged, RateLimit
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType


def pbtxt(text: str) -> Translation:
    return parse_pbtxt(text.encode(), "/r/m/config.pbtxt", "m")


@pytest.mark.clause("TR-C11")
def test_what_instances_take_of_shared_resources() -> None:
    text = """
    instance_group {
      count: 2
      rate_limiter {
        resources [ { name: "bus" count: 1 }, { name: "licence" global: true count: 2 } ]
        priority: 3
      }
    }
    instance_group { kind: KIND_CPU }
    instance_group { count: 7 passive: true rate_limiter { resources { name: "bus" count: 9 } } }
    """
    config, _, notices, _ = pbtxt(text)
    limits = (RateLimit(2, {"bus": 1, "licence": 2}, 3), RateLimit())
    assert config.instances == Instances(3, rate_limits=limits)
    assert notices == ()
    table = """
    [instances]
    count = 3
    [[instances.rate_limits]]
    count = 2
    resources = { bus = 1, licence = 2 }
    priority = 3
    [[instances.rate_limits]]
    """
    assert parse_toml(table.encode(), "f").instances == config.instances
    with pytest.raises(InvalidInput, match="present as both global and device-specific"):
        pbtxt(text.replace("kind: KIND_CPU", "rate_limiter { resources { name: 'licence' } }"))
    with pytest.raises(InvalidInput, match=r"key `instances.rate_limits`: must be at least 1"):
        parse_toml(b"[[instances.rate_limits]]\npriority = 0", "f")


def parameters(**values: str) -> str:
    return " ".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()
    )


@pytest.mark.clause("TR-C12")
@pytest.mark.parametrize(
    ("text", "threads", "options", "silent"),
    [
        (
            "backend: 'onnxruntime' optimization { graph { level: -1 } } "
            + parameters(intra_op_thread_count="3", execution_mode="1", enable_mem_arena="0", gpu_mem="1"),
            3,
            {"execution_mode": "1", "enable_mem_arena": "0", "graph_optimization_level": "basic"},
            ["gpu_mem"],
        ),
        (
            "backend: 'pytorch' " + parameters(NUM_THREADS="2", INFERENCE_MODE="false", ENABLE_NVFUSER="1"),
            2,
            {"inference_mode": "false"},
            ["ENABLE_NVFUSER"],
        ),
        (
            "backend: 'fil' " + parameters(output_class="True", threshold="0.4", algo="ALGO_AUTO"),
            0,
            {"interface": "fil", "output_class": "true", "threshold": "0.4"},
            ["algo"],
        ),
        (
            "backend: 'fil' " + parameters(is_classifier="true"),
            0,
            {"interface": "fil", "output_class": "true"},
            [],
        ),
        ("backend: 'python' " + parameters(mine="1"), 0, {}, []),
        (parameters(execution_mode="1"), 0, {}, ["execution_mode"]),
    ],
)
def test_parameters_become_options_of_their_backend(
    text: str, threads: int, options: dict[str, str], silent: list[str]
) -> None:
    config, _, notices, _ = pbtxt(text)
    assert (config.instances.threads, config.options) == (threads, options)
    assert list(notices) == [f"config.pbtxt: field `parameters` {key} has no effect yet" for key in silent]


RAGGED = """
max_batch_size: 8
input [
  { name: "R" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true },
  { name: "S" data_type: TYPE_FP32 dims: [ 2 ] }
]
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
ENDS = (
    "batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: 'ENDS' "
    "data_type: TYPE_INT32 source_input: 'R' } "
)
SCATTER = "batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: 'Y' source_input: 'R' } "
RAGGED_TOML = """
[batching]
max_rows = 8
[[inputs]]
name = "R"
datatype = "FP32"
shape = [-1, -1]
[[inputs]]
name = "S"
datatype = "FP32"
shape = [-1, 2]
[[outputs]]
name = "Y"
datatype = "FP32"
shape = [-1, -1]
"""


@pytest.mark.clause("TR-C6")
def test_ragged_inputs_of_both_files_come_to_the_same() -> None:
    config, _, notices, _ = pbtxt(RAGGED + ENDS + SCATTER)
    ends = BatchInput("accumulated_element_count", "ENDS", DataType.INT32, "R")
    assert config.ragged == Ragged(("R",), (ends,), {"Y": "R"})
    assert notices == ()
    table = """
    [ragged]
    inputs = ["R"]
    scatter = { Y = "R" }
    [[ragged.extra]]
    kind = "accumulated_element_count"
    target = "ENDS"
    datatype = "INT32"
    source = "R"
    """
    assert parse_toml((RAGGED_TOML + table).encode(), "f").ragged == config.ragged


@pytest.mark.clause("TR-C6")
def test_a_python_model_is_told_nothing_besides() -> None:
    config, _, notices, _ = pbtxt("backend: 'python' " + RAGGED + ENDS)
    assert config.ragged == Ragged(("R",))
    assert [n.split("`")[1] for n in notices] == ["batch_input"]


@pytest.mark.clause("TR-C6")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ENDS.replace("source_input: 'R'", "source_input: ['R', 'S']"),
            "batch input kind 'BATCH_ACCUMULATED_ELEMENT_COUNT' expects 1 source input, got 2",
        ),
        (ENDS.replace("'R'", "'Q'"), "unknown source input name 'Q'"),
        (ENDS.replace("INT32", "INT64"), "batch input data type must be TYPE_INT32 or TYPE_FP32"),
        (SCATTER.replace("'R'", "'Q'"), "unknown source input name 'Q'"),
        (SCATTER.replace("'Y'", "'Q'"), "unknown target output name 'Q'"),
        (
            SCATTER.replace("source_input: 'R'", ""),
            "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 0",
        ),
        (
            "output { name: 'Z' data_type: TYPE_FP32 dims: [4] reshape { shape: [2, 2] } }",
            "`reshape` of 'Z' cannot be honoured beside `allow_ragged_batch`",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_tritons_words(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pbtxt(RAGGED + text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[ragged]\ninputs = ['Q']", "`ragged.inputs`: names a tensor that is not among `inputs`"),
        ("[ragged]\nscatter = { Q = 'R' }", "`ragged.scatter`: names a tensor that is not among `outputs`"),
        ("[ragged]\nscatter = { Y = 'Q' }", "`ragged.scatter`: names a tensor that is not among `inputs`"),
        ("[ragged]\ninputs = ['R']\n[reshape.inputs]\nS = [-1, 1, 2]", "cannot be used with `reshape`"),
        ("[ragged]\ninputs = ['R']\n[objective]\nthroughput = true", "cannot be used with an `objective`"),
        (
            "[[ragged.extra]]\nkind = 'item_shape'\ntarget = 'T'\ndatatype = 'INT64'\nsource = 'R'",
            "must be INT32 or FP32",
        ),
        ("[[ragged.extra]]\nkin = 'x'", "unknown key `ragged.extra.kin`. Did you mean `kind`?"),
    ],
)
def test_a_ragged_table_that_does_not_fit_is_refused(table: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_toml((RAGGED_TOML + table).encode(), "f")
    assert message in str(caught.value)


PRIO = """
dynamic_batching {
  priority_levels: 3 default_priority_level: 2
  default_queue_policy {
    default_timeout_microseconds: 5000000 allow_timeout_override: true max_queue_size: 2
  }
  priority_queue_policy [
    { key: 1 value { allow_timeout_override: true } },
    { key: 3 value { timeout_action: DELAY default_timeout_microseconds: 100000 max_queue_size: 1 } }
  ]
}
"""
PRIO_TOML = b"""
batching.max_queue = 65536
[priorities]
levels = 3
default = 2
[queue]
max_size = 2
timeout_ms = 5000
allow_timeout_override = true
[queue.levels.1]
allow_timeout_override = true
[queue.levels.3]
timeout_action = "delay"
timeout_ms = 100
max_size = 1
"""


@pytest.mark.clause("TR-C8")
def test_queue_policies_of_both_files_come_to_the_same() -> None:
    config, _, notices, _ = pbtxt(PRIO)
    assert config.queue == Queue(
        2,
        5000.0,
        "reject",
        True,
        {1: QueuePolicy(allow_timeout_override=True), 3: QueuePolicy(1, 100.0, "delay")},
    )
    assert config == parse_toml(PRIO_TOML, "f")
    assert notices == ()


@pytest.mark.clause("TR-C8")
def test_a_decoupled_model_keeps_the_default_policys_time_and_size() -> None:
    decoupled = 'backend: "python" model_transaction_policy { decoupled: true }'
    config, _, notices, _ = pbtxt(decoupled + PRIO)
    assert (config.queue, config.timeout_ms, config.batching.max_queue) == (None, 5000.0, 2)
    assert notices == (
        "config.pbtxt: field `dynamic_batching` has no levels and no DELAY for a decoupled model",
    )


@pytest.mark.clause("TR-C8")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "priority_levels: 3 default_priority_level: 4",
            "default priority level must be in range [1, 3] for m",
        ),
        ("priority_levels: 3", "default priority level must be in range [1, 3] for m"),
        ("priority_levels: 2000 default_priority_level: 1", "`dynamic_batching.priority_levels` must be"),
        (
            "priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 value {} }",
            "priority queue policy must have priority level in range [1, 1] for m",
        ),
        (
            "preserve_ordering: true priority_levels: 2 default_priority_level: 1",
            "Only one priority level is allowed when 'preserve_ordering' is true for m",
        ),
        (
            "preserve_ordering: true default_queue_policy "
            "{ timeout_action: DELAY default_timeout_microseconds: 1 }",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
    ],
)
def test_policies_that_contradict_are_refused_in_tritons_words(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pbtxt(f"dynamic_batching {{ {text} }}")
    assert message in str(caught.value)


@pytest.mark.clause("TR-C8")
def test_order_is_kept_where_it_is_asked_for() -> None:
    config, _, notices, _ = pbtxt("dynamic_batching { preserve_ordering: true }")
    assert config.batching.preserve_order and config.queue is None and notices == ()


@pytest.mark.clause("TR-C7", "TR-C11")
def test_what_is_about_gpus_is_accepted_with_one_line_a_key() -> None:
    text = """
    optimization {
      graph { level: 1 }
      cuda { graphs: true busy_wait_events: true }
      input_pinned_memory { enable: true }
      eager_batching: true
    }
    instance_group { kind: KIND_CPU gpus: [ 0, 1 ] host_policy: "p" profile: "q" }
    input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] is_shape_tensor: true is_non_linear_format_io: true }
    """
    said = [
        "optimization",
        "instance_group.gpus",
        "instance_group.profile",
        "instance_group.host_policy",
        "input.is_shape_tensor",
        "input.is_non_linear_format_io",
    ]
    _, _, notices, _ = pbtxt(text)
    lines = {f"config.pbtxt: field `{key}` is accepted, and has no effect here" for key in said}
    assert len(notices) == len(lines) and set(notices) == lines


@pytest.mark.clause("TR-C11")
@pytest.mark.parametrize(
    ("groups", "there", "gpus", "count", "said"),
    [
        ("{ kind: KIND_GPU }", 2, (0, 1), 2, ""),
        ("{ count: 2 kind: KIND_GPU gpus: [ 1 ] }, { gpus: [ 0 ] }", 2, (1, 1, 0), 3, ""),
        ("{ count: 2 kind: KIND_GPU }", 0, (), 2, "this machine has no GPU"),
        ("{ count: 2 kind: KIND_CPU }, { kind: KIND_GPU }", 1, (0,), 3, "some groups are on GPUs"),
        ("{ count: 2 }", 1, (), 2, ""),
    ],
)
def test_groups_are_on_the_gpus_of_the_machine(
    groups: str, there: int, gpus: tuple[int, ...], count: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salver.dialects.triton.config.instances.count_gpus", lambda: there)
    config, _, notices, _ = pbtxt(f"instance_group [ {groups} ]")
    assert (config.instances.gpus, config.instances.count) == (gpus, count)
    assert bool(notices) == bool(said) and all(said in notice for notice in notices)


@pytest.mark.clause("TR-C16")
def test_with_nothing_said_requests_share_runs() -> None:
    silent, said = (pbtxt(f"max_batch_size: 8 {more}")[0] for more in ("", "dynamic_batching { }"))
    assert silent == said
    assert (silent.batching.enabled, silent.batching.max_rows, silent.batching.max_delay_ms) == (True, 8, 0)
    assert not pbtxt("max_batch_size: 0")[0].batching.enabled


@pytest.mark.clause("TR-C2", "TR-C8")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dynamic_batching { preferred_batch_size: 8 }",
            "preferred batch size must be <= max batch size for m",
        ),
        ("dynamic_batching { preferred_batch_size: 0 }", "preferred batch size must be positive for m"),
        ("dynamic_batching { preferred_batch_size: [2, -1] }", "preferred batch size must be positive for m"),
        ("version_policy { latest { } }", "at least one version must be available"),
        ("version_policy { latest { num_versions: 0 } }", "at least one version must be available"),
        ("version_policy { specific { } }", "at least one version must be available"),
    ],
)
def test_sizes_and_versions_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        pbtxt(f"max_batch_size: 4 {text}")


@pytest.mark.clause("TR-C2", "TR-C8")
def test_sizes_and_versions_that_can() -> None:
    text = "max_batch_size: 4 version_policy { } dynamic_batching { preferred_batch_size: [4, 2] }"
    config = pbtxt(text).config
    assert config.batching.preferred_rows == (2, 4)
    assert config.versions.latest == 1

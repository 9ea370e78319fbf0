"""The models that the recorded cases ask, made from scratch: tiny ONNX graphs with Triton configurations.

What is not a graph (Python models, ensembles) lies ready in ``models/NAME``, and is copied as it is.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx import TensorProto, helper

_STATIC = Path(__file__).parent / "models"
_SHARED = Path(__file__).parents[1] / "support" / "models"
_ONE_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "STRING": TensorProto.STRING,
}
_PAIR = ("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")
Shape = Sequence[int | str]


def graph(
    nodes: Sequence[tuple[str, Sequence[str], str]],
    names: tuple[Sequence[str], Sequence[str]],
    datatype: str,
    shape: Shape,
) -> bytes:
    """A model whose inputs and outputs all have one datatype and shape.

    Args:
        nodes: Operator, inputs, output.
        names: Of the inputs, and of the outputs.
    """
    sides = [
        [helper.make_tensor_value_info(name, _TYPES[datatype], shape) for name in side] for side in names
    ]
    made = helper.make_graph([helper.make_node(op, ins, [out]) for op, ins, out in nodes], "g", *sides)
    opset = 16 if datatype == "BF16" else 13
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def add_sub(shape: Shape, *, is_swapped: bool = False) -> bytes:
    """Sum and difference; the other way round where swapped."""
    first, second = ("Sub", "Add") if is_swapped else ("Add", "Sub")
    nodes = [(first, _PAIR[0], "OUTPUT0"), (second, _PAIR[0], "OUTPUT1")]
    return graph(nodes, _PAIR, "INT32", shape)


def identity(datatype: str, shape: Shape, names: tuple[str, str] = ("X", "Y")) -> bytes:
    """What comes in goes out."""
    return graph([("Identity", [names[0]], names[1])], ([names[0]], [names[1]]), datatype, shape)


def _tensors(side: str, names: Sequence[str], datatype: str, dims: str) -> str:
    rows = [f'  {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] }}' for name in names]
    return f"{side} [\n" + ",\n".join(rows) + "\n]\n"


def _config(
    name: str,
    rows: int,
    datatype: str,
    dims: str,
    more: str = "",
    names: tuple[Sequence[str], Sequence[str]] = _PAIR,
    kind: str = 'backend: "onnxruntime"',
) -> str:
    head = f'name: "{name}"\n{kind}\nmax_batch_size: {rows}\n'
    sides = _tensors("input", names[0], datatype, dims) + _tensors("output", names[1], datatype, dims)
    return head + sides + _ONE_CPU + more


_ENSEMBLE = """name: "%s"
platform: "ensemble"
max_batch_size: 8
input [
  { name: "A" data_type: TYPE_INT32 dims: [ 4 ] },
  { name: "B" data_type: TYPE_INT32 dims: [ 4 ] }
]
output [ { name: "TWICE_A" data_type: TYPE_INT32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "%s" model_version: -1
      input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
      output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "difference" }
    },
    {
      model_name: "%s" model_version: -1
      input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "difference" }
      output_map { key: "OUTPUT0" value: "TWICE_A" }
    }
  ]
}
"""


class _Repository:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, config: str | None, files: dict[str, bytes]) -> None:
        """One model: its configuration and its files, by path below its folder."""
        if config is not None:
            files = files | {"config.pbtxt": config.encode()}
        for path, content in files.items():
            target = self._folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _sums(repository: _Repository) -> None:
    """Batching, without batching, with little configuration or none."""
    batched, plain = {"1/model.onnx": add_sub(["n", 4])}, {"1/model.onnx": add_sub([4])}
    put = repository.put
    put("addsub", _config("addsub", 8, "INT32", "4", "dynamic_batching { }\n"), batched)
    put("addsub_nobatch", _config("addsub_nobatch", 0, "INT32", "4"), plain)
    put("addsub_auto", None, batched)
    put("addsub_partial", "max_batch_size: 2\n", batched)
    put("cached", _config("cached", 8, "INT32", "4", "response_cache { enable: true }\n"), batched)
    tags = 'metric_tags [ { key: "team" value: "blue" } ]\n'
    tags += 'parameters [ { key: "colour" value: { string_value: "red" } } ]\n'
    put("tagged", _config("tagged", 0, "INT32", "4", tags), plain)


def _versions(repository: _Repository) -> None:
    """Several versions, and which of them are wanted."""
    files = {f"{v}/model.onnx": add_sub([4], is_swapped=v != 1) for v in (1, 2, 3)}
    odd = {"0099/model.onnx": add_sub([4]), "notes/read.txt": b"not a version\n"}
    for name, policy, more in (
        ("ver_specific", "version_policy { specific { versions: [ 1, 3 ] } }\n", {}),
        ("ver_all", "version_policy { all { } }\n", {}),
        ("ver_latest", "version_policy { latest { num_versions: 2 } }\n", odd),
        ("ver_default", "", {}),
    ):
        repository.put(name, _config(name, 0, "INT32", "4", policy), files | more)


def _identities(repository: _Repository) -> None:
    """Every datatype, without a batch dimension and of free length; and some other shapes."""
    one = (["X"], ["Y"])
    for datatype in _TYPES:
        name = f"ident_{datatype.lower()}"
        names = ("INPUT0", "OUTPUT0") if datatype == "BF16" else ("X", "Y")
        sides = ([names[0]], [names[1]])
        files = {"1/model.onnx": identity(datatype, ["n"], names)}
        repository.put(name, _config(name, 0, datatype, "-1", names=sides), files)
    files = {"1/model.onnx": identity("STRING", [1])}
    repository.put("one_string", _config("one_string", 0, "STRING", "1", names=one), files)
    files = {"1/model.onnx": identity("FP32", ["n", 2])}
    repository.put("matrix", _config("matrix", 0, "FP32", "-1, 2", names=one), files)
    kind = 'platform: "onnxruntime_onnx"'
    files = {"1/model.onnx": identity("FP32", ["n", 2, 2])}
    repository.put("ident_batch", _config("ident_batch", 4, "FP32", "2, 2", names=one, kind=kind), files)


def _labels(repository: _Repository) -> None:
    """Scores with names, and without."""
    sides = (["X"], ["Y", "Z"])
    scores = graph([("Identity", ["X"], "Y"), ("Neg", ["X"], "Z")], sides, "FP32", ["n", 4])
    config = _config("labels", 4, "FP32", "4", names=sides)
    config = config.replace('"Y" data_type', '"Y" label_filename: "labels.txt" data_type')
    files = {"1/model.onnx": scores, "labels.txt": b"ant\nbee\ncat\ndog\n"}
    repository.put("labels", config, files)


def _reshaped(repository: _Repository) -> None:
    """Callers see other shapes than the graph."""
    one = (["X"], ["Y"])
    for name, outer, inner, shape in (
        ("reshape", ("2, 2", "1, 4"), "4", ["n", 4]),
        ("reshape_empty", ("1", "1"), "", ["n"]),
    ):
        config = _config(name, 4, "FP32", "?", names=one)
        for dims in outer:
            config = config.replace("[ ? ]", f"[ {dims} ] reshape {{ shape: [ {inner} ] }}", 1)
        repository.put(name, config, {"1/model.onnx": identity("FP32", shape)})


def _ragged(repository: _Repository) -> None:
    """Requests of any length share a run; TOTAL is where each one ends."""
    tensors = (
        [("R", ["k"]), ("ENDS", ["b"])],
        [("TOTAL", ["b", 1])],
    )
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in tensors
    ]
    nodes = [
        helper.make_node("ReduceSum", ["R"], ["S"], keepdims=0),
        helper.make_node("Mul", ["S", "zero"], ["S0"]),
        helper.make_node("Add", ["ENDS", "S0"], ["E"]),
        helper.make_node("Unsqueeze", ["E", "axes"], ["TOTAL"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    ]
    made = helper.make_graph(nodes, "g", *sides, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    config = (
        'name: "ragged"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
        + _tensors("input", ["R"], "FP32", "-1").replace("[ -1 ]", "[ -1 ] allow_ragged_batch: true")
        + _tensors("output", ["TOTAL"], "FP32", "1")
        + "batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT"
        + ' target_name: "ENDS" data_type: TYPE_FP32 source_input: "R" } ]\n'
        + _ONE_CPU
        + "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
    )
    repository.put("ragged", config, {"1/model.onnx": model.SerializeToString()})


def _ensembles(repository: _Repository) -> None:
    """Models of models, with them and without."""
    for name, member in (("chain", "addsub"), ("chain_lazy", "chain_member"), ("chain_lost", "nowhere")):
        repository.put(name, _ENSEMBLE % (name, member, member), {"1/.keep": b""})
    files = {"1/model.onnx": add_sub(["n", 4])}
    repository.put("chain_member", _config("chain_member", 8, "INT32", "4"), files)


def _sequences(repository: _Repository) -> None:
    """Running sums: kept by a Python model, and by the server."""
    flags = [
        f'  {{ name: "{name}" control [ {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} ] }}'
        for name in ("START", "END", "READY")
    ]
    id = '  { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }'
    for name, who, strategy in (
        ("seq_direct", "UINT64", "direct { }"),
        ("seq_oldest", "UINT64", "oldest { max_candidate_sequences: 2 }"),
        ("seq_string", "STRING", "oldest { max_candidate_sequences: 4 }"),
    ):
        outputs = (("SUM", "INT32", 1), ("FLAGS", "INT32", 3), ("WHO", who, 1))
        rows = [f'{{ name: "{n}" data_type: TYPE_{t} dims: [ {d} ] }}' for n, t, d in outputs]
        controls = ",\n".join([*flags, id] if who == "UINT64" else flags)
        config = (
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: 2\n'
            + _tensors("input", ["IN"], "INT32", "1")
            + f"output [ {', '.join(rows)} ]\n{_ONE_CPU}"
            + f"sequence_batching {{ max_sequence_idle_microseconds: 2000000\n  {strategy}\n"
            + f"control_input [\n{controls}\n] }}\n"
        )
        repository.put(name, config, {"1/model.py": (_SHARED / "sequence_sum.py").read_bytes()})
    nodes = [("Add", ["IN", "S_IN"], "SUM"), ("Identity", ["SUM"], "S_OUT")]
    files = {"1/model.onnx": graph(nodes, (["IN", "S_IN"], ["SUM", "S_OUT"]), "INT32", [1])}
    state = (
        "sequence_batching { max_sequence_idle_microseconds: 2000000\n"
        '  state [ { input_name: "S_IN" output_name: "S_OUT" data_type: TYPE_INT32 dims: [ 1 ]\n'
        '    initial_state: { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ] }\n'
    )
    repository.put("seq_state", _config("seq_state", 0, "INT32", "1", state, (["IN"], ["SUM"])), files)


def _on_demand(repository: _Repository) -> None:
    """Loaded by some case, or broken."""
    put, plain = repository.put, {"1/model.onnx": add_sub([4])}
    put("lazy", _config("lazy", 8, "INT32", "4"), {"1/model.onnx": add_sub(["n", 4])})
    put("untouched", _config("untouched", 0, "INT32", "4"), plain)
    versions = {f"{v}/model.onnx": add_sub([4], is_swapped=v != 1) for v in (1, 2, 3)}
    put("lazy_versions", _config("lazy_versions", 0, "INT32", "4"), versions)
    raising = b"class TritonPythonModel:\n    def initialize(self, args):\n"
    raising += b'        raise RuntimeError("cannot start")\n'
    raising += b"\n    def execute(self, requests):\n        return []\n"
    names = (["IN"], ["OUT"])
    config = _config("bad_init", 0, "INT32", "1", names=names, kind='backend: "python"')
    put("bad_init", config, {"1/model.py": raising})
    put("bad_onnx", _config("bad_onnx", 0, "INT32", "4"), {"1/model.onnx": b"this is not a model"})
    put("bad_config", 'name: "bad_config"\nbackend: "onnxruntime"\nno_such_field: 1\n', plain)
    put("bad_name", _config("another_name", 0, "INT32", "4"), plain)
    put("bad_backend", _config("bad_backend", 0, "INT32", "4", kind='backend: "nonesuch"'), plain)
    put("bad_shape", _config("bad_shape", 0, "INT32", "5"), plain)
    names = (["NOSUCH", "INPUT1"], ["OUTPUT0"])
    put("bad_input", _config("bad_input", 0, "INT32", "4", names=names), plain)
    put("no_file", _config("no_file", 0, "INT32", "4"), {"1/readme.txt": b"no model here\n"})
    put("no_version", _config("no_version", 0, "INT32", "4"), {})
    policy = "version_policy { specific { versions: [ 7 ] } }\n"
    put("ver_missing", _config("ver_missing", 0, "INT32", "4", policy), plain)


#: Models that only some case loads, by the beginnings of their names.
ON_DEMAND = ("lazy", "untouched", "bad_", "no_", "ver_missing", "chain_")

_FAMILIES: tuple[Callable[[_Repository], None], ...] = (
    _sums,
    _versions,
    _identities,
    _labels,
    _reshaped,
    _ragged,
    _sequences,
    _on_demand,
    _ensembles,
)


def write_models(folder: Path) -> None:
    """The whole repository."""
    repository = _Repository(folder)
    for family in _FAMILIES:
        family(repository)
    if _STATIC.is_dir():
        shutil.copytree(_STATIC, folder, dirs_exist_ok=True)
    for name in ("prio", "slow"):  # which differ in their configuration alone
        (folder / name / "1").mkdir(exist_ok=True)
        shutil.copy(_SHARED / "sleeper.py", folder / name / "1" / "model.py")

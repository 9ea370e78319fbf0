"""Which models do both servers serve? A repository of Triton's Python backend, written from scratch.

What the recorded cases have in this form already (``tests/golden/models``) is copied; the rest is one generic
model, which says its inputs back, under many configurations.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
#: Texts of ``config.pbtxt``, by the name of the model that has it.
TEXTS = {
    f"text_{number:02}": json.loads(line)
    for number, line in enumerate((HERE / "texts.jsonl").read_text().splitlines())
}
GOLDEN = HERE.parent / "golden" / "models"
TYPES = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "FP16": "FP16",
    "FP32": "FP32",
    "FP64": "FP64",
    "STRING": "BYTES",
}
_ONE_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
#: How both servers are started.
FLAGS = (
    "--model-control-mode=explicit",
    "--exit-on-error=false",
    "--strict-readiness=false",
    "--cache-config=local,size=1048576",
)
Tensor = tuple[str, str, str] | tuple[str, str, str, str]

ECHO = (HERE / "models" / "echo" / "1" / "model.py").read_text()
ADD_SUB = '''import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """OUTPUT0 is the sum, OUTPUT1 the difference."""

    def execute(self, requests):
        out = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, f"INPUT{i}").as_numpy() for i in (0, 1))
            made = [pb_utils.Tensor("OUTPUT0", a + b), pb_utils.Tensor("OUTPUT1", a - b)]
            out.append(pb_utils.InferenceResponse(made))
        return out
'''
SEQUENCE = '''import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SUM: running sum of IN since the start; FLAGS: start, end, ready; WHO: the correlation id as text."""

    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        out = []
        for r in requests:
            get = lambda n: pb_utils.get_input_tensor_by_name(r, n).as_numpy().ravel()[0]
            start, end, ready, value = int(get("START")), int(get("END")), int(get("READY")), int(get("IN"))
            who = str(r.correlation_id()).encode()
            if start:
                self.sums[who] = 0
            self.sums[who] = self.sums.get(who, 0) + value
            total = self.sums[who]
            if end:
                self.sums.pop(who, None)
            out.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("SUM", np.array([[total]], np.int32)),
                pb_utils.Tensor("FLAGS", np.array([[start, end, ready]], np.int32)),
                pb_utils.Tensor("WHO", np.array([[who]], dtype=np.object_)),
            ]))
        return out
'''
_CONTROLS = """  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }
  ]
"""
_CHAIN = """name: "chain"
platform: "ensemble"
max_batch_size: 8
input [ { name: "A" data_type: TYPE_INT32 dims: [ 4 ] }, { name: "B" data_type: TYPE_INT32 dims: [ 4 ] } ]
output [ { name: "TWICE_A" data_type: TYPE_INT32 dims: [ 4 ] } ]
ensemble_scheduling { step [
  { model_name: "addsub" model_version: -1
    input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT0" value: "sum" } output_map { key: "OUTPUT1" value: "difference" } },
  { model_name: "addsub" model_version: -1
    input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "difference" }
    output_map { key: "OUTPUT0" value: "TWICE_A" } } ] }
"""


def side(name: str, tensors: Sequence[Tensor]) -> str:
    """``input`` or ``output`` of a configuration; a fourth word of a tensor is taken as it is."""
    rows = [
        f'  {{ name: "{n}" data_type: TYPE_{t} dims: [ {d} ] {" ".join(more)} }}'
        for n, t, d, *more in tensors
    ]
    return f"{name} [\n" + ",\n".join(rows) + "\n]\n"


def config(name: str, rows: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor], more: str = "") -> str:
    """A whole configuration of the Python backend."""
    head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {rows}\n'
    return head + side("input", inputs) + side("output", outputs) + _ONE_CPU + more


def _pair(first: str, second: str, dims: str) -> tuple[list[Tensor], list[Tensor]]:
    ins: list[Tensor] = [(f"INPUT{i}", first, dims) for i in (0, 1)]
    outs: list[Tensor] = [(f"OUTPUT{i}", second, dims) for i in (0, 1)]
    return ins, outs


def models() -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Configuration, program and versions, by name."""
    ins, outs = _pair("INT32", "INT32", "4")
    state: list[Tensor] = [("SUM", "INT32", "1"), ("FLAGS", "INT32", "3"), ("WHO", "STRING", "1")]
    head = "sequence_batching {\n  max_sequence_idle_microseconds: 3000000\n"
    cache = "response_cache { enable: true }\n"
    found = {
        "addsub": (config("addsub", 8, ins, outs, "dynamic_batching { }\n"), ADD_SUB),
        "addsub_nobatch": (config("addsub_nobatch", 0, ins, outs), ADD_SUB),
        "cached": (config("cached", 8, ins, outs, cache), ADD_SUB),
        "matrix": (config("matrix", 0, [("X", "FP32", "-1, 2")], [("Y", "FP32", "-1, 2")]), ECHO),
        "batch": (config("batch", 4, [("X", "FP32", "2, 2")], [("Y", "FP32", "2, 2")]), ECHO),
        "one_string": (config("one_string", 0, [("X", "STRING", "1")], [("Y", "STRING", "1")]), ECHO),
        "reshaped": (
            config(
                "reshaped",
                4,
                [("X", "FP32", "2, 2", "reshape { shape: [ 4 ] }")],
                [("Y", "FP32", "1, 4", "reshape { shape: [ 4 ] }")],
            ),
            ECHO,
        ),
        "labels": (
            config(
                "labels",
                4,
                [("X", "FP32", "4")],
                [("Y", "FP32", "4", 'label_filename: "labels.txt"'), ("Z", "FP32", "4")],
            ),
            ECHO,
        ),
        "some": (
            config(
                "some",
                0,
                [(n, "INT32", "1", "optional: true") for n in "AB"],
                [(n, "INT32", "1") for n in "CD"],
            ),
            ECHO,
        ),
        "seq_direct": (
            config("seq_direct", 2, [("IN", "INT32", "1")], state, f"{head}  direct {{ }}\n{_CONTROLS}}}\n"),
            SEQUENCE,
        ),
        "seq_oldest": (
            config(
                "seq_oldest",
                2,
                [("IN", "INT32", "1")],
                state,
                f"{head}  oldest {{ max_candidate_sequences: 4 }}\n{_CONTROLS}}}\n",
            ),
            SEQUENCE,
        ),
        "chain": (_CHAIN, ""),
    }
    for datatype in TYPES:
        name = f"ident_{datatype.lower()}"
        found[name] = (config(name, 0, [("X", datatype, "-1")], [("Y", datatype, "-1")]), ECHO)
    made = {name: (text, program, (1,)) for name, (text, program) in found.items()}
    for name, policy in (
        ("ver_specific", "specific { versions: [ 1, 3 ] }"),
        ("ver_latest", "latest { num_versions: 2 }"),
    ):
        made[name] = (config(name, 0, ins, outs, f"version_policy {{ {policy} }}\n"), ADD_SUB, (1, 2, 3))
    return made


def write(root: Path) -> list[str]:
    """The whole repository; the names of the models that are loaded at the start."""
    for folder in sorted([*GOLDEN.iterdir(), *(HERE / "models").iterdir()]):
        shutil.copytree(folder, root / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (text, program, versions) in models().items():
        for version in versions:
            folder = root / name / str(version)
            folder.mkdir(parents=True)
            if program:
                (folder / "model.py").write_text(program)
        (root / name / "config.pbtxt").write_text(text)
    on_demand = [root / name for name in (*TEXTS, "ensembled")]
    for folder in on_demand:
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_text(ECHO)
        (folder / "config.pbtxt").write_text(TEXTS.get(folder.name, 'platform: "ensemble"'))
    (root / "labels" / "labels.txt").write_text("ant\nbee\ncat\ndog\n")
    return sorted(
        path.name for path in root.iterdir() if path.name not in ON_DEMAND and path not in on_demand
    )


#: Loaded by the cases that speak of them.
ON_DEMAND = ("staged", "echo")

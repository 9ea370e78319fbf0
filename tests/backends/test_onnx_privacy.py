"""Does ONNX Runtime keep to itself what it serves? From 1.29 on it reports models unless told not to."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
from salver.words.artifacts import Manifest
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import LoadOptions
from salver.words.messages import ModelId

assert "onnxruntime" not in sys.modules
path = Path(sys.argv[1])
OnnxBackend().load(Manifest(ModelId("m", "1"), path, "onnx", "onnx"), LoadOptions()).close()
assert "onnxruntime" in sys.modules
"""


def test_loading_a_model_leaves_no_telemetry_store_at_home(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    home = tmp_path / "home"
    home.mkdir()
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    # None of the variables that would silence it by themselves, such as CI.
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", SCRIPT, tmp_path / "m.onnx"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(home.iterdir()) == []

"""Models that requests bring neither run code nor touch files, by every road and in every way we know.

Each attack is tried twice: on a server that trusts nobody, where no file outside changes, and on one with
``--trust-pickle``, where it does what it is made for; so that the first is no accident.
"""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_constant

from salver.testing.process import ServerProcess

CLIENTS = pytest.mark.parametrize("triton", [http_client, grpc_client], ids=["http", "grpc"])
ORIGINAL = np.arange(16, dtype="f4").tobytes()
TENSORS: dict[str, Any] = {
    "max_batch_size": 4,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [16]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [16]}],
}
_ROW = np.zeros((1, 16), np.float32)


class Attack(NamedTuple):
    """Files, a configuration, and what the refusal says of the format.

    Attributes:
        leaves: False: it reads, and leaves nothing behind.
    """

    files: dict[str, bytes]
    config: dict[str, Any]
    says: str
    leaves: bool = True


def savedmodel(folder: Path, outside: Path) -> Attack:
    """Plants a Python model, from where the repository would load it."""
    import tensorflow as tf

    target, code = str(outside / "planted" / "1" / "model.py"), "import os; os.abort()"

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, "x")])
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.io.write_file(target, code)]):
                return {"y": tf.identity(x)}

    module = Module()
    tf.saved_model.save(module, str(folder / "saved"), {"serving_default": module.call})
    found = [path for path in (folder / "saved").rglob("*") if path.is_file()]
    files = {f"1/model.savedmodel/{p.relative_to(folder / 'saved')}": p.read_bytes() for p in found}
    return Attack(files, {"platform": "tensorflow_savedmodel"}, "savedmodel (backend tensorflow)")


def _scripted(folder: Path, body: str, outside: Path) -> Attack:
    """A module whose forward is that source; TorchScript takes sources from files alone."""
    import importlib.util

    import torch

    source = f"import torch\nclass M(torch.nn.Module):\n    def forward(self, x: torch.Tensor):\n{body}"
    (folder / "scripted.py").write_text(source.replace("OUTSIDE", str(outside)))
    spec = importlib.util.spec_from_file_location("scripted", folder / "scripted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.jit.script(module.M()).save(str(folder / "m.pt"))
    names = {"input": [{**TENSORS["input"][0], "name": "x"}], "output": TENSORS["output"]}
    config = {"platform": "pytorch_libtorch", "max_batch_size": 4, **names}
    return Attack({"1/model.pt": (folder / "m.pt").read_bytes()}, config, "torchscript (backend torch)")


def torchscript_overwrites(folder: Path, outside: Path) -> Attack:
    """``aten::from_file``, shared: what is written into the tensor is written into the file."""
    body = """
        t = torch.from_file("OUTSIDE/victim", True, 16, dtype=torch.float32)
        read = t.clone()
        t.fill_(7.0)
        return x + read + t
    """
    return _scripted(folder, body, outside)


def torchscript_saves(folder: Path, outside: Path) -> Attack:
    """``aten::save``."""
    return _scripted(folder, '        torch.save(x, "OUTSIDE/saved")\n        return x\n', outside)


def shared_library(folder: Path, outside: Path) -> Attack:
    """A package of ``torch.export`` with machine code in it, which runs as soon as it is opened."""
    source = f"""
    #include <stdio.h>
    __attribute__((constructor)) static void run(void) {{
        FILE *file = fopen("{outside}/from_library", "w");
        if (file) fclose(file);
    }}
    """
    (folder / "evil.c").write_text(dedent(source))
    library = folder / "evil.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "evil.c"], check=True)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/archive_version", "0")
        archive.writestr("m/byteorder", "little")
        inside = "m/data/aotinductor/model"
        archive.writestr(f"{inside}/evil.wrapper_metadata.json", '{"AOTI_DEVICE_KEY": "cpu"}')
        archive.write(library, f"{inside}/evil.wrapper.so")
    files = {"1/model.pt2": content.getvalue()}
    return Attack(files, {"backend": "pytorch", **TENSORS}, "torch-aoti (backend torch)")


def python(folder: Path, outside: Path) -> Attack:
    source = f"open('{outside}/from_python', 'w')\nclass Model: pass\n"
    return Attack({"1/model.py": source.encode()}, {}, "python (backend python)")


def triton_python(folder: Path, outside: Path) -> Attack:
    source = f"open('{outside}/from_triton', 'w')\nclass TritonPythonModel:\n    def execute(self, r): ...\n"
    return Attack({"1/model.py": source.encode()}, {"backend": "python"}, "(backend python)")


def archive(folder: Path, outside: Path) -> Attack:
    """TorchServe's, by a road of Triton's."""
    model = {"modelName": "m", "handler": "m.py", "modelVersion": "1.0"}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        written.writestr(
            "m.py", f"open('{outside}/from_archive', 'w')\ndef handle(data, context): return data\n"
        )
        written.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
    return Attack({"1/m.mar": content.getvalue()}, {}, "torchserve (backend torchserve)")


class _Touch:
    """Made while a pickle is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def pickled(folder: Path, outside: Path) -> Attack:
    content = pickle.dumps(_Touch(str(outside / "from_pickle")))
    return Attack({"1/model.pkl": content}, {}, "pickle (backend sklearn)")


def skops_reads(folder: Path, outside: Path) -> Attack:
    """Texts are names of files to it, and it counts the words that are in them."""
    import skops.io
    from sklearn.feature_extraction.text import CountVectorizer

    vectoriser = CountVectorizer(input="filename", vocabulary=["password"]).fit([])
    return Attack({"1/m.skops": skops.io.dumps(vectoriser)}, {}, "skops (backend sklearn)", leaves=False)


def onnx_reads(folder: Path, outside: Path) -> Attack:
    """Its format is harmless: ONNX Runtime reads nothing outside of the model's own folder."""
    import onnx

    write_constant(folder, 1)
    model = onnx.load(folder / "constant" / "1" / "model.onnx")
    (tensor,) = [t for t in model.graph.initializer if t.name == "zero"]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", f"{outside}/victim"), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    config = {"backend": "onnxruntime"}
    return Attack({"1/model.onnx": model.SerializeToString()}, config, "xternal data", leaves=False)


ATTACKS: tuple[Callable[[Path, Path], Attack], ...] = (
    savedmodel,
    torchscript_overwrites,
    torchscript_saves,
    shared_library,
    python,
    triton_python,
    archive,
    pickled,
    skops_reads,
    onnx_reads,
)


#: An operator's program, which has the server load what its caller sends.
RELAY = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            source = pb_utils.get_input_tensor_by_name(request, "source").as_numpy().item()
            try:
                pb_utils.load_model("relayed", "{}", {"file:1/model.py": source})
                said = "loaded"
            except Exception as error:
                said = str(error)
            tensor = pb_utils.Tensor("said", np.array([said.encode()], object))
            answers.append(pb_utils.InferenceResponse([tensor]))
        return answers
"""
RELAY_CONFIG = """
backend: "python"
input { name: "source" data_type: TYPE_STRING dims: [1] }
output { name: "said" data_type: TYPE_STRING dims: [1] }
"""


class World(NamedTuple):
    server: ServerProcess
    outside: Path
    attacks: dict[str, Attack]


def world(folder: Path, *options: str) -> Iterator[World]:
    models = outside = folder / "models"  # the worst place: what is written there may be a model
    write_constant(models, 1)
    (models / "victim").write_bytes(ORIGINAL)
    (models / "relay" / "1").mkdir(parents=True)
    (models / "relay" / "1" / "model.py").write_text(RELAY)
    (models / "relay" / "config.pbtxt").write_text(RELAY_CONFIG)
    made = {}
    for make in ATTACKS:
        (folder / make.__name__).mkdir()
        made[make.__name__] = make(folder / make.__name__, outside)
    arguments = ["--control", "explicit", "--load", "constant", "--load", "relay", *options]
    with ServerProcess([models], folder / "log", arguments) as server:
        yield World(server.wait_ready(), outside, made)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from world(tmp_path_factory.mktemp("strict"))


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from world(tmp_path_factory.mktemp("trusting"), "--trust-pickle")


def state(folder: Path) -> dict[str, bytes]:
    """Every file below it, and every folder."""
    found = {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"/" for p in folder.rglob("*")}
    return {name: content for name, content in found.items() if "__pycache__" not in name}


def load(client: Any, name: str, attack: Attack) -> None:
    files = {f"file:{path}": content for path, content in attack.files.items()}
    client.load_model(name, config=json.dumps(attack.config), files=files)


def ask(client: Any, triton: ModuleType, name: str) -> Any:
    given = triton.InferInput("x", [1, 16], "FP32")
    given.set_data_from_numpy(_ROW)
    return client.infer(name, [given])


@CLIENTS
@pytest.mark.parametrize("name", [make.__name__ for make in ATTACKS])
def test_what_a_request_brings_touches_nothing(name: str, triton: ModuleType, strict: World) -> None:
    """TR-R12: refused with the model, the format, the reason and what to do."""
    attack, before = strict.attacks[name], state(strict.outside)
    with triton.InferenceServerClient(strict.server.address) as client:
        with pytest.raises(InferenceServerException) as refused:
            load(client, name, attack)
        assert attack.says in str(refused.value)
        if name != "onnx_reads":
            for words in (f"model '{name}' came with the request", "run code", "--trust-pickle"):
                assert words in str(refused.value)
        with pytest.raises(InferenceServerException):
            ask(client, triton, name)
        client.unload_model(name)
        assert client.is_server_ready()
    assert state(strict.outside) == before


@pytest.mark.parametrize("name", [make.__name__ for make in ATTACKS if make is not onnx_reads])
def test_where_its_sender_is_trusted_it_does_what_it_is_made_for(name: str, trusting: World) -> None:
    attack, before = trusting.attacks[name], state(trusting.outside)
    with http_client.InferenceServerClient(trusting.server.address) as client:
        try:
            load(client, name, attack)
            if attack.leaves:
                ask(client, http_client, name)
        except InferenceServerException as error:
            assert "--trust-pickle" not in str(error)
        if attack.leaves:
            until(lambda: state(trusting.outside) != before, trusting.server.output)
        client.unload_model(name)
    (trusting.outside / "victim").write_bytes(ORIGINAL)
    shutil.rmtree(trusting.outside / "planted", ignore_errors=True)


def ends_its_process() -> bytes:
    """A graph whose shapes ONNX Runtime 1.32 finds out about by a failing assertion of C++."""
    square = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [
        onnx.helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2, 2], dilations=[1 << 40, 1]),
        onnx.helper.make_node("Slice", ["pooled", "start", "end", "axis"], ["y"]),
    ]
    numbers = {"start": 0, "end": 3, "axis": 2}
    made = [onnx.helper.make_tensor(k, onnx.TensorProto.INT64, [1], [v]) for k, v in numbers.items()]
    graph = onnx.helper.make_graph(nodes, "g", [square], [result], made)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_what_ends_the_process_that_loads_it_does_not_end_the_server(strict: World) -> None:
    with http_client.InferenceServerClient(strict.server.address) as client:
        with pytest.raises(InferenceServerException, match="failed for model 'deadly'"):
            load(client, "deadly", Attack({"1/model.onnx": ends_its_process()}, {}, ""))
        assert client.is_model_ready("constant")
        client.unload_model("deadly")


@CLIENTS
def test_a_configuration_brings_no_python_of_its_own(
    triton: ModuleType, strict: World, tmp_path: Path
) -> None:
    """TR-A4, TR-R12: ``EXECUTION_ENV_PATH`` names a program that the server would start."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\ntouch {strict.outside}/from_environment\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "bin", "bin")
    parameters = {"EXECUTION_ENV_PATH": {"string_value": "$$TRITON_MODEL_DIRECTORY/env.tar.gz"}}
    model = (strict.outside / "constant" / "1" / "model.onnx").read_bytes()
    files = {"1/model.onnx": model, "env.tar.gz": packed.getvalue()}
    config = {"backend": "onnxruntime", "parameters": parameters}
    before = state(strict.outside)
    with triton.InferenceServerClient(strict.server.address) as client:
        load(client, "environment", Attack(files, config, ""))
        assert ask(client, triton, "environment").as_numpy("y")[0, 0] == 1
        client.unload_model("environment")
    assert state(strict.outside) == before


def test_what_a_model_passes_on_is_no_better_than_what_a_request_brings(strict: World) -> None:
    """``pb_utils.load_model`` with files."""
    source = strict.attacks["python"].files["1/model.py"].decode()
    tensor = {"name": "source", "datatype": "BYTES", "shape": [1], "data": [source]}
    before = state(strict.outside)
    status, reply = strict.server.post("/v2/models/relay/infer", {"inputs": [tensor]})
    assert status == 200, reply
    assert "model 'relayed' came with the request and is python" in reply["outputs"][0]["data"][0]
    assert state(strict.outside) == before


@pytest.mark.parametrize(
    "path", ["/models?url={archive}", "/models?url=file://{archive}", "/workflows?url={archive}"]
)
def test_torchserves_registration_is_closed_unless_the_operator_opens_it(
    path: str, strict: World, tmp_path: Path
) -> None:
    """An archive is code by design."""
    archived = tmp_path / "m.mar"
    archived.write_bytes(strict.attacks["archive"].files["1/m.mar"])
    before = state(strict.outside)
    status, _ = strict.server.post(path.format(archive=archived), {})
    assert status >= 400
    assert state(strict.outside) == before

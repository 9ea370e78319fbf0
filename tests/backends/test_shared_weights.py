"""Weights that processes share: what one more worker takes, and files that change under it."""

import asyncio
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_processes import at_once, recovery
from soaking import ONLY
from waiting import auntil

from salver.backends import discovery
from salver.backends.protocol import ForkableBackend, LoadOptions
from salver.backends.sharing import mapped_files
from salver.kernel.engine.fork_client import ForkServers
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

WIDTH, LAYERS = 2048, 4
WIDTHS = (16, 64, WIDTH)
WEIGHTS = LAYERS * WIDTH * WIDTH * 4  # bytes: 67 MB


def matrices(width: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((width, width)) / width).astype("f4") for _ in range(LAYERS)]


def _onnx(folder: Path, width: int) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    at, nodes = "x", []
    for i in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [at, f"w{i}"], [at := f"y{i}"]))
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", width])] for name in ("x", at)]
    weights = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(matrices(width))]
    graph = helper.make_graph(nodes, "g", *sides, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "model.onnx"


def _prepacked(folder: Path, width: int) -> Path:
    import onnxruntime as ort

    (plain := folder / "plain").mkdir()
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(folder / "model.onnx")
    for key, value in (
        ("optimized_model_external_initializers_file_name", "weights.bin"),
        ("optimized_model_external_initializers_min_size_in_bytes", "100"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        settings.add_session_config_entry(f"session.{key}", value)
    ort.InferenceSession(_onnx(plain, width), settings, providers=["CPUExecutionProvider"])
    return folder / "model.onnx"


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(%d, %d, bias=False) for _ in range(%d)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


def _net(width: int) -> Any:
    import torch

    names: dict[str, Any] = {}
    exec(NET % (width, width, LAYERS), names)
    net = names["Net"]().eval()
    net.load_state_dict({f"layers.{i}.weight": torch.from_numpy(w) for i, w in enumerate(matrices(width))})
    return net


def _module(folder: Path, width: int) -> Path:
    import torch

    (folder / "net.py").write_text(NET % (width, width, LAYERS))
    torch.save(_net(width).state_dict(), folder / "model.pt")
    return folder / "model.pt"


def _script(folder: Path, width: int) -> Path:
    import torch

    torch.jit.trace(_net(width), torch.zeros(2, width)).save(str(folder / "model.pt"))
    return folder / "model.pt"


def _exported(folder: Path, width: int) -> Path:
    import torch

    rows = ({0: torch.export.Dim("b")},)
    program = torch.export.export(_net(width), (torch.zeros(2, width),), dynamic_shapes=rows)
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


@functools.cache
def _tflite_files() -> "tempfile.TemporaryDirectory[str]":
    """Write a network of each width, in one process: to import TensorFlow takes longest."""
    folder = tempfile.TemporaryDirectory()
    code = (
        "import numpy as np, tensorflow as tf\n"
        f"for width in {WIDTHS}:\n"
        f"    W = [np.eye(width, dtype='f4') for _ in range({LAYERS})]\n"
        "    @tf.function(input_signature=[tf.TensorSpec([None, width], tf.float32)])\n"
        "    def net(x):\n"
        "        for w in W:\n            x = tf.matmul(x, tf.constant(w))\n"
        "        return x\n"
        "    c = tf.lite.TFLiteConverter.from_concrete_functions([net.get_concrete_function()])\n"
        "    open(f'{width}.tflite', 'wb').write(c.convert())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder.name, check=True, capture_output=True)
    return folder


def _tflite(folder: Path, width: int) -> Path:
    return Path(shutil.copy(Path(_tflite_files().name) / f"{width}.tflite", folder / "model.tflite"))


def _neighbours(folder: Path, width: int) -> Path:
    import joblib
    from sklearn.neighbors import KNeighborsRegressor

    rows = np.concatenate(matrices(width)).astype("f4")
    joblib.dump(KNeighborsRegressor(algorithm="brute", n_jobs=1).fit(rows, rows[:, 0]), folder / "knn.joblib")
    return folder / "knn.joblib"


def _declared(width: int) -> dict[str, Any]:
    specs = [(TensorSpec(name, DataType.FP32, (-1, width)),) for name in ("x", "y")]
    return {"inputs": specs[0], "outputs": specs[1]}


#: By row of the documentation's table: how it is written, and its options.
SHARED: dict[str, tuple[Callable[[Path, int], Path], dict[str, str]]] = {
    "onnx": (_onnx, {"share_weights": "true"}),
    "onnx, prepacked": (_prepacked, {"share_weights": "prepacked"}),
    "torch module": (_module, {"module": "net.py"}),
    "torchscript": (_script, {"share_weights": "true"}),
    "torch.export": (_exported, {"share_weights": "true"}),
    "tflite": (_tflite, {"share_weights": "true"}),
    "joblib": (_neighbours, {"share_weights": "true"}),
}
RARE = ("onnx, prepacked", "torch.export", "tflite")


def manifest_of(kind: str, folder: Path, width: int, **options: str) -> Manifest:
    """Write a model and return its manifest."""
    folder.mkdir()
    write, wish = SHARED[kind]
    path = write(folder, width)
    for backend in discovery.backends().values():
        if form := backend.recognise(path):
            config = ModelConfig(options=wish | options, **(_declared(width) if "module" in wish else {}))
            return Manifest(ModelId("model", "1"), path, form, backend.name, config)
    raise AssertionError(path)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One loop for all tests, so that they share fork servers."""
    found = asyncio.new_event_loop()
    yield found
    found.close()


@pytest.fixture(scope="module")
def servers(loop: asyncio.AbstractEventLoop) -> Iterator[ForkServers]:
    found = ForkServers()
    yield found
    loop.run_until_complete(found.close())


async def started(servers: ForkServers, manifest: Manifest, slots: int = 1) -> ProcessRunner:
    backend = discovery.backends()[manifest.backend]
    assert isinstance(backend, ForkableBackend)
    kind = backend if isinstance(backend, type) else type(backend)
    starter = functools.partial(servers.start, names=backend.preloads(manifest))
    return await ProcessRunner.start(
        f"{kind.__module__}:{kind.__qualname__}",
        manifest,
        LoadOptions(1, trust_pickle=True),
        slots=slots,
        starter=starter,
        recovery=recovery(at_once),
    )


async def ask(runner: ProcessRunner, width: int) -> Any:
    (spec,), (output, *_) = runner.signature.inputs, runner.signature.outputs
    given = np.ones((2, width), "f4")
    found = await runner.run_each({spec.name: given})
    for answer in found[1:]:
        assert np.array_equal(answer[output.name], found[0][output.name])
    return found[0][output.name]


def proportional_bytes(pids: list[int]) -> int:
    found = [
        re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M) for pid in pids
    ]
    return sum(int(kilobytes) << 10 for (kilobytes,) in found)


async def _growth(servers: ForkServers, manifest: Manifest, width: int) -> int:
    """Return by how much the proportional sets of two workers exceed one's."""
    one = await started(servers, manifest)
    await ask(one, width)
    alone = proportional_bytes(one.pids)
    await one.close()
    two = await started(servers, manifest, slots=2)
    await ask(two, width)
    together = proportional_bytes(two.pids)
    await two.close()
    return together - alone


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=ONLY if kind in RARE else ()) for kind in SHARED])
def test_one_more_worker_takes_a_tenth_of_the_weights_at_most(
    kind: str, tmp_path: Path, loop: asyncio.AbstractEventLoop, servers: ForkServers
) -> None:
    async def run() -> tuple[int, int]:
        small = await _growth(servers, manifest_of(kind, tmp_path / "small", 16), 16)
        return small, await _growth(servers, manifest_of(kind, tmp_path / "large", WIDTH), WIDTH)

    small, large = loop.run_until_complete(run())
    # What any model of the framework takes is no weight.
    assert large - small <= WEIGHTS / 10, (large, small)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=ONLY if kind != "torchscript" else ()) for kind in SHARED]
)
def test_answers_are_those_of_copied_weights(
    kind: str, tmp_path: Path, loop: asyncio.AbstractEventLoop, servers: ForkServers
) -> None:
    manifest = manifest_of(kind, tmp_path / "model", 64)
    copied = Manifest(
        manifest.id,
        manifest.path,
        manifest.format,
        manifest.backend,
        ModelConfig(
            options=manifest.config.options | {"share_weights": "false"},
            inputs=manifest.config.inputs,
            outputs=manifest.config.outputs,
        ),
    )

    async def run() -> list[Any]:
        found = []
        for one in (manifest, copied):
            runner = await started(servers, one)
            found.append(await ask(runner, 64))
            await runner.close()
        return found

    ours, theirs = loop.run_until_complete(run())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_file_that_is_overwritten_or_cut_is_noticed(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, servers: ForkServers
) -> None:
    manifest = manifest_of("onnx", tmp_path / "model", 64)
    weights = manifest.path.with_name("weights.bin")

    async def run() -> None:
        runner = await started(servers, manifest)
        before = await ask(runner, 64)
        content = np.frombuffer(weights.read_bytes(), "f4")
        with weights.open("r+b") as file:  # the same file, with other weights
            file.write((content * 2).tobytes())
        os.utime(weights, ns=(1, 1))  # a write within the clock's resolution would be noticed by nobody
        with pytest.raises(SalverError, match="died"):
            await ask(runner, 64)
        await auntil(lambda: bool(runner.pids))
        np.testing.assert_allclose(await ask(runner, 64), before * 2**LAYERS, rtol=1e-5)
        os.truncate(weights, 100)
        with pytest.raises(SalverError, match="died"):
            await ask(runner, 64)
        with pytest.raises(SalverError, match="restarting"):  # it cannot be loaded any more
            await ask(runner, 64)
        await runner.close()

    loop.run_until_complete(run())


@pytest.mark.parametrize(
    ("own_process", "text"),
    [
        (False, "which needs a process of its own .at options.share_weights.*runner"),
        (True, "nothing of it is"),
    ],
)
def test_what_cannot_be_shared_is_refused(own_process: bool, text: str, tmp_path: Path) -> None:
    import onnx

    manifest = manifest_of("onnx", tmp_path / "model", 16)
    onnx.save(onnx.load(manifest.path), manifest.path)  # with its weights inside
    backend = discovery.backends()["onnx"]
    with pytest.raises(LoadFailed, match=text):
        backend.load(manifest, LoadOptions(1, own_process=own_process))


def test_mapped_files_are_those_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))
    (tmp_path / "b").write_bytes(bytes(4096))
    kept = np.memmap(tmp_path / "a", mode="r")
    assert mapped_files(tmp_path) == mapped_files(tmp_path / "b") == ((tmp_path / "a").resolve(),)
    del kept
    assert mapped_files(tmp_path) == ()

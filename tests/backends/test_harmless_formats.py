"""Which formats may a request bring? Every format that ships, by the repository's own gate.

An artefact of each comes as files of a load request. Harmless ones load; all others are refused, with the
format, the reason and what to do, and load where the operator trusts whoever sends requests.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import marfolder
import msgspec
import numpy as np
import pytest
import test_backend_conformance as known

from salver.backends import reshaped
from salver.backends.discovery import backends, recogniser, touches_machine
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import ArtifactKind, LoadOptions, Traits
from salver.features.pipelines.backend import FORMAT
from salver.kernel.repository import NamedModel, Repository, RepositoryConfig
from salver.parts import formats
from salver.words.artifacts import LoadOrder, Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

BACKENDS = backends()
#: Of each entry point the formats that requests may bring. Whoever adds a backend adds it here and below.
HARMLESS: dict[str, set[str]] = {
    "huggingface": set(),
    "instances": set(),  # a server that a request names would be asked
    "lightgbm": set(),
    "litert": {"tflite"},
    "onnx": {"onnx", "ort"},
    "openvino": {"openvino-ir"},
    "pipeline": set(),
    "python": set(),
    "sklearn": set(),
    "tensorflow": set(),
    "torch": set(),
    "torchserve": set(),
    "xgboost": set(),
}


def test_every_backend_that_is_installed_is_classified_here() -> None:
    assert set(BACKENDS) == set(HARMLESS)
    for name, backend in BACKENDS.items():
        assert backend.traits.harmless_formats == frozenset(HARMLESS[name]), name


def test_who_says_nothing_is_not_harmless() -> None:
    class Plain:
        traits = Traits()

    touches = touches_machine({"plain": Plain()})  # type: ignore[dict-item]
    assert touches("plain", "any")
    assert touches("unheard of", "onnx")
    assert touches_machine(BACKENDS)("openvino", "onnx"), "its reader takes addresses of memory from the file"
    assert touches_machine(BACKENDS)("huggingface", FORMAT), "a tokenizer's patterns can take any time"
    assert not touches_machine(BACKENDS)("onnx", "onnx")


def test_an_onnx_runtime_that_follows_paths_out_of_the_folder_makes_no_format_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("salver.backends.onnx.is_at_least", lambda package, least: False)
    assert OnnxBackend().traits.harmless_formats == frozenset()


# -- an artefact of each format, as the files of a load request, and its configuration -----------------


def _case(suite: type, suffix: str = "", config: str = "{}") -> "Maker":
    def make(folder: Path) -> tuple[dict[str, bytes], str]:
        path = suite.make_case(folder).path
        if path.is_dir():
            files = {f"1/{f.relative_to(path)}": f for f in path.rglob("*") if f.is_file()}
            return {("1/model.savedmodel/" + name[2:]): f.read_bytes() for name, f in files.items()}, config
        found = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        return {f"1/model{suffix or f.suffix}": f.read_bytes() for f in found}, config

    return make


Maker = Callable[[Path], tuple[dict[str, bytes], str]]
TENSORS = (
    '"max_batch_size": 4, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [5]}],'
    ' "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3]}]'
)


def _ort(folder: Path) -> tuple[dict[str, bytes], str]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(folder / "model.ort")
    ort.InferenceSession(known.TestOnnx.make_case(folder).path, settings, providers=["CPUExecutionProvider"])
    return {"1/model.ort": (folder / "model.ort").read_bytes()}, "{}"


def _weights(folder: Path) -> tuple[dict[str, bytes], str]:
    import torch

    torch.save(torch.nn.Linear(5, 3).state_dict(), folder / "w.pt")
    source = b"import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(5, 3)\n"
    config = f'{{"backend": "pytorch", "runtime": "model.py", {TENSORS}}}'
    return {"1/model.pt": (folder / "w.pt").read_bytes(), "1/model.py": source}, config


def _pickle(folder: Path) -> tuple[dict[str, bytes], str]:
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit(known.X, known.Y), folder / "m.pkl")
    return {"1/model.pkl": (folder / "m.pkl").read_bytes()}, "{}"


def _triton_python(folder: Path) -> tuple[dict[str, bytes], str]:
    source = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    return {"1/model.py": source}, f'{{"backend": "python", {TENSORS}}}'


def _archive(folder: Path) -> tuple[dict[str, bytes], str]:
    source = "def handle(data, context):\n    return data\n"
    path = shutil.make_archive(str(folder / "m"), "zip", marfolder.write(folder / "unpacked", source))
    return {"1/m.mar": Path(path).read_bytes()}, "{}"


def _module_of_onnx(folder: Path) -> tuple[dict[str, bytes], str]:
    files, _ = _case(known.TestOnnx)(folder)
    return files, '{"backend": "openvino"}'


FORMATS: dict[str, Maker] = {
    "onnx": _case(known.TestOnnx),
    "ort": _ort,
    "tflite": _case(known.TestLiteRt),
    "openvino-ir": _case(known.TestOpenVino),
    "onnx (backend openvino)": _module_of_onnx,
    "torch-export": _case(known.TestTorchExport),
    "torchscript": _case(known.TestTorchTraced),
    "torch-weights": _weights,
    "savedmodel": _case(known.TestTensorFlow),
    "skops": _case(known.TestSklearn),
    "pickle": _pickle,
    "xgboost-json": _case(known.TestXgboost),
    "xgboost-ubj": _case(known.TestXgboostUbj),
    "lightgbm": _case(known.TestLightgbm),
    "python": _case(known.TestPython),
    "triton_python": _triton_python,
    "torchserve": _archive,
}
#: Those that need more than a call of their backend to be loaded (a server is asked for them elsewhere).
NOT_LOADED_ALONE = {"torchserve", "triton_python"}


@pytest.fixture(params=FORMATS)
def sent(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, LoadOrder]]:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")  # or loading a SavedModel would set it for all tests after
    (tmp_path / "made").mkdir()
    files, config = FORMATS[request.param](tmp_path / "made")
    yield request.param, LoadOrder(config, files)


def _found(root: Path, order: LoadOrder, *, trusts: bool) -> Manifest:
    rules = RepositoryConfig(trusts_code=trusts)
    repository = Repository((root,), formats(recogniser(BACKENDS), touches_machine(BACKENDS)), rules)
    brought = repository.overrides["m"] = repository.bring("m", order)
    try:
        (manifest,) = repository.scan(0.0, frozenset({"m"}))
        if not manifest.problem and manifest.format not in NOT_LOADED_ALONE:
            options = LoadOptions(1, trusts, own_process=True)
            reshaped.load(BACKENDS[manifest.backend], manifest, options).close()
        return manifest
    finally:
        brought.discard()


def test_a_request_brings_harmless_formats_and_no_others(sent: tuple[str, LoadOrder], tmp_path: Path) -> None:
    name, order = sent
    (tmp_path / "empty").mkdir()
    found = _found(tmp_path / "empty", order, trusts=False)
    form, _, backend = name.removesuffix(")").partition(" (backend ")
    assert found.format == form
    assert found.backend == (backend or found.backend)
    if form in HARMLESS[found.backend]:
        assert not found.problem
        return
    told = ("'m'", form, f"backend {found.backend}", "run code", "--trust-pickle", "into the repository")
    for words in told:
        assert words in found.problem
    assert not _found(tmp_path / "empty", order, trusts=True).problem


def test_every_format_that_a_backend_names_is_tried(sent: tuple[str, LoadOrder]) -> None:
    for harmless in HARMLESS.values():
        assert harmless <= set(FORMATS)


# -- a configuration alone, of a model that lies in the repository -------------------------------------

MODEL = """
class Model:
    inputs = outputs = {"x": ("FP32", [-1])}
    def predict(self, inputs):
        return inputs
"""


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        ('{"max_batch_size": 2}', False),
        ('{"backend": "python"}', False),
        ('{"default_model_filename": "other.py"}', True),
        ('{"parameters": {"EXECUTION_ENV_PATH": {"string_value": "/tmp/x.tar.gz"}}}', True),
    ],
)
def test_a_configuration_by_request_does_not_choose_which_program_runs(
    config: str, is_refused: bool, tmp_path: Path
) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    for name in ("model.py", "other.py"):
        (version / name).write_text(MODEL)
    found = _found(tmp_path, LoadOrder(config), trusts=False)
    assert ("by the request's configuration" in found.problem) is is_refused
    assert not _found(tmp_path, LoadOrder(config), trusts=True).problem


def test_a_configuration_by_request_may_choose_among_harmless_files(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    for name in ("model.onnx", "other.onnx"):
        (tmp_path / "made").mkdir(exist_ok=True)
        shutil.copy(known.TestOnnx.make_case(tmp_path / "made").path, version / name)
    shutil.rmtree(tmp_path / "made")
    found = _found(tmp_path, LoadOrder('{"default_model_filename": "other.onnx"}'), trusts=False)
    assert (found.problem, found.path.name) == ("", "other.onnx")


# -- folders that requests name -------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["1/weights.bin", "initial_state"])
def test_links_lead_nowhere_out_of_a_folder_that_a_request_named(linked: str, tmp_path: Path) -> None:
    """Whoever can make a link there would have the server read what it leads to."""
    base = tmp_path / "base" / "m"
    (base / "1").mkdir(parents=True)
    (base / "config.pbtxt").write_text('backend: "onnxruntime"')
    (tmp_path / "made").mkdir()
    shutil.copy(known.TestOnnx.make_case(tmp_path / "made").path, base / "1" / "model.onnx")
    repository = Repository((), formats(recogniser(BACKENDS), touches_machine(BACKENDS)))
    for is_fine in (True, False):
        if not is_fine:
            (base / linked).symlink_to(tmp_path / "made")
        repository.place([NamedModel("m", str(base), is_requested=True)])
        brought = Repository((), formats(recogniser(BACKENDS), touches_machine(BACKENDS)))
        brought.overrides["m"] = brought.bring("m", LoadOrder(folder=str(base)))
        for (found,) in (repository.scan(0.0, frozenset({"m"})), brought.scan(0.0, frozenset({"m"}))):
            assert ("leads out of its folder" in found.problem) is not is_fine
    repository.place([NamedModel("m", str(base))])
    (found,) = repository.scan(0.0, frozenset({"m"}))
    assert not found.problem, "its operator names it"


def test_links_inside_of_the_folder_are_fine(tmp_path: Path) -> None:
    """As Kubernetes mounts volumes, behind ``..data``."""
    (tmp_path / "..2024" / "m" / "1").mkdir(parents=True)
    shutil.copy(known.TestOnnx.make_case(tmp_path).path, tmp_path / "..2024" / "m" / "1" / "model.onnx")
    (tmp_path / "m").symlink_to(tmp_path / "..2024" / "m")
    repository = Repository((), formats(recogniser(BACKENDS), touches_machine(BACKENDS)))
    repository.place([NamedModel("m", str(tmp_path / "m"), is_requested=True)])
    (found,) = repository.scan(0.0)
    assert not found.problem


# -- what the harmless formats cannot do ----------------------------------------------------------------


def _with_external_data(location: str, offset: int = 0, *, is_constant: bool = False) -> bytes:
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    sides = [[helper.make_tensor_value_info(name, 1, [4])] for name in "xy"]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if is_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    graph = helper.make_graph(nodes, "g", *sides, [] if is_constant else [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("is_constant", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "{secret}",
        "../../secret",
        "./../1/../../secret",
        "link",
        "/proc/self/mem",
        "*/_ORT_MEM_ADDR_/*",
        "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*",
    ],
)
def test_onnx_reads_no_data_outside_of_its_folder_and_no_memory(
    location: str, is_constant: bool, tmp_path: Path
) -> None:
    """By the framework's own word, for each place where a tensor may stand; a wrong address would end us."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(4, dtype="f4").tobytes())
    memory = np.arange(4, dtype="f4")
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    offset = memory.ctypes.data if "MEM" in location else 0
    model = _with_external_data(location.format(secret=secret), offset, is_constant=is_constant)
    (folder / "model.onnx").write_bytes(model)
    manifest = Manifest(ModelId("m", "1"), folder / "model.onnx", "onnx", "onnx")
    with pytest.raises(LoadFailed):
        OnnxBackend().load(manifest, LoadOptions())
    assert secret.read_bytes() == memory.tobytes()


def test_files_that_a_configuration_names_lie_beside_the_model(tmp_path: Path) -> None:
    from salver.dialects.openai.model_resolver import settings_of
    from salver.dialects.openai.resolved_model import ChatSettings

    (tmp_path / "secret.jinja").write_text("secret")
    (tmp_path / "m" / "1").mkdir(parents=True)
    manifest = Manifest(ModelId("m", "1"), tmp_path / "m" / "1" / "model.onnx", "onnx", "onnx")
    for template in (str(tmp_path / "secret.jinja"), "../../secret.jinja"):
        chat = msgspec.structs.replace(manifest.config.chat, template=template)
        config = msgspec.structs.replace(manifest.config, chat=chat)
        with pytest.raises(LoadFailed, match="leads out of the store"):
            settings_of(msgspec.structs.replace(manifest, config=config), ChatSettings())


def test_a_recogniser_of_others_does_not_open_the_gate() -> None:
    """A plug-in that takes a known format's name is judged by its own backend."""
    files = {"1/model.onnx": b"x"}
    repository = Repository(
        (), formats(lambda path: ArtifactKind("theirs", "onnx"), touches_machine(BACKENDS))
    )
    repository.overrides["m"] = repository.bring("m", LoadOrder("{}", files))
    (found,) = repository.scan(0.0, frozenset({"m"}))
    repository.overrides["m"].discard()
    assert "backend theirs" in found.problem


def test_a_folder_that_a_request_named_brings_no_environment(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (tmp_path / "made").mkdir()
    shutil.copy(known.TestOnnx.make_case(tmp_path / "made").path, version / "model.onnx")
    (tmp_path / "m" / "salver.toml").write_text('[environment]\npath = "requirements.txt"\n')
    for is_requested in (True, False):
        repository = Repository((), formats(recogniser(BACKENDS), touches_machine(BACKENDS)))
        repository.place([NamedModel("m", str(tmp_path / "m"), is_requested=is_requested)])
        (found,) = repository.scan(0.0, frozenset({"m"}))
        assert ("with a Python environment of its own" in found.problem) is is_requested

"""What goes into a registry, of a file, of a folder and of a repository of one model?"""

from pathlib import Path

import msgspec
import pytest
import zoo

from salver.backends.discovery import backends, recogniser
from salver.features.registry.inspecting import Inspector
from salver.features.tuning.profile import Cell, Measurement, Profile
from salver.features.tuning.profiles import ProfileStore, machine
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.words.artifacts import Manifest, Objective
from salver.words.errors import InvalidInput, LoadFailed, MissingExtra, NotFound
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType

KNOWN = backends()
SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 16)),), (TensorSpec("y", DataType.FP32, (-1, 3)),), True
)


def loads(manifest: Manifest) -> Signature:
    assert manifest.path.exists()
    return SIGNATURE


def inspector(tries: object = loads, state: str = "") -> Inspector:
    return Inspector(KNOWN, formats(recogniser(KNOWN)), ProfileStore(state), tries)  # type: ignore[arg-type]


async def test_a_file_is_a_version_of_one_file(tmp_path: Path) -> None:
    zoo.write_mlp(tmp_path, 1)
    file = tmp_path / "1" / "model.onnx"
    found = await inspector()(file)
    assert found.files == {"model.onnx": file}
    assert (found.description.framework, found.description.format) == ("onnx", "onnx")
    assert found.description.signature == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        "batched": True,
    }
    assert found.description.resources == {"bytes": file.stat().st_size}
    assert found.description.performance == {}


async def test_of_versions_the_newest_comes_with_what_lies_beside_them(tmp_path: Path) -> None:
    for version in (2, 10):
        zoo.write_mlp(tmp_path, version)
    (tmp_path / "salver.toml").write_text("timeout_ms = 5\n")
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(b"")
    for hidden in (".git", "__pycache__"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "x").write_bytes(b"")
    (tmp_path / "big.onnx.part").write_bytes(b"")
    found = await inspector()(tmp_path)
    assert found.files == {
        "model.onnx": tmp_path / "10" / "model.onnx",
        "salver.toml": tmp_path / "salver.toml",
        "warmup/x.bin": tmp_path / "warmup" / "x.bin",
    }


async def test_what_cannot_be_loaded_here_says_why_and_what_is_broken_is_refused(tmp_path: Path) -> None:
    zoo.write_mlp(tmp_path, 1)

    def missing(_: Manifest) -> Signature:
        raise MissingExtra("onnx", "onnx", "onnxruntime")

    def broken(_: Manifest) -> Signature:
        raise LoadFailed("no such operator")

    found = await inspector(missing)(tmp_path)
    assert found.description.signature == {}
    assert "pip install 'salver[onnx]'" in found.description.notices[0]
    assert "was not loaded" in (await inspector(None)(tmp_path)).description.notices[0]
    with pytest.raises(LoadFailed, match="no such operator"):
        await inspector(broken)(tmp_path)


async def test_what_is_no_model_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        await inspector()(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no model that any installed backend recognises in"):
        await inspector()(tmp_path / "empty")
    for name in ("a", "b"):
        zoo.write_mlp(tmp_path / "both" / name, 1)
    with pytest.raises(InvalidInput, match=r"several models \(a, b\)"):
        await inspector()(tmp_path / "both")
    (tmp_path / "note.onnx").write_text("no model")
    with pytest.raises(LoadFailed, match="no installed backend recognises"):
        await inspector()(tmp_path / "note.onnx")


async def test_links_to_files_are_followed_and_those_to_folders_refused(tmp_path: Path) -> None:
    zoo.write_mlp(tmp_path / "blobs", 1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").symlink_to(tmp_path / "blobs" / "1" / "model.onnx")
    (tmp_path / "m" / "salver.toml").write_text("")
    assert set((await inspector()(tmp_path / "m")).files) == {"model.onnx", "salver.toml"}
    (tmp_path / "m" / "more").symlink_to(tmp_path / "blobs")
    with pytest.raises(InvalidInput, match="is a link to a folder"):
        await inspector()(tmp_path / "m")


async def test_what_was_measured_here_goes_along(tmp_path: Path) -> None:
    zoo.write_mlp(tmp_path / "m", 1)
    (manifest,) = Repository((tmp_path / "m",), formats(recogniser(KNOWN))).scan(0.0)
    config = msgspec.structs.replace(manifest.config, objective=Objective(throughput=True))
    store = ProfileStore(str(tmp_path / "state"))
    import os

    here = machine(KNOWN["onnx"], len(os.sched_getaffinity(0)))
    cells = (Measurement(Cell(1, 1, 8), 0.004, 2000.0), Measurement(Cell(2, 1, 32), 0.01, 6400.0))
    key = store.key(msgspec.structs.replace(manifest, config=config))
    store.write(Profile(key, here, measured=cells, alone_s=0.001, when=5.0))
    found = await inspector(state=str(tmp_path / "state"))(tmp_path / "m")
    performance = found.description.performance
    assert (performance["rows_a_second"], performance["instances"], performance["rows"]) == (6400.0, 2, 32)
    assert performance["cpu"] == here.cpu

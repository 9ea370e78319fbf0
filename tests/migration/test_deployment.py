"""What lies in the folder of a deployment: by content, within bounds, and never outside of it."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from salver.dialects.tensorflow.migration import TensorFlowMigration
from salver.dialects.torchserve.migration import TorchServeMigration
from salver.dialects.triton.migration import TritonMigration
from salver.migration import deployment
from salver.migration.command_lines import Launch
from salver.words.errors import InvalidInput, NotFound

SERVERS = (TorchServeMigration(), TritonMigration(), TensorFlowMigration())


def look(folder: Path) -> deployment.Deployment:
    return deployment.look(folder, [server.recognise for server in SERVERS])


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def archive(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "a", "handler": "h.py"}}))
    return path


def test_places_by_what_lies_in_them(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    archive(root / "store" / "a.mar")
    put(root / "store" / "folder" / "MAR-INF" / "MANIFEST.json")
    put(root / "repo" / "m" / "config.pbtxt")
    put(root / "repo" / "m" / "1" / "model.onnx")
    put(root / "plain" / "n" / "2" / "model.pt")
    put(root / "tf" / "half" / "0000123" / "saved_model.pb")
    put(root / "repo" / "tf" / "1" / "model.savedmodel" / "saved_model.pb")
    found = look(tmp_path)
    assert found.archives == {root / "store": (root / "store" / "a.mar", root / "store" / "folder")}
    assert found.repositories == (root / "plain", root / "repo")
    assert found.base_paths == (root / "tf" / "half",)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("config.properties", "inference_address=http://0.0.0.0:8080", "properties"),
        ("snapshot.cfg", "model_snapshot={}", "properties"),
        ("log4j.properties", "log4j.rootLogger=INFO", ""),
        ("a.config", "model_config_list { }", "models"),
        ("b.txt", "max_batch_size { value: 8 }", "batching"),
        ("b.txt", "Our max_batch_size {sic} is 8", ""),
        ("m.conf", "# x\nprometheus_config { enable: true }", "monitoring"),
        ("p.pbtxt", "platform_configs { }", "platform"),
        ("s.cfg.txt", 'server_key: "k"', "ssl"),
    ],
)
def test_files_by_what_they_say(name: str, text: str, kind: str, tmp_path: Path) -> None:
    put(tmp_path / name, text)
    assert list(look(tmp_path).files) == ([kind] if kind else [])


def test_command_lines_wherever_they_stand(tmp_path: Path) -> None:
    line = "tritonserver --id x"
    for name in ("run.sh", "Dockerfile.gpu", "Makefile", "bin/start", "unit.service"):
        content = f"FROM x\nCMD {line}\n" if "Docker" in name else f"#!/bin/sh\n{line}\n"
        put(tmp_path / name, content)
    put(tmp_path / "k.yaml", f"containers:\n- image: x\n  command: {line}\n")
    put(tmp_path / "bad.yaml", "tritonserver: [")
    put(tmp_path / "stop.sh", "torchserve --stop")
    put(tmp_path / "README.md", line)
    found = look(tmp_path)
    assert len(found.started) == 6
    assert {started.launch.words for started in found.started} == {("--id", "x")}
    assert found.unread == ("bad.yaml is not valid YAML",)


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    archive(outside / "a.mar")
    put(outside / "run.sh", "tritonserver")
    archive(inside / "real" / "b.mar")
    (inside / "away").symlink_to(outside)
    (inside / "run.sh").symlink_to(outside / "run.sh")
    (inside / "again").symlink_to(inside)
    found = look(inside)
    assert [path.name for paths in found.archives.values() for path in paths] == ["b.mar"]
    assert found.started == ()


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "big.sh", "tritonserver\n" * 30_000)
    put(Path(tmp_path, *"abcdefghijklmnop", "deep.sh"), "tritonserver")
    found = look(tmp_path)
    assert (found.started, found.unread) == ((), ("big.sh is too large to be read",))
    monkeypatch.setattr(deployment, "_MOST_ENTRIES", 3)
    with pytest.raises(InvalidInput, match="more than 3 files"):
        look(tmp_path)
    with pytest.raises(NotFound):
        look(tmp_path / "nowhere")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.sh")
    assert look(tmp_path).started == ()


def test_a_folder_that_is_one_model(tmp_path: Path) -> None:
    put(tmp_path / "config.pbtxt")
    assert look(tmp_path).unread == (f"{tmp_path.resolve()} is one model: give the folder above it",)


def test_where_a_path_of_a_container_lies(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    put(root / "deep" / "models" / "m" / "config.pbtxt")
    put(root / "conf" / "c.txt")
    found, beside = look(root), root / "conf" / "run.sh"
    mounted = Launch("triton", (), mounts={"/srv": "./deep", "/srv/other": "/elsewhere"})
    assert found.find("/srv/models", mounted, root / "run.sh") == root / "deep" / "models"
    assert found.find("c.txt", Launch("triton", ()), beside) == root / "conf" / "c.txt"
    assert found.find("/opt/models", Launch("triton", ()), beside) == root / "deep" / "models"
    assert found.find("/etc", Launch("triton", ()), beside) is None
    assert found.find("/opt/other", Launch("triton", ()), beside) is None

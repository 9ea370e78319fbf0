"""``salver backup``: what belongs to the server of a command line, what is printed, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
from zoo import write_mlp

from salver.cli import main
from salver.cli.backup import source_of


def test_what_belongs_to_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALVER_USAGE_FOLDER", "usage")
    (tmp_path / "salver.toml").write_text("[server]\napi_token_file = 'token'\nlog.file = 'a.log'\n")
    words = ("models", "s3://bucket/models", "--identity-file", "id.toml", "--tls-cert", "a.pem")
    source = source_of((*words, "--tls-key", "b.pem", "--registry", "postgresql://db/salver"))
    names = ["models", "token", "id.toml", "a.pem", "b.pem", "salver.toml"]
    assert sorted(path.name for path in source.paths) == sorted(names)
    assert source.start.environment["SALVER_USAGE_FOLDER"] == "usage"
    assert (source.registry, source.artifacts) == ("postgresql://db/salver", "")


def test_a_server_is_backed_up_lost_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*words: str, ends: int = 0) -> str:
        capsys.readouterr()
        assert main(["backup", *words]) == ends
        printed = capsys.readouterr()
        return printed.out + printed.err

    site, backups = tmp_path / "site", str(tmp_path / "backups")
    write_mlp(site / "models" / "mlp", 1)
    monkeypatch.chdir(site)
    monkeypatch.setenv("SALVER_REGISTRY", "registry")
    Path("salver.toml").write_text("[server]\nkeys_file = 'keys.toml'\nport = 9000\n")
    assert main(["registry", "push", "models/mlp/1/model.onnx", "--name", "m", "--unloaded"]) == 0
    assert main(["keys", "create", "me", "--keys-file", "keys.toml"]) == 0
    before = {
        path: path.read_bytes() for path in site.rglob("*") if path.is_file() and "registry" not in str(path)
    }
    words = ("models",)
    made = json.loads(say("create", backups, "--json", *words))
    assert (made["files"], made["versions"], made["ledger"]) == (3, 1, True)
    assert "ok" in say("verify", backups)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(site)
    monkeypatch.delenv("SALVER_REGISTRY")
    printed = say("restore", backups)
    assert printed.startswith(f"restored 3 files, 1 versions, the ledger\nstart it: cd {site} && ")
    assert "SALVER_REGISTRY=registry" in printed and printed.endswith(" salver serve models\n")
    for path, content in before.items():
        assert path.name.endswith(".lock") or path.read_bytes() == content
    assert main(["registry", "verify", "--registry", str(site / "registry")]) == 0
    assert "has rows in" in say("restore", backups, ends=1)
    for blob in Path(backups).glob("blobs/??/*"):
        blob.write_bytes(b"")
    assert "the backup lacks the content of" in say("verify", backups, ends=1)
    assert json.loads(say("verify", backups, "--json", ends=1))["problems"]
    assert "there is no backup in" in say("verify", "/nope", ends=1)


def test_passwords_on_a_command_line_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mlp(tmp_path / "mlp", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALVER_TRACING_HEADERS", '[["key", "hidden"]]')
    assert main(["backup", "create", "backups", "mlp", "--response-cache", "redis,password=hidden"]) == 0
    assert main(["backup", "restore", "backups"]) == 0
    printed = capsys.readouterr()
    assert "SALVER_TRACING_HEADERS='…'" in printed.out
    assert "password=…" in printed.out and "hidden" not in printed.out + printed.err

"""Fingerprints of pipelines, and ``pipeline.lock``."""

import json
import logging
import shutil
from pathlib import Path

import msgspec
import pytest
from pipeline_graphs import planned
from zoo import write_mlp

import salver.pipelines
from salver.cli import main
from salver.features.pipelines import locking
from salver.features.pipelines.locks import Fingerprint, differences, fingerprint
from salver.words.errors import LoadFailed

TOML = """
[steps.network]
model = "network/1/model.onnx"
[steps.chances]
use = "softmax"
temperature = 2.5
[steps.best]
use = "arg-max"
[steps.name]
use = "labels"
file = "labels.json"
inputs = { index = "best.index" }
[outputs]
label = "name.label"
score = "best.score"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "insects"
    write_mlp(path / "network", 1)
    (path / "labels.json").write_text('["ant", "bee", "cat"]')
    (path / "pipeline.toml").write_text(TOML)
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(LoadFailed) as caught:
        salver.pipelines.load(folder)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


#: What is changed in the file after it was locked, and what is said of it.
CHANGES = [
    ("temperature = 2.5", "temperature = 3.0", "step `chances`: temperature 2.5 there, 3.0 here"),
    ("temperature = 2.5", "", "step `chances`: temperature 2.5 there, its default here"),
    ('score = "best.score"', "", "output `score` best.score there, is not here"),
    ('file = "labels.json"', 'names = ["ant"]', 'step `name`: file "labels.json" there, its default here'),
    (
        'use = "softmax"\ntemperature = 2.5',
        'use = "sigmoid"',
        'step `chances`: use "softmax" there, "sigmoid" here',
    ),
    ("[steps.best]", "# a comment\n[steps.best]\n" + 'inputs = { scores = "chances" }', ""),
]


@pytest.mark.parametrize(("old", "new", "said"), CHANGES)
def test_a_change_of_the_file_is_named(folder: Path, old: str, new: str, said: str) -> None:
    with salver.pipelines.load(folder) as pipeline:
        pipeline.lock()
    edit(folder / "pipeline.toml", old, new)
    if said:
        assert said in refusal(folder)
    else:  # not what it says, but how: the graph is the same
        salver.pipelines.load(folder).close()


def test_files_models_and_libraries_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["pipelines", "lock", str(folder)]) == 0
    (folder / "labels.json").write_text('["ant", "bee", "dog"]')
    model = folder / "network" / "1" / "model.onnx"
    kept = model.read_bytes()
    model.write_bytes(kept + b"\x72\x00")  # an empty field more, which ONNX takes
    versions = locking._versions
    monkeypatch.setattr(locking, "_versions", lambda names: [(name, "0.1") for name, _ in versions(names)])
    said = refusal(folder)
    assert "labels.json changed" in said and "model network/1/model.onnx changed" in said
    assert "onnxruntime 1." in said and " there, 0.1 here" in said
    assert f"salver pipelines lock {folder}" in said
    monkeypatch.undo()
    model.write_bytes(kept)
    (folder / "labels.json").write_text('["ant", "bee", "cat"]')
    salver.pipelines.load(folder).close()


def test_differences_may_be_a_warning_or_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["pipelines", "lock", str(folder)]) == 0
    edit(folder / "pipeline.toml", "2.5", "3.5")
    with caplog.at_level(logging.WARNING, "salver.pipelines"):
        salver.pipelines.load(folder, skew="warn").close()
    assert "temperature 2.5 there, 3.5 here" in caplog.text
    caplog.clear()
    salver.pipelines.load(folder, skew=None).close()
    assert not caplog.text


def test_the_digest_is_of_what_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipelines", "digest", str(folder)]) == 0
    digest = capsys.readouterr().out.strip()
    copy = folder.parents[1] / "elsewhere" / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("Insects.")
    with salver.pipelines.load(copy, expected=digest) as pipeline:
        assert pipeline.digest == digest == pipeline.lock()
    edit(copy / "pipeline.toml", "2.5", "2.0")
    with pytest.raises(LoadFailed, match=f"not {digest}"):
        salver.pipelines.load(copy, expected=digest, skew=None)
    assert main(["pipelines", "digest", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == digest and told["steps"]["chances"]["options"] == {"temperature": 2.5}


def test_a_model_of_the_server_is_known_beside_the_folder(folder: Path) -> None:
    other = folder.parent / "twice"
    other.mkdir()
    (other / "pipeline.toml").write_text('[steps.insects]\nmodel = "insects"\n')
    assert main(["pipelines", "lock", str(other)]) == 0
    found = locking.read_lock(other)
    assert found is not None and len(found.pipeline.models["insects"]) == 64
    (other / "pipeline.toml").write_text('[steps.insects]\nmodel = "absent"\n')
    assert main(["pipelines", "lock", str(other)]) == 1


def test_the_digest_goes_into_the_registry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = ["--registry", str(folder.parents[1] / "registry")]
    push = ["registry", "push", str(folder), "--name", "insects", *registry]
    assert main(push) == 0
    assert "no digest that a server could check: salver pipelines lock" in capsys.readouterr().err
    assert main(["pipelines", "lock", str(folder)]) == 0
    assert main(push) == 0
    capsys.readouterr()
    assert main(["registry", "show", "insects", "--json", *registry]) == 0
    signature = json.loads(capsys.readouterr().out)["description"]["signature"]
    lock = json.loads((folder / "pipeline.lock").read_text())
    assert signature["digest"] == lock["digest"]
    edit(folder / "pipeline.toml", "2.5", "2.0")
    assert main(push) == 1
    assert "temperature 2.5 there, 2.0 here" in capsys.readouterr().err


def test_a_broken_lock_file_is_refused(folder: Path) -> None:
    (folder / "pipeline.lock").write_text('{"digest": 3}')
    assert "pipeline.lock is no lock file" in refusal(folder)


def test_what_is_on_one_side_only_is_named() -> None:
    print_of = lambda text: fingerprint(planned(text), {}, {}, {})  # noqa: E731
    one = print_of('[inputs]\nx = "FP32[-1,4]"\n[steps.a]\nuse = "softmax"\n')
    two = print_of('[inputs]\ny = "FP32[-1,4]"\n[steps.b]\nuse = "softmax"\n')
    assert differences(one, two) == [
        "input `x` FP32[-1,4] there, is not here",
        "input `y` is not there, FP32[-1,4] here",
        "step `a` is there only",
        "step `b` is here only",
        "output `scores` a.scores there, b.scores here",
    ]
    assert not differences(one, one)


def test_differences_and_digests_agree() -> None:
    """Equal digests have no differences; each part that is changed alone is one."""
    whole = Fingerprint({"x": "a"}, {"y": "b"}, {}, {"f": "c"}, {"m": "d"}, {"l": "e"})
    for field in msgspec.structs.fields(whole):
        value = getattr(whole, field.name)
        if value:
            other = msgspec.structs.replace(whole, **{field.name: dict.fromkeys(value, "z")})
            assert other.digest != whole.digest and len(differences(whole, other)) == 1

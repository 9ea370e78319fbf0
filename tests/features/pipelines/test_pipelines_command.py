"""``salver pipelines show``, and pipelines in a program."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_directories import directory
from pipeline_graphs import Runs
from zoo import mlp_answer, write_mlp

import salver.pipelines
from salver.cli import main
from salver.features.pipelines.backend import PipelineBackend
from salver.testing.backends import BackendConformance, Case
from salver.words.errors import InvalidInput, LoadFailed, ModelFailed

TOML = """
[steps.network]
model = "network/1/model.onnx"
[steps.chances]
use = "softmax"
temperature = 2
[steps.best]
use = "arg-max"
[steps.sure]
use = "threshold"
inputs = { values = "best.score" }
[steps.name]
use = "labels"
names = ["ant", "bee", "cat"]
inputs = { index = "best.index" }
when = "sure.reached"
[steps.names]
use = "collect"
[outputs]
index = "best.index"
names = "names.list"
"""
DRAWN = """\
x                                             FP32[-1,16]
┌ network: model network/1/model.onnx
│ ← x                                         FP32[-1,16]
└ → y                                         FP32[-1,3]
┌ chances: softmax (temperature = 2)
│ ← network.y as logits                       FP32[-1,3]
└ → scores                                    FP32[-1,3]
┌ best: arg-max
│ ← chances.scores                            FP32[-1,3]
│ → index                                     INT64[-1]
└ → score                                     FP32[-1]
┌ sure: threshold (least = 0.5)
│ ← best.score as values                      FP32[-1]
└ → reached                                   BOOL[-1]
┌ name: labels (names = ["ant","bee","cat"])  when sure.reached
│ ← best.index                                INT64[-1]
│ ← sure.reached as when                      BOOL[-1]
└ → label                                     BYTES[-1]
┌ names: collect
│ ← name.label as item                        BYTES[-1]
│ → list                                      BYTES[-1,-1]
└ → count                                     INT64[-1]
index ← best.index                            INT64[-1]
names ← names.list                            BYTES[-1,-1]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "insects"
    write_mlp(path / "network", 1)
    (path / "pipeline.toml").write_text(TOML.replace('use = "threshold"', 'use = "threshold"\nleast = 0.5'))
    return path


def test_the_graph_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipelines", "digest", str(folder)]) == 0
    digest = capsys.readouterr().out.strip()
    assert main(["pipelines", "show", str(folder)]) == 0
    assert capsys.readouterr().out == f"{DRAWN}digest {digest}\n"


def test_the_graph_is_drawn_with_what_is_locked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipelines", "lock", str(folder)]) == 0
    assert main(["pipelines", "show", str(folder)]) == 0
    assert ", as locked\n" in capsys.readouterr().out
    toml = folder / "pipeline.toml"
    toml.write_text(toml.read_text().replace("least = 0.5", "least = 0.25"))
    assert main(["pipelines", "show", str(folder)]) == 0
    assert "pipeline.lock is of another" in capsys.readouterr().err
    assert main(["pipelines", "show", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["digest"]) == len(said["locked"]) == 64 and said["digest"] != said["locked"]


def test_models_of_the_server_lie_beside_in_folders_of_versions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mlp(folder.parent / "mlp", 1)
    write_mlp(folder.parent / "mlp", 2)
    text = '[steps.a]\nmodel = "mlp"\n[steps.b]\nmodel = "mlp"\ninputs = { x = "x" }\n'
    (folder / "pipeline.toml").write_text(text + '[outputs]\na = "a.y"\nb = "b.y"\n')
    assert main(["pipelines", "show", str(folder)]) == 0
    said = capsys.readouterr()
    assert "a ← a.y FP32[-1,3]" in " ".join(said.out.split()) and not said.err
    assert main(["pipelines", "lock", str(folder)]) == 0
    x = np.random.default_rng(2).normal(size=(2, 16)).astype(np.float32)
    with salver.pipelines.load(folder) as pipeline:
        np.testing.assert_allclose(pipeline({"x": x})["a"], mlp_answer(x), rtol=1e-5)
    (folder / "pipeline.toml").write_text('[steps.a]\nmodel = "mlp"\nversion = "3"\n')
    with pytest.raises(LoadFailed, match="'mlp' is not beside"):
        salver.pipelines.load(folder)


def test_the_graph_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipelines", "show", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "insects" and said["steps"][0]["name"] == "network"
    assert said["steps"][4]["when"] == "sure.reached" and said["steps"][4]["rows"] == ["when sure.reached"]
    assert said["outputs"][0] == {"name": "index", "source": "best.index", "type": "INT64[-1]"}


def test_a_model_of_the_server_is_looked_for_beside_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = folder / "pipeline.toml"
    toml.write_text('[steps.a]\nmodel = "reviews"\n[steps.b]\nuse = "pool"\n')
    assert main(["pipelines", "show", str(folder)]) == 1  # it is not known what `a` reads
    assert "model reviews `a` reads nothing" in capsys.readouterr().err
    toml.write_text('[steps.a]\nmodel = "reviews"\ninputs = { text = "text" }\n[outputs]\nall = "a.output"\n')
    assert main(["pipelines", "show", str(folder)]) == 0
    said = capsys.readouterr()
    assert "all ← a.output" in said.out and "models of the server: a" in said.err
    pytest.importorskip("tokenizers")
    directory(folder.parent, "textclass-single").rename(folder.parent / "reviews")
    assert main(["pipelines", "show", str(folder)]) == 0
    said = capsys.readouterr()
    assert "BYTES[-1]" in said.out and not said.err


def test_a_graph_that_does_not_fit_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pipeline.toml").write_text(
        '[steps.a]\nmodel = "network/1/model.onnx"\n[steps.b]\nuse = "pool"\n'
    )
    assert main(["pipelines", "show", str(folder)]) == 1
    assert "a.y -> b.states: FP32[-1,3] where FLOAT[-1,-1,-1] is wanted" in capsys.readouterr().err
    assert main(["pipelines", "show", str(folder.parent)]) == 1
    assert "pipeline.toml cannot be read" in capsys.readouterr().err


def test_a_program_runs_what_a_server_runs(folder: Path) -> None:
    x = np.random.default_rng(2).normal(size=(6, 16)).astype(np.float32)
    logits = mlp_answer(x) / 2
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    with salver.pipelines.load(folder) as pipeline:
        found = pipeline({"x": x})
        assert found.keys() == {spec.name for spec in pipeline.signature.outputs}
        again = pipeline({"x": x.tolist()})
    assert found["index"].tolist() == again["index"].tolist() == chances.argmax(-1).tolist()
    wanted = [
        [["ant", "bee", "cat"][row.argmax()].encode()] if row.max() >= 0.5 else [b""] for row in chances
    ]
    assert found["names"].tolist() == wanted


def test_a_program_is_told_what_it_gave_wrong(folder: Path) -> None:
    with salver.pipelines.load(folder) as pipeline:
        for inputs in ({"y": [[1.0]]}, {}, {"x": [[1.0]]}, {"x": ["a"]}):
            with pytest.raises(InvalidInput):
                pipeline(inputs)


def test_a_model_that_is_not_beside_the_file_is_given(folder: Path) -> None:
    (folder / "pipeline.toml").write_text('[steps.a]\nmodel = "insects"\n[steps.b]\nuse = "arg-max"\n')
    with pytest.raises(LoadFailed, match="'insects' is not beside"):
        salver.pipelines.load(folder)

    class Model:
        signature = salver.pipelines.load(_plain(folder)).signature

        def run(self, inputs):
            return {"y": inputs["x"][:, :3]}

        def close(self):
            raise AssertionError("it is the caller's")

    with salver.pipelines.load(folder, {"insects": Model()}) as pipeline:
        x = np.arange(32, dtype=np.float32).reshape(2, 16)
        assert pipeline({"x": x})["index"].tolist() == [2, 2]


def _plain(folder: Path) -> Path:
    path = folder.parent / "plain"
    write_mlp(path / "network", 1)
    (path / "pipeline.toml").write_text('[steps.a]\nmodel = "network/1/model.onnx"\n')
    return path


class TestPipelineBackend(BackendConformance):
    backend = PipelineBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        write_mlp(folder / "p" / "network", 1)
        (folder / "p" / "pipeline.toml").write_text(
            '[steps.a]\nmodel = "network/1/model.onnx"\n[steps.b]\nuse = "softmax"\n'
        )
        x = np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)
        logits = np.exp(mlp_answer(x))
        return Case(folder / "p", {"x": x}, {"scores": logits / logits.sum(-1, keepdims=True)}, cut=False)


def test_a_pipeline_may_be_a_model_of_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outer = folder.parent / "outer"
    outer.mkdir()
    folder.rename(outer / "inner")
    (outer / "pipeline.toml").write_text('[steps.a]\nmodel = "inner"\n[outputs]\nfound = "a.names"\n')
    x = np.random.default_rng(2).normal(size=(6, 16)).astype(np.float32)
    with salver.pipelines.load(outer) as pipeline, salver.pipelines.load(outer / "inner") as inner:
        assert pipeline({"x": x})["found"].tolist() == inner({"x": x})["names"].tolist()
    assert main(["pipelines", "show", str(outer)]) == 0
    assert "found ← a.names" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            {"y": np.zeros((3, 4), np.float32)},
            r"gave float32\[3, 4\] for its output y, which is FP32\[-1,4\] of 2 rows",
        ),
        ({"y": np.zeros((2, 4))}, r"gave float64\[2, 4\] for its output y, which is FP32\[-1,4\]"),
        ({"y": np.zeros(2, np.float32)}, r"gave float32\[2\] for its output y"),
        ({"z": np.zeros(2, np.float32)}, "gave nothing for its output y"),
    ],
)
def test_a_step_that_does_not_give_what_it_says_is_found_out(answer, said: str) -> None:
    runs = Runs('[steps.a]\nmodel = "four"\n', {"a": lambda arrays: answer})
    with pytest.raises(ModelFailed, match=f"step 'a' {said}"):
        runs(x=np.zeros((2, 4), np.float32))

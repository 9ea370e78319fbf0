"""Ensembles in configurations, and errors of those whose tensors do not fit (TR-C10)."""

from pathlib import Path

import pytest

from salver.dialects.triton.config.pbtxt import parse_json, parse_pbtxt
from salver.kernel.repository import Repository
from salver.kernel.repository.checks.ensemble import misfit
from salver.kernel.repository.toml import parse_toml
from salver.parts import formats
from salver.words.artifacts import Ensemble, EnsembleStep
from salver.words.errors import InvalidInput

PBTXT = """
platform: "ensemble" max_batch_size: 4
input { name: "raw" data_type: TYPE_STRING dims: [1] }
output { name: "best" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt" }
ensemble_scheduling {
  max_inflight_requests: 8
  step { model_name: "pre" model_version: -1
    input_map { key: "TEXT" value: "raw" } output_map { key: "ROW" value: "row" } }
  step { model_name: "net" model_version: 3
    input_map { key: "x" value: "row" } output_map { key: "y" value: "best" } }
}
"""
STEPS = (
    EnsembleStep("pre", "", {"TEXT": "raw"}, {"ROW": "row"}),
    EnsembleStep("net", "3", {"x": "row"}, {"y": "best"}),
)
TOML = """
[ensemble]
max_inflight_requests = 8

[[ensemble.steps]]
model = "pre"
inputs = { TEXT = "raw" }
outputs = { ROW = "row" }

[[ensemble.steps]]
model = "net"
version = "3"
inputs = { x = "row" }
outputs = { y = "best" }
"""


def step(reads: str, writes: str, model: str = "m", **more: str) -> EnsembleStep:
    """Tensors by one letter each."""
    ins = {f"IN{i}": tensor for i, tensor in enumerate(reads)}
    outs = {f"OUT{i}": tensor for i, tensor in enumerate(writes)}
    return EnsembleStep(model, "", ins, outs, **more)


@pytest.mark.clause("TR-C10")
def test_ensemble_scheduling_is_honoured() -> None:
    translated = parse_pbtxt(PBTXT.encode(), "/r/e/config.pbtxt", "e")
    config = translated.config
    assert config.ensemble == Ensemble(STEPS, 8)
    assert (config.backend, config.batching.has_rows, config.batching.max_rows) == ("", True, 4)
    assert [spec.shape for spec in (*config.inputs, *config.outputs)] == [(-1, 1), (-1, 3)]
    assert translated.notices == ()
    assert config.ensemble.models == (("pre", ""), ("net", "3"))


@pytest.mark.clause("TR-C10")
def test_without_a_batch_size_there_is_no_batch() -> None:
    text = PBTXT.replace("max_batch_size: 4", "")
    config = parse_pbtxt(text.encode(), "/r/e/config.pbtxt", "e").config
    assert (config.batching.has_rows, config.inputs[0].shape) == (False, (1,))


@pytest.mark.clause("TR-C10")
def test_salver_toml_says_the_same() -> None:
    assert parse_toml(TOML.encode(), "/r/e/salver.toml").ensemble == Ensemble(STEPS, 8)


@pytest.mark.clause("TR-C10")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('step { model_name: "pre" ', "step { "), "must specify 'model_name' in step 0 of ensemble 'e'"),
        (
            ('input_map { key: "TEXT" value: "raw" }', ""),
            "must specify 'input_map' in step 0 of ensemble 'e'",
        ),
        (
            ('output_map { key: "y" value: "best" }', ""),
            "must specify 'output_map' in step 1 of ensemble 'e'",
        ),
        (
            ('key: "y" value: "best"', 'key: "y" value: "row"'),
            "ensemble tensor 'row' can appear in an output map only once for ensemble 'e' step 1",
        ),
        (('value: "raw"', 'value: "other"'), "ensemble input 'raw' for ensemble e' is not used"),
        (
            ('key: "x" value: "row"', 'key: "x" value: "nosuch"'),
            "output 'best' for ensemble 'e' is not written: the step that writes it waits",
        ),
        (
            ('platform: "ensemble"', ""),
            "ensemble scheduling cannot be set for model 'e' whose platform is not",
        ),
        (
            ("max_batch_size: 4", "instance_group {}"),
            "instance group should not be specified for ensemble 'e'",
        ),
        (("max_batch_size: 4", "optimization {}"), "optimization should not be specified for ensemble 'e'"),
        (("max_batch_size: 4", "model_warmup {}"), "model_warmup can not be specified for ensemble 'e'"),
        (("max_batch_size: 4", 'backend: "python"'), "ensemble 'e' has no backend, and 'python' is given"),
        ((PBTXT[PBTXT.index("ensemble_sch") :], ""), "must specify 'step' for ensemble 'e'"),
    ],
)
def test_what_cannot_be_is_refused_in_tritons_words(change: tuple[str, str], message: str) -> None:
    assert change[0] in PBTXT
    with pytest.raises(InvalidInput) as caught:
        parse_pbtxt(PBTXT.replace(*change, 1).encode(), "/r/e/config.pbtxt", "e")
    assert message in str(caught.value)


@pytest.mark.clause("TR-C10")
@pytest.mark.parametrize(
    ("steps", "inputs", "outputs", "problem"),
    [
        ([step("a", "b"), step("b", "c")], "a", "c", ""),
        ([step("b", "c"), step("a", "b")], "a", "c", ""),
        ([step("a", "b"), step("a", "c"), step("bc", "d")], "a", "d", ""),
        ([step("a", "bc")], "a", "bc", ""),
        ([step("a", "b"), step("b", "c")], "", "", ""),
        ([step("a", "b"), step("b", "c")], "a", "bc", ""),
        ([step("a", "bx"), step("b", "c")], "a", "c", "ensemble tensor 'x' is unused in ensemble 'e'"),
        ([step("az", "b"), step("b", "z")], "a", "b", "output 'b' for ensemble 'e' is not written: the step"),
        ([step("a", "b")], "a", "c", "output 'c' for ensemble 'e' is not written: it is neither"),
        ([step("a", "b"), step("xy", "y")], "a", "b", "ensemble tensor 'x' is unused in ensemble 'e': it is"),
        ([step("a", "a")], "a", "a", "input 'a' of ensemble 'e' is written by step 0"),
        ([step("a", "bb")], "a", "b", "multiple outputs are mapped to the same ensemble tensor in step 0"),
        ([step("a", "b"), step("b", "a")], "", "", "ensemble tensor 'a' is unused in ensemble 'e': the step"),
        ([step("", "b")], "", "b", "must specify 'input_map' in step 0"),
        ([], "", "", "must specify 'step' for ensemble 'e'"),
        ([step("a", "b", when="f"), step("a", "b", unless="f")], "af", "b", ""),
        ([step("a", "b", unless="f"), step("a", "b", when="f")], "", "", ""),
        (
            [step("a", "b", when="f"), step("a", "b", when="f")],
            "af",
            "b",
            "can appear in an output map only once",
        ),
        (
            [step("a", "b", when="f"), step("a", "b", unless="g")],
            "afg",
            "b",
            "can appear in an output map only",
        ),
        ([step("a", "b", when="f"), step("a", "b")], "af", "b", "can appear in an output map only once"),
        (
            [step("a", "b", when="f"), step("a", "b", unless="f"), step("a", "b", when="f")],
            "af",
            "b",
            "can appear in an output map only once for ensemble 'e' step 2",
        ),
        ([step("a", "b", when="f", unless="f")], "af", "b", "`when` and `unless` in step 0"),
        ([step("a", "b", when="f")], "a", "b", "output 'b' for ensemble 'e' is not written"),
    ],
)
def test_can_the_tensors_flow(steps: list[EnsembleStep], inputs: str, outputs: str, problem: str) -> None:
    said = misfit("e", Ensemble(tuple(steps)), list(inputs), list(outputs))
    assert problem in said
    assert bool(problem) == bool(said)


@pytest.mark.clause("TR-C10")
def test_there_is_a_limit_of_steps() -> None:
    many = tuple(EnsembleStep("m", "", {"x": f"t{n}"}, {"y": f"t{n + 1}"}) for n in range(1001))
    assert misfit("e", Ensemble(many[:1000])) == ""
    assert misfit("e", Ensemble(many)) == "ensemble 'e' has 1001 steps; at most 1000 are taken"


@pytest.mark.clause("TR-C10")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML + "inputz = {}", "unknown key `ensemble.steps.inputz`. Did you mean `inputs`?"),
        ('backend = "onnx"\n' + TOML, "key `backend`: is for models, not for an ensemble of them"),
        (TOML + "[instances]\ncount = 2", "key `instances`: is for models"),
        ("[ensemble]", "must specify 'step' for ensemble 'e'"),
        (TOML.replace("= 8", "= -1"), "key `ensemble.max_inflight_requests`: must not be negative"),
        (TOML.replace('"best"', '"row"'), "ensemble tensor 'row' can appear in an output map only once"),
    ],
)
def test_a_wrong_salver_toml(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_toml(text.encode(), "/r/e/salver.toml")
    assert message in str(caught.value)


@pytest.mark.clause("TR-C1")
def test_an_ensemble_has_no_artefact(tmp_path: Path) -> None:
    """Its version's folder is empty, or not there; the configuration is its content."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(PBTXT)
        (tmp_path / name / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "with" / "7").mkdir()
    repository = Repository([tmp_path], formats(lambda path: None))
    found = {manifest.id.name: manifest for manifest in repository.scan(0.0)}
    assert {name: (m.id.version, m.backend, m.problem) for name, m in found.items()} == {
        "with": ("7", "ensemble", ""),
        "without": ("1", "ensemble", ""),
    }
    assert found["with"].config.outputs[0].labels == ("a", "b", "c")
    before = found["with"].fingerprint
    (tmp_path / "with" / "config.pbtxt").write_text(
        PBTXT.replace("inflight_requests: 8", "inflight_requests: 9")
    )
    repository.scan(1.0)
    (after,) = [m for m in repository.scan(2.0) if m.id.name == "with"]
    assert after.fingerprint != before


@pytest.mark.clause("TR-R12")
def test_an_ensemble_may_come_as_json() -> None:
    text = (
        '{"platform": "ensemble", "input": [{"name": "a", "data_type": "TYPE_FP32", "dims": [1]}], '
        '"output": [{"name": "b", "data_type": "TYPE_FP32", "dims": [1]}], "ensemble_scheduling": {"step": '
        '[{"model_name": "m", "model_version": -1, "input_map": {"x": "a"}, "output_map": {"y": "b"}}]}}'
    )
    assert parse_json(text, "e").config.ensemble.steps == (EnsembleStep("m", "", {"x": "a"}, {"y": "b"}),)

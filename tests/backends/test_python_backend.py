"""Python models: whose modules they see, and what their owner reads when the file is wrong."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from salver.backends.protocol import LoadOptions, RunnableModel, StepModel
from salver.backends.python import PythonBackend
from salver.words.artifacts import Manifest, ModelConfig, Steps
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

BACKEND = PythonBackend()
SPECS = """
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}
"""
WHOLE = f"class Model:{SPECS}    def predict(self, inputs):\n        return {{'y': inputs['x']}}\n"
ONES = {"x": np.ones(2, "f4")}


def load(path: Path, config: ModelConfig | None = None) -> RunnableModel:
    form = BACKEND.recognise(path)
    assert form == "python"
    manifest = Manifest(ModelId("m", "1"), path, form, "python", config or ModelConfig())
    return BACKEND.load(manifest, LoadOptions())


def refusal(path: Path, source: str) -> str:
    path.write_text(source)
    modules, places = set(sys.modules), list(sys.path)
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert set(sys.modules) == modules
    assert sys.path == places
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from a host process
    return str(caught.value)


def version(folder: Path, factor: int) -> Path:
    """A model that multiplies by what a sibling module and a package with a late import say."""
    (folder / "inner").mkdir(parents=True)
    (folder / "factor.py").write_text(f"FACTOR = {factor}\n")
    (folder / "inner" / "__init__.py").write_text("from .deep import MORE\n")
    (folder / "inner" / "deep.py").write_text("import factor\nMORE = factor.FACTOR * 10\n")
    (folder / "model.py").write_text(
        "import factor\n"
        f"class Model:{SPECS}"
        "    def load(self, context):\n"
        "        import inner\n"
        "        self.more = inner.MORE\n"
        "    def predict(self, inputs):\n"
        "        return {'y': inputs['x'] * (factor.FACTOR + self.more)}\n"
    )
    return folder


def test_versions_do_not_share_modules_of_the_same_name(tmp_path: Path) -> None:
    places = list(sys.path)
    one, two = load(version(tmp_path / "1", 1)), load(version(tmp_path / "2", 2))
    assert one.run(ONES)["y"].tolist() == [11, 11]
    assert two.run(ONES)["y"].tolist() == [22, 22]
    assert sys.path == places
    assert not {"factor", "inner", "inner.deep"} & set(sys.modules)
    one.close()
    assert two.run(ONES)["y"].tolist() == [22, 22]
    two.close()


def test_what_was_installed_stays_though_it_lies_below_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment in the project's own folder, say."""
    site = tmp_path / "venv"
    site.mkdir()
    (site / "installed_once.py").write_text("")
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "m.py").write_text(f"import installed_once\n{WHOLE}")
    load(tmp_path / "m.py").close()
    assert sys.modules.pop("installed_once")


def test_the_models_own_module_is_known_while_it_serves(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import pickle\nclass Note: pass\n"
        f"class Model:{SPECS}"
        "    def predict(self, inputs):\n"
        "        assert type(pickle.loads(pickle.dumps(Note()))) is Note\n"
        "        return {'y': inputs['x']}\n"
    )
    before = set(sys.modules)
    model = load(tmp_path / "m.py")
    assert model.run(ONES)["y"].tolist() == [1, 1]
    model.close()
    assert set(sys.modules) == before


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    said = refusal(tmp_path / "m.py", WHOLE + "        return {'y': 1 +* 2}\n")
    assert "m.py, line 6: invalid syntax: return {'y': 1 +* 2}" in said


def test_a_syntax_error_of_a_sibling_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("x = = 1\n")
    assert "sibling.py, line 1" in refusal(tmp_path / "m.py", "import sibling\n" + WHOLE)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (WHOLE.replace("Model", "Scorer"), "defines no class Model. Rename the class Scorer to Model."),
        ("class Scorer:\n    def predict(self, inputs): ...\n", "Rename the class Scorer to Model"),
        (WHOLE.replace("predict", "forward"), "class Model has no method predict"),
        ("class Model:\n    def predict(self, inputs): ...\n", "class Model declares no inputs"),
        (WHOLE.replace("FP32", "FLOAT"), "('FLOAT', [-1]) is not a (datatype, shape) pair"),
        (WHOLE + "    batched = True\n    inputs = {'x': ('FP32', [3])}\n", "not every shape begins with -1"),
        ("import no_such_package\n" + WHOLE, "No module named 'no_such_package'"),
        ("raise SystemExit(3)\n" + WHOLE, "SystemExit: 3"),
        (
            WHOLE + "    def load(self, context):\n        raise OSError('no weights')\n",
            "OSError: no weights",
        ),
        (WHOLE + "    def __init__(self, size): ...\n", "missing 1 required positional argument: 'size'"),
    ],
)
def test_the_owner_reads_what_is_wrong(tmp_path: Path, source: str, said: str) -> None:
    assert said in refusal(tmp_path / "m.py", source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def predict(inputs): ...\n",
        "class Net:\n    def predict(self, x): ...\n",
        "class Model_:\n    pass\n",
        "print('not' + * python)\n",
    ],
)
def test_other_source_is_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "m.py").write_text(source)
    assert BACKEND.recognise(tmp_path / "m.py") is None


def test_the_context_tells_path_name_threads_and_options(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        WHOLE + "    def load(self, context):\n        raise ValueError(repr(context))\n"
    )
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path / "m.py", ModelConfig(options={"limit": "3"}))
    for part in ("m.py", "name='m'", "version='1'", "threads=1", "'limit': '3'"):
        assert part in str(caught.value)


STEPS = """
import numpy as np
class Model:
    def load(self, context):
        self.last = {}
    def step(self, slots, tokens):
        scores = np.zeros((len(slots), 256), "f4")
        for row, (slot, token) in enumerate(zip(slots, tokens)):
            self.last[int(slot)] = self.last.get(int(slot), 0) + int(token)
            scores[row, self.last[int(slot)] % 256] = 1
        return scores
    def release(self, slot):
        self.last.pop(slot, None)
"""
STEPPED = ModelConfig(steps=Steps(vocabulary="bytes", max_sequences=2))


def load_steps(path: Path, source: str) -> StepModel:
    path.write_text(source)
    return BACKEND.load_steps(Manifest(ModelId("m", "1"), path, "python", "python", STEPPED), LoadOptions())


def test_a_class_with_step_is_stepped(tmp_path: Path) -> None:
    model = load_steps(tmp_path / "model.py", STEPS)
    assert model.step(np.array([0, 1]), np.array([3, 4])).argmax(axis=1).tolist() == [3, 4]
    assert model.prefill(0, np.array([1, 2])).argmax() == 6  # by steps, as it has no prefill
    model.release(0)
    assert model.step(np.array([0]), np.array([9])).argmax() == 9
    model.close()
    model = load_steps(
        tmp_path / "model.py",
        STEPS + "    def prefill(self, slot, tokens):\n        return np.full(256, tokens.sum())\n",
    )
    assert model.prefill(0, np.array([1, 2]))[0] == 3
    model.close()


def test_a_class_with_states_is_stepped(tmp_path: Path) -> None:
    source = """
class Model:
    inputs = {"tokens": ("INT64", [-1, -1]), "seen": ("INT64", [-1])}
    outputs = {"scores": ("FP32", [-1, 4]), "seen_after": ("INT64", [-1])}
    def predict(self, inputs):
        import numpy as np
        seen = inputs["seen"] + inputs["tokens"].shape[1]
        return {"scores": np.eye(4, dtype="f4")[seen % 4], "seen_after": seen}
"""
    model = load_steps(tmp_path / "model.py", source)
    assert model.prefill(1, np.array([7, 7])).argmax() == 2
    assert model.step(np.array([1, 0]), np.array([7, 7])).argmax(axis=1).tolist() == [3, 1]
    model.close()
    with pytest.raises(LoadFailed, match="no input tokens"):
        load_steps(tmp_path / "model.py", WHOLE)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (STEPS.replace("release", "forget"), "class Model has no method release.*forgets the slot"),
        (STEPS.replace("step", "walk"), "class Model has no method predict"),
    ],
)
def test_a_class_that_cannot_be_stepped_says_what_it_lacks(tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(LoadFailed, match=reason):
        load_steps(tmp_path / "model.py", source)


def test_a_class_with_step_needs_a_vocabulary(tmp_path: Path) -> None:
    assert 'steps.vocabulary = "bytes"' in refusal(tmp_path / "model.py", STEPS)

"""Which models' requests may run once more when their host died."""

from pathlib import Path
from typing import Any

import pytest

from salver.backends.onnx import OnnxBackend
from salver.backends.python import PythonBackend
from salver.backends.sklearn import SklearnBackend
from salver.backends.tensorflow import TensorFlowBackend
from salver.backends.torch import TorchBackend
from salver.kernel.serving.loader import _reruns
from salver.words.artifacts import Instances, Manifest, ModelConfig
from salver.words.messages import ModelId, Signature

PLAIN = Signature((), ())


def may(backend: Any, signature: Signature = PLAIN, code: Path | None = None, **told: Any) -> bool:
    options, form = told.pop("options", {}), told.pop("form", "")
    config = ModelConfig(instances=Instances(**told), options=options)
    return _reruns(backend(), Manifest(ModelId("m", "1"), Path("m"), form, "b", config, code=code), signature)


@pytest.mark.parametrize(
    ("backend", "is_repeatable"),
    [
        (OnnxBackend, True),
        (TensorFlowBackend, True),
        (TorchBackend, True),
        (PythonBackend, False),
        (SklearnBackend, True),
    ],
)
def test_fixed_graphs_may_and_code_may_not_unless_its_owner_says_so(
    backend: Any, is_repeatable: bool
) -> None:
    assert may(backend) == is_repeatable
    assert may(backend, reruns=True)
    assert not may(backend, reruns=False)


def test_what_keeps_state_or_is_run_by_a_program_may_not() -> None:
    assert not may(OnnxBackend, Signature((), (), is_stateful=True))
    assert not may(OnnxBackend, code=Path("model.py"))
    assert not may(TorchBackend, options={"module": "model.py"})
    assert not may(SklearnBackend, form="pickle")

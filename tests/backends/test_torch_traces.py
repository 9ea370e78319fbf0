"""A trace does not say whether it takes other numbers of rows than its example: it is tried."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from salver.backends.protocol import LoadOptions
from salver.backends.torch import TorchBackend
from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

Function = Callable[[torch.Tensor], object]


class Traced(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


FREE: list[Function] = [
    lambda x: 2 * x,
    lambda x: (x.sum(1), torch.stack([x, x], 1)),
]
FIXED: list[Function] = [
    lambda x: x - x.mean(0),
    lambda x: x.view(2, -1),
    lambda x: x[:2],
    lambda x: x[:1].expand(2, 4),
    lambda x: x.flip(0),
    lambda x: x.sum(),
]


@pytest.mark.parametrize(
    ("function", "rows"), [*((each, -1) for each in FREE), *((each, 2) for each in FIXED)]
)
def test_rows_are_free_if_they_do_not_meet(tmp_path: Path, function: Function, rows: int) -> None:
    torch.jit.trace(Traced(function), torch.zeros(2, 4)).save(str(tmp_path / "m.pt"))
    manifest = Manifest(ModelId("m", "1"), tmp_path / "m.pt", "torchscript", "torch")
    model = TorchBackend().load(manifest, LoadOptions())
    found = model.signature
    assert [spec.shape for spec in found.inputs] == [(rows, 4)]
    if rows < 0:
        assert {spec.shape[0] for spec in found.outputs} == {-1}
    model.close()

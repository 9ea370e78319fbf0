"""What is said of TorchScript that tells no shapes is pasted into a file beside it, and the model loads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from salver.backends.discovery import backends, recogniser
from salver.backends.protocol import LoadOptions
from salver.backends.torch import TorchBackend
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.words.errors import LoadFailed


class Scale(nn.Module):
    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table(tokens)


PROGRAMS: dict[str, nn.Module] = {
    "a scalar": Scale(),
    "tokens": Lookup(),
    "rows": nn.Sequential(nn.Linear(4, 2)),
    "images": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)),
    "a recurrent one": nn.Sequential(nn.Conv1d(2, 3, 3)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_can_be_pasted(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.script(PROGRAMS[name]).save(str(path))

    def load() -> Any:
        (manifest,) = Repository((path,), formats(recogniser(backends()))).scan(0.0)
        assert not manifest.problem
        return TorchBackend().load(manifest, LoadOptions())

    with pytest.raises(LoadFailed) as info:
        load()
    (tmp_path / "salver.toml").write_text(str(info.value).partition(":\n")[2])
    model = load()
    inputs = {
        spec.name: np.ones([2 if extent < 0 else extent for extent in spec.shape], spec.datatype.dtype)
        for spec in model.signature.inputs
    }
    assert model.run(inputs)

"""TorchScript programs opened in parts are as PyTorch opens them, and their code tells what they change."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salver.backends import torch_script
from salver.backends.protocol import LoadOptions
from salver.backends.torch import TorchBackend
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
#: What an inlined graph says of the same.
CHANGES = re.compile(r"prim::SetAttr|\w::\w+_\(|aten::(append|insert|extend|pop|clear|_set_item|Delete)")


class Layers(torch.nn.Module):
    """With weights that two layers share, an empty buffer, a view and numbers of 16 bits."""

    coarse: torch.Tensor
    piece: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("coarse", torch.arange(4).to(torch.bfloat16))
        self.register_buffer("piece", torch.arange(8.0)[4:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.first(x)) + self.piece + self.coarse


class Constant(torch.nn.Module):
    """Its trace holds a tensor in its graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Kept(torch.nn.Module):
    """What a program may change."""

    count: int
    values: torch.Tensor
    words: list[float]
    pairs: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self.count, self.words, self.pairs = 0, [1.0, 2.0], {"a": 1.0}
        self.register_buffer("values", torch.zeros(3))


CODE = (
    *("x + 1", "self.values + x", "self.count + x"),
    *("self.count += 1", "self.values = x", "self.values += x", "self.words = [1.0]"),
    *("self.values.add_(x)", "self.values[0] = 1.0", "self.values[0] += 1.0", "self.values.copy_(x)"),
    *("self.words.append(1.0)", "self.words.insert(0, 1.0)", "self.words.extend([1.0])", "self.words.pop()"),
    *("self.words.clear()", "self.words[0] = 2.0", "del self.words[0]", "self.pairs['b'] = 2.0"),
    *("del self.pairs['a']", "self.pairs.pop('a')", "self.pairs.popitem()", "self.pairs.clear()"),
    *("torch.relu_(self.values)", "torch.nn.functional.hardtanh(x, inplace=True)"),
)


def traced(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.trace(module.eval(), torch.ones(2, 4)).save(str(path))
    return path


def load(path: Path, **options: Any) -> Any:
    manifest = Manifest(ModelId("m", "1"), path, "torchscript", "torch")
    return TorchBackend().load(manifest, LoadOptions(**options))


def test_opened_in_parts_it_is_the_same_program(tmp_path: Path) -> None:
    path = traced(Layers(), tmp_path / "m.pt")
    found, wanted = torch_script.open_in_parts(torch, path), torch.jit.load(str(path))
    state, other = found.state_dict(), wanted.state_dict()
    assert list(state) == list(other)
    for name, value in state.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name])
        assert value.stride() == other[name].stride()
    assert found.first.weight.data_ptr() == found.again.weight.data_ptr()
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in wanted.parameters()]
    assert str(found.inlined_graph) == str(wanted.inlined_graph)
    x = torch.rand(3, 4)
    assert torch.equal(found(x), wanted(x))


def test_the_interpreter_is_given_away_at_each_file_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    class Counted(torch_script._Yielding):
        def readinto(self, buffer: Any) -> int:
            reads.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(torch_script, "_Yielding", Counted)
    path = traced(torch.nn.Sequential(*[Layers() for _ in range(5)]), tmp_path / "m.pt")
    torch_script.open_in_parts(torch, path)
    with zipfile.ZipFile(path) as archive:
        files = [name for name in archive.namelist() if name.endswith(".py")]
    assert len(reads) > len(files) > 5


@pytest.mark.parametrize("own_process", [False, True])
def test_constants_with_tensors_are_left_to_pytorch(tmp_path: Path, own_process: bool) -> None:
    path = traced(Constant(), tmp_path / "m.pt")
    assert torch_script.open_in_parts(torch, path) is None
    model = load(path, own_process=own_process)
    assert model.run({"x": np.zeros((1, 4), "f4")})["output_0"].tolist() == [[1, 2, 3, 4]]
    model.close()


def test_compressed_weights_are_left_to_pytorch(tmp_path: Path) -> None:
    path, other = traced(Layers(), tmp_path / "m.pt"), tmp_path / "other.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    assert torch_script.open_in_parts(torch, other) is None


def test_another_pytorch_may_lack_what_is_used_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = traced(Layers(), tmp_path / "m.pt")
    x, model = np.ones((1, 4), "f4"), load(path)
    monkeypatch.delattr(torch._C, "_import_ir_module_from_package")
    other = load(path)
    assert other.run({"x": x})["output_0"].tolist() == model.run({"x": x})["output_0"].tolist()


def test_what_is_cut_short_or_changed_is_refused(tmp_path: Path) -> None:
    whole = traced(Layers(), tmp_path / "m.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        weights = next(archive.read(i) for i in archive.infolist() if "/data/" in i.filename and i.file_size)
    at = whole.index(weights)
    torn = [whole[: len(whole) * part // 8] for part in range(1, 8)]
    for content in (*torn, whole[:-1], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        (tmp_path / "m.pt").write_bytes(content)
        with pytest.raises(LoadFailed):
            load(tmp_path / "m.pt")


@pytest.mark.parametrize("line", CODE)
def test_the_code_tells_what_the_graph_does(tmp_path: Path, line: str) -> None:
    source = (
        f"class Program(Kept):\n    def forward(self, x: torch.Tensor):\n        {line}\n        return x\n"
    )
    (tmp_path / "source.py").write_text(source)  # TorchScript takes sources from files alone
    names: dict[str, Any] = {"Kept": Kept, "torch": torch}
    exec(compile(source, str(tmp_path / "source.py"), "exec"), names)
    torch.jit.script(names["Program"]()).save(str(tmp_path / "m.pt"))
    graph = str(torch.jit.load(str(tmp_path / "m.pt")).inlined_graph)
    wanted = bool(CHANGES.search(graph)), "prim::SetAttr" in graph
    assert torch_script.changes(tmp_path / "m.pt") == wanted


class Counter(torch.nn.Module):
    """An object that counts."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    @torch.jit.export
    def more(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + x.sum()
        return self.seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.seen + x


class Caller(torch.nn.Module):
    """A program that calls another one's method."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.more(x)


@pytest.mark.parametrize(("module", "wanted"), [(Counter, False), (Caller, True)])
def test_only_code_that_may_be_called_counts(
    tmp_path: Path, module: type[torch.nn.Module], wanted: bool
) -> None:
    torch.jit.script(module()).save(str(tmp_path / "m.pt"))
    assert torch_script.changes(tmp_path / "m.pt") == (wanted, wanted)


def test_a_quantised_program_changes_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval())
    torch.jit.script(small).save(str(tmp_path / "m.pt"))
    assert torch_script.changes(tmp_path / "m.pt") == (False, False)
    x = torch.rand(2, 4)
    assert torch.equal(torch_script.open_in_parts(torch, tmp_path / "m.pt")(x), small(x))

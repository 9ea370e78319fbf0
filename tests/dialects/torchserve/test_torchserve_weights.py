"""Weights that lie in an archive's file as they are need no memory of their own, and nothing else changes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from marfolder import BACKEND, manifest_of, own_process, reply, shown, write

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.backend.weights import share_weights

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


class Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(100, 200)
        self.two = torch.nn.Linear(200, 60)
        self.register_buffer("table", torch.arange(5000, dtype=torch.float64))

    def forward(self, x: Any) -> Any:
        return self.two(self.one(x)) + self.table[7]


class Handler:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = "not a module"

    def handle(self, data: Any, context: Any) -> Any:
        with torch.inference_mode():
            return self.model(data)


X = torch.linspace(-1, 1, 100).reshape(1, 100)
LARGE = 4 * 100 * 200 + 4 * 200 * 60 + 8 * 5000  # without biases


def scripted(file: Path) -> Handler:
    torch.jit.trace(Net().eval(), X).save(str(file))
    return Handler(torch.jit.load(str(file)))


def eager(file: Path) -> Handler:
    torch.save(Net().state_dict(), file)
    net = Net().eval()
    net.load_state_dict(torch.load(file, weights_only=True))
    return Handler(net)


def is_mapped(tensor: Any, file: Path) -> bool:
    at = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, _, end = line.split()[0].partition("-")
        if int(begin, 16) <= at < int(end, 16):
            return line.endswith(str(file))
    return False


@pytest.mark.parametrize("made", [scripted, eager])
def test_large_weights_are_pages_of_the_file(made: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    handler = made(file)
    before, content = handler.handle(X, None), file.read_bytes()
    assert share_weights(handler.handle, file) == LARGE
    assert torch.equal(handler.handle(X, None), before)
    mapped = {name: is_mapped(each, file) for name, each in handler.model.state_dict(keep_vars=True).items()}
    large = ("one.weight", "two.weight", "table")
    assert mapped == {name: name in large for name in mapped} and sum(mapped.values()) == 3
    with torch.no_grad():
        handler.model.one.weight.mul_(2)
    assert file.read_bytes() == content, "a worker that changes its weights changes its own"
    assert not torch.equal(handler.handle(X, None), before)
    other = torch.jit.load(str(file)) if made is scripted else None
    assert other is None or torch.equal(Handler(other).handle(X, None), before)


def test_weights_that_are_otherwise_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    handler = eager(file)
    with torch.no_grad():
        handler.model.one.weight.add_(1)
    handler.model.two.half()
    before = handler.model.one.weight.data_ptr()
    assert share_weights(handler.handle, file) == 8 * 5000
    assert handler.model.one.weight.data_ptr() == before


def test_weights_that_are_part_of_another_stay(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    handler = eager(file)
    whole = torch.cat([handler.model.one.weight.data, torch.zeros(1, 100)])
    handler.model.one.weight.data = whole[:200]
    handler.model.two.weight.data = handler.model.two.weight.data.t().contiguous().t()
    assert share_weights(handler.handle, file) == 8 * 5000


def test_modules_beside_a_function_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    space: dict[str, Any] = {"model": eager(file).model}
    exec("def handle(data, context):\n    return model(data)\n", space)
    assert share_weights(space["handle"], file) == LARGE


@pytest.mark.parametrize("content", [None, b"", b"no zip file", b"PK\x05\x06" + bytes(18)])
def test_other_files_change_nothing(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    handler = eager(file)
    other = tmp_path / "other.pt"
    if content is not None:
        other.write_bytes(content)
    assert share_weights(handler.handle, other) == 0
    cut = tmp_path / "cut.pt"
    cut.write_bytes(file.read_bytes()[:9000])
    assert share_weights(handler.handle, cut) == 0


def test_without_torch_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = eager(tmp_path / "weights.pt")
    monkeypatch.delitem(sys.modules, "torch")
    assert share_weights(handler.handle, tmp_path / "weights.pt") == 0


SOURCE = """
    import torch
    from ts.torch_handler.base_handler import BaseHandler

    class Own(BaseHandler):
        def preprocess(self, data):
            return torch.tensor([row["body"] for row in data])
        def postprocess(self, data):
            at = self.model.one.weight.data_ptr()
            for line in open("/proc/self/maps"):
                begin, _, end = line.split()[0].partition("-")
                if int(begin, 16) <= at < int(end, 16):
                    break
            return [{"mapped": line.strip().endswith("weights.pt"), "said": round(sum(row), 3)}
                    for row in data.tolist()]
"""


@pytest.mark.clause("TS-B7")
def test_weights_of_unpacked_archives_are_shared_and_others_are_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "unpacked", SOURCE, serializedFile="weights.pt")
    scripted(folder / "weights.pt")
    body = str(X.tolist()[0]).encode()
    said = []
    for home in (tmp_path / "m.mar", folder, Path()):
        manifest = msgspec.structs.replace(manifest_of(folder), home=home)
        model = BACKEND.load(manifest, LoadOptions(own_process=True))
        said.append(shown(reply(model, body, "application/json")))
    assert [each["mapped"] for each in said] == [True, False, False]
    assert len({each["said"] for each in said}) == 1

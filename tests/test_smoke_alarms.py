"""Do the smoke alarms sound when there is smoke?"""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "smoke_alarms.py"
EXAMPLE = """
class Port(Protocol[T]):
    def a(self): ...

class Socket(asyncio.Protocol):
    def __init__(self, a, /, b, *, c, d=1):
        pass

def long():
    x = 1

    return x
"""


@pytest.fixture(scope="module")
def alarms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke_alarms", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_measured(alarms: ModuleType) -> None:
    source = alarms.Source(Path("x.py"), EXAMPLE, ast.parse(EXAMPLE))
    assert source.lines == 12
    assert dict(alarms.functions(source))["x.py:9 long"] == 4
    kinds = {node.name: node for _, node in alarms.classes(source)}
    assert alarms.is_protocol(kinds["Port"])
    assert not alarms.is_protocol(kinds["Socket"])
    assert alarms.constructor_arguments(kinds["Socket"]) == 4
    assert alarms.constructor_arguments(kinds["Port"]) == 0


@pytest.mark.parametrize(
    ("lines", "status"), [(10, 0), (701, 1)], ids=["a short file passes", "a file over 700 lines fails"]
)
def test_a_hard_limit_ends_with_1(
    alarms: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: int,
    status: int,
) -> None:
    for folder in ("src", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "m.py").write_text("def f():\n    pass\n" + "x = 1\n" * (lines - 2))
    monkeypatch.setattr(alarms, "ROOT", tmp_path)
    assert alarms.main() == status
    assert ("src/m.py 701" in capsys.readouterr().out) == bool(status)


def test_a_function_over_80_lines_ends_with_1(
    alarms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("src", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "m.py").write_text("def f():\n" + "    x = 1\n" * 80)
    monkeypatch.setattr(alarms, "ROOT", tmp_path)
    assert alarms.main() == 1

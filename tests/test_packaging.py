"""Is what gets installed small, whole and honest about what it needs?"""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import salver
from salver.features.console import files as console

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAX_DEPENDENCIES = 13


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without an isolated environment and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, timeout=90)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert folders == {"salver", f"salver-{salver.__version__}.dist-info"}
    assert "salver/py.typed" in wheel.namelist()
    assert not [n for n in wheel.namelist() if "__pycache__" in n or "/test_" in n]


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    modules = {path.relative_to(source).as_posix() for path in (source / "salver").rglob("*.py")}
    assert modules - set(wheel.namelist()) == set()


def test_every_page_of_the_console_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    pages = {f"salver/features/console/pages/{name}" for name in console.read()}
    assert "salver/features/console/pages/index.html" in pages
    assert pages - set(wheel.namelist()) == set()


def test_the_wheel_is_pure_python_and_small(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    assert wheel.filename.endswith("-py3-none-any.whl")
    assert sum(info.compress_size for info in wheel.infolist()) < 2_600_000


def test_direct_dependencies_are_few_and_hold_no_framework(metadata: Message) -> None:
    direct = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    names = {re.split(r"[\s<>=!;\[]", need)[0] for need in direct}
    assert len(names) <= MAX_DEPENDENCIES
    frameworks = {
        "torch",
        "tensorflow-cpu",
        "onnxruntime",
        "scikit-learn",
        "xgboost",
        "lightgbm",
        "ai-edge-litert",
    }
    assert names & (frameworks | {"grpcio", "tritonclient", "fastapi", "pydantic"}) == set()


def test_the_licence_and_the_readme_come_along(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    assert "Salver" in str(metadata.get_payload())


@pytest.mark.parametrize("name", sorted(PROJECT["entry-points"]["salver.backends"]))
def test_the_entry_point_of_each_backend_leads_to_it(name: str) -> None:
    (entry,) = entry_points(group="salver.backends", name=name)
    assert entry.load().name == name.partition(".")[0]  # python.triton takes the place of python


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_exactly_but_for_pytorch(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "-r "))]
    loose = [line for line in lines if not re.fullmatch(r"[a-z0-9][\w.-]*(\[[\w,]+\])?==[\w.]+", line)]
    assert [re.split("[<>]", line)[0] for line in loose] in ([], ["torch", "torchvision"])


def test_no_requirement_is_pinned_twice() -> None:
    pins = [
        re.split(r"[\[=<>]", line)[0]
        for file in (ROOT / "requirements").glob("*.txt")
        for line in file.read_text().splitlines()
        if line and not line.startswith(("#", "-r "))
    ]
    assert sorted(pins) == sorted(set(pins))

"""Recognition and opening of archives (TS-A1, TS-A2)."""

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from archivers import run_archiver
from marfolder import BACKEND, manifest_of, opened, own_process, reply, shown, write

from salver.backends.protocol import FormModel, LoadOptions
from salver.words.errors import LoadFailed
from salver.words.handlers import FORMAT, SIGNATURE

RAN = "def run(data, context):\n    return data and ['ran'] * len(data)\n"
NOOP = """
    class Noop:
        def initialize(self, context):
            self.name = context.model_name
        def handle(self, data, context):
            return [self.name] * len(data)
"""


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize("form", ["default", "zip-store", "tgz", "no-archive"])
def test_archives_of_the_archiver_are_recognised(form: str, tmp_path: Path) -> None:
    (tmp_path / "noop.py").write_text("def handle(data, context):\n    return data\n")
    options = ["--model-name", "noop", "--version", "1.0", "--handler", "noop.py"]
    (tmp_path / "out").mkdir()
    run_archiver(
        "torch-model-archiver", *options, "--export-path", "out", "--archive-format", form, work=tmp_path
    )
    (made,) = (tmp_path / "out").iterdir()
    assert BACKEND.recognise(made) == FORMAT
    renamed = made.rename(tmp_path / "odd.name")
    assert BACKEND.recognise(renamed) == FORMAT


def _zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")


def _tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))


@pytest.mark.clause("TS-A1")
def test_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert BACKEND.recognise(path) is None
    assert BACKEND.recognise(tmp_path) is None
    for content in (
        b"",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        gzip.compress(b"text" * 500),
        b"this is no zip file\n",
    ):
        path.write_bytes(content)
        assert BACKEND.recognise(path) is None
    _zip(path, "WAR-INF/MANIFEST.json", "handler.py", "other/MAR-INF/MANIFEST.json")
    assert BACKEND.recognise(path) is None
    _tar(path, "m/handler.py", "m/deep/MAR-INF/MANIFEST.json")
    assert BACKEND.recognise(path) is None
    whole = tmp_path / "whole"
    _tar(whole, *(f"m/{index}.bin" for index in range(100)), "m/MAR-INF/MANIFEST.json")
    assert BACKEND.recognise(whole) == FORMAT
    content = whole.read_bytes()
    for share in (0.1, 0.5, 0.8):
        path.write_bytes(content[: int(len(content) * share)])
        assert BACKEND.recognise(path) is None


@pytest.mark.clause("TS-A1")
def test_a_folder_is_opened_and_asked(tmp_path: Path) -> None:
    model = opened(write(tmp_path, NOOP))
    assert isinstance(model, FormModel) and model.signature == SIGNATURE
    assert reply(model, b"x").body == b"m"
    assert bytes(model.run({})["body"]) == b"m"
    model.close()


def test_it_runs_in_a_process_of_its_own_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, "raise SystemExit('it ran')\n")
    with pytest.raises(LoadFailed, match="needs a process of its own"):
        BACKEND.load(manifest_of(folder), LoadOptions())


def test_packed_archives_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    _zip(path, "MAR-INF/MANIFEST.json")
    with pytest.raises(LoadFailed, match="is not unpacked"):
        opened(path)


FORMS = {
    "class": (NOOP, "m.py", "m"),
    "class, no suffix": (NOOP, "m", "m"),
    "function": ("def handle(data, context):\n    return data and ['ok'] * len(data)\n", "m.py", "ok"),
    "named function": (RAN, "m:run", "ran"),
    "named in a file": (
        "def run(data, context):\n    return data and ['ran'] * len(data)\n",
        "m.py:run",
        "ran",
    ),
    "a class beside a name": (NOOP, "m.py:absent", "m"),
    "a path": (NOOP, "some/where/m.py", "m"),
}


@pytest.mark.clause("TS-A2")
@pytest.mark.parametrize("case", FORMS)
def test_forms_of_handlers(case: str, tmp_path: Path) -> None:
    source, handler, expected = FORMS[case]
    model = opened(write(tmp_path, source, handler=handler))
    assert reply(model, b"x").body.decode() == expected


@pytest.mark.clause("TS-A2")
def test_a_function_is_called_once_before_with_nothing(tmp_path: Path) -> None:
    source = """
        CALLS = []
        def handle(data, context):
            CALLS.append(data)
            return None if data is None else [CALLS]
    """
    model = opened(write(tmp_path, source))
    (first, second) = shown(reply(model, None))
    assert first is None and second == [{}]


@pytest.mark.clause("TS-A2")
def test_the_registration_s_handler_wins(tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP + "\ndef run(data, context):\n    return ['run']\n")
    folder.joinpath("m.py").write_text("def run(data, context):\n    return ['run']\n")
    assert reply(opened(folder, handler="m.py:run"), b"").body == b"run"


BROKEN = {
    "two classes": (
        "class A:\n    pass\n\nclass B:\n    pass\n",
        "Expected only one class",
    ),
    "no class": ("x = 1\n", "Expected only one class"),
    "no handle": ("class A:\n    def initialize(self, context): pass\n", "Expect handle method in class"),
    "initialize": (
        "class A:\n    def handle(self, d, c): pass\n"
        "    def initialize(self, context):\n        raise RuntimeError('this model never starts')\n",
        "RuntimeError: this model never starts",
    ),
    "syntax": ("def handle(:\n", "line 1"),
    "a missing import": ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
    "exit": ("import sys\nsys.exit(4)\n", "SystemExit: 4"),
}


@pytest.mark.clause("TS-A2")
@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_opened_says_why(case: str, tmp_path: Path) -> None:
    source, why = BROKEN[case]
    with pytest.raises(LoadFailed, match=why):
        opened(write(tmp_path, source))


@pytest.mark.clause("TS-A2")
def test_an_unknown_handler(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="Unable to load module absent_handler"):
        opened(write(tmp_path, NOOP, handler="absent_handler"))
    with pytest.raises(LoadFailed, match="names no handler"):
        opened(write(tmp_path, NOOP, handler=""))


@pytest.mark.clause("TS-A1")
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}', "[" * 100_000, "\xff"])
def test_a_broken_manifest_is_refused(text: str, tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(text, encoding="latin-1")
    with pytest.raises(LoadFailed, match=r"MANIFEST\.json"):
        opened(folder)


@pytest.mark.clause("TS-A1")
def test_without_a_manifest_the_registration_names_the_handler(tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP)
    shutil.rmtree(folder / "MAR-INF")
    with pytest.raises(LoadFailed, match="names no handler"):
        opened(folder)
    assert reply(opened(folder, handler="m.py"), b"").body == b"m"


@pytest.mark.clause("TS-A7")
@pytest.mark.parametrize("runtime", ["LSP", "java"])
def test_other_runtimes_are_refused_by_name(runtime: str, tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP)
    with pytest.raises(LoadFailed, match=f"runtime '{runtime}'"):
        opened(folder, runtime=runtime)
    path = folder / "MAR-INF" / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "runtime": runtime}))
    with pytest.raises(LoadFailed, match=f"runtime '{runtime}'"):
        opened(folder)
    assert reply(opened(folder, runtime="python3"), b"").body == b"m"


@pytest.mark.clause("TS-Y4")
@pytest.mark.parametrize(
    ("text", "why"),
    [("a: [", "is not valid YAML"), ("- 1\n", "is no mapping"), ("a: \xff", "cannot be read")],
)
def test_a_broken_configuration_is_refused(text: str, why: str, tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP, config="")
    (folder / "model-config.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(LoadFailed, match=why):
        opened(folder)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, NOOP)
    with pytest.raises(LoadFailed, match="no_such_option"):
        opened(folder, no_such_option="1")
    with pytest.raises(LoadFailed, match="decode"):
        opened(folder, decode="perhaps")
    with pytest.raises(LoadFailed, match="there is no envelope 'sleeve'"):
        opened(folder, envelope="sleeve")

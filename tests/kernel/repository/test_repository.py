"""What a scan makes of trees on disk, whole and broken."""

import asyncio
import os
import re
from pathlib import Path

import pytest
from model_folders import recognise, write_files
from waiting import auntil

from salver.backends.protocol import ArtifactKind
from salver.kernel.repository import Repository, RepositoryConfig, repository
from salver.parts import formats
from salver.stores import Entry, FileStore, MemoryStore
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, NotFound
from salver.words.messages import ModelId


def scan(*paths: Path, name: str = "") -> dict[str, Manifest]:
    return {
        str(m.id): m for m in Repository(paths, formats(recognise), RepositoryConfig(name=name)).scan(0.0)
    }


LAYOUTS: list[tuple[str, dict[str, str], str, dict[str, str]]] = [
    ("a file", {"ranker.onnx": "ONNX"}, "ranker.onnx", {"ranker:1": "ranker.onnx"}),
    (
        "a file with a name that says nothing",
        {"resnet/model.onnx": "ONNX"},
        "resnet/model.onnx",
        {"resnet:1": "resnet/model.onnx"},
    ),
    (
        "a file inside a version",
        {"resnet/7/model.onnx": "ONNX"},
        "resnet/7/model.onnx",
        {"resnet:1": "resnet/7/model.onnx"},
    ),
    (
        "a file with an awkward name",
        {"my model (2).onnx": "ONNX"},
        "my model (2).onnx",
        {"my_model_2:1": "my model (2).onnx"},
    ),
    (
        "a folder that is an artefact",
        {"half_plus_two/saved_model.pb": ""},
        "half_plus_two",
        {"half_plus_two:1": "half_plus_two"},
    ),
    (
        "a folder of one",
        {"resnet/model.onnx": "ONNX", "resnet/README": "hi"},
        "resnet",
        {"resnet:1": "resnet/model.onnx"},
    ),
    (
        "a folder of one with settings",
        {"resnet/w.onnx": "ONNX", "resnet/salver.toml": ""},
        "resnet",
        {"resnet:1": "resnet/w.onnx"},
    ),
    (
        "versions of one",
        {"m/1/model.onnx": "ONNX", "m/10/model.onnx": "ONNX"},
        "m",
        {"m:1": "m/1/model.onnx", "m:10": "m/10/model.onnx"},
    ),
    (
        "SavedModels with padded versions",
        {"m/00000123/saved_model.pb": ""},
        "m",
        {"m:00000123": "m/00000123"},
    ),
    (
        "a version that is there twice",
        {"m/007/saved_model.pb": "", "m/7/saved_model.pb": "", "m/08/saved_model.pb": ""},
        "m",
        {"m:7": "m/7", "m:08": "m/08"},
    ),
    ("LiteRT with padded versions", {"m/001/model.tflite": "TFL"}, "m", {"m:001": "m/001/model.tflite"}),
    (
        "a repository of many",
        {"r/a/1/model.onnx": "ONNX", "r/b/2/model.pt": "TORCH"},
        "r",
        {"a:1": "r/a/1/model.onnx", "b:2": "r/b/2/model.pt"},
    ),
    (
        "a mixed repository",
        {
            "r/a/1/m.onnx": "ONNX",
            "r/b.onnx": "ONNX",
            "r/c/model.pt": "TORCH",
            "r/d/saved_model.pb": "",
            "r/x.md": "#",
        },
        "r",
        {"a:1": "r/a/1/m.onnx", "b:1": "r/b.onnx", "c:1": "r/c/model.pt", "d:1": "r/d"},
    ),
    (
        "an artefact folder with a name inside a version",
        {"m/1/model.savedmodel/saved_model.pb": ""},
        "m",
        {"m:1": "m/1/model.savedmodel"},
    ),
    (
        "helpers beside model.*",
        {"m/1/model.py": "PY", "m/1/weights.pt": "TORCH"},
        "m",
        {"m:1": "m/1/model.py"},
    ),
    (
        "the backend that is configured",
        {
            "m/1/model.py": "PY",
            "m/1/model.pt": "TORCH",
            "m/salver.toml": 'backend = "torch"',
        },
        "m",
        {"m:1": "m/1/model.pt"},
    ),
    (
        "the file that is configured",
        {
            "m/1/a.onnx": "ONNX",
            "m/1/b.onnx": "ONNX",
            "m/salver.toml": 'filename = "b.onnx"',
        },
        "m",
        {"m:1": "m/1/b.onnx"},
    ),
    (
        "hidden and unfinished things",
        {
            "r/a/1/model.onnx": "ONNX",
            "r/.git/1/model.onnx": "ONNX",
            "r/b.onnx.part": "ONNX",
            "r/a/2.tmp/model.onnx": "ONNX",
            "r/a/1/.model.onnx.swp": "ONNX",
            "r/c/.keep": "",
        },
        "r",
        {"a:1": "r/a/1/model.onnx"},
    ),
]


@pytest.mark.parametrize(("files", "path", "expected"), [c[1:] for c in LAYOUTS], ids=[c[0] for c in LAYOUTS])
def test_layouts(tmp_path: Path, files: dict[str, str], path: str, expected: dict[str, str]) -> None:
    write_files(tmp_path, files)
    found = scan(tmp_path / path)
    assert {id: m.path.relative_to(tmp_path.resolve()).as_posix() for id, m in found.items()} == expected
    assert [m.problem for m in found.values()] == [""] * len(found)
    assert all(m.fingerprint and m.backend and m.format for m in found.values())


def test_a_file_that_configures_the_server_makes_no_model(tmp_path: Path) -> None:
    write_files(tmp_path, {"r/salver.toml": "[server]\nport = 1\n", "r/a/1/m.onnx": "ONNX"})
    assert set(scan(tmp_path / "r")) == {"a:1"}
    write_files(tmp_path, {"r/a/salver.toml": "timeout_ms = 5\n[server]\nport = 1\n"})
    found = scan(tmp_path / "r" / "a")["a:1"]
    assert (found.problem, found.config.timeout_ms) == ("", 5)


@pytest.mark.parametrize("path", ["r", "r/m"])
@pytest.mark.parametrize("settings", ["salver.toml", "config.pbtxt"])
def test_a_folder_that_is_an_artefact_heeds_the_settings_in_it(
    tmp_path: Path, path: str, settings: str
) -> None:
    text = {"salver.toml": "[batching]\nmax_rows = 7", "config.pbtxt": "max_batch_size: 7"}[settings]
    write_files(tmp_path, {"r/m/saved_model.pb": "TF", f"r/m/{settings}": text})
    (found,) = scan(tmp_path / path).values()
    assert (str(found.id), found.problem, found.config.batching.max_rows) == ("m:1", "", 7)
    assert found.path == (tmp_path / "r" / "m").resolve()
    before = found.fingerprint
    write_files(tmp_path, {f"r/m/{settings}": text.replace("7", "8")})
    (found,) = scan(tmp_path / path).values()
    assert found.config.batching.max_rows == 8
    assert found.fingerprint != before
    write_files(tmp_path, {f"r/m/{settings}": "nonsense ="})
    (found,) = scan(tmp_path / path).values()
    assert settings in found.problem


PROBLEMS: list[tuple[str, dict[str, str], str, str, str]] = [
    (
        "nothing recognised",
        {"r/m/1/notes.bin": "??"},
        "r",
        "m:1",
        r"recognises in .*m/1 \(it holds: notes.bin\)",
    ),
    ("an empty version", {"r/m/1/.keep": ""}, "r", "m:1", r"it holds: nothing"),
    (
        "a named file that is no model",
        {"x.bin": "??"},
        "x.bin",
        "x:1",
        "no installed backend recognises .*x.bin",
    ),
    (
        "two candidates",
        {"m/1/a.onnx": "ONNX", "m/1/b.onnx": "ONNX"},
        "m",
        "m:1",
        r"several artefacts \(a.onnx, b.onnx\)",
    ),
    (
        "a file that is configured and missing",
        {"m/1/a.onnx": "ONNX", "m/salver.toml": 'filename = "c"'},
        "m",
        "m:1",
        "has no 'c'",
    ),
    (
        "a file name that leads out",
        {"m/1/a.onnx": "ONNX", "m/salver.toml": 'filename = "../../x"'},
        "m",
        "m:1",
        "leads out of the store",
    ),
    (
        "another backend than configured",
        {"m/1/a.onnx": "ONNX", "m/salver.toml": 'backend = "torch"'},
        "m",
        "m:1",
        r"no artefact for the configured backend torch, only a.onnx \(onnx\)",
    ),
    (
        "both configurations",
        {"m/1/a.onnx": "ONNX", "m/salver.toml": "", "m/config.pbtxt": ""},
        "m",
        "m:1",
        "has both salver.toml and config.pbtxt",
    ),
    (
        "a broken configuration",
        {"m/1/a.onnx": "ONNX", "m/salver.toml": "\nbatchin = 1"},
        "m",
        "m:1",
        "salver.toml: line 2: unknown key `batchin`. Did you mean `batching`",
    ),
    (
        "a broken config.pbtxt",
        {"m/1/a.onnx": "ONNX", "m/config.pbtxt": "\nmax_batch: 1"},
        "m",
        "m:1",
        "config.pbtxt: line 2: ModelConfig has no field `max_batch`. Did you mean `max_batch_size`",
    ),
    ("only padded versions", {"m/01/a.onnx": "ONNX"}, "m", "m:1", "has no version folder; skipped 01"),
    (
        "a label file that is missing",
        {
            "m/1/a.onnx": "ONNX",
            "m/config.pbtxt": 'output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "l.txt" }',
        },
        "m",
        "m:1",
        "l.txt cannot be read|l.txt is not",
    ),
]


@pytest.mark.parametrize(
    ("files", "path", "id", "problem"), [c[1:] for c in PROBLEMS], ids=[c[0] for c in PROBLEMS]
)
def test_problems_name_the_place_and_the_way_out(
    tmp_path: Path, files: dict[str, str], path: str, id: str, problem: str
) -> None:
    write_files(tmp_path, files)
    found = scan(tmp_path / path)
    assert list(found) == [id]
    assert re.search(problem, found[id].problem), found[id].problem


def test_one_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/m.onnx": "ONNX", "b/salver.toml": "x = 1", "b/1/m.onnx": "ONNX", "c/1/z": ""})
    assert {id: bool(m.problem) for id, m in scan(tmp_path).items()} == {
        "a:1": False,
        "b:1": True,
        "c:1": True,
    }


def test_skipped_folders_give_one_notice(tmp_path: Path) -> None:
    write_files(tmp_path, {f"m/{v}/m.onnx": "ONNX" for v in ("1", "02", "v3", "latest")})
    (found,) = scan(tmp_path / "m").values()
    (notice,) = found.notices
    assert notice.startswith("skipped 02, latest, v3 in ")
    assert notice.endswith("a version folder is a number without leading zero")


@pytest.mark.clause("TF-L1")
def test_a_version_that_is_there_twice_gives_a_notice(tmp_path: Path) -> None:
    write_files(tmp_path, {f"m/{v}/saved_model.pb": "" for v in ("7", "007", "8")})
    found = scan(tmp_path / "m")
    assert list(found) == ["m:7", "m:8"]
    (notice,) = found["m:7"].notices
    assert notice == f"{tmp_path / 'm'}: skipped 007, since 7 is the same version"


def test_padding_is_refused_where_triton_would_refuse_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/01/saved_model.pb": "", "m/2/saved_model.pb": "", "m/config.pbtxt": ""})
    assert list(scan(tmp_path / "m")) == ["m:2"]


def test_labels_come_with_the_output(tmp_path: Path) -> None:
    config = 'output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "l.txt" }'
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "m/config.pbtxt": config, "m/l.txt": "cat\ndog\n"})
    before = scan(tmp_path / "m")["m:1"]
    assert before.config.outputs[0].labels == ("cat", "dog")
    (tmp_path / "m/l.txt").write_text("cat\nfox or hound\n")
    assert scan(tmp_path / "m")["m:1"].fingerprint != before.fingerprint


# -- names -------------------------------------------------------------------------------------


def test_a_name_is_for_exactly_one_model(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/m.onnx": "ONNX", "a/2/m.onnx": "ONNX", "b.onnx": "ONNX"})
    assert list(scan(tmp_path / "a", name="best")) == ["best:1", "best:2"]
    with pytest.raises(InvalidInput, match="the name 'best' is for one model, not for 2: a, b"):
        scan(tmp_path, name="best")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nope does not exist"):
        scan(tmp_path / "nope")


def test_several_paths_make_one_list(tmp_path: Path) -> None:
    write_files(tmp_path, {"r/a/1/m.onnx": "ONNX", "b.onnx": "ONNX", "c/1/m.pt": "TORCH"})
    assert list(scan(tmp_path / "b.onnx", tmp_path / "r", tmp_path / "c")) == ["a:1", "b:1", "c:1"]


@pytest.mark.parametrize("other", ["y/m/2/a.onnx", "y/m.onnx"])
def test_a_name_in_two_places_is_refused_in_both(tmp_path: Path, other: str) -> None:
    write_files(tmp_path, {"x/m/1/a.onnx": "ONNX", other: "ONNX", "y/z.onnx": "ONNX"})
    found = scan(tmp_path / "x", tmp_path / "y")
    assert {m.id.name: "used more than once: in" in m.problem for m in found.values()} == {
        "m": True,
        "z": False,
    }
    assert str(tmp_path / "x/m") in found["m:1"].problem


def test_the_same_path_twice_is_no_clash(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX"})
    assert scan(tmp_path / "m", tmp_path / "m")["m:1"].problem == ""


# -- changes -----------------------------------------------------------------------------------


def test_a_version_that_is_being_written_waits_until_it_rests(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX"})
    repository = Repository([tmp_path / "m"], formats(recognise))

    def versions(now: float) -> list[str]:
        return [m.id.version for m in repository.scan(now) if not m.problem]

    assert versions(0) == ["1"]
    assert not repository.is_settling
    write_files(tmp_path, {"m/2/a.onnx": "ONNX 1"})
    assert versions(10) == ["1"]
    assert repository.is_settling
    write_files(tmp_path, {"m/2/a.onnx": "ONNX 1 2"})
    assert versions(20) == ["1"], "it grew since"
    assert versions(20.5) == ["1"], "it rests, but not for long enough"
    assert versions(21) == ["1", "2"]
    assert not repository.is_settling


def test_the_first_scan_takes_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.onnx": "ONNX"})
    assert list(scan(tmp_path)) == ["a:1"]


def test_who_asks_for_a_model_gets_it_at_once(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX"})
    repository = Repository([tmp_path], formats(recognise))
    repository.scan(0)
    write_files(tmp_path, {"m/2/a.onnx": "ONNX", "n/1/a.onnx": "ONNX"})
    assert [str(m.id) for m in repository.scan(1, frozenset({"m"}))] == ["m:1", "m:2"]


def test_a_version_that_is_replaced_by_renames_never_vanishes(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "new/a.onnx": "ONNX new"})
    repository = Repository([tmp_path / "m"], formats(recognise))
    (before,) = repository.scan(0)
    (tmp_path / "m/1").rename(tmp_path / "old")
    assert repository.scan(5) == (before,), "gone, but perhaps for a moment"
    (tmp_path / "new").rename(tmp_path / "m/1")
    assert repository.scan(5.1) == (before,)
    (after,) = repository.scan(6.2)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"m.onnx": "ONNX"}, {"m.onnx": "ONNX and more"}),
        ({"m.onnx": "ONNX"}, {"salver.toml": "timeout_ms = 5"}),
        ({"m.onnx": "ONNX", "salver.toml": ""}, {"salver.toml": "timeout_ms = 5"}),
        ({"r/m/1/model.onnx": "ONNX"}, {"r/m/2/model.onnx": "ONNX"}),
        ({"r/m/1/model.onnx": "ONNX"}, {"r/n/1/model.onnx": "ONNX"}),
        ({"r/m/1/model.onnx": "ONNX", "r/m/1/labels.txt": "a"}, {"r/m/1/labels.txt": "bc"}),
        ({"r/m/1/model.onnx": "ONNX"}, {"r/m/config.pbtxt": "max_batch_size: 4"}),
    ],
)
def test_a_scan_after_which_nothing_changed_only_compares(
    tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    looked: list[Path] = []

    def look(path: Path) -> ArtifactKind | None:
        looked.append(path)
        return recognise(path)

    write_files(tmp_path, before)
    root = tmp_path / next(iter(before)).partition("/")[0]
    repository = Repository((root,), formats(look), RepositoryConfig(settle_s=0))
    first = repository.scan(0.0)
    looked.clear()
    assert repository.scan(1.0) is first
    assert not looked
    write_files(tmp_path, after)
    repository.scan(2.0)
    assert looked
    assert repository.scan(3.0) != first, "once the change rests"


def test_a_full_scan_follows_now_and_then(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/model.onnx": "ONNX"})
    repository = Repository((tmp_path,), formats(recognise), RepositoryConfig(settle_s=0))
    first = repository.scan(0.0)
    assert [repository.scan(float(n)) is first for n in range(1, 12)] == [True] * 9 + [False] * 2


async def test_a_rest_ends_with_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def is_unchanged(store: FileStore) -> bool:
        nonlocal looks
        looks += 1
        return before(store)

    before = FileStore.is_unchanged
    monkeypatch.setattr(FileStore, "is_unchanged", is_unchanged)
    monkeypatch.setattr(repository, "_MOST_REPEATS", 10**9)
    write_files(tmp_path, {"a/model.onnx": "ONNX"})
    models = Repository([tmp_path], formats(recognise))
    await models.rest(0.001)  # nothing has been scanned yet
    models.scan(0.0)
    rest = asyncio.create_task(models.rest(0.001))
    await auntil(lambda: looks > 2)
    assert not rest.done()
    write_files(tmp_path, {"b/model.onnx": "ONNX"})
    await asyncio.wait_for(rest, 60)


async def test_a_rest_that_is_cancelled_leaves_its_thread(tmp_path: Path) -> None:
    rest = asyncio.create_task(Repository([tmp_path], formats(recognise)).rest(3600.0))
    await asyncio.sleep(0)
    rest.cancel()
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 60)


def test_a_version_that_is_gone_is_gone(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "m/2/a.onnx": "ONNX"})
    repository = Repository([tmp_path / "m"], formats(recognise))
    repository.scan(0)
    (tmp_path / "m/2/a.onnx").unlink()
    (tmp_path / "m/2").rmdir()
    repository.scan(5)
    assert [m.id for m in repository.scan(6)] == [ModelId("m", "1")]


@pytest.mark.parametrize("change", ["content", "time", "replaced", "settings", "extra"])
def test_every_change_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "m/salver.toml": "timeout_ms = 1", "m/README": "x"})
    before = scan(tmp_path)["m:1"].fingerprint
    assert scan(tmp_path)["m:1"].fingerprint == before
    file = tmp_path / "m/1/a.onnx"
    if change == "content":
        file.write_text("ONNX more")
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "replaced":
        info = file.stat()
        other = tmp_path / "other"
        other.write_text("ONNX")
        os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
        other.replace(file)
    elif change == "settings":
        (tmp_path / "m/salver.toml").write_text("timeout_ms = 22")
    else:
        (tmp_path / "m/1/vocabulary.txt").write_text("x")
    assert scan(tmp_path)["m:1"].fingerprint != before


def test_files_that_do_not_matter_do_not_reload(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "m/README": "x"})
    before = scan(tmp_path)["m:1"].fingerprint
    write_files(tmp_path, {"m/README": "longer", "m/1/__pycache__/x.pyc": "", "m/2.tmp/a.onnx": "ONNX"})
    assert scan(tmp_path)["m:1"].fingerprint == before


# -- links, and worse --------------------------------------------------------------------------


def test_a_switched_link_is_a_new_fingerprint_at_the_resolved_place(tmp_path: Path) -> None:
    write_files(tmp_path, {"one/a.onnx": "ONNX", "two/a.onnx": "ONNX"})
    (tmp_path / "r/m").mkdir(parents=True)
    link = tmp_path / "r/m/1"
    link.symlink_to(tmp_path / "one")
    before = scan(tmp_path / "r")["m:1"]
    assert before.path == tmp_path.resolve() / "one/a.onnx"
    fresh = tmp_path / "r/fresh.tmp"
    fresh.symlink_to(tmp_path / "two")
    fresh.replace(link)
    after = scan(tmp_path / "r")["m:1"]
    assert after.path == tmp_path.resolve() / "two/a.onnx"
    assert after.fingerprint != before.fingerprint


def test_a_linked_file_keeps_its_name(tmp_path: Path) -> None:
    write_files(tmp_path, {"blobs/6f5902ac": "ONNX"})
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/model.onnx").symlink_to("../../blobs/6f5902ac")
    assert scan(tmp_path / "m")["m:1"].path.name == "model.onnx"


def test_circles_end(tmp_path: Path) -> None:
    write_files(tmp_path, {"r/m/1/saved_model.pb": "", "r/m/1/variables/x": ""})
    (tmp_path / "r/m/1/variables/up").symlink_to(tmp_path / "r")
    (tmp_path / "r/m/1/self").symlink_to("self")
    (tmp_path / "r/n").symlink_to("n")
    found = scan(tmp_path / "r")
    assert {id: m.problem for id, m in found.items()} == {"m:1": ""}


def test_an_unreadable_file_is_a_problem_of_its_own_model_only(tmp_path: Path) -> None:
    write_files(tmp_path, {"r/a/1/m.onnx": "ONNX", "r/b/1/m.onnx": "ONNX", "r/c.onnx": "ONNX"})

    def locked(path: Path) -> ArtifactKind | None:
        if (path.name == "m.onnx" and "b" in path.parts) or path.name == "c.onnx":
            raise PermissionError(13, "Permission denied")
        return recognise(path)

    found = {str(m.id): m.problem for m in Repository([tmp_path / "r"], formats(locked)).scan(0)}
    assert found["a:1"] == ""
    assert found["b:1"].endswith("b/1/m.onnx cannot be read: Permission denied")
    assert found["c:1"].endswith("c.onnx cannot be read: Permission denied")


def test_a_version_of_too_many_files_is_refused(tmp_path: Path) -> None:
    files = {f"m/1/variables/{n // 9000}/{n}": b"" for n in range(20_001)}
    store = MemoryStore({**files, "m/1/model.onnx": b"ONNX"})
    store.entries = _fast(store)  # type: ignore[method-assign]

    def by_name(path: Path) -> ArtifactKind | None:
        return ArtifactKind("onnx", "onnx") if path.name == "model.onnx" else None

    (found,) = Repository([Path("/memory")], formats(by_name), open_store=lambda _: store).scan(0)
    assert "more than 20000 files in one version" in found.problem


def _fast(store: MemoryStore) -> object:
    """The listing of that test without a search of 20,000 names for each entry."""

    def entries(path: str) -> tuple[Entry, ...]:
        prefix = f"{path}/" if path else ""
        below = [k[len(prefix) :] for k in store.files if k.startswith(prefix)]
        return tuple(
            Entry(n, any(b.startswith(f"{n}/") for b in below[:1] + below[-1:] + below[9000:9001]))
            for n in dict.fromkeys(b.split("/")[0] for b in below)
        )

    return entries


def test_a_folder_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/saved_model.pb": "", "m/1/" + "d/" * 20 + "x": ""})
    assert "folders deep" in scan(tmp_path / "m")["m:1"].problem


def test_hundreds_of_models(tmp_path: Path) -> None:
    write_files(tmp_path, {f"m{n}/1/model.onnx": "ONNX" for n in range(300)})
    found = scan(tmp_path)
    assert len(found) == 300
    assert len({m.fingerprint for m in found.values()}) == 300


PBTXT = """
input {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group [ {groups} ]
{more}
"""


@pytest.mark.clause("TR-L4")
@pytest.mark.parametrize(
    ("groups", "more", "is_alike"),
    [
        ("{ count: 3 }", "", True),
        ("{ count: 1 }, { kind: KIND_CPU name: 'other' }", "", True),
        ("{ count: 3 rate_limiter { resources { name: 'r' count: 1 } } }", "", False),
        ("{ count: 1 }", "version_policy { latest { num_versions: 2 } }", True),
        ("{ count: 3 }", "dynamic_batching { max_queue_delay_microseconds: 5 }", False),
        ("{ count: 3 }", "parameters { key: 'a' value { string_value: 'b' } }", False),
    ],
)
def test_the_body_tells_whether_more_than_instances_has_changed(
    groups: str, more: str, is_alike: bool, tmp_path: Path
) -> None:
    config = PBTXT.format(groups="{ count: 1 }", more="")
    write_files(tmp_path, {"m/1/model.onnx": "ONNX", "m/config.pbtxt": config})
    before = scan(tmp_path)["m:1"]
    write_files(tmp_path, {"m/config.pbtxt": PBTXT.format(groups=groups, more=more)})
    after = scan(tmp_path)["m:1"]
    assert after.fingerprint != before.fingerprint
    assert (after.body == before.body) is is_alike


@pytest.mark.clause("TR-L4")
def test_the_body_of_a_toml_file_and_of_the_artefact(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/model.onnx": "ONNX", "m/salver.toml": "[instances]\ncount = 1"})
    before = scan(tmp_path)["m:1"].body
    write_files(tmp_path, {"m/salver.toml": "[instances]\ncount = 2\n"})
    assert scan(tmp_path)["m:1"].body == before
    write_files(tmp_path, {"m/salver.toml": "[versions]\nall = true\n[labels]\nstable = '1'\n"})
    assert scan(tmp_path)["m:1"].body == before
    assert scan(tmp_path)["m:1"].config.labels == {"stable": "1"}
    write_files(tmp_path, {"m/salver.toml": "[instances]\ncount = 2\nthreads = 1\n"})
    assert scan(tmp_path)["m:1"].body != before
    write_files(tmp_path, {"m/salver.toml": "[instances]\ncount = 1", "m/1/model.onnx": "ONNX anew"})
    assert scan(tmp_path)["m:1"].body != before


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize("named", ['backend: "vllm"', 'platform: "tensorrt_plan"', 'backend: "dali"'])
def test_a_backend_that_there_is_not_unless_a_program_of_its_name_is_there(
    tmp_path: Path, named: str
) -> None:
    name = named.split('"')[1]
    models = write_files(tmp_path, {"r/m/1/model.json": "{}", "r/m/config.pbtxt": named}) / "r"
    folder = tmp_path / "backends"

    def found() -> Manifest:
        config = RepositoryConfig(backend_directory=str(folder))
        return Repository((models,), formats(recognise), config).scan(0.0)[0]

    assert f"config.pbtxt: there is no backend for '{name}'. Known are: onnxruntime," in found().problem
    write_files(folder, {f"{name}/model.py": "PY program"})
    assert (found().problem, found().backend) == ("", "python")
    assert found().code == (folder / name / "model.py").resolve()


def test_a_version_may_bring_its_own_configuration(tmp_path: Path) -> None:
    files = {
        "m/salver.toml": "timeout_ms = 1\n",
        "m/1/model.onnx": "ONNX",
        "m/2/model.onnx": "ONNX",
        "m/2/salver.toml": "timeout_ms = 2\n",
        "m/3/model.onnx": "ONNX",
        "m/3/salver.toml": "timeout = 3\n",
    }
    found = scan(write_files(tmp_path, files))
    assert (found["m:1"].config.timeout_ms, found["m:2"].config.timeout_ms) == (1, 2)
    assert "salver.toml" in found["m:3"].problem
    assert found["m:1"].problem == ""
    before = found["m:2"].fingerprint
    (tmp_path / "m" / "2" / "salver.toml").write_text("timeout_ms = 20\n")
    again = scan(tmp_path)
    assert again["m:2"].fingerprint != before
    assert again["m:1"].fingerprint == found["m:1"].fingerprint


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('labels = {a = "1"}\ndefault_label = "a"\n', ""),
        ('labels = {a = "1"}\ndefault_label = "b"\n', "is not one of the labels"),
    ],
)
def test_the_default_label_is_one_of_the_labels(tmp_path: Path, said: str, problem: str) -> None:
    found = scan(write_files(tmp_path, {"m/salver.toml": said, "m/1/model.onnx": "ONNX"}))
    assert problem in found["m:1"].problem
    assert bool(found["m:1"].problem) == bool(problem)


@pytest.mark.parametrize("name", ["a\\b", "..", "a\nb", "x" * 256])
def test_a_name_that_no_path_holds(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be a model's name"):
        Repository((tmp_path,), formats(recognise), RepositoryConfig(name=name))

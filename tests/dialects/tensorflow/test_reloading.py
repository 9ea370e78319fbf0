"""Replacement of the list of models: all of it or nothing."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from salver.dialects.tensorflow import tf_text
from salver.dialects.tensorflow.config import NamedModels
from salver.dialects.tensorflow.reloading import ModelListReloader, read
from salver.kernel.repository import NamedModel
from salver.words.errors import FailedPrecondition, InvalidInput, UnknownError, Unsupported
from salver.words.messages import ModelId, State, VersionStatus


class Plane:
    """Serves lists; models called ``bad`` fail, and those called ``none`` have no version."""

    def __init__(self) -> None:
        self.lists: list[tuple[NamedModel, ...]] = []
        self.error: Exception | None = None
        self.meant: dict[str, dict[str, str]] = {}
        self.awaited: list[set[str]] = []

    async def replace(self, places: Sequence[NamedModel]) -> None:
        if self.error:
            raise self.error
        self.lists.append(tuple(places))

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        return self.meant

    def statuses(self) -> tuple[VersionStatus, ...]:
        names = [place.name for place in self.lists[-1]] if self.lists else []
        return tuple(row for name in names for row in self.versions(name))

    def versions(self, name: str) -> tuple[VersionStatus, ...]:
        if name == "none":
            return ()
        state = State.FAILED if name == "bad" else State.READY
        return (VersionStatus(ModelId(name, "1"), state, "torn" if name == "bad" else ""),)

    async def tried(self, names: Collection[str]) -> None:
        self.awaited.append(set(names))


def listed(*names: str, more: str = "") -> str:
    each = (f'config {{ name: "{n}" base_path: "/{n}" model_platform: "tensorflow" {more} }}' for n in names)
    return f"model_config_list {{ {' '.join(each)} }}"


def config(text: str) -> object:
    return tf_text.parse(text.encode(), "ModelServerConfig", "f")


def names(plane: Plane) -> list[list[str]]:
    return [[place.name for place in places] for places in plane.lists]


async def started(
    served: NamedModels | None = None, plane: Plane | None = None
) -> tuple[ModelListReloader, Plane]:
    plane = plane or Plane()
    made = ModelListReloader(
        plane, plane, served or NamedModels((NamedModel("a", "/a", platform="tensorflow"),))
    )
    await made.start()
    return made, plane


@pytest.mark.clause("TF-L6")
async def test_a_new_list_replaces_the_old_and_waits_for_models_that_are_new() -> None:
    made, plane = await started()
    await made.reload(config(listed("a", "b")))
    await made.reload(config(listed("b")))
    await made.reload(config("model_config_list { }"))
    assert names(plane) == [["a"], ["a", "b"], ["b"], []]
    assert plane.awaited == [{"b"}, set(), set()]


async def test_a_path_that_only_a_request_names_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(listed("a"))
    plane, tick, made = await following(path)
    await made.reload(config(listed("a", "b")))
    assert {place.name: place.is_requested for place in plane.lists[-1]} == {"a": False, "b": True}
    path.write_text(listed("b"))
    await tick()
    await made.reload(config(listed("a", "b")))
    assert {place.name: place.is_requested for place in plane.lists[-1]} == {"a": True, "b": False}
    await made.stop()


@pytest.mark.clause("TF-L6")
async def test_a_list_that_cannot_be_served_changes_nothing() -> None:
    made, plane = await started()
    with pytest.raises(
        FailedPrecondition, match="It is only legal to transition from one ModelConfigList to another"
    ):
        await made.reload(config(""))
    with pytest.raises(InvalidInput, match="multiple times"):
        await made.reload(config(listed("b", "b")))
    with pytest.raises(InvalidInput, match="Illegal to change a model's platform"):
        await made.reload(config(listed("a").replace("tensorflow", "other")))
    label = 'version_labels { key: "x" value: 2 }'
    with pytest.raises(FailedPrecondition, match="Request to assign label to version 2 of model a"):
        await made.reload(config(listed("a", more=label)))
    plane.error = InvalidInput("no such store")
    with pytest.raises(InvalidInput, match="no such store"):
        await made.reload(config(listed("c")))
    assert names(plane) == [["a"]]


@pytest.mark.clause("TF-L6")
async def test_a_new_model_that_does_not_load_is_told_and_the_list_is_in_force() -> None:
    made, plane = await started()
    with pytest.raises(UnknownError) as caught:
        await made.reload(config(listed("a", "bad", "none")))
    assert str(caught.value) == (
        "2 model(s) did not become available: {{{name: bad version: 1} due to error: torn}, "
        "{{name: none} due to error: there is no version in /none}, }"
    )
    assert names(plane)[-1] == ["a", "bad", "none"]


async def test_a_server_of_paths_has_no_list() -> None:
    made, plane = await started(NamedModels())
    with pytest.raises(Unsupported, match="compat tensorflow-serving"):
        await made.reload(config(listed("a")))
    assert plane.lists == []


@pytest.mark.clause("TF-F8")
async def test_a_label_at_the_start_needs_its_flag() -> None:
    place = NamedModel("a", "/a", labels={"stable": "1"}, platform="tensorflow")
    with pytest.raises(FailedPrecondition, match="not currently available"):
        await started(NamedModels((place,)))
    _, plane = await started(NamedModels((place,), allows_unready_labels=True))
    assert names(plane) == [["a"]]


class Ticks:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.idle = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.idle.set()
        self.gate.clear()
        await self.gate.wait()

    async def __call__(self) -> None:
        """Let one look happen."""
        self.idle.clear()
        self.gate.set()
        await asyncio.wait_for(self.idle.wait(), PATIENCE_S)


async def following(path: Path) -> tuple[Plane, Callable[[], object], ModelListReloader]:
    plane, ticks = Plane(), Ticks()
    first = tuple(NamedModel(n, f"/{n}", platform="tensorflow") for n in ("a",))
    made = ModelListReloader(plane, plane, NamedModels(first, str(path), 1.0), ticks.sleep)
    await made.start()
    await asyncio.wait_for(ticks.idle.wait(), PATIENCE_S)
    return plane, ticks, made


@pytest.mark.clause("TF-F5")
async def test_the_file_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "models.config"
    path.write_text(listed("a"))
    plane, tick, made = await following(path)
    await tick()
    assert names(plane) == [["a"]], "what has not changed is not taken again"
    path.write_text(listed("a", "b"))
    await tick()
    await tick()
    assert names(plane)[1:] == [["a", "b"]]
    with caplog.at_level(logging.ERROR):
        for broken in ("model_config_list {", listed("a", "a"), ""):
            path.write_text(broken)
            await tick()
            await tick()
        path.unlink()
        await tick()
    told = [r.message for r in caplog.records]
    assert len(told) == 4, "each once"
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in told[0]
    assert all("the models stay as they are" in text for text in told)
    assert names(plane)[1:] == [["a", "b"]]
    path.write_text(listed("c"))
    await tick()
    assert names(plane)[-1] == ["c"]
    await made.stop()


@pytest.mark.clause("TF-F5")
async def test_what_could_not_be_taken_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(listed("a"))
    plane, tick, made = await following(path)
    path.write_text(listed("a", more='version_labels { key: "next" value: 2 }'))
    await tick()
    assert names(plane) == [["a"]]
    plane.versions = lambda name: (VersionStatus(ModelId(name, "2"), State.READY),)  # type: ignore[method-assign]
    await tick()
    assert plane.lists[-1][0].labels == {"next": "2"}
    await made.stop()


async def test_an_edit_between_the_first_look_and_the_start_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(listed("z"))  # while the server was told of ``a``
    plane, tick, made = await following(path)
    await tick()
    assert names(plane) == [["a"], ["z"]]
    await made.stop()


async def test_a_defect_while_it_looks_is_logged_and_not_the_last_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models.config"
    path.write_text(listed("a"))
    plane, tick, made = await following(path)
    plane.error = RuntimeError("a defect")
    path.write_text(listed("b"))
    await tick()
    assert "a defect" in caplog.text
    plane.error = None
    await tick()
    assert names(plane)[-1] == ["b"]
    await made.stop()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            read(str(path))
    large = tmp_path / "large"
    large.write_bytes(b" " * (tf_text.MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match="is larger than 4 MiB"):
        read(str(large))

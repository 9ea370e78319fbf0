"""Does a registry keep versions as they were pushed, and names as they were set? On both databases."""

import asyncio
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registries import ANN, SIGNATURE, Clock, found, open_registry
from sqlalchemy import Connection, insert, select, text, update
from waiting import PATIENCE_S

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.schema import MODEL, RELEASE
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed
from salver.features.registry.names import Reference, parse
from salver.features.registry.records import Actor, InspectedModel, NewVersion, Parent
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.tokens import Tokens
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound, Outdated, Unauthenticated


async def push(registry: ModelRegistry, tmp_path: Path, model: str = "fraud", **said: object) -> int:
    files = said.pop("files", None)
    order = msgspec.convert({"model": model, **said}, NewVersion)
    return (await registry.push(order, found(tmp_path / "new", files), ANN)).number  # type: ignore[arg-type]


async def test_a_version_is_what_was_pushed_and_said_of_it(registry: ModelRegistry, tmp_path: Path) -> None:
    order = NewVersion(
        "fraud",
        alias="champion",
        tags={"team": "risk"},
        metrics={"auc": 0.1 + 0.2},
        parents=(Parent("data", "s3://bucket/2026-11"), Parent("version", "base/3")),
        card="---\nlicense: mit\n---\n# Fraud\n",
        source="/training/run7",
        why="trained on November",
    )
    what = found(tmp_path / "new", {"model.onnx": b"weights", "warmup/x.json": b"{}"}, resources={"bytes": 9})
    pushed = await registry.push(order, what, ANN)
    assert pushed == await registry.version(parse("fraud"))
    assert (pushed.model, pushed.number, pushed.size, pushed.by) == ("fraud", 1, 9, "ann")
    assert [file.path for file in pushed.files] == ["model.onnx", "warmup/x.json"]
    assert pushed.files[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert pushed.digest.startswith("sha256:")
    assert pushed.description == what.description
    assert pushed.description.signature == SIGNATURE
    assert (pushed.tags, pushed.metrics) == ({"team": "risk"}, {"auc": 0.1 + 0.2})
    assert pushed.parents == order.parents
    assert (pushed.card, pushed.front_matter) == (order.card, {"license": "mit"})
    assert pushed.aliases == ("champion", "latest")
    home = registry.artifacts.path_of("fraud", 1)
    assert home == tmp_path / "registry" / "models" / "fraud" / "1"
    assert (home / "warmup" / "x.json").read_bytes() == b"{}"
    assert stat.S_IMODE((home / "model.onnx").stat().st_mode) == 0o444
    assert list((tmp_path / "registry" / "incoming").iterdir()) == []


async def test_the_digest_is_of_paths_and_contents_alone(registry: ModelRegistry, tmp_path: Path) -> None:
    for files in ({"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"}, {"a": b"2", "b": b"1"}, {"a": b"12"}):
        await push(registry, tmp_path, files=files)
    fourth, third, second, first = await registry.versions("fraud")
    assert first.digest == second.digest
    assert len({first.digest, third.digest, fourth.digest}) == 3


async def test_versions_count_up_and_latest_is_the_newest(registry: ModelRegistry, tmp_path: Path) -> None:
    assert [await push(registry, tmp_path) for _ in range(3)] == [1, 2, 3]
    assert await push(registry, tmp_path, model="other") == 1
    assert (await registry.version(parse("fraud@latest"))).number == 3
    assert [version.number for version in await registry.versions("fraud")] == [3, 2, 1]
    fraud, other = await registry.models()
    assert (fraud.name, fraud.latest, fraud.versions, fraud.created) == ("fraud", 3, 3, 1_800_000_000.25)
    assert other.name == "other"


async def test_pushes_at_one_time_get_numbers_of_their_own(registry: ModelRegistry, tmp_path: Path) -> None:
    async def one(number: int) -> int:
        what = found(tmp_path / f"new{number}", {"model.onnx": b"%d" % number})
        return (await registry.push(NewVersion("fraud"), what, ANN)).number

    assert sorted(await asyncio.gather(*(one(number) for number in range(8)))) == list(range(1, 9))
    assert await registry.verify() == ()


@pytest.mark.parametrize("name", ["fraud", "fraud@champion", "fraud/1"])
async def test_what_is_not_there_is_said_with_what_to_do(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(NotFound, match=r"no model 'fraud'.*salver registry list"):
        await registry.version(parse(name))


async def test_an_alias_means_one_version_and_moves_at_once_without_a_policy(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    for _ in range(2):
        await push(registry, tmp_path)
    first = await registry.set_alias("fraud", "champion", 1, ANN, "the first")
    second = await registry.set_alias("fraud", "champion", 2, ANN, "better")
    again = await registry.set_alias("fraud", "champion", 2, ANN, "no change")
    assert [(move.before, move.number, move.release) for move in (first, second, again)] == [
        (None, 1, ""), (1, 2, ""), (2, 2, ""),
    ]  # fmt: skip
    assert (await registry.version(parse("fraud@champion"))).number == 2
    told = [
        (e.before, e.after, e.why, e.actor) for e in await registry.history("fraud") if "alias" in e.action
    ]
    assert told == [("1", "2", "better", "ann"), ("", "1", "the first", "ann")]
    with pytest.raises(NotFound, match="no version fraud/3"):
        await registry.set_alias("fraud", "champion", 3, ANN)
    with pytest.raises(InvalidInput, match="always"):
        await registry.set_alias("fraud", "latest", 1, ANN)
    await registry.delete_alias("fraud", "champion", ANN)
    with pytest.raises(NotFound, match="no version fraud@champion"):
        await registry.version(parse("fraud@champion"))


async def test_a_policy_is_set_of_a_model_that_is_as_it_was_seen(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    seen = await registry.model("fraud")
    await registry.set_policy("fraud", {"alpha": 0.02}, ANN, expected=seen)
    with pytest.raises(Outdated, match="has changed since it was read"):
        await registry.set_policy("fraud", {"alpha": 0.03}, ANN, expected=seen)
    assert (await registry.model("fraud")).policy == {"alpha": 0.02}


async def test_under_a_policy_a_move_is_a_proposal(registry: ModelRegistry, tmp_path: Path) -> None:
    for _ in range(3):
        await push(registry, tmp_path)
    policy = {"stages": [0.01, 0.1, 1]}
    await registry.set_policy("fraud", policy, ANN)
    assert (await registry.model("fraud")).policy == policy
    assert not (await registry.set_alias("fraud", "champion", 1, ANN)).release  # it meant nothing yet
    move = await registry.set_alias("fraud", "champion", 2, ANN, "november")
    assert move.before == 1
    assert move.release
    assert (await registry.version(parse("fraud@champion"))).number == 1
    row = await registry.ledger.read(lambda c: dict(c.execute(select(RELEASE)).mappings().one()))
    assert (row["id"], row["model"], row["alias"], row["stable"], row["canary"], row["state"]) == (
        move.release, "fraud", "champion", "1", "2", "PROPOSED",
    )  # fmt: skip
    assert (msgspec.json.decode(row["policy"]), row["by"], row["why"]) == (policy, "ann", "november")
    for number in (1, 2):
        with pytest.raises(Conflict, match=r"meant|release"):
            await registry.remove("fraud", number, ANN)
    with pytest.raises(Conflict, match=f"release {move.release} of fraud@champion is under way"):
        await registry.set_alias("fraud", "champion", 3, ANN)
    with pytest.raises(Conflict, match="is under way"):
        await registry.delete_alias("fraud", "champion", ANN)
    with pytest.raises(Conflict, match="is under way"):  # before its files are looked at
        await registry.push(
            NewVersion("fraud", alias="champion"), InspectedModel({}, found(tmp_path).description), ANN
        )
    await registry.ledger.write(lambda c: c.execute(update(RELEASE).values(ended=2.0)) and None)
    assert (await registry.set_alias("fraud", "champion", 3, ANN)).release not in ("", move.release)
    await registry.remove("fraud", 2, ANN)  # its release is over


async def test_a_protected_alias_is_moved_by_its_roles_alone(registry: ModelRegistry, tmp_path: Path) -> None:
    bob = Actor("bob", frozenset({"releaser"}))
    for _ in range(2):
        await push(registry, tmp_path)
    with pytest.raises(
        InvalidInput, match=r"could never be moved.*salver registry token add NAME --role releaser"
    ):
        await registry.protect("fraud", "champion", ["releaser"], ANN)
    await Tokens(registry.ledger, lambda: 1.0, lambda: "t1", bytes).make("bob", ["releaser"], ANN)
    await registry.protect("fraud", "champion", ["releaser"], ANN)
    for change in (
        lambda: registry.set_alias("fraud", "champion", 1, ANN),
        lambda: registry.protect("fraud", "champion", [], ANN),
        lambda: push(registry, tmp_path, alias="champion"),
    ):
        with pytest.raises(
            Forbidden, match=r"fraud@champion is protected: ann has none of its roles \(releaser"
        ):
            await change()
    assert (await registry.model("fraud")).versions == 2
    await registry.set_alias("fraud", "champion", 1, bob)
    with pytest.raises(Forbidden):
        await registry.delete_alias("fraud", "champion", ANN)
    assert (await registry.model("fraud")).protected == {"champion": ("releaser",)}
    await registry.protect("fraud", "champion", [], bob)
    await registry.set_alias("fraud", "champion", 2, ANN)


async def test_a_version_that_an_alias_means_stays_and_others_go_with_their_files(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    for _ in range(3):
        await push(registry, tmp_path)
    await registry.set_alias("fraud", "champion", 1, ANN)
    with pytest.raises(Conflict, match="fraud/1 is meant by fraud@champion"):
        await registry.remove("fraud", 1, ANN)
    await registry.remove("fraud", 3, ANN, "leaks")
    assert not registry.artifacts.path_of("fraud", 3).exists()
    assert (await registry.version(parse("fraud"))).number == 2
    with pytest.raises(NotFound, match="no version fraud/3"):
        await registry.set_alias("fraud", "champion", 3, ANN)
    assert [version.number for version in await registry.versions("fraud")] == [2, 1]
    assert await push(registry, tmp_path) == 4  # a number is given once
    assert (await registry.history("fraud"))[1].why == "leaks"


async def test_tags_and_metrics_change_and_are_written_down(registry: ModelRegistry, tmp_path: Path) -> None:
    await push(registry, tmp_path, tags={"team": "risk"}, metrics={"auc": 0.9})
    reference = Reference("fraud", 1)
    await registry.tag(reference, {"team": "fraud"}, ANN)
    await registry.tag(reference, {"team": "fraud"}, ANN)
    await registry.tag(reference, {"gone": None}, ANN)
    await registry.tag(reference, {"ok": "yes"}, ANN)
    await registry.tag(reference, {"ok": None}, ANN)
    await registry.measure(reference, {"auc": 0.93, "f1": 0.5}, ANN)
    version = await registry.version(reference)
    assert (version.tags, version.metrics) == ({"team": "fraud"}, {"auc": 0.93, "f1": 0.5})
    told = [(e.action, e.subject, e.before, e.after) for e in reversed(await registry.history("fraud"))][1:]
    assert told == [
        ("tag.set", "1 team", "risk", "fraud"),
        ("tag.set", "1 ok", "", "yes"),
        ("tag.removed", "1 ok", "yes", ""),
        ("metric.set", "1 auc", "0.9", "0.93"),
        ("metric.set", "1 f1", "", "0.5"),
    ]
    with pytest.raises(InvalidInput, match="is nan"):
        await registry.measure(reference, {"auc": float("nan")}, ANN)


async def test_two_versions_differ_in_what_is_other_and_nothing_else(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    await push(
        registry, tmp_path, tags={"team": "risk"}, metrics={"auc": 0.9}, card="---\nlicense: mit\n---\n"
    )
    other = {**SIGNATURE, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 5]}]}
    order = NewVersion("fraud", tags={"team": "risk"}, metrics={"auc": 0.95}, card="---\nlicense: mit\n---\n")
    await registry.push(order, found(tmp_path / "new", {"model.onnx": b"other"}, signature=other), ANN)
    said = {
        (d.part, d.what): (d.before, d.after) for d in await registry.diff(parse("fraud/1"), parse("fraud"))
    }
    assert said.pop(("description", "digest"))
    assert said.pop(("files", "model.onnx"))
    assert said == {
        ("signature", "inputs.x"): ("FP32[-1, 4]", "FP32[-1, 5]"),
        ("metrics", "auc"): ("0.9", "0.95"),
    }
    assert await registry.diff(parse("fraud/1"), parse("fraud/1")) == ()


async def test_the_history_turns_its_pages_and_cannot_be_changed(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    for _ in range(5):
        await push(registry, tmp_path)
    first = await registry.history(most=3)
    second = await registry.history(before=first[-1].seq, most=3)
    assert [entry.after[:7] for entry in (*first, *second)] == ["sha256:"] * 5
    for change in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(LedgerFailed, match="are kept as they are"):
            await registry.ledger.write(lambda c, change=change: c.execute(text(change)) and None)


async def test_a_file_that_is_not_as_it_was_pushed_is_found(registry: ModelRegistry, tmp_path: Path) -> None:
    for _ in range(4):
        await push(registry, tmp_path, files={"model.onnx": b"weights", "labels.txt": b"a"})
    assert await registry.verify() == ()
    homes = [registry.artifacts.path_of("fraud", number) for number in range(5)]
    (homes[1] / "model.onnx").chmod(0o644)
    (homes[1] / "model.onnx").write_bytes(b"weighty")
    (homes[2] / "labels.txt").unlink()
    (homes[3] / "more").write_bytes(b"")
    (homes[4].parent / "9").mkdir()
    faults = sorted((fault.number, fault.path, fault.problem) for fault in await registry.verify("fraud"))
    assert faults == [
        (1, "model.onnx", "changed"),
        (2, "labels.txt", "missing"),
        (3, "more", "unknown"),
        (9, "", "no such version"),
    ]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"model": "../fraud"}, "is not allowed as a"),
        ({"model": "7"}, "cannot be a number: 7"),
        ({"alias": "7"}, "is not allowed as a"),
        ({"tags": {"": "x"}}, "not allowed as a tag"),
        ({"tags": {"a": "x" * 5000}}, "too long"),
        ({"metrics": {"auc": float("inf")}}, "is inf"),
        ({"why": "a\0b"}, "contains NUL"),
        ({"card": "---\n- a\n---\n"}, "holds no keys"),
    ],
    ids=["model", "number", "alias", "tag", "value", "metric", "reason", "card"],
)
async def test_what_cannot_be_kept_is_refused_before_anything_is_copied(
    registry: ModelRegistry, tmp_path: Path, said: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidInput, match=problem):
        await push(registry, tmp_path, **{"model": "fraud", **said})
    assert await registry.models() == ()
    assert not (tmp_path / "registry" / "models").exists()


@pytest.mark.parametrize("path", ["../out", "/abs", "a/../../b", "a//b", "./a", "a\\b"])
async def test_files_stay_inside_their_version(registry: ModelRegistry, tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="leaves the folder of the version"):
        await push(registry, tmp_path, files={"model.onnx": b"", path: b""})
    assert list((tmp_path / "registry" / "incoming").iterdir()) == []


async def test_a_source_that_cannot_be_read_leaves_nothing(registry: ModelRegistry, tmp_path: Path) -> None:
    what = found(tmp_path / "new")
    what.files["model.onnx"].unlink()
    with pytest.raises(ArtifactsFailed, match="No such file"):
        await registry.push(NewVersion("fraud"), what, ANN)
    assert await registry.models() == ()
    assert list((tmp_path / "registry" / "incoming").iterdir()) == []


async def test_who_may_not_move_the_alias_after_all_leaves_no_files(tmp_path: Path) -> None:
    """The alias is protected while the files are copied."""
    registry = await open_registry("sqlite", tmp_path / "registry", Clock())
    await push(registry, tmp_path)
    await Tokens(registry.ledger, lambda: 1.0, lambda: "t1", bytes).make("bob", ["releaser"], ANN)
    place = registry.artifacts.place

    def protected_meanwhile(id: str, model: str, number: int) -> None:
        place(id, model, number)
        asyncio.run_coroutine_threadsafe(
            registry.protect("fraud", "champion", ["releaser"], ANN), loop
        ).result()

    loop = asyncio.get_running_loop()
    registry.artifacts.place = protected_meanwhile  # type: ignore[method-assign]
    with pytest.raises(Forbidden):
        await push(registry, tmp_path, alias="champion")
    assert [path.name for path in (tmp_path / "registry" / "models" / "fraud").iterdir()] == ["1"]
    assert await registry.verify() == ()
    await registry.ledger.close()


async def test_a_push_whose_row_cannot_be_written_leaves_no_files(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    with pytest.raises(UnicodeEncodeError):  # a backend has read it of a file, and JSON cannot hold it
        await registry.push(NewVersion("fraud"), found(tmp_path / "new", format="\ud800"), ANN)
    assert await registry.verify() == ()
    assert await registry.models() == ()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
async def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    registry = await open_registry("sqlite", tmp_path / "registry")
    what = found(tmp_path / "new")
    odd = tmp_path / "new" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to("/dev/zero")
    with pytest.raises(InvalidInput, match="odd is not a file"):
        await registry.push(
            NewVersion("fraud"), InspectedModel({**what.files, "odd": odd}, what.description), ANN
        )
    assert await registry.models() == ()
    await registry.ledger.close()


async def test_versions_are_read_page_by_page(registry: ModelRegistry, tmp_path: Path) -> None:
    for number in range(1, 6):
        await push(registry, tmp_path, tags={"n": str(number)}, metrics={"n": float(number)})
    await registry.remove("fraud", 4, ANN)
    whole = await registry.versions("fraud")
    assert [version.number for version in whole] == [5, 3, 2, 1]
    assert await registry.versions("fraud", most=2) == whole[:2]
    assert await registry.versions("fraud", 3, 1) == [whole[2]]
    assert await registry.versions("fraud", before=1) == []
    assert [version.tags["n"] for version in whole] == ["5", "3", "2", "1"]


@pytest.mark.parametrize("words", ["a\udcff", "\0"], ids=["half", "nul"])
async def test_what_no_database_can_keep_is_refused_in_our_words(
    registry: ModelRegistry, tmp_path: Path, words: str
) -> None:
    await push(registry, tmp_path)
    one = parse("fraud/1")
    for attempt in (
        registry.tag(one, {"team": words}, ANN),
        registry.set_alias("fraud", "champion", 1, ANN, words),
        registry.set_alias("fraud", "champion", 1, Actor(words)),
        push(registry, tmp_path, card=words),
        push(registry, tmp_path, files={f"model{words}.onnx": b"x"}),
        push(registry, tmp_path, files={"model\n.onnx": b"x"}),
    ):
        with pytest.raises(InvalidInput):
            await attempt
    with pytest.raises(Unauthenticated):
        await Tokens(registry.ledger, Clock(), str, bytes).actor(words)
    assert await push(registry, tmp_path) == 2  # no number was lost


async def test_a_model_whose_first_push_has_not_ended_is_not_there(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch, pytest.raises(asyncio.CancelledError):
        patch.setattr(registry.artifacts, "place", killed)
        await push(registry, tmp_path)
    assert await registry.models() == ()
    with pytest.raises(NotFound, match="no model 'fraud'"):
        await registry.model("fraud")
    assert await push(registry, tmp_path) == 2
    assert [model.name for model in await registry.models()] == ["fraud"]


async def test_a_push_that_is_given_up_copies_no_more_and_leaves_nothing(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    take_in, is_over = registry.artifacts.take_in, threading.Event()
    loop, pushing = asyncio.get_running_loop(), asyncio.create_task(push(registry, tmp_path))

    def slowly(files, id, stop):  # type: ignore[no-untyped-def]
        loop.call_soon_threadsafe(pushing.cancel)
        assert stop.wait(PATIENCE_S)
        try:
            return take_in(files, id, stop)
        finally:
            is_over.set()

    registry.artifacts.take_in = slowly  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert await asyncio.to_thread(is_over.wait, 20)
    assert list((tmp_path / "registry" / "incoming").iterdir()) == []
    assert await registry.models() == ()


async def test_what_killed_pushes_left_aside_goes_with_a_later_one(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    old, slow, placed = (tmp_path / "registry" / path for path in ("incoming/a", "incoming/b", "models/m/1"))
    for folder in (old, slow, placed):
        (folder / "labels").mkdir(parents=True)
        (folder / "labels" / "a.txt").write_bytes(b"cat")
        for path in (folder / "labels" / "a.txt", folder / "labels", folder):
            os.utime(path, (1000, 1000))
    os.utime(slow / "labels" / "a.txt")  # somebody is still writing
    await push(registry, tmp_path)
    assert [folder.exists() for folder in (old, slow, placed)] == [False, True, True]


@pytest.mark.parametrize("step", ["take_in", "place"])
async def test_a_push_that_is_under_way_loses_nothing_to_a_sweep(tmp_path: Path, step: str) -> None:
    """However young what may go is: its files have no row yet."""
    loop = asyncio.get_running_loop()
    other = await open_registry("sqlite", tmp_path / "registry")
    problems = []

    class Swept(Artifacts):
        """Somebody sweeps after a step of a push."""

        def sweep_now(self) -> None:
            sweeping = asyncio.run_coroutine_threadsafe(other.sweep(0.0), loop)
            problems.append(sweeping.exception(20))

        def take_in(self, *given: Any) -> Any:
            taken = super().take_in(*given)
            if step == "take_in":
                self.sweep_now()
            return taken

        def place(self, *given: Any) -> None:
            super().place(*given)
            if step == "place":
                self.sweep_now()

    registry = ModelRegistry(other.ledger, Swept(tmp_path / "registry"), Clock(), lambda: "id")
    assert await push(registry, tmp_path) == 1
    (problem,) = problems
    assert isinstance(problem, Conflict) and "a push is running" in str(problem)
    assert await registry.verify() == ()
    assert await other.sweep(86_400.0) == ()  # what is so old is of no push
    assert await other.sweep(0.0) == ()
    await other.ledger.close()


async def test_names_that_differ_in_case_alone_would_be_one_folder_on_some_disks(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    both = [push(registry, tmp_path / name, model=name) for name in ("Fraud", "fraud")]
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert sorted([first == 1, second == 1]) == [False, True]
    (there,) = await registry.models()
    other = there.name.swapcase()
    with pytest.raises(Conflict, match=f"'{there.name}', which differs .* Push it as {there.name}"):
        await push(registry, tmp_path, model=other, files={})
    assert await push(registry, tmp_path, model=there.name) == 2
    assert await push(registry, tmp_path, model=f"{other}s") == 1

    def as_it_was(connection: Connection) -> None:  # of a Salver that let both in
        rows = [{"name": "OLD", "last_number": 1, "created": 1.0, "by": "ann"}]
        connection.execute(insert(MODEL), [*rows, {**rows[0], "name": "old"}])

    await registry.ledger.write(as_it_was)
    assert await push(registry, tmp_path, model="old") == 2


async def test_verify_is_not_misled_by_others_that_push_and_remove_meanwhile(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    await push(registry, tmp_path)
    await push(registry, tmp_path)
    loop, entries = asyncio.get_running_loop(), registry.artifacts.entries

    def meanwhile(model: str, number: int):  # type: ignore[no-untyped-def]
        registry.artifacts.entries = entries  # type: ignore[method-assign]
        for work in (registry.remove("fraud", 1, ANN), push(registry, tmp_path)):
            asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)
        return entries(model, number)

    registry.artifacts.entries = meanwhile  # type: ignore[method-assign]
    assert await registry.verify() == ()


async def test_verify_tells_of_a_file_that_cannot_be_read_and_goes_on(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    files = {"a.bin": b"a", "b.bin": b"b"}
    await push(registry, tmp_path, files=files)
    home = registry.artifacts.path_of("fraud", 1)
    (home / "a.bin").rename(tmp_path / "elsewhere")
    (home / "a.bin").symlink_to(tmp_path / "elsewhere")
    (home / "b.bin").chmod(0o644)
    (home / "b.bin").write_bytes(b"B")
    faults = await registry.verify("fraud")
    assert [(fault.path, fault.problem) for fault in faults] == [
        ("a.bin", "unreadable"),
        ("b.bin", "changed"),
    ]

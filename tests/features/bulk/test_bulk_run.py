"""Jobs on files against the real server, with a model that doubles numbers; kills included."""

import asyncio
import csv
import errno
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from waiting import PATIENCE_S, until

from salver.app import Server
from salver.backends.protocol import LoadOptions, Traits
from salver.cli import main
from salver.client import Client
from salver.configuration import ServeConfig
from salver.features.bulk import Job, Progress, Summary, run
from salver.features.bulk.journal import Parts
from salver.testing.process import ServerProcess
from salver.transport.server import FrontConfig
from salver.words import errors
from salver.words.artifacts import Manifest
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

SALVER = str(Path(sys.executable).with_name("salver"))


class Doubler:
    """Doubles ``x`` and gives ``text`` back; a text that begins with ``bad`` fails its batch."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 2)), TensorSpec("text", DataType.BYTES, (-1,))),
        (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("same", DataType.BYTES, (-1,))),
        batched=True,
    )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if wrong := [text for text in inputs["text"] if text.startswith(b"bad")]:
            raise ValueError(f"cannot stand {wrong[0]!r}")
        if any(text.startswith(b"slow") for text in inputs["text"]):
            time.sleep(0.002)
        return {"y": inputs["x"] * 2, "same": inputs["text"]}

    def close(self) -> None: ...


class Adder(Doubler):
    """Has no batch dimension."""

    signature = Signature(
        (TensorSpec("x", DataType.INT64, (3,)),), (TensorSpec("sum", DataType.INT64, (1,)),), batched=False
    )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"sum": inputs["x"].sum(keepdims=True)}


class NumbersBackend:
    name = "numbers"
    extra = "numbers"
    modules = ()
    traits = Traits()

    def recognise(self, path: Path) -> str | None:
        return "numbers" if path.suffix == ".numbers" else None

    def load(self, manifest: Manifest, options: LoadOptions) -> Doubler:
        return Adder() if manifest.path.read_text() == "adder" else Doubler()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a thread of its own, for jobs that bring their own event loop or process."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("doubler", "adder"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.numbers").write_text(name)
    config = ServeConfig(paths=(str(folder),), front=FrontConfig(port=0))
    started, told = threading.Event(), dict[str, Any]()

    async def serve() -> None:
        async with Server(config, {"numbers": NumbersBackend()}) as server:
            told.update(stop=asyncio.Event(), loop=asyncio.get_running_loop(), url=server.url)
            started.set()
            await told["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(PATIENCE_S)
    yield told["url"]
    told["loop"].call_soon_threadsafe(told["stop"].set)
    thread.join(PATIENCE_S)


def rows_of(count: int, text: str = "t") -> list[dict[str, Any]]:
    return [{"id": i, "x": [i / 8, -i], "text": f"{text}{i}", "extra": None} for i in range(count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def job(source: Path, target: Path, **options: Any) -> Job:
    return Job(**{"model": "doubler", "source": source, "target": target, "rows": 16, **options})


async def do(url: str, job: Job, told: list[Progress] | None = None) -> Summary:
    async with Client(url) as client:
        return await run(client, job, on_progress=(told or []).append, mark_every=0)


def leftovers(folder: Path, *expected: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)


async def test_json_lines(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(100)), tmp_path / "out.jsonl"
    told: list[Progress] = [Progress(0, 0, 0, 0.0, 0)]
    summary = await do(url, job(source, target, keep=("id",)), told)
    assert (summary.rows, summary.answered, summary.skipped, summary.resumed) == (100, 100, 0, 0)
    found = read_jsonl(target)
    assert [row["id"] for row in found] == list(range(100))
    assert found[7] == {"id": 7, "y": [1.75, -14.0], "same": "t7"}
    assert list(found[0]) == ["id", "y", "same"]
    assert told[1].notes == ("ignored: extra",)
    assert (told[-1].rows, told[-1].fraction) == (100, 1.0)
    leftovers(tmp_path, "in.jsonl", "out.jsonl")


async def test_every_format_tells_the_same(url: str, tmp_path: Path) -> None:
    rows = rows_of(50)
    write_jsonl(tmp_path / "in.jsonl", rows)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "x_0", "x_1", "text"])
        writer.writerows([r["id"], *r["x"], r["text"]] for r in rows)
    table = pa.Table.from_pylist([{"id": r["id"], "x": r["x"], "text": r["text"]} for r in rows])
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=23)
    np.savez_compressed(
        tmp_path / "in.npz",
        id=np.arange(50),
        x=np.array([r["x"] for r in rows]),
        text=np.array([r["text"] for r in rows]),
    )
    await do(url, job(tmp_path / "in.jsonl", tmp_path / "expected.jsonl", keep=("id",)))
    expected = read_jsonl(tmp_path / "expected.jsonl")
    for suffix in ("csv", "parquet", "npz"):
        target = tmp_path / f"{suffix}.jsonl"
        await do(url, job(tmp_path / f"in.{suffix}", target, keep=("id",)))
        found = read_jsonl(target)
        if suffix == "csv":  # its cells are text
            found = [{**row, "id": int(row["id"])} for row in found]
        assert found == expected, suffix

    await do(url, job(tmp_path / "in.csv", tmp_path / "out.csv", keep=("id",)))
    with (tmp_path / "out.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert list(records[0]) == ["id", "y_0", "y_1", "same"]
    assert [np.float32(r["y_0"]) for r in records] == [np.float32(r["y"][0]) for r in expected]

    await do(url, job(tmp_path / "in.parquet", tmp_path / "out.parquet", keep=("id",)))
    answers = pq.read_table(tmp_path / "out.parquet")
    assert [str(t) for t in answers.schema.types] == ["int64", "list<element: float>", "string"]
    assert answers.to_pylist() == expected

    await do(url, job(tmp_path / "in.npz", tmp_path / "out.npz", keep=("id",), outputs=("y",)))
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays) == ["id", "y"]
        assert arrays["y"].dtype == np.float32
        assert arrays["y"].tolist() == [r["y"] for r in expected]
        assert arrays["id"].tolist() == list(range(50))


async def test_a_model_without_batch_dimension_is_asked_row_by_row(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(30).reshape(10, 3).astype(np.int16))
    plan = job(tmp_path / "in.npy", tmp_path / "out.npy", model="adder", rows=0)
    assert (await do(url, plan)).answered == 10
    assert np.load(tmp_path / "out.npy").tolist() == [[sum(range(3 * i, 3 * i + 3))] for i in range(10)]
    with pytest.raises(errors.InvalidInput, match="no batch dimension"):
        await do(url, job(tmp_path / "in.npy", tmp_path / "two.npy", model="adder", rows=2))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "npy"])
async def test_an_empty_file_has_an_empty_answer(url: str, tmp_path: Path, suffix: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", [])
    target = tmp_path / f"out.{suffix}"
    summary = await do(url, job(tmp_path / "in.jsonl", target, outputs=("y",)))
    assert summary.rows == 0
    if suffix == "csv":
        assert target.read_text() == "y_0,y_1\n"
    elif suffix == "parquet":
        assert pq.read_table(target).num_rows == 0
    elif suffix == "npy":
        assert np.load(target).shape == (0, 2)
    else:
        assert target.read_bytes() == b""
    leftovers(tmp_path, "in.jsonl", target.name)


async def test_bad_rows_are_named_and_skipped_on_request(url: str, tmp_path: Path) -> None:
    rows = rows_of(60)
    rows[20]["text"] = "bad one"
    rows[21]["x"] = [1, 2, 3]
    del rows[40]["x"]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with source.open("ab") as file:
        file.write(b'{"x": [1, 2], "text": "\xff"}\n[1]\n{"x": [1, 2], "text": "last"}')
    target = tmp_path / "out.jsonl"
    with pytest.raises(errors.InvalidInput, match=r"in\.jsonl, line 22: x has shape \[3\]"):
        await do(url, job(source, target))
    assert not target.exists()
    summary = await do(url, job(source, target, on_error="skip"))  # goes on after the first block
    assert (summary.rows, summary.answered, summary.skipped, summary.resumed) == (63, 58, 5, 16)
    noted = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert [note["line"] for note in noted] == [21, 22, 41, 61, 62]
    assert "cannot stand" in noted[0]["error"]
    assert "has no 'x'" in noted[2]["error"]
    kept = [row["text"] for i, row in enumerate(rows) if i not in (20, 21, 40)]
    assert [row["same"] for row in read_jsonl(target)] == [*kept, "last"]
    leftovers(tmp_path, "in.jsonl", "out.jsonl", "out.jsonl.errors.jsonl")


async def test_what_does_not_fit_together_is_refused_at_once(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(3)), tmp_path / "out.jsonl"
    for options, said in (
        ({"target": tmp_path / "out.txt"}, "not a known format"),
        ({"source": tmp_path / "none.csv"}, "does not exist"),
        ({"target": source}, "its own source"),
        ({"target": tmp_path / "no" / "out.csv"}, "a folder that is there"),
        ({"outputs": ("z",)}, "no output z"),
        ({"columns": {"z": ("a",)}}, "no input z"),
        ({"keep": ("y",)}, "an output of doubler has that name"),
        ({"target": tmp_path / "out.npz"}, "cannot hold same, which is text"),
        ({"target": tmp_path / "out.npy"}, "can hold one array"),
    ):
        with pytest.raises(errors.InvalidInput, match=said):
            await do(url, job(**{"source": source, "target": target, **options}))  # type: ignore[arg-type]
    with pytest.raises(errors.NotFound):
        await do(url, job(source, target, model="nosuch"))
    leftovers(tmp_path, "in.jsonl")
    target.write_text("precious")
    with pytest.raises(errors.Conflict, match="is there already"):
        await do(url, job(source, target))
    assert target.read_text() == "precious"
    await do(url, job(source, target, restart=True))
    assert len(read_jsonl(target)) == 3


async def test_columns_may_have_other_names(url: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('left,right,text\n1,2,a\n3,4,"b\nc"\n')
    plan = job(tmp_path / "in.csv", tmp_path / "out.jsonl", columns={"x": ("right", "left")})
    await do(url, plan)
    assert [r["y"] for r in read_jsonl(tmp_path / "out.jsonl")] == [[4, 2], [8, 6]]
    plan = job(tmp_path / "in.csv", tmp_path / "no.jsonl", columns={"x": ("right", "up")})
    with pytest.raises(errors.InvalidInput, match=r"in\.csv has no column up\. It has: left, right, text"):
        await do(url, plan)


async def test_one_version_answers_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "doubler" / "2").mkdir(parents=True)
    (tmp_path / "models" / "doubler" / "2" / "model.numbers").write_text("doubler")
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(100)), tmp_path / "out.jsonl"
    config = ServeConfig(paths=(str(tmp_path / "models"),), front=FrontConfig(port=0))
    async with Server(config, {"numbers": NumbersBackend()}) as server:
        await interrupted(server.url, job(source, target), 32)
        identity = json.loads(target.with_name("out.jsonl.journal").read_text().splitlines()[0])
        assert identity["version"] == "2"
        summary = await do(server.url, job(source, target, version="2"))
    assert summary.resumed
    assert summary.version == "2"


MODEL = """
class Model:
    inputs = {"x": ("INT64", [-1])}
    outputs = {"y": ("INT64", [-1])}

    def predict(self, inputs):
        return {"y": inputs["x"] + 1}
"""


async def test_a_server_that_is_killed_and_comes_back_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(MODEL)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [{"x": i} for i in range(2000)])
    under_way, going_on = asyncio.Event(), asyncio.Event()

    def told(progress: Progress) -> None:
        if progress.rows > 100 and not under_way.is_set():
            under_way.set()
            server.signal(signal.SIGKILL)  # at once: the job is in its midst
            server.wait()
        if progress.waiting:
            going_on.set()

    async def work(url: str) -> Summary:
        async with Client(url) as client:
            plan = job(source, target, model="more", rows=4)
            return await run(client, plan, on_progress=told)

    server = ServerProcess([tmp_path / "more.py"], tmp_path / "server.log")
    with server:
        await asyncio.to_thread(server.wait_ready)
        working = asyncio.create_task(work(server.url))
        await going_on.wait()
        server.start(server.port)
        summary = await working
    assert (summary.answered, summary.skipped) == (2000, 0)
    assert summary.retries > 0
    assert [row["y"] for row in read_jsonl(target)] == list(range(1, 2001))


async def test_a_full_disk_says_so_and_loses_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(200)), tmp_path / "out.jsonl"
    await do(url, job(source, tmp_path / "whole.jsonl"))
    real, left = Parts.write, [6]

    def full(self: Parts, data: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            real(self, [piece[:10] for piece in data])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data)

    monkeypatch.setattr(Parts, "write", full)
    with pytest.raises(errors.InvalidInput, match="No space left on device"):
        await do(url, job(source, target))
    monkeypatch.undo()
    assert (await do(url, job(source, target))).resumed > 0
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


class Stop(Exception):
    """What a test throws into a job."""


async def interrupted(url: str, plan: Job, after: int) -> None:
    """A run that ends after so many rows, as a defect would end it: nothing is tidied."""

    def stop(progress: Progress) -> None:
        if progress.rows - progress.resumed >= after:
            raise Stop

    async with Client(url) as client:
        with pytest.raises(Stop):
            await run(client, plan, on_progress=stop, mark_every=0)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "npz"])
async def test_an_interrupted_job_goes_on(url: str, tmp_path: Path, suffix: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(300))
    whole, target = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    await do(url, job(source, whole, keep=("id",), outputs=("y",)))
    plan = job(source, target, keep=("id",), outputs=("y",))
    for after in (64, 16, 128):
        await interrupted(url, plan, after)
        with target.with_name(f"{target.name}.part").open("ab") as part:
            part.write(b"half a row")  # written, but after the last mark
        with target.with_name(f"{target.name}.journal").open("ab") as journal:
            journal.write(b'{"rows": 99')  # a line that was cut
    summary = await do(url, plan)
    assert (summary.rows, summary.answered) == (300, 300)
    assert summary.resumed > 100
    assert target.read_bytes() == whole.read_bytes()


async def test_another_job_is_not_gone_on_with(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(100)), tmp_path / "out.jsonl"
    await interrupted(url, job(source, target), 32)
    with pytest.raises(errors.Conflict, match=r"another rows: 16 then, 8 now.*--restart"):
        await do(url, job(source, target, rows=8))
    with source.open("a") as file:
        file.write(json.dumps(rows_of(1)[0]) + "\n")
    with pytest.raises(errors.Conflict, match="another source"):
        await do(url, job(source, target))
    assert (await do(url, job(source, target, restart=True))).resumed == 0
    assert len(read_jsonl(target)) == 101


async def test_a_source_that_changes_meanwhile_is_noticed(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(100)), tmp_path / "out.jsonl"

    def touch(progress: Progress) -> None:
        if progress.rows == 48:
            os.utime(source, (1, 1))

    async with Client(url) as client:
        with pytest.raises(errors.Conflict, match="has changed meanwhile"):
            await run(client, job(source, target), on_progress=touch)
    assert not target.exists()


async def test_two_runs_at_once_do_not_mix(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(500)), tmp_path / "out.jsonl"
    first, second = await asyncio.gather(
        do(url, job(source, target)), do(url, job(source, target)), return_exceptions=True
    )
    assert sum(isinstance(one, errors.Conflict) for one in (first, second)) == 1
    assert len(read_jsonl(target)) == 500


class Crash(BaseException):
    """The power fails."""


@pytest.mark.parametrize(
    ("suffix", "when"), [("jsonl", "before"), ("jsonl", "after"), ("parquet", "before"), ("npz", "after")]
)
def test_a_crash_at_any_step(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, when: str
) -> None:
    rows = rows_of(40)
    rows[19]["x"] = "nonsense"
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    whole, target = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    options: dict[str, Any] = {"keep": ("id",), "outputs": ("y",), "on_error": "skip"}
    asyncio.run(do(url, job(source, whole, **options)))
    expected = {file.name.replace("whole", "out"): file.read_bytes() for file in tmp_path.glob("whole*")}
    steps = [(os, "fsync"), (Path, "replace"), (Path, "unlink")]
    real = {name: getattr(owner, name) for owner, name in steps}
    left, seen = [0], 0

    def step(name: str) -> Any:
        def call(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if when == "before" and not left[0]:
                raise Crash
            result = real[name](*words, **named)
            if when == "after" and not left[0]:
                raise Crash
            return result

        return call

    for owner, name in steps:
        monkeypatch.setattr(owner, name, step(name))
    for crash_at in range(1, 100):
        left[0] = crash_at
        try:
            asyncio.run(do(url, job(source, target, **options)))
        except Crash:
            seen += 1
            left[0] = 0
            try:
                asyncio.run(do(url, job(source, target, **options)))
            except errors.Conflict as error:  # nothing was left to do
                assert "is there already" in str(error)
        assert {file.name: file.read_bytes() for file in tmp_path.glob("out*")} == expected, crash_at
        if seen < crash_at:
            break
        for file in tmp_path.glob("out*"):
            real["unlink"](file)
    assert seen > 15


SCRIPT = """
import asyncio, sys
from pathlib import Path
from salver.client import Client
from salver.features.bulk import Job, run

async def main():
    url, source, target = sys.argv[1:]
    async with Client(url) as client:
        job = Job(model="doubler", source=Path(source), target=Path(target), keep=("id",), rows=5,
                  connections=2, on_error="skip")
        print((await run(client, job, mark_every=0.05)).resumed)

asyncio.run(main())
"""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_kill_at_any_moment(url: str, tmp_path: Path, suffix: str) -> None:
    rows = rows_of(1200, "slow")
    rows[1134]["x"] = "nonsense"
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    whole, target = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    journal = target.with_name(f"{target.name}.journal")

    def command(to: Path) -> list[str]:
        return [sys.executable, "-c", SCRIPT, url, str(source), str(to)]

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    undisturbed = subprocess.run(command(whole), check=True, capture_output=True, timeout=PATIENCE_S)
    assert undisturbed.stdout == b"0\n"
    chance = random.Random(suffix)
    for _ in range(3):
        before = size()
        with subprocess.Popen(command(target), stdout=subprocess.PIPE) as process:
            until(lambda: process.poll() is not None or size() > max(before, 600))  # noqa: B023
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
            if process.wait() == 0 or (target.exists() and not journal.exists()):
                break  # it was quicker than this test: done, if not yet gone
    else:
        last = subprocess.run(command(target), capture_output=True, timeout=PATIENCE_S)
        assert last.returncode == 0, last.stderr.decode()
        assert int(last.stdout) > 0
    assert target.read_bytes() == whole.read_bytes()
    assert [note["line"] for note in read_jsonl(tmp_path / f"out.{suffix}.errors.jsonl")] == [1135]


def test_a_ctrl_c_says_how_to_go_on(url: str, tmp_path: Path) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(4000, "slow")), tmp_path / "out.jsonl"
    words = [SALVER, "infer", "doubler", "--from", str(source), "--to", str(target), "--url", url]
    words += ["--rows", "2", "--connections", "1"]
    part = tmp_path / "out.jsonl.part"
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs ignore it
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=default) as process:
        until(lambda: part.exists() and part.stat().st_size)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("stopped after ")
    assert "The same command goes on from there" in said
    assert "Traceback" not in said
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "going on after" in done.stderr
    assert done.stdout.startswith(f"4000 rows in {target}")
    assert len(read_jsonl(target)) == 4000


def test_the_command(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write_jsonl(tmp_path / "in.jsonl", rows_of(20)), tmp_path / "out.csv"
    words = ["infer", "doubler", "--from", str(source), "--to", str(target), "--url", url]
    assert main([*words, "--keep", "id", "--output", "y"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"20 rows in {target}; ")
    assert captured.err == f"{source}: ignored: extra, text\n".replace(", text", "")
    assert target.read_text().splitlines()[:2] == ["id,y_0,y_1", "0,0.0,0.0"]
    assert main([*words, "--restart", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answered"] == 20
    assert main(words) == 1
    assert "is there already. --restart replaces it." in capsys.readouterr().err
    assert main(["infer", "doubler", "--from", "x.csv", "--url", url]) == 1
    assert "--from and --to need each other" in capsys.readouterr().err

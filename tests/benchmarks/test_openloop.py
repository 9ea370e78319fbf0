"""The open-loop generator against a real server, and the parts of the overload benchmarks that decide."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from salver.testing.process import ServerProcess, free_port

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("models", "frames", "forms", "openloop", "law", "subjects", "processes", "host", "page", "overload")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark modules, imported as the scripts import them, and forgotten afterwards."""
    for tool in ("onnx", "onnxruntime", "grpc"):
        pytest.importorskip(tool)
    before = dict(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


@pytest.fixture(scope="module")
def server(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    bench.models.make()
    log = tmp_path_factory.mktemp("openloop") / "log"
    with ServerProcess([bench.models.MODELS["tiny"].path], log) as running:
        yield running.wait_ready()


def question(bench: Any, row: int = 0, **headers: str) -> Any:
    model = bench.models.MODELS["tiny"]
    form = bench.forms.oip_json(model)
    return bench.openloop.Question(form.path, form.encode(model.samples[row]), {**form.headers, **headers})


def test_every_request_is_sent_and_answered_rightly(bench: Any, server: ServerProcess) -> None:
    model = bench.models.MODELS["tiny"]
    form = bench.forms.oip_json(model)
    due = np.sort(np.random.default_rng(1).uniform(0, 0.3, 90))
    broken = bench.openloop.Question(form.path, b"{}", form.headers)
    questions = [question(bench), question(bench, 1), broken]
    got = bench.openloop.run(server.port, due, questions, timeout=20, keep_every=1)
    assert got.status.tolist() == [200, 200, 400] * 30
    assert (got.sent >= due).all() and (got.done > got.sent).all()
    assert not got.waited.any() and got.opened >= 16
    assert got.within(20).sum() == 60
    assert len(got.replies) == 90

    def is_right(kind: int, reply: Any) -> bool:
        return bool(
            np.allclose(form.decode(reply.body, reply.headers), model.answers[kind].ravel(), rtol=1e-3)
        )

    assert got.check(is_right) == 60
    with pytest.raises(bench.openloop.Failed, match="wrong answer"):
        got.check(lambda kind, reply: is_right(1 - kind, reply))


def test_calls_are_sent_and_told_from_those_that_fail(bench: Any, server: ServerProcess) -> None:
    form = bench.forms.oip_grpc(bench.models.MODELS["tiny"])
    body = form.encode(bench.models.MODELS["tiny"].samples[0])
    calls = [bench.openloop.Call(form.path, message) for message in (body, body[:2] + b"T" + body[3:])]
    due = np.sort(np.random.default_rng(1).uniform(0, 0.3, 200))
    got = bench.openloop.run(server.port, due, calls, timeout=20, connections=8, opened=4)
    assert got.status.tolist() == [200, 503] * 100
    assert (got.sent >= due).all() and (got.done > got.sent).all()
    assert got.opened == 4 and (got.bytes > 0).tolist() == [True, False] * 100


def test_a_busy_connection_makes_the_next_request_wait(bench: Any, server: ServerProcess) -> None:
    got = bench.openloop.run(
        server.port, np.zeros(50), [question(bench)], connections=1, opened=0, timeout=20
    )
    assert (got.status == 200).all() and got.opened == 1
    assert not got.waited[0] and got.waited[1:].all()
    assert (got.sent[1:] >= got.done[:-1]).all()
    assert (got.latency >= got.done - got.sent).all()


class Canned:
    """A server that says prepared bytes to each connection's requests, one after the other."""

    def __init__(self, *replies: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._replies = replies
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                for reply in self._replies:
                    if not connection.recv(65536):
                        break
                    for part in reply.split(b"|"):
                        connection.sendall(part)


@pytest.mark.parametrize(
    ("replies", "status", "body"),
    [
        (
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab|\r\n1\r\nc\r\n0\r\n\r\n",) * 2,
            [200, 200],
            b"abc",
        ),
        ((b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno",) * 2, [503, 503], b"no"),
        (
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",),
            [200, 200],
            b"abc",
        ),
        ((b"HTTP/1.1 200 OK\r\n\r\nendless",), [-3, -3], None),
        ((b"nonsense\r\n\r\n",), [-3, -3], None),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",), [-2, -2], None),
    ],
    ids=["chunked", "refused", "closes", "no length", "no HTTP", "cut short"],
)
def test_replies_are_told_apart(
    bench: Any, replies: tuple[bytes, ...], status: list[int], body: bytes | None
) -> None:
    canned = Canned(*replies)
    with canned.listener:
        asked = [bench.openloop.Question("/", b"x")]
        got = bench.openloop.run(canned.port, [0, 0.05], asked, connections=1, opened=0, keep_every=1)
    assert got.status.tolist() == status
    assert [reply.body for reply in got.replies] == ([] if body is None else [body, body])


def test_no_reply_is_a_time_out_counted_from_the_schedule(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        got = bench.openloop.run(
            silent.getsockname()[1],
            [0, 0],
            [bench.openloop.Question("/", b"x")],
            connections=1,
            opened=1,
            timeout=0.1,
        )
    assert got.status[0] == bench.openloop.TIMED_OUT
    assert got.status[1] in (bench.openloop.TIMED_OUT, bench.openloop.UNSENT)
    assert not got.within(1).any()


def test_what_cannot_be_measured_is_said(bench: Any) -> None:
    asked = [bench.openloop.Question("/", b"x")]
    with pytest.raises(bench.openloop.Failed, match="cannot connect"):
        bench.openloop.run(free_port(), [0.0], asked)
    with pytest.raises(bench.openloop.Failed, match="must ascend"):
        bench.openloop.run(free_port(), [1.0, 0.0], asked)
    with pytest.raises(bench.openloop.Failed, match="out of range"):
        bench.openloop.run(free_port(), [0.0], asked, timeout=0)


def test_ceilings_are_those_of_the_theory(bench: Any) -> None:
    tau = bench.subjects.linear(1.0, 4.0)
    top = 32 / 0.036
    for load, ceiling in ((1.2, 856), (1.5, 868), (2.0, 880), (3.0, 889)):
        assert bench.subjects.fluid(load * top, tau, 0.05, 32) == pytest.approx(ceiling, abs=0.6)
    assert bench.subjects.fluid(0.5 * top, tau, 0.05, 32) == pytest.approx(0.5 * top)
    due = bench.openloop.poisson(1.2 * top, 30, np.random.default_rng(1))
    assert bench.subjects.simulated(due, tau, 0.05, 32) / 30 == pytest.approx(852, abs=5)
    assert bench.subjects.simulated(np.array([0.0, 0.0, 9.0]), tau, 0.05, 32) == 3


def test_arrivals_have_their_rate_and_spread(bench: Any) -> None:
    rng = np.random.default_rng(1)
    assert len(bench.openloop.poisson(500, 10, rng)) == 5000
    gaps = np.diff(bench.openloop.gamma(1000, 100, rng, 16))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.01)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(16, rel=0.15)
    due = bench.openloop.steps([10, 30], [1, 2], rng)
    assert (due < 1).sum() == 10 and len(due) == 70 and (np.diff(due) >= 0).all()


def outcome(bench: Any, due: Any, latency: Any, status: Any) -> Any:
    nothing = np.zeros(len(due), np.int64)
    return bench.openloop.Outcome(
        due, nothing, due, due + latency, status, nothing, nothing > 0, [], 14.0, 1.0, 1
    )


def test_recovery_is_the_first_normal_window(bench: Any) -> None:
    due = np.arange(0, 14, 0.002)
    latency = np.full(len(due), 0.010)
    status = np.full(len(due), 200)
    latency[(due >= 4) & (due < 9)] = 0.049  # until a second after the end of the step
    got = bench.overload.recovery(outcome(bench, due, latency, status), 0.05)
    assert got == {
        "normal_p99_ms": 10.0,
        "recovered_s": pytest.approx(1.0, abs=0.06),
        "after_2s_p99_ms": 10.0,
    }
    status[due >= 8] = 503
    assert bench.overload.recovery(outcome(bench, due, latency, status), 0.05)["recovered_s"] is None


def test_targets_hold_only_where_the_figures_do(bench: Any) -> None:
    row = {"policy": "auto", "subject": "law", "slo_ms": 50.0, "cell": "p2", "goodput": 860.0}
    row |= {"fluid_beside": 880.0, "p99_ms": 49.0}
    assert [holds for *_, holds in bench.overload.verdicts([row])] == [True, True]
    late = {**row, "goodput": 800.0, "p99_ms": 51.0}
    assert [holds for *_, holds in bench.overload.verdicts([late])] == [False, False]
    gone = {"policy": "auto", "subject": "law", "slo_ms": 50.0, "cell": "p2", "reason": "ended with 1"}
    assert [holds for *_, holds in bench.overload.verdicts([gone])] == [False]
    assert not list(bench.overload.verdicts([{**row, "policy": "drain"}]))


def test_a_part_of_the_page_is_exchanged(bench: Any) -> None:
    whole = "a\n<!-- x -->\nold\n<!-- end x -->\nb"
    assert bench.page.replaced(whole, "x", r"new \1") == "a\n<!-- x -->\n\nnew \\1\n\n<!-- end x -->\nb"
    with pytest.raises(ValueError, match="not one"):
        bench.page.replaced(whole, "y", "new")
    page = bench.page.PAGE.read_text()
    for result in (FOLDER / "results").glob("*.json"):
        if f"<!-- {result.stem} -->" in page:
            assert json.loads(result.read_text())["rows"]

"""The same requests for more models than fit, to Salver and to other servers, each in turn.

Salver decides by itself within ``--memory``, and Ray Serve multiplexes in a replica. Triton and MLServer do
what they are told: a client, which keeps the models that were asked last, tells them what to load and unload.
"""

import contextlib
import dataclasses
import http.client
import importlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import forms
import models
import numpy as np
from processes import Launch, Server, Unready, free_port, running
from systems import all_systems

from salver.features.memory.processes import pss, tree

MODEL: Final = models.MODELS["medium"]
CALLERS: Final = 4
#: Bytes of a loaded model for one of its file, and the additional ones of a load, as Salver measures them.
LOADED, LOADING = 1.1, 1.9
#: Bytes of a budget that Salver leaves to requests.
RESERVE = 16 << 20


class Run(NamedTuple):
    """Hits as a part, requests a second, milliseconds, CPU milliseconds a request, MiB beyond one model."""

    hits: float
    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float


class Loading(Protocol):
    """Whoever brings models into memory."""

    def hold(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep a model in memory while the block runs."""

    def loads(self) -> int:
        """Return how many models were loaded so far."""


class ByClient:
    """Loads over the repository interface; the model that was asked longest ago makes room."""

    def __init__(self, port: int, slots: int) -> None:
        self._port, self._slots, self._loads = port, slots, 0
        self._users: OrderedDict[str, int] = OrderedDict()
        self._state, self._swapping = threading.Lock(), threading.Lock()

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        if not self._enter(name):
            with self._swapping:  # one load at a time, so that the slots hold
                if not self._enter(name):
                    self._swap(name)
        try:
            yield
        finally:
            with self._state:
                self._users[name] -= 1

    def loads(self) -> int:
        return self._loads

    def _enter(self, name: str) -> bool:
        with self._state:
            if name not in self._users:
                return False
            self._users[name] += 1
            self._users.move_to_end(name)
            return True

    def _swap(self, name: str) -> None:
        oldest = None
        with self._state:
            if len(self._users) == self._slots:
                oldest = next(each for each, users in self._users.items() if not users)
                del self._users[oldest]
        if oldest:
            _call(self._port, "POST", f"/v2/repository/models/{oldest}/unload")
        _call(self._port, "POST", f"/v2/repository/models/{name}/load")
        self._loads += 1
        with self._state:
            self._users[name] = 1


class ByServer:
    """The server loads what is asked."""

    def __init__(self, count: Callable[[int], int], port: int, slots: int) -> None:
        self.loads = partial(count, port)

    def hold(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Subject(NamedTuple):
    """How a server is started, who loads, and how it is asked."""

    swapping: Callable[..., Launch]
    loading: Callable[[int, int], Loading]
    form: Callable[[str], forms.Form]


def _call(port: int, method: str, path: str) -> Any:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, b"{}" if method == "POST" else None)
        reply = connection.getresponse()
        body = reply.read()
    if reply.status != 200:
        raise OSError(f"{method} {path}: {reply.status} {body[:200]!r}")
    return json.loads(body or b"null")


def _salver(
    budget: int, model: models.Model, names: Sequence[str], slots: int, port: int, folder: Path
) -> Launch:
    for name in names:
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").symlink_to(model.path)
        # The trace is faster than traffic, so that a model may leave at once.
        (version.parent / "salver.toml").write_text('memory = { residence = "lazy", min_s = 0 }\n')
    command = [str(Path(sys.executable).with_name("salver")), "serve", str(folder / "models")]
    return Launch([*command, "--port", str(port), "--threads", "1", "--memory", str(budget)], cwd=folder)


def _named(name: str) -> forms.Form:
    return forms.oip_json(dataclasses.replace(MODEL, name=name))


def _multiplexed(name: str) -> forms.Form:
    form = forms.rows_json("/predict")
    return dataclasses.replace(form, headers={**form.headers, "serve_multiplexed_model_id": name})


def _salver_loads(port: int) -> int:
    return sum(row["loads"] for row in _call(port, "GET", "/api/v1/memory")["models"])


def _ray_loads(port: int) -> int:
    return int(_call(port, "GET", "/loads")["loads"])


#: By the name in ``--beside``: the system of ``systems.py``, who loads, and the form.
PEERS: Final[Mapping[str, tuple[str, Callable[[int, int], Loading], Callable[[str], forms.Form]]]] = {
    "triton": ("triton_onnx_1", ByClient, _named),
    "mlserver": ("mlserver", ByClient, _named),
    "rayserve": ("rayserve", partial(ByServer, _ray_loads), _multiplexed),
}


def _peer(name: str) -> Subject | str:
    """Return how a peer is measured, or why it cannot be."""
    system, loading, form = PEERS[name]
    if reason := all_systems()[system].missing():
        return reason
    module = importlib.import_module(f"peers.{system.removesuffix('_1')}.peer")
    return Subject(module.swapping, loading, form)


def _ours(budget: int) -> Subject:
    return Subject(partial(_salver, budget), partial(ByServer, _salver_loads), _named)


def _replay(subject: Subject, asked: Sequence[str], slots: int) -> tuple[Run, int]:
    """Replay the requests from some callers; also return the bytes of the server with one model."""
    port = free_port(2)
    loading = subject.loading(port, slots)
    took: list[float] = []
    most: list[int] = []
    is_over = threading.Event()

    def ask(name: str, clients: dict[str, forms.Client]) -> None:
        if name not in clients:
            clients[name] = forms.Client(subject.form(name), MODEL, port)
        with loading.hold(name):
            try:
                clients[name].check()
            except ConnectionError:  # kept for longer than the server keeps it
                clients[name].check()

    def is_ready() -> bool:
        try:
            ask(asked[0], {})
        except (OSError, http.client.HTTPException, forms.WrongAnswer):
            return False
        return True

    def watch(server: Server) -> None:
        while not is_over.wait(0.1):
            most.append(pss(tree(server.process.pid)))

    def call(rest: Iterator[str]) -> None:
        clients: dict[str, forms.Client] = {}
        for name in rest:
            began = time.perf_counter()
            ask(name, clients)
            took.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(prefix="salver-swaps-") as name, ThreadPoolExecutor(CALLERS + 1) as pool:
        folder = Path(name)
        launch = subject.swapping(MODEL, sorted(set(asked)), slots, port, folder)
        with running(launch, folder / "log", is_ready) as server:
            base, loads, cpu = pss(tree(server.process.pid)), loading.loads(), server.cpu_seconds()
            watching = pool.submit(watch, server)
            began, rest = time.perf_counter(), iter(asked)
            try:
                for done in [pool.submit(call, rest) for _ in range(CALLERS)]:
                    done.result()
                seconds = time.perf_counter() - began
            finally:
                is_over.set()
            watching.result()
            cpu, loads = server.cpu_seconds() - cpu, loading.loads() - loads
    p50, p99 = (float(q) for q in np.percentile(took, [50, 99]) * 1e3)
    count = len(asked)
    memory = (max(most, default=base) - base) / (1 << 20)
    return Run(1 - loads / count, count / seconds, p50, p99, cpu / count * 1e3, memory), base


def compare(asked: Sequence[str], slots: int, peers: Sequence[str], rounds: int) -> None:
    """Print medians of rounds in which the servers take turns, then Salver's in the memory of another."""
    models.make()
    size = MODEL.path.stat().st_size
    _, base = _replay(_ours(64 << 30), asked[:1], slots)
    budget = base + int(((slots - 1) * LOADED + LOADING) * size) + RESERVE
    subjects: dict[str, Subject | str] = {"salver": _ours(budget), **{name: _peer(name) for name in peers}}
    found: dict[str, list[Run]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            if isinstance(subject, str):
                continue
            try:
                found[name].append(_replay(subject, asked, slots)[0])
            except (Unready, OSError, forms.WrongAnswer) as error:
                subjects[name] = str(error)
    print(
        "| | hits | requests/s | p50 ms | p99 ms | CPU ms a request | MiB beyond one model |\n|---|"
        + "---:|" * 6
    )
    most = {name: max(run.memory for run in runs) for name, runs in found.items() if runs}
    name = max(most, key=most.__getitem__, default="salver")
    if name != "salver":
        ours = f"salver, in the memory of {name}"
        subjects[ours] = _ours(base + int(most[name] * (1 << 20)))
        found[ours] = [_replay(subjects[ours], asked, slots)[0] for _ in range(rounds)]
    for name, subject in subjects.items():
        if isinstance(subject, str):
            print(f"| {name} |" + " – |" * 6 + f" {subject}")
            continue
        middle = Run(*map(statistics.median, zip(*found[name], strict=True)))
        print(
            f"| {name} | {middle.hits:.3f} | {middle.rate:.0f} | {middle.p50:.1f} | {middle.p99:.0f} |"
            f" {middle.cpu:.1f} | {middle.memory:.0f} |"
        )

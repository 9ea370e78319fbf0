"""Claim: what is not used costs nothing, and what is used costs what the table says.

    python benchmarks/prices.py                           # counts and times: ten minutes
    python benchmarks/prices.py --publish                 # and write them to the documentation's page
    python benchmarks/prices.py --only plain,split --rounds 20

Each feature by itself, and all that an operator would have on together, beside a server without any. Counted
are the bytecode instructions of a request, as ``budget.py`` counts them, which is exact; measured are its
microseconds in one process without a socket, as ``microseconds.py`` does, its observers included. Then the
CPU time of a request over HTTP with 16 connections: all servers run at the same time and are loaded in turn,
so that a machine that others use slows all alike; figures are medians over the rounds of the ratio to the
server without features in the same round.
"""

import argparse
import asyncio
import gc
import http.server
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import budget
import forms
import host
import load
import microseconds
import models
import page
import processes
from in_process import GrpcCallers, HttpCallers, Loop, run, still_time
from models import MODELS, ROOT

PAGE = ROOT / "docs" / "explanation" / "speed.md"
MODEL = MODELS["tiny"]
USERS = 64  # whose heads are known after a while
CONNECTIONS = 16
ROUNDS = 50  # in one process, of which the best counts
#: Of the requests: a server with an objective may refuse some on a busy machine.
MOST_ERRORS = 0.01
SECRET = "sesame"
_GRPC = "triton-grpc-protocol-"  # before the names of keys in metadata
ORIGIN = "https://app.example.org"
#: In place of a header's ``%d``: the number of the request; below this, if it is above 0.
Header = tuple[str, str, int]
CASES = {"http 1": (HttpCallers, 1), "http 16": (HttpCallers, 16), "grpc 16": (GrpcCallers, 16)}


@dataclass(frozen=True)
class Variant:
    """A server with something on, and what its requests bring.

    Attributes:
        about: For the table.
        config: Fields of the server's configuration.
        front: Fields of the port's.
        tables: Configuration of features; ``{folder}`` and ``{sink}`` are put in.
        model: Settings of the model.
        headers: Of each request.
        has_release: A release of the model is under way.
        has_observers: Events are counted.
    """

    about: str
    config: Mapping[str, Any] = field(default_factory=dict)
    front: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: str = ""
    headers: tuple[Header, ...] = ()
    has_release: bool = False
    has_observers: bool = True


_LOG = {"log": {"access_log": "all", "format": "json", "file": "{folder}/log"}}
_TRACE = {"trace": {"file": "{folder}/trace", "level": "timestamps", "rate": 100}}
_SPANS = {"tracing": {"url": "{sink}", "rate": 100}}
_USER: Header = ("x-user-id", "user-%d", USERS)
_KEYS: tuple[Header, ...] = (("x-key", SECRET, 1), (f"{_GRPC}x-key", SECRET, 1))
#: The example of a key, and the file with its hash.
_BEARER: Header = ("authorization", "Bearer slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lY", 1)
_KEYS_FILE = """\
[[key]]
id = "k1"
name = "bench"
hash = "sha256:b3cfd396cdbace23e97102d84366bf8137a95b2d261ec73a77ae15d8e12b81f3"
scopes = ["infer:tiny"]
"""
_LIMITS = 'limits = { requests = "1000000/s+1000000", at_once = 1000 }\n'
_QUOTAS = 'limits = { quotas = ["1e12/day", "1e12 rows/month", "1e9 seconds/month"] }\n'
_ACCESS = {"access": {"keys_file": "{folder}/keys.toml"}}

_ORIGIN: Header = ("origin", ORIGIN, 1)
_OBJECTIVE = '[objective]\nlatency_p99 = "50ms"\n'
VARIANTS = {
    "plain": Variant("nothing of this: the defaults"),
    "again": Variant("the same, once more"),
    "unobserved": Variant("without metrics, statistics and explanations", has_observers=False),
    "log": Variant("access log, all requests, to a file", tables=_LOG),
    "trace": Variant("trace file, one request in 100", tables=_TRACE),
    "spans": Variant("spans to a collector, one request in 100", tables=_SPANS),
    "cache": Variant(
        "response cache, always a hit", tables={"cache": {"name": "local", "options": {"size": "64m"}}},
        model="response_cache = true\n",
    ),
    "bearer": Variant("requests with a key that nobody asks for", headers=(_BEARER,)),
    "keys": Variant(
        "key of a caller, with scopes; its usage is not counted",
        config={"is_uncounted": True},
        tables=_ACCESS,
        headers=(_BEARER,),
    ),
    "usage": Variant("key of a caller, with scopes and usage", tables=_ACCESS, headers=(_BEARER,)),
    "limits": Variant(
        "the same, with limits of requests in a time and at once",
        config={"limits": _LIMITS},
        tables=_ACCESS,
        headers=(_BEARER,),
    ),
    "quotas": Variant(
        "the same, with quotas of requests, rows and compute seconds instead",
        config={"limits": _QUOTAS},
        tables=_ACCESS,
        headers=(_BEARER,),
    ),
    "key": Variant("key for inference", config={"restricts": True}, headers=_KEYS),
    "cors": Variant("CORS, for callers that are no browsers", front={"cors_origins": (ORIGIN,)}),
    "browser": Variant("CORS, for pages", front={"cors_origins": (ORIGIN,)}, headers=(_ORIGIN,)),
    "objective": Variant("objective, so admission by forecast", model=_OBJECTIVE),
    "release": Variant("release with a canary of a quarter", headers=(_USER,), has_release=True),
    "id": Variant("requests with an id of their own", headers=(("x-request-id", "id-%d", 0),)),
    "context": Variant(
        "requests with a trace context",
        headers=(("traceparent", "00-%032d-00f067aa0ba902b7-00", 0),),
    ),
    "all": Variant(
        "log, traces, key, CORS, objective and a release",
        config={"restricts": True},
        front={"cors_origins": (ORIGIN,)},
        tables=_LOG | _TRACE,
        model=_OBJECTIVE,
        headers=(*_KEYS, _USER),
        has_release=True,
    ),
}  # fmt: skip


def repository(folder: Path, variant: Variant) -> Path:
    """Return a repository of the model, in two versions where there is a release."""
    for version in "12"[: 1 + variant.has_release]:
        (folder / "tiny" / version).mkdir(parents=True)
        shutil.copy(MODEL.path, folder / "tiny" / version / "model.onnx")
    more = "[versions]\nall = true\n" if variant.has_release else ""
    (folder / "tiny" / "salver.toml").write_text(variant.model + more)
    return folder


def filled(value: Any, places: Mapping[str, str]) -> Any:
    """Return a table with the places put in. Pure.

    >>> filled({"log": {"file": "{folder}/log", "rate": 100}}, {"folder": "/tmp"})
    {'log': {'file': '/tmp/log', 'rate': 100}}
    """
    if isinstance(value, Mapping):
        return {key: filled(each, places) for key, each in value.items()}
    for name, place in places.items() if isinstance(value, str) else ():
        value = value.replace("{" + name + "}", place)
    return value


async def started(variant: Variant, folder: Path, sink: str, port: int = 0) -> Any:
    """Return a server with that on; without a port, one that only this process asks."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from splitting_server import SplittingServer

    from salver.app import Server
    from salver.configuration import HeaderConfig, ServeConfig
    from salver.features.access.building import WatchedFile
    from salver.features.releases.experiments.collector import Collector
    from salver.features.releases.experiments.pending import Pending
    from salver.kernel.logs import LogConfig, configure
    from salver.machine import tune_interpreter
    from salver.transport.restrict import Restriction
    from salver.transport.server import FrontConfig
    from salver.words.releases import Split

    more = dict(variant.config)
    (folder / "keys.toml").write_text(_KEYS_FILE + more.pop("limits", ""))
    is_uncounted = more.pop("is_uncounted", False)
    if more.pop("restricts", False):
        more["http"] = more["grpc"] = HeaderConfig((Restriction(("inference",), "x-key", SECRET),))
    config = ServeConfig(
        paths=(str(repository(folder / "models", variant)),),
        front=FrontConfig(port=port, **variant.front),
        opens_ports=bool(port),
        control="none",
        threads=1,
        instances=1,
        tables=filled(variant.tables, {"folder": str(folder), "sink": sink}),
        **more,
    )
    configure(config.table("log", LogConfig))
    server = SplittingServer(config) if variant.has_release else Server(config)
    await server.start()
    await server.settled()
    if isinstance(server, SplittingServer):
        server.splits.router.replace([Split("r0", "tiny", "1", "2", 0.25, "bench")])
        collector = Collector(Pending(), time.time)
        collector.follow("r0")
        server.kernel.bus.join(collector)
    if is_uncounted:
        server.kernel.keys.accounts = None
        server.kernel.keys.replace({})  # a key that was used already has its account
        server.kernel.services.find(WatchedFile).read()
    if not variant.has_observers:
        server.kernel.bus._observers = ()
    if port:
        tune_interpreter()
    return server


# -- in one process ------------------------------------------------------------------------------


def alone(kind: str, name: str) -> dict[str, float]:
    """Return what a request takes, by case; in a process of its own.

    Args:
        kind: ``count`` for instructions, ``time`` for microseconds.
    """
    argv, env = [sys.executable, __file__, kind, name], {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def work(kind: str, name: str) -> dict[str, float]:
    """Do the work of :func:`alone`."""
    variant = VARIANTS[name]
    if kind == "count":
        budget.CLOCKS.update(still_time())
    else:
        microseconds.steady()

    def more(number: int) -> Sequence[tuple[str, str]]:
        return [(header, text_of(text, number, below)) for header, text, below in variant.headers]

    async def ask(loop: Loop) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="salver-prices-") as folder:
            server = await started(variant, Path(folder), "http://127.0.0.1:9/")
            terms, found = budget.terms_of(server, **variant.front), {}
            gc.collect()
            gc.freeze()
            gc.disable()
            for case, (kind_of, together) in CASES.items():
                callers = kind_of(terms, together, more)
                if kind == "count":
                    figures, _ = await budget.count_case(server, loop, callers)
                    found[case] = round(sum(figures["instructions"].values()), 1)
                else:
                    lease = server.kernel.models.acquire("tiny", "")
                    found[case] = round(
                        sum(await microseconds.of_callers(server, callers, lease.servable.engine, ROUNDS)), 2
                    )
                    lease.release()
            loop.is_still = False
            await server.stop()
            return found

    return dict(run(ask))


def text_of(text: str, number: int, below: int) -> str:
    """Return a header's value. Pure.

    >>> text_of("user-%d", 1234, 1000), text_of("sesame", 1234, 1)
    ('user-234', 'sesame')
    """
    if "%" not in text:
        return text
    return text % (number % below if below else number)


# -- times ---------------------------------------------------------------------------------------

_LUA = """
local file = io.open("%(body)s", "rb")
local body = file:read("*a")
file:close()
local at = 0
local known = {}
request = function()
  at = at + 1
  local place = at
  if %(below)d > 0 then place = at %% %(below)d end
  local whole = known[place]
  if whole == nil then
    whole = wrk.format("POST", nil, {["content-type"] = "application/json"%(headers)s}, body)
    if %(below)d > 0 then known[place] = whole end
  end
  return whole
end
"""


def script(folder: Path, headers: Sequence[Header]) -> Path:
    """Return a script of wrk for requests with these headers."""
    form = forms.oip_json(MODEL)
    (folder / "body").write_bytes(form.encode(MODEL.samples[0]))
    below = max([below for _, _, below in headers], default=1)
    if any(below == 0 for _, _, below in headers):
        below = 0
    lines = "".join(
        f', ["{name}"] = string.format("{text}", place)' if "%" in text else f', ["{name}"] = "{text}"'
        for name, text, _ in headers
    )
    path = folder / "load.lua"
    path.write_text(_LUA % {"body": folder / "body", "below": below, "headers": lines} + load.DONE)
    return path


async def serve(name: str, port: int, folder: Path, sink: str) -> None:
    """Serve until the process is ended."""
    await started(VARIANTS[name], folder, sink, port)
    await asyncio.Event().wait()


class _Sink(http.server.BaseHTTPRequestHandler):
    """A collector of spans, which keeps nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[str]:
    """The address of a collector of spans."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as sink:
        threading.Thread(target=sink.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{sink.server_port}/v1/traces"
        sink.shutdown()


@dataclass(frozen=True)
class Target:
    """A running server, and the load for it."""

    pid: int
    url: str
    script: Path

    def turn(self, seconds: int, pin: Sequence[str]) -> dict[str, float]:
        """Load it for a while; return requests a second and CPU microseconds of a request."""
        began = cpu_seconds(self.pid)
        sample = load.wrk(self.script, self.url, CONNECTIONS, seconds, pin)
        if sample.errors > sample.requests * MOST_ERRORS:
            raise load.LoadFailed(f"{sample.errors} errors of {sample.requests} at {self.url}")
        micros = (cpu_seconds(self.pid) - began) / sample.requests * 1e6
        return {"rate": sample.rate, "cpu_us": micros}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads, to the nanosecond (``clock_getcpuclockid(3)``)."""
    return time.clock_gettime(~pid << 3 | 2)


def measure(names: Sequence[str], given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return the turns of each server."""
    chance, turns = random.Random(given.seed), {name: list[dict[str, float]]() for name in names}
    with ExitStack() as stack:
        sink = stack.enter_context(collector())
        targets = {name: stack.enter_context(serving(name, sink, given.pin)) for name in names}
        for number in range(-1, given.rounds):  # the first one warms up
            for name in chance.sample(names, len(names)):
                found = targets[name].turn(given.seconds, ["taskset", "-c", "1"] if given.pin else ())
                if number >= 0:
                    turns[name].append(found)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    return turns


@contextmanager
def serving(name: str, sink: str, pin: bool) -> Iterator[Target]:
    """One of the servers."""
    variant, port = VARIANTS[name], processes.free_port()
    with page.scratch("prices") as folder:
        pinned = ["taskset", "-c", "0"] if pin else []
        argv = [*pinned, sys.executable, __file__, "serve", name, str(port), str(folder), sink]
        load_script = script(folder, variant.headers)
        form = forms.oip_json(MODEL)
        headers = {header: text_of(text, 0, below) for header, text, below in variant.headers}
        asked = forms.Form("http", form.path, form.encode, form.decode, {**form.headers, **headers})
        launch = processes.Launch(argv, {"PYTHONPATH": str(ROOT / "src")})
        with processes.running(launch, folder / "out", lambda: forms.is_right(asked, MODEL, port)) as server:
            yield Target(server.process.pid, f"http://127.0.0.1:{port}{form.path}", load_script)


def summary(turns: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over the rounds, and of the ratios to the first server of each. Pure."""
    first = next(iter(turns.values()))
    found = {}
    for name, rounds in turns.items():
        pairs = list(zip(rounds, first, strict=True))
        ratios = sorted(one["cpu_us"] / base["cpu_us"] for one, base in pairs)
        found[name] = {
            "rate": statistics.median(one["rate"] for one in rounds),
            "rate_ratio": statistics.median(one["rate"] / base["rate"] for one, base in pairs),
            "cpu_us": statistics.median(one["cpu_us"] for one in rounds),
            "cpu_ratio": statistics.median(ratios),
            "cpu_low": ratios[len(ratios) // 4],
            "cpu_high": ratios[-1 - len(ratios) // 4],
        }
    return found


def text(result: Mapping[str, Any]) -> str:
    """Markdown. Pure."""
    cases = list(CASES)
    heads = [f"{what}, {case}" for what in ("instructions", "µs") for case in cases]
    lines = [page.provenance(result), "", f"| a request with | {' | '.join(heads)} |"]
    lines.append(f"|---|{'---:|' * len(heads)}")
    kinds = result["counts"], result["micros"]
    for name, about in result["about"].items():
        cells = []
        for places, kind in enumerate(kinds):
            for case, plain in kind["plain"].items():
                whole = kind[name][case]
                cells.append(f"{whole:,.{places}f}" if name == "plain" else f"{whole - plain:+,.{places}f}")
        lines.append(f"| {about} | {' | '.join(cells)} |")
    if not result["times"]:
        return "\n".join(lines)
    heads = ["CPU µs", "ratio (middle half)", "requests/s, ratio"]
    lines += ["", f"| served to {CONNECTIONS} connections | {' | '.join(heads)} |", "|---|---:|---:|---:|"]
    for name, found in result["times"].items():
        middle = f"{found['cpu_low']:.2f} to {found['cpu_high']:.2f}"
        cells = [
            f"{found['cpu_us']:.1f}",
            f"{found['cpu_ratio']:.2f} ({middle})",
            f"{found['rate_ratio']:.2f}",
        ]
        lines.append(f"| {result['about'][name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] in (["count"], ["time"]):
        print(json.dumps(work(*arguments)))
        return 0
    if arguments[:1] == ["serve"]:
        from uvloop import run as serve_on

        name, port, folder, sink = arguments[1:]
        serve_on(serve(name, int(port), Path(folder), sink))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, default=list(VARIANTS), help=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=10, help="0 = in one process alone")
    parser.add_argument("--seconds", type=int, default=1, help="of load on each server and in each round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pin", action="store_true", help="servers on core 0, the load on core 1")
    page.add_arguments(parser, "prices")
    given = parser.parse_args(arguments)
    names = [name for name in VARIANTS if name in given.only or name == "plain"]
    models.make()
    quiet = host.Quiet()
    counts, micros = ({name: alone(kind, name) for name in names} for kind in ("count", "time"))
    times = summary(measure(names, given)) if given.rounds else {}
    result = {
        "host": host.facts(),
        "noise": quiet.verdict(),
        "about": {name: VARIANTS[name].about for name in names},
        "rounds": given.rounds,
        "seconds": given.seconds,
        "counts": counts,
        "micros": micros,
        "times": times,
    }
    page.write(given, "prices", result, text(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

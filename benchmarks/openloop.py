"""How does a server answer requests that arrive on a clock of their own?

:func:`run` sends prepared requests at scheduled times from ``openloop.c`` (compiled on first use into
``.cache/benchmarks``) and gives back what became of each. Latency counts from the scheduled time, so
that a slow answer does not hide the wait of those behind it ("coordinated omission", G. Tene). Only
to 127.0.0.1.

    python benchmarks/openloop.py [--seconds 5]     # how fast can it go, and does it agree with wrk?
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import frames
import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "benchmarks"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Most bytes of an HTTP/2 frame, without another agreement.
_MOST_FRAME = 16_384
#: Statuses that are not HTTP's.
UNSENT, TIMED_OUT, LOST, UNREADABLE = 0, -1, -2, -3
_RECORD = np.dtype([("sent", "<f8"), ("done", "<f8"), ("status", "<i8"), ("bytes", "<u8"), ("waited", "<u8")])
_PLANNED = np.dtype([("at", "<f8"), ("kind", "<u8")])


class Failed(Exception):
    """The generator could not be made or could not measure; the message says why."""


@dataclass(frozen=True)
class Question:
    """One kind of request."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        head = [f"POST {self.path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(self.body)}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        if any("\n" in line or "\r" in line for line in head):
            raise ValueError("a header holds a line break")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Call:
    """One kind of unary gRPC call; ``body`` is the message without its prefix."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        """Its frames, on stream 0. Headers are literals that are never indexed."""
        fields = {":method": "POST", ":scheme": "http", ":path": self.path, ":authority": "127.0.0.1"}
        fields |= {"content-type": "application/grpc", "te": "trailers", **self.headers}
        block = b"".join(
            b"\x10%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())
            for name, value in fields.items()
        )
        message = frames.frame(self.body)
        pieces = [message[at : at + _MOST_FRAME] for at in range(0, len(message), _MOST_FRAME)]
        data = [_frame(0, piece is pieces[-1], piece) for piece in pieces]
        return b"".join([_frame(1, 4, block), *data])


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 0)) + payload


@dataclass(frozen=True)
class Reply:
    """A reply that was kept whole; ``request`` is its index in the schedule."""

    request: int
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of each request of the schedule; times in seconds from the start.

    Attributes:
        sent, done: NaN = never.
        status: HTTP's, or one of ``UNSENT`` (every connection was busy until its time-out),
            ``TIMED_OUT``, ``LOST`` (the connection), ``UNREADABLE``.
        waited: It had to wait for a connection.
        replies: Every so many, whole, to be checked.
        seconds: Length of the run.
        cpu_seconds: The generator's own.
        opened: Connections opened in all.
    """

    scheduled: Floats
    kinds: Ints
    sent: Floats
    done: Floats
    status: Ints
    bytes: Ints
    waited: npt.NDArray[np.bool_]
    replies: list[Reply]
    seconds: float
    cpu_seconds: float
    opened: int

    @property
    def latency(self) -> Floats:
        """From the scheduled time to the last byte of the reply; NaN without one."""
        return self.done - self.scheduled

    @property
    def lateness(self) -> Floats:
        """How late the generator itself sent those that had a connection."""
        on_time = ~self.waited & ~np.isnan(self.sent)
        return (self.sent - self.scheduled)[on_time]

    def within(self, seconds: float) -> npt.NDArray[np.bool_]:
        """Answered with 200 in time."""
        with np.errstate(invalid="ignore"):
            return (self.status == 200) & (self.latency <= seconds)

    def check(self, is_right: Callable[[int, Reply], bool]) -> int:
        """How many of the kept good replies were checked.

        Raises:
            Failed: one is wrong. ``is_right`` has its kind and the reply.
        """
        good = [reply for reply in self.replies if reply.status == 200]
        for reply in good:
            if not is_right(int(self.kinds[reply.request]), reply):
                raise Failed(f"wrong answer to request {reply.request}: {reply.body[:200]!r}")
        return len(good)


def program(name: str = "openloop", flags: Sequence[str] = ()) -> Path:
    """The compiled ``name.c`` of this folder; made when there is none of this source yet.

    Raises:
        Failed: there is no C compiler, or it refuses.
    """
    source = HERE / f"{name}.c"
    made = CACHE / f"{name}-{zlib.crc32(source.read_bytes()):08x}"
    if made.exists():
        return made
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Failed(f"{source.name} needs a C compiler to be built: apt-get install gcc")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        part = Path(folder) / name
        command = [compiler, "-O2", "-std=c11", *flags, "-o", str(part), str(source), "-lm"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{compiler} could not build {source.name}:\n{done.stderr[-2000:]}")
        part.rename(made)
    return made


def run(
    port: int,
    due: npt.ArrayLike,
    questions: Sequence[Question] | Sequence[Call],
    kinds: npt.ArrayLike | None = None,
    *,
    connections: int = 2048,
    opened: int = 16,
    timeout: float = 2.0,
    keep_every: int = 100,
    pin: Sequence[str] = (),
) -> Outcome:
    """Send at those times.

    Args:
        due: Seconds, ascending.
        kinds: Index into ``questions`` of each; None = in turn.
        connections: At most so many; ``opened`` of them before the clock starts. Of calls, at most so many
            are in flight, on ``opened`` connections, and none is kept.
        timeout: Seconds from the scheduled time after which the caller hangs up.
        keep_every: Every so many answered requests is kept whole.
        pin: What to put before the command line, as ``["taskset", "-c", "1"]``.

    Raises:
        Failed: nothing could be measured.
    """
    times = np.asarray(due, "<f8")
    which = np.arange(len(times)) % len(questions) if kinds is None else np.asarray(kinds, np.int64)
    planned = np.empty(len(times), _PLANNED)
    planned["at"], planned["kind"] = times, which
    are_calls = isinstance(questions[0], Call)
    command = [*pin, str(program("openloop_grpc" if are_calls else "openloop")), str(port)]
    with tempfile.TemporaryDirectory(prefix="openloop-") as name:
        folder = Path(name)
        with (folder / "plan").open("wb") as file:
            file.write(np.array([len(questions), len(times)], "<u8").tobytes())
            for question in questions:
                wire = question.wire()
                file.write(len(wire).to_bytes(8, "little") + wire)
            file.write(planned.tobytes())
        command += [str(folder / part) for part in ("plan", "record", "replies")]
        command += [str(connections), str(min(opened, connections)), str(timeout), str(keep_every)]
        limit = (float(times[-1]) if len(times) else 0.0) + timeout + 30
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"the generator did not end within {limit:.0f} s") from error
        if done.returncode:
            raise Failed(done.stderr.strip() or f"the generator ended with {done.returncode}")
        record = np.fromfile(folder / "record", _RECORD)
        replies = _replies((folder / "replies").read_bytes())
    seconds, cpu, made = done.stdout.split()
    return Outcome(
        times,
        which,
        record["sent"],
        record["done"],
        record["status"],
        record["bytes"].astype(np.int64),
        record["waited"] > 0,
        replies,
        float(seconds),
        float(cpu),
        int(made),
    )


def _replies(data: bytes) -> list[Reply]:
    kept, at = [], 0
    while at < len(data):
        request, head, body = (int(n) for n in np.frombuffer(data, "<u8", 3, at))
        at += 24
        lines = data[at : at + head].decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        content = data[at + head : at + head + body]
        if headers.get("transfer-encoding", "").lower() == "chunked":
            content = _joined(content)
        kept.append(Reply(request, int(lines[0].split(" ")[1]), headers, content))
        at += head + body
    return kept


def _joined(chunks: bytes) -> bytes:
    """The body that came in chunks."""
    whole, at = b"", 0
    while True:
        line = chunks.index(b"\r\n", at)
        size = int(chunks[at:line].split(b";")[0], 16)
        if not size:
            return whole
        whole += chunks[line + 2 : line + 2 + size]
        at = line + 2 + size + 2


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Floats:
    """A Poisson process given its count, which is the expected one."""
    return np.sort(rng.uniform(0, seconds, round(rate * seconds)))


def gamma(rate: float, seconds: float, rng: np.random.Generator, cv2: float) -> Floats:
    """Renewal process of Gamma gaps with that squared coefficient of variation, scaled to the
    expected count within ``seconds``.
    """
    count = round(rate * seconds)
    times = np.cumsum(rng.gamma(1 / cv2, cv2 / rate, count + 1))
    return times[:-1] * (seconds / times[-1])


def steps(rates: Sequence[float], seconds: Sequence[float], rng: np.random.Generator) -> Floats:
    """Poisson at one rate after the other."""
    ends = np.cumsum(seconds)
    parts = [poisson(r, s, rng) + end - s for r, s, end in zip(rates, seconds, ends, strict=True)]
    return np.concatenate(parts)


def main() -> int:
    """Head-room and agreement against the bare front (``echo_floor.py``), pinned: server on core 0,
    generator on core 1.
    """
    import forms
    import load
    import models
    import processes
    from systems import OURS

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of the closed loops; medians are shown")
    given = parser.parse_args()
    models.make()
    floor = next(system for system in OURS if system.name == "floor")
    model = models.MODELS["tiny"]
    form = forms.oip_json(model)
    question = Question(form.path, form.encode(model.samples[0]), form.headers)
    port = processes.free_port()
    folder = models.CACHE / "logs" / "floor"
    folder.mkdir(parents=True, exist_ok=True)
    launch = floor.launch(model, port, folder)
    launch = processes.Launch(["taskset", "-c", "0", *launch.argv], launch.env, launch.cwd)
    pin = ["taskset", "-c", "1"]

    def is_right(kind: int, reply: Reply) -> bool:
        return np.allclose(form.decode(reply.body, reply.headers), model.answers[0].ravel(), rtol=1e-3)

    def closed(connections: int) -> tuple[float, float, float, float]:
        """(requests/s, median ms) of wrk, then of everything due at once over as many connections."""
        theirs = load.generate(form, question.body, port, connections, given.seconds, pin)
        due = np.zeros(round(theirs.rate * given.seconds))
        got = run(port, due, [question], connections=connections, opened=connections, timeout=60, pin=pin)
        median = float(np.median(got.done - got.sent)) * 1e3
        return theirs.rate, theirs.p50_ms, len(due) / float(got.done.max()), median

    with processes.running(launch, folder / "log", lambda: forms.is_right(form, model, port, 0)):
        run(port, np.zeros(20_000), [question], connections=64, opened=64, timeout=60)
        print("closed loop, requests/s and median in ms: wrk, this, ratios (medians of the rounds)")
        for connections in (1, 16, 64):
            rounds = np.array([closed(connections) for _ in range(given.rounds)])
            wrk_rate, wrk_ms, rate, ms = np.median(rounds, axis=0)
            print(
                f"{connections:4} connections {wrk_rate:9,.0f} {wrk_ms:7.3f} {rate:9,.0f} {ms:7.3f}   "
                f"{np.median(rounds[:, 2] / rounds[:, 0]):.3f} {np.median(rounds[:, 3] / rounds[:, 1]):.3f}",
                flush=True,
            )
        print("open loop, Poisson: rate, answered in 50 ms, lateness p50 and p99 in ms, generator's CPU")
        for rate in (1_000, 3_000, 6_000, 10_000, 15_000, 20_000):
            due = poisson(rate, given.seconds, np.random.default_rng(1))
            got = run(port, due, [question], pin=pin)
            checked = got.check(is_right)
            late = np.percentile(got.lateness, [50, 99]) * 1e3
            print(
                f"{rate:7,} {got.within(0.05).mean():8.4f} {late[0]:8.3f} {late[1]:7.3f} "
                f"{got.cpu_seconds / got.seconds:7.1%}   {checked} answers checked",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

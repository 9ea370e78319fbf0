"""``salver bench``: latency of a model under open-loop load."""

import asyncio
import selectors
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from salver.terminal.options import DEFAULT_URL, Inputs, Json, Url, Version, token
from salver.terminal.output import record, remark, table

if TYPE_CHECKING:
    from salver.client import Client
    from salver.client.load import Arrivals, Summary, Tally

_COLUMNS = (
    "offered/s", "sent", "ok", "errors", "unsent", "ok/s",
    "mean ms", "p50", "p90", "p99", "max", "queue ms", "compute ms",
)  # fmt: skip
_SELECTABLE = 900  # select() accepts only descriptors below 1,024


def bench(
    model: str,
    /,
    *,
    rate: Annotated[
        tuple[float, ...],
        Parameter(consume_multiple=True, help="Requests per second; several rates run one after another."),
    ] = (100.0,),
    seconds: Annotated[float, Parameter(help="Seconds of each run.")] = 10.0,
    connections: Annotated[int, Parameter(help="Maximum requests in flight.")] = 64,
    arrivals: Annotated[
        Literal["poisson", "constant"],
        Parameter(help="Gaps between requests: random (Poisson) or constant."),
    ] = "poisson",
    rows: Annotated[int, Parameter(help="Rows of each request, if the model has a batch dimension.")] = 1,
    seed: Annotated[int, Parameter(help="Seed of the gaps and the generated inputs.")] = 0,
    input: Inputs = (),
    model_version: Version = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> int:
    """Measure a model under open-loop load.

    Every request is scheduled before the run begins, and its latency counts from its scheduled time, so a
    slow server cannot hide delays by slowing the load. Inputs are generated if none are given.

    Args:
        model: Name of the model.
    """
    from salver.words.errors import InvalidInput

    if min(rate, default=0) <= 0 or seconds <= 0 or connections < 1 or rows < 1:
        raise InvalidInput("--rate, --seconds, --connections and --rows must be above 0")
    if max(rate) * seconds > 20e6:
        raise InvalidInput("that is more than 20 million requests", fix="Lower --rate or --seconds.")

    async def run() -> int:
        from salver.client import Client

        async with Client(url, token=token()) as client:
            request = await _prepare(client, model, model_version, input, rows, seed)
            load = _Load(client, model, model_version, request, seconds, connections, arrivals, seed)
            found = []
            for offered in rate:
                summary, split = await load.measure(offered)
                found.append((summary, split))
                if json:
                    record({"model": model, **msgspec.structs.asdict(summary), **split})
        if not json:
            table(_COLUMNS, [_row(summary, split) for summary, split in found])
        for summary, _ in found:
            _warn(summary, connections)
        return int(any(summary.ok == 0 for summary, _ in found))

    # epoll wakes up to 1 ms late, select() within microseconds: the generator's delay should not show.
    with asyncio.Runner(loop_factory=_precise_loop if connections <= _SELECTABLE else None) as runner:
        return runner.run(run())


def _precise_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _prepare(
    client: "Client", model: str, version: str, words: tuple[str, ...], rows: int, seed: int
) -> bytes:
    """Return the request's bytes after trying it once, so that errors show before the run."""
    from salver.client.encoding import specs
    from salver.terminal.tensors import examples, parse_inputs

    wanted = specs(await client.metadata(model, version), "inputs")
    inputs = parse_inputs(words, wanted) if words else examples(wanted, rows, seed)
    request = client.infer_request(model, inputs, version=version)
    await client.post(request)
    return request


class _Load(msgspec.Struct, frozen=True):
    """Common parts of the runs of one command."""

    client: "Client"
    model: str
    version: str
    request: bytes
    seconds: float
    connections: int
    arrivals: "Arrivals"
    seed: int

    async def measure(self, offered: float) -> "tuple[Summary, dict[str, float | None]]":
        """Run at one rate, with the server's own breakdown of the time."""
        from salver.client.driving import drive
        from salver.client.load import Tally, schedule, summarise

        due = schedule(offered, self.seconds, self.arrivals, self.seed)
        tally = Tally(len(due))
        before = await _durations(self.client, self.model, self.version)
        progress = asyncio.create_task(_progress(tally, offered, self.seconds))
        try:
            await drive(
                lambda: self.client.post(self.request),
                due,
                self.seconds,
                self.connections,
                tally,
                clock=time.perf_counter,
                sleep=asyncio.sleep,
            )
        finally:
            progress.cancel()
        after = await _durations(self.client, self.model, self.version)
        return summarise(tally, offered, self.seconds), _split(before, after)


async def _durations(client: "Client", model: str, version: str) -> dict[str, Any]:
    """Return the server's own counts, summed over versions; empty if it has none."""
    from salver.words.errors import SalverError

    try:
        described = await client.statistics(model, version)
        total: dict[str, Any] = {}
        for entry in described["model_stats"]:
            for kind in ("success", "queue", "compute_infer"):
                part = entry["inference_stats"][kind]
                count, ns = total.get(kind, (0, 0))
                total[kind] = count + int(part["count"]), ns + int(part["ns"])
    except (SalverError, KeyError, TypeError, ValueError):
        return {}
    return total


def _split(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """Return the mean milliseconds of the run's requests in the queue and in the model."""
    found: dict[str, float | None] = {"queue_ms": None, "compute_ms": None}
    for key, kind in (("queue_ms", "queue"), ("compute_ms", "compute_infer")):
        if kind in before and kind in after and (n := after[kind][0] - before[kind][0]) > 0:
            found[key] = (after[kind][1] - before[kind][1]) / n / 1e6
    return found


async def _progress(tally: "Tally", offered: float, seconds: float) -> None:
    """Show progress in one line of the terminal, erased at the end."""
    if not sys.stderr.isatty():
        return
    start = time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.5)
            latest = tally.outcome[-1000:]
            good = latest.count("ok") / max(len(latest), 1)
            at = time.perf_counter() - start
            text = f"{offered:g}/s: {at:.1f} of {seconds:g} s, {len(tally.outcome)} answers, {good:.0%} ok"
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
    finally:
        sys.stderr.write("\r\x1b[K")


def _row(summary: "Summary", split: dict[str, float | None]) -> tuple[str, ...]:
    wrong = " ".join(f"{code}:{n}" for code, n in summary.errors.items()) or "0"
    p99 = _ms(summary.p99_ms) if summary.p99_is_sound or summary.p99_ms is None else f"~{_ms(summary.p99_ms)}"
    return (
        f"{summary.offered:g}", str(summary.sent), str(summary.ok), wrong, str(summary.unsent),
        f"{summary.rate:.1f}", _ms(summary.mean_ms), _ms(summary.p50_ms), _ms(summary.p90_ms), p99,
        _ms(summary.max_ms), _ms(split["queue_ms"]), _ms(split["compute_ms"]),
    )  # fmt: skip


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}"


def _warn(summary: "Summary", connections: int) -> None:
    from salver.client.load import ENOUGH_FOR_P99

    if summary.unsent:
        remark(
            f"note: at {summary.offered:g}/s {summary.unsent} of {summary.sent + summary.unsent} requests "
            f"were never sent, since all {connections} connections were busy: latencies are lower bounds"
        )
    if summary.generator_was_late:
        remark(
            f"note: at {summary.offered:g}/s the load generator itself was {summary.late_ms:.1f} ms late "
            "(p99): this machine is too busy, and the latencies contain that"
        )
    if summary.ok and not summary.p99_is_sound:
        remark(f"note: ~ marks a p99 of fewer than {ENOUGH_FOR_P99:,} answers; a longer run makes it sound")

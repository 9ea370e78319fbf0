"""Claim: to refuse a request for its key costs at most 40 % of what the cheapest answer costs.

    python benchmarks/refusals.py              # a minute: CPU time of each refusal, as a share of an answer's
    python benchmarks/refusals.py --functions  # and the bytecode instructions of each, by function

The server runs in this process without a socket (``in_process.py``), with keys: one request by itself, and
sixteen in one turn of the event loop, JSON over HTTP/1.1 and gRPC over HTTP/2. The answer is that of the tiny
model to a key without limits, its run included. Shares are medians of interleaved rounds, each of the two
measured in turn; a socket's system calls, which both take alike, are in neither.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import budget
import models
from in_process import Callers, GrpcCallers, HttpCallers, Loop, ask, run

ROUNDS, REQUESTS = 60, 64
MOST = 0.4
#: Example keys by what becomes of their requests: their headers, the HTTP status and gRPC's.
KEYS = {
    "answer": ("good", 200, 0),
    "no key": ("", 401, 16),
    "unknown key": ("unknown", 401, 16),
    "no right": ("reader", 403, 7),
    "key of another model": ("other", 403, 7),
    "key at its limit": ("spent", 429, 8),
    "key with too much at once": ("crowd", 429, 8),
    "tenant at its limit": ("tenant", 429, 8),
    "model at its limit, key of many": ("model", 429, 8),
}
CASES = {"http": HttpCallers, "grpc": GrpcCallers}


async def opened(folder: Path) -> tuple[Any, dict[str, str]]:
    """Return a server with these keys, and the keys by name."""
    from salver.app import Server
    from salver.configuration import ServeConfig
    from salver.features.access.key_format import new_key
    from salver.features.access.keys_file import KeyRecord, hash_of, written
    from salver.features.access.limit_book import DeclaredLimits
    from salver.features.access.limits import LimitRules

    models.make()
    names = {name for name, _, _ in KEYS.values()} - {"", "unknown"}
    keys = {name: new_key() for name in names}
    scopes = {"reader": "read", "other": "infer:other"}
    limits = {"spent": LimitRules("0/s"), "crowd": LimitRules(at_once=1)}
    records = [
        KeyRecord(
            name, name, hash_of(key), (scopes.get(name, "infer"),), limits=limits.get(name),
            tenant="acme" if name == "tenant" else "",
        )
        for name, key in keys.items()
    ]  # fmt: skip
    declared = DeclaredLimits(tenants={"acme": LimitRules("0/s")}, models={"none": LimitRules("1/s")})
    path = folder / "keys.toml"
    path.write_text(written(records, declared))
    server = Server(
        ServeConfig(
            paths=(str(models.MODELS["tiny"].path),), opens_ports=False, control="none", threads=1,
            instances=1, tables={"access": {"keys_file": str(path)}},
        )
    )  # fmt: skip
    await server.start()
    await server.settled()
    own = server.kernel.keys.own([(b"x-api-key", keys["crowd"].encode())])
    own.limits.running += 1
    return server, keys | {"unknown": new_key(), "": ""}


def callers_of(terms: Any, kind: type[Any], together: int, key: str, status: int, code: int) -> Callers:
    """Return callers with a key, that count answers with a status."""
    headers = [("authorization", f"Bearer {key}")] if key else []
    found: Callers = kind(terms, together, lambda number: headers)
    mark = b"HTTP/1.1 %d " % status
    if kind is GrpcCallers:
        mark = b"grpc-status" + bytes([len(str(code))]) + str(code).encode()
    for wire in found.wires:
        wire._mark = mark
    return found


async def measured(callers: Callers) -> float:
    """Return the CPU microseconds of a request."""
    together = [callers.requests() for _ in range(REQUESTS // callers.count)]
    began = time.process_time()
    for requests in together:
        await ask(callers, requests)
    return (time.process_time() - began) / REQUESTS * 1e6


async def shares(loop: Loop) -> dict[tuple[str, int, str], tuple[float, float]]:
    """Return the CPU time of each refusal in microseconds, and its share of the answer's."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="salver-refusals-") as folder:
        server, keys = await opened(Path(folder))
        terms = budget.terms_of(server)
        gc.collect()
        gc.freeze()
        for case, kind in CASES.items():
            for together in (1, 16):
                every = {
                    what: callers_of(terms, kind, together, keys[name], status, code)
                    for what, (name, status, code) in KEYS.items()
                    if not what.startswith("model")
                }
                for callers in every.values():
                    await budget.warm(server, loop, callers)
                loop.is_still = False
                rounds: dict[str, list[float]] = {what: [] for what in every}
                for _ in range(ROUNDS):
                    for what, callers in every.items():
                        rounds[what].append(await measured(callers))
                        server.kernel.bus.flush()
                for what, times in rounds.items():
                    ratios = [time / answer for time, answer in zip(times, rounds["answer"], strict=True)]
                    found[case, together, what] = statistics.median(times), statistics.median(ratios)
        await server.stop()
    return found


def table(found: dict[tuple[str, int, str], tuple[float, float]]) -> str:
    """Return a Markdown table. Pure."""
    columns = list(dict.fromkeys(key[:2] for key in found))
    lines = ["| | " + " | ".join(f"{case} {count}" for case, count in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for what in dict.fromkeys(key[2] for key in found):
        cells = (found[(*column, what)] for column in columns)
        lines.append(f"| {what} | " + " | ".join(f"{us:.1f} µs, {ratio:.0%}" for us, ratio in cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    found = run(shares)
    print(table(found))
    return int(any(ratio > MOST for (_, _, what), (_, ratio) in found.items() if what != "answer"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

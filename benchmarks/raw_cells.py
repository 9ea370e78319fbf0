"""How raw input (an image, a text) is sent to several servers at once, and what is compared.

All servers of a comparison run at once and are loaded in turn, so that each round sees the same machine;
what counts are ratios within a round, of requests/s and of the processor time of a request.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import load
from processes import Launch, Server, free_port, running

#: Requests/s and milliseconds of processor time of each round, by cell and system.
Found = dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Subject:
    """One server.

    Attributes:
        launch: Command for a port and a folder for its files.
        path: Where it is asked.
        top: What must be equal in all systems, of an answer's bytes.
        body: Request for a payload.
        headers: Of a request for a payload.
        ports: Consecutive ports that it takes.
    """

    name: str
    launch: Callable[[int, Path], Launch]
    path: str
    top: Callable[[bytes], object]
    body: Callable[[bytes], bytes] = bytes
    headers: Callable[[bytes], Mapping[str, str]] = field(default=lambda payload: {})
    ports: int = 1


def salver(path: Path, *options: str) -> Callable[[int, Path], Launch]:
    """Return how one model directory is served."""
    command = str(Path(sys.executable).with_name("salver"))
    return lambda port, folder: Launch([command, "serve", str(path), "--port", str(port), *options])


def arguments(text: str | None) -> argparse.ArgumentParser:
    """Return the options that all such comparisons have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    return parser


def measure(
    subjects: Iterable[Subject], payloads: Mapping[str, bytes], folder: Path, options: argparse.Namespace
) -> Found:
    """Load all subjects in turn. Exits if their answers differ."""
    found: Found = {}
    first = next(iter(payloads.values()))
    with contextlib.ExitStack() as stack:
        running_ones = []
        for subject in subjects:
            port, own = free_port(subject.ports), folder / subject.name
            own.mkdir()

            def is_ready(subject: Subject = subject, port: int = port) -> bool:
                try:
                    return bool(_ask(subject, port, first))
                except (OSError, RuntimeError, http.client.HTTPException):
                    return False

            server = running(subject.launch(port, own), folder / f"{subject.name}.log", is_ready)
            running_ones.append((subject, stack.enter_context(server), port))
        tops = {
            subject.name: [subject.top(_ask(subject, port, payload)) for payload in payloads.values()]
            for subject, _, port in running_ones
        }
        if len({json.dumps(top) for top in tops.values()}) != 1:
            raise SystemExit(f"the systems' answers differ: {tops}")
        for _ in range(options.rounds):
            for name, payload in payloads.items():
                for connections in options.connections:
                    cell = found.setdefault(f"{name}, {connections}", {})
                    for subject, server, port in running_ones:
                        got = _cell(subject, server, port, payload, connections, options.seconds, folder)
                        cell.setdefault(subject.name, []).append(got)
    return found


def _ask(subject: Subject, port: int, payload: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", subject.path, subject.body(payload), dict(subject.headers(payload)))
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {said[:300]!r}")
    return said


def _cell(
    subject: Subject, server: Server, port: int, payload: bytes, connections: int, seconds: int, folder: Path
) -> tuple[float, float]:
    (folder / "body").write_bytes(subject.body(payload))
    headers = "\n".join(
        f'wrk.headers["{name}"] = "{value}"' for name, value in subject.headers(payload).items()
    )
    lua = load._LUA % {"body": folder / "body", "headers": headers}
    (folder / "load.lua").write_text(lua + load.DONE)
    before = server.cpu_seconds()
    sample = load.wrk(folder / "load.lua", f"http://127.0.0.1:{port}{subject.path}", connections, seconds)
    if sample.errors:
        raise SystemExit(f"{sample.errors} errors at {subject.name}")
    return sample.rate, 1e3 * (server.cpu_seconds() - before) / sample.requests


def report(title: str, found: Found) -> None:
    """Print medians, with the medians of the ratios to the system named ``handler``."""
    print(f"{title}: requests/s and processor ms; in brackets the ratio to the handler")
    for cell, got in found.items():
        parts = []
        for name, samples in got.items():
            rate, spent = (statistics.median(column) for column in zip(*samples, strict=True))
            pairs = list(zip(samples, got["handler"], strict=True))
            faster = statistics.median(own[0] / other[0] for own, other in pairs)
            cheaper = statistics.median(other[1] / own[1] for own, other in pairs)
            parts.append(f"{name} {rate:.0f}/s ({faster:.2f}) {spent:.2f} ms ({cheaper:.2f})")
        print(f"  {cell} connections: " + "; ".join(parts))

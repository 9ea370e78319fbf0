"""Where does Salver answer otherwise than a tritonserver that runs beside it?

    python tests/beside/beside_triton.py [--only GROUP...] [--seed 1] [--report FILE] [--keep FILE --every 20]

Starts both on the same models, asks both the same generated requests (``README.md``), and prints the classes
of difference with how often each occurred and one example. It needs the environment ``triton`` of the
benchmarks (``python benchmarks/peers/environment.py triton``).
"""

import argparse
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "golden"), str(ROOT / "benchmarks" / "peers" / "triton")]

import beside_cases  # noqa: E402
import beside_configs  # noqa: E402
import beside_grpc  # noqa: E402
import beside_meant  # noqa: E402
import beside_models  # noqa: E402
import beside_python  # noqa: E402
import native  # noqa: E402
import triton_replay  # noqa: E402

from salver.testing.process import ServerProcess, TritonProcess, free_port  # noqa: E402

Case = dict[str, Any]
GROUPS: Mapping[str, Callable[[int], Iterator[Case]]] = {
    "http": beside_cases.http_cases,
    "grpc": beside_grpc.grpc_cases,
    "config": beside_configs.config_cases,
    "text": beside_configs.text_cases,
    "python": beside_python.python_cases,
}


class Native:
    """A tritonserver on a repository of its own, which is started again when a request has ended it."""

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        self.ports = {"http": free_port(), "grpc": free_port()}
        flags = [*flags, "--allow-metrics=false"]
        for name, port in self.ports.items():
            flags += [f"--{name}-port={port}", f"--{name}-address=127.0.0.1"]
        self._argv, env = native.command(ROOT / ".envs" / "triton", folder / "models", folder, flags)
        self._env = {**os.environ, **env}
        self._log = folder.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, env=self._env, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        ready = {"method": "GET", "path": "/v2/health/ready"}
        for _ in range(1800):
            if self.has_ended():
                raise SystemExit(f"tritonserver ended with {self._process.returncode}")
            with contextlib.suppress(OSError):
                if triton_replay._ask_http(self.ports["http"], ready)["status"] == 200:
                    return
            time.sleep(0.1)
        raise SystemExit("tritonserver did not become ready")

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for what a request left behind
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def both(folder: Path) -> Iterator[tuple[Native, ServerProcess]]:
    """The two servers, on repositories of their own."""
    for name in ("triton", "salver"):
        loaded = beside_models.write(folder / name / "models")
    flags = [*beside_models.FLAGS, *(f"--load-model={name}" for name in loaded)]
    theirs = Native(folder / "triton", flags)
    try:
        options = [*flags, "--allow-client-shm=true", "--state-dir", ""]
        with TritonProcess([folder / "salver" / "models"], folder / "salver.log", options) as ours:
            ours.wait_ready(180)
            theirs.wait_ready()
            yield theirs, ours
    finally:
        theirs.stop()


def ask(ports: Mapping[str, int], case: Case) -> Case:
    """Its answer, or what went wrong."""
    try:
        return triton_replay._ask(ports, case)
    except Exception as error:
        return {
            "status": f"{type(error).__name__}: {error}",
            "headers": {},
            "body_b64": "",
            "messages": [],
            "code": "LOST",
        }


def expected(answer: Case) -> Case:
    """What of tritonserver's answer counts."""
    kept = ("content-type", "content-encoding", "inference-header-content-length")
    if "headers" in answer:
        headers = {k: v for k, v in answer["headers"].items() if k in kept}
        return answer | {"headers": headers}
    return answer


_WORDS = (
    (re.compile(r"'[^']*'|\"[^\"]*\""), "'…'"),
    (re.compile(r"-?\d[\d.e+]*"), "N"),
    (re.compile(r"/tmp/\S+"), "PATH"),
)


def text_of(answer: Case) -> str:
    """The words of an error, without names and numbers."""
    text = answer.get("details") or ""
    if "body_b64" in answer:
        body = base64.b64decode(answer["body_b64"])
        if (
            isinstance(answer["status"], int)
            and answer["status"] < 400
            and not re.match(rb'(data: )?{"error"', body)
        ):
            return ""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            body = json.loads(body)["error"].encode()
        text = body.decode(errors="replace")
    for message in answer.get("messages", []):
        text += message.get("error_message", "")
    return text


def has_lost_its_way(answer: Case) -> bool:
    """It, or its model, does not answer any more."""
    return str(answer.get("status")).startswith("TimeoutError") or "is not healthy" in text_of(answer)


def class_of(text: str) -> str:
    """An error's text with its names and numbers left out."""
    for pattern, word in _WORDS:
        text = pattern.sub(word, text)
    return text[:160]


def place(answer: Case) -> str:
    """Status or code."""
    return str(answer["status"] if "status" in answer else answer["code"])


class Tally:
    """How often was which difference seen, and where first?"""

    def __init__(self, report: Path | None) -> None:
        self.counts: Counter[str] = Counter()
        self._report = report.open("w") if report else None
        self._examples: dict[str, str] = {}

    def add(self, case: Case, theirs: Case, ours: Case) -> bool:
        """One case, with both answers; are they alike, but for the words of an error?"""
        self.counts["cases"] += 1
        case["response"] = expected(theirs)
        try:
            found = triton_replay.difference(case, ours)
        except Exception as error:
            found = f"cannot be compared: {error!r}"
        words = class_of(text_of(theirs)), class_of(text_of(ours))
        sides = [f"{place(a)} | {w}" for a, w in zip((theirs, ours), words, strict=True)]
        if not found and words[0] == words[1]:
            self.counts["alike"] += 1
            case["compare"]["text"] = bool(text_of(theirs)) and text_of(theirs) == text_of(ours)
            return True
        rule = beside_meant.meant(*sides, case["request"].get("path", ""))
        if rule:
            self.counts[f"meant: {rule}"] += 1
            return not found
        name = f"{sides[0]} -> {sides[1]}" + ("" if found else " (text)")
        if sides[0] == sides[1]:
            name += " | " + class_of(found)
        self.counts[name] += 1
        request = {k: v for k, v in case["request"].items() if k not in ("method", "path")}
        where = f"{case['id']}: {case['request'].get('path', '')} {json.dumps(request)}"
        self._examples.setdefault(name, f"{where[:300]}\n       {found[:260]}")
        if self._report:
            line = {"class": name, "case": case, "ours": ours, "found": found}
            print(json.dumps(line), file=self._report, flush=True)
        return not found

    def show(self) -> None:
        for name, count in sorted(self.counts.items(), key=lambda pair: -pair[1]):
            print(f"{count:6} {name}")
            if name in self._examples:
                print(f"       {self._examples[name]}")


def as_line(case: Case) -> str:
    """As it stands in ``triton.jsonl``: a body that is text, as text."""
    response = dict(case["response"])
    with contextlib.suppress(KeyError, UnicodeDecodeError):
        response["body"] = base64.b64decode(response["body_b64"]).decode()
        del response["body_b64"]
    return json.dumps(case | {"response": response}, ensure_ascii=False, separators=(",", ":"))


def ask_both(
    blocks: Sequence[Sequence[Case]], tally: Tally, theirs: Native, ours: ServerProcess
) -> list[Case]:
    """Ask both servers all of it; the cases of blocks that are alike."""
    alike: list[Case] = []
    for number, block in enumerate(blocks):
        print(f"\r{number} of {len(blocks)}", end="", file=sys.stderr, flush=True)
        is_alike = True
        for case in block:
            answers = ask(theirs.ports, case), ask(ours.ports, case)
            if theirs.has_ended() or has_lost_its_way(answers[0]):
                tally.counts[f"tritonserver, or a model of it, ended: {case['id']}"] += 1
                theirs.stop()
                theirs.start()
                theirs.wait_ready()
                is_alike = False
                break
            is_alike &= tally.add(case, *answers)
        if is_alike:
            alike += block
    return alike


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--only", nargs="*", default=[], help="groups, or beginnings of ids")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="of so many blocks of cases one")
    parser.add_argument("--report", type=Path, help="every difference as a line of JSON")
    parser.add_argument(
        "--keep", type=Path, help="cases that are alike are added, with tritonserver's answers"
    )
    given = parser.parse_args()
    cases = [c for name, make in GROUPS.items() for c in make(given.seed) if wanted(given.only, name, c)]
    blocks = list(triton_replay.in_blocks(cases).values())[:: given.every]
    tally = Tally(given.report)
    with tempfile.TemporaryDirectory() as folder, both(Path(folder)) as (theirs, ours):
        alike = ask_both(blocks, tally, theirs, ours)
        if given.report:
            for name in ("triton.log", "salver.log"):
                given.report.with_suffix("." + name).write_bytes((Path(folder) / name).read_bytes())
    tally.show()
    if given.keep:
        with given.keep.open("a") as kept:
            kept.writelines(as_line(case) + "\n" for case in alike)


def wanted(only: list[str], group: str, case: Case) -> bool:
    return not only or any(group == word or case["id"].startswith(word) for word in only)


if __name__ == "__main__":
    main()

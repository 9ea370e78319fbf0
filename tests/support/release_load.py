"""Callers of a model in a release, and a real model of handwritten digits with ways to be worse.

Not a suite itself. The weights are trained here, on scikit-learn's digits (UCI, CC BY 4.0, inside the
package).
"""

import asyncio
import contextlib
import functools
import json
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from salver.testing.process import ServerProcess

MODEL = '''
import json, time
from pathlib import Path

import numpy as np


class Model:
    """A perceptron for digits; ``fault.json`` beside it says how it is worse than it was."""

    inputs = {"pixels": ("FP32", [-1, 64])}
    outputs = {"probabilities": ("FP32", [-1, 10])}

    def load(self, context):
        folder = Path(context.path)
        folder = folder if folder.is_dir() else folder.parent
        self.weights = np.load(folder / "weights.npz")
        fault = folder / "fault.json"
        self.fault = json.loads(fault.read_text()) if fault.exists() else {}

    def predict(self, inputs):
        pixels = inputs["pixels"]
        time.sleep(self.fault.get("seconds", 0))
        for row in pixels:  # the same inputs, whoever sends them
            if int(row.sum()) % 50 == 0 and "fails" in self.fault:
                raise ValueError("this digit is too hard")
        w = self.weights
        hidden = np.maximum(pixels @ w["a"] + w["b"], 0)
        scores = hidden @ w["c"] + w["d"]
        if "swap" in self.fault:  # as many of each digit as before
            scores[:, [4, 9]] = scores[:, [9, 4]]
        if "merge" in self.fault:  # nines are fours
            scores[:, 4] = np.maximum(scores[:, 4], scores[:, 9])
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return {"probabilities": (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)}
'''


class Digits(NamedTuple):
    """Rows of 64 pixels from 0 to 16, and which digit each is."""

    pixels: np.ndarray
    digits: np.ndarray


@functools.cache
def digits() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Digits(found.data.astype(np.float32), found.target)


def write_digits(root: Path, version: int, **fault: object) -> None:
    """A version of ``digits`` below a repository's root."""
    folder = root / "digits" / str(version)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    if fault:
        (folder / "fault.json").write_text(json.dumps(fault))
    first = root / "digits" / "1" / "weights.npz"
    if version > 1:
        (folder / "weights.npz").write_bytes(first.read_bytes())
        return
    (root / "digits" / "salver.toml").write_text("[versions]\nlatest = 2\n")
    np.savez(first, **weights())


@functools.cache
def weights() -> dict[str, np.ndarray]:
    """A perceptron that knows most digits; it is trained once a process."""
    from sklearn.neural_network import MLPClassifier

    pixels, answers = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # good enough is good enough
        fitted = MLPClassifier((32,), max_iter=200, random_state=0).fit(pixels[:1200], answers[:1200])
    (a, c), (b, d) = fitted.coefs_, fitted.intercepts_
    return {"a": a, "b": b, "c": c, "d": d}


class Callers:
    """Users who ask all the time, each over and over, on connections that they keep.

    Args:
        pause_s: Seconds between an answer and the next request of a connection. Without any, callers and
            servers take whole cores for as long as a stage lasts.

    Attributes:
        statuses: How often each status came; 0 = the connection broke.
        versions: For each user, the versions that answered, in their order and without repetition.
        failed: Users and versions of what was not answered well.
    """

    path = "/v2/models/digits/infer"

    def __init__(
        self,
        server: ServerProcess,
        bodies: Sequence[bytes],
        users: int,
        connections: int = 4,
        pause_s: float = 0.003,
    ) -> None:
        self._server = server
        self._bodies = bodies
        self._users = users
        self._pause_s = pause_s
        self._random = random.Random(0)
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(connections)]
        self.statuses: Counter[int] = Counter()
        self.versions: dict[str, list[str]] = {}
        self.failed: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @property
    def answered(self) -> int:
        """Requests that went well."""
        return self.statuses[200]

    async def _ask(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, EOFError):
                reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
                try:
                    while not self._stop.is_set():
                        await self._once(reader, writer)
                        if self._pause_s:
                            await asyncio.sleep(self._pause_s)
                finally:
                    writer.close()
            await asyncio.sleep(0.05)

    async def _once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._random.randrange(self._users)
        user, body = f"user-{number}", self._bodies[number % len(self._bodies)]
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: localhost\r\nx-user-id: {user}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            first, _, rest = (await reader.readuntil(b"\r\n\r\n")).lower().partition(b"\r\n")
        except (OSError, asyncio.IncompleteReadError):
            self.statuses[0] += 1
            raise
        status = int(first.split()[1])
        length = int(rest.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        self.statuses[status] += 1
        if status != 200:
            self.failed.append((user, answer.decode()))
            return
        told = json.loads(answer)
        version = told["model_version"]
        seen = self.versions.setdefault(user, [])
        if seen[-1:] != [version]:
            seen.append(version)
        self.heard(user, number, told)

    def heard(self, user: str, number: int, answer: dict) -> None:
        """A user with a number has got an answer."""


def bodies(pixels: np.ndarray) -> list[bytes]:
    """A request a row."""
    return [
        json.dumps(
            {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": row.tolist()}]}
        ).encode()
        for row in pixels
    ]

"""Handlers of the tests: what a request asks them to do, in its body."""

import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salver.backends.protocol import Answer, Listener, LoadOptions, Traits
from salver.words.artifacts import Manifest
from salver.words.handlers import SIGNATURE, HandlerReply, as_answer, form_of, is_form
from salver.words.messages import InferRequest
from salver.words.tensor import Array

KEPT: list[Any] = []  # what was opened while it was loaded


def saying(text: str, **more: object) -> Answer:
    return Answer(*as_answer(HandlerReply(text.encode(), **more)))  # type: ignore[arg-type]


class Obedient:
    """Echoes; or does what the body says."""

    signature = SIGNATURE

    def __init__(self, gpu: int | None = None) -> None:
        self.gpu = gpu
        self.totals: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.hoard: list[bytearray] = []

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return inputs

    def close(self) -> None:
        self.totals.clear()

    def reply(
        self, requests: Sequence[InferRequest], send: Callable[[int, Answer], None]
    ) -> Sequence[Answer]:
        return [self.one(index, len(requests), request, send) for index, request in enumerate(requests)]

    def one(
        self, index: int, batch: int, request: InferRequest, send: Callable[[int, Answer], None]
    ) -> Answer:
        if not is_form(request):
            if request.id in self.counts:
                return self.count(request.id)
            return saying(
                ",".join(f"{t.name}:{t.datatype.value}{list(t.array.shape)}" for t in request.inputs)
            )
        form = form_of(request)
        if form.headers.get("describe") == "True":
            return saying('{"kind": "obedient"}')
        body = b"".join(part.data.tobytes() for part in form.parts)
        word, _, rest = body.partition(b" ")
        match word:
            case b"exit":
                os._exit(3)
            case b"leave":
                raise SystemExit(4)
            case b"sleep":
                time.sleep(float(rest))
                return saying("slept")
            case b"hold":
                _wait_for_end_of(rest)
                return saying("held")
            case b"raise":
                raise ValueError(rest.decode())
            case b"fail":
                return saying("as you wish", status=int(rest), is_error=True)
            case b"who":
                _wait_for_end_of(rest)
                return saying(f"{os.getpid()} {self.gpu}")
            case b"pid":
                return saying(str(os.getpid()))
            case b"batch":
                return saying(str(batch))
            case b"stream":
                for piece in range(int(rest)):
                    send(index, saying(f"{piece} "))
                return saying("last")
            case b"add":
                key = str(request.parameters.get("sequence_id", ""))
                self.totals[key] = self.totals.get(key, 0) + int(rest)
                return saying(str(self.totals[key]))
            case b"count":
                self.counts[request.id] = int(rest)
                return self.count(request.id)
            case b"hoard":
                self.hoard.append(bytearray(os.urandom(1) * (int(rest) << 20)))
                return saying("kept")
            case b"large":
                return Answer({"body": np.full(int(rest), 7, np.uint8)})
            case b"read":
                return saying(os.read(KEPT[0].fileno(), int(rest)).decode())
            case b"chance":
                return saying(f"{random.random()} {np.random.rand()}")
            case b"folder":
                return saying(str(Path(KEPT[0].name).exists()))
            case b"threads":
                import torch

                return saying(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")
            case b"metric":
                return saying("counted", metrics=(rest.decode(),))
        return Answer({"body": np.frombuffer(body, np.uint8)})

    def count(self, id: str) -> Answer:
        self.counts[id] -= 1
        left = self.counts[id]
        if not left:
            del self.counts[id]
        outputs, parameters = as_answer(HandlerReply(f"{left} ".encode()))
        return Answer(outputs, parameters, again=left > 0)


def _wait_for_end_of(file: bytes) -> None:
    while file and Path(os.fsdecode(file)).exists():
        time.sleep(0.002)


class Later:
    """Answers each request on a thread of its own."""

    signature = SIGNATURE

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return inputs

    def close(self) -> None:
        pass

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        for request, listener in zip(requests, listeners, strict=True):
            threading.Thread(target=self.one, args=(request, listener), daemon=True).start()

    def one(self, request: InferRequest, listener: Listener) -> None:
        body = b"".join(part.data.tobytes() for part in form_of(request).parts)
        word, _, rest = body.partition(b" ")
        if word == b"exit":
            os._exit(3)
        if word == b"sleep":
            time.sleep(float(rest))
        if word == b"hold":
            _wait_for_end_of(rest)
        if word == b"stream":
            for piece in range(int(rest)):
                listener.send(saying(f"{piece} "), False)
        if word == b"nothing":
            listener.end()
        listener.send(saying(f"{word.decode()} done", metrics=("Lines:1",)), True)
        listener.end()


class Handlers:
    name, extra, modules = "torchserve", "core", ()
    traits = Traits(isolate=True)

    def recognise(self, path: object) -> str | None:
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> Obedient | Later:
        wish = manifest.config.options.get("at_start", "")
        if wish == "fail":
            raise ValueError("it does not start")
        if wish == "exit":
            os._exit(5)
        if wish == "sleep":
            time.sleep(60)
        if wish.startswith("without:") and Path(wish.removeprefix("without:")).exists():
            raise ValueError("not yet")
        word, _, rest = wish.partition(":")
        match word:
            case "thread":
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            case "imports":
                import yaml

                KEPT.append(yaml)
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            case "socket":
                KEPT.append(socket.socketpair())
            case "writes":
                KEPT.append(Path(rest).open("w"))  # noqa: SIM115
            case "reads":
                KEPT.append(Path(rest).open("rb", buffering=0))  # noqa: SIM115
            case "seeded":
                random.seed(7)
                np.random.seed(7)
            case "folder":
                KEPT.append(tempfile.TemporaryDirectory(dir=rest))
            case "torch":
                import torch

                KEPT.append(torch.zeros(1))
        return Later() if wish == "async" else Obedient(options.gpu)

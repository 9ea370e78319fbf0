"""Steps, models and leases of ensembles that no engine runs."""

import asyncio

import numpy as np
from servables import Declaring

from salver.words.artifacts import EnsembleStep
from salver.words.errors import (
    SalverError,
)
from salver.words.messages import (
    InferRequest,
    InferResponse,
    Signature,
    TensorSpec,
    Timing,
)
from salver.words.tensor import DataType, tensor


class Model(Declaring):
    """A servable around a function of arrays by name; it is its own lease.

    ``gate`` is waited for; ``turns`` are turns of the loop that a request takes.
    """

    def __init__(self, function, ins="x", outs="y", shape=(-1, -1), turns=0, kinds=None):
        kinds = kinds or {}
        batched = shape[:1] == (-1,)
        sides = [
            tuple(
                TensorSpec(n.rstrip("?"), kinds.get(n, DataType.FP64), shape, n.endswith("?"))
                for n in side.split()
            )
            for side in (ins, outs)
        ]
        self.signature = Signature(*sides, batched)
        self.function, self.turns = function, turns
        self.gate: asyncio.Event | None = None
        self.parameters = {}
        self.asked: list[InferRequest] = []
        self.how: list[tuple] = []
        self.running = self.most_running = self.cancelled = self.leases = 0

    async def infer(self, request, deadline=None, sender=None, standing=None):
        self.asked.append(request)
        self.how.append((deadline, sender, standing))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            said = self.function(**{t.name: t.array for t in request.inputs})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if isinstance(said, SalverError):
            raise said
        said = said if isinstance(said, dict) else {"y": said}
        timing = Timing(1.0, 0.0, 2.0, arrived=10.0, ended=14.0, split=0.5)
        outputs = tuple(tensor(name, array) for name, array in said.items())
        return InferResponse("m", "1", outputs, request.id, self.parameters, timing)


class Pieces(Model):
    """The function gives a list: outputs, or an error."""

    async def stream(self, request, deadline=None, standing=None):
        self.asked.append(request)
        try:
            for said in self.function(**{t.name: t.array for t in request.inputs}):
                if self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(0)
                if isinstance(said, SalverError):
                    yield InferResponse("m", "1", (), error=said)
                else:
                    yield InferResponse("m", "1", (tensor("y", said),), request.id, self.parameters)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise


class Lease:
    def __init__(self, servable, id):
        self.servable, self.id = servable, id

    def release(self):
        self.servable.leases -= 1


def step(model, ins, outs, **more):
    pairs = [dict(part.split("=") for part in side.split()) for side in (ins, outs)]
    return EnsembleStep(model, "", *pairs, **more)


def rows(*values):
    return np.array([[float(value)] for value in values])


def chain(**models):
    return {"double": Model(lambda x: x * 2), "one": Model(lambda x: x + 1)} | models


def count(x):
    return [rows(n) for n in range(int(x[0, 0]))]

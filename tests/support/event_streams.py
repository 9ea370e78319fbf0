"""Server-sent events of a front without a socket: a scripted model and one POST of it."""

import asyncio
import json

from dialect_tables import http_router
from servables import Declaring

from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.asgi import Front
from salver.transport.calls import RequestContext
from salver.words.errors import NotFound
from salver.words.messages import InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor


class Speaker(Declaring):
    """A servable that says the words of its script; an exception in it is raised, "wait" waits."""

    signature = Signature(
        (TensorSpec("text_input", DataType.BYTES, (1,)),), (TensorSpec("text_output", DataType.BYTES, (1,)),)
    )

    def __init__(self, script, gives_parts=True):
        self.script = script
        self.gives_parts = gives_parts
        self.closed = 0

    async def infer(self, request, deadline=None, sender=None, standing=None):
        raise AssertionError("it streams")

    async def stream(self, request, deadline=None, standing=None):
        try:
            for number, word in enumerate(self.script):
                if isinstance(word, Exception):
                    raise word
                if word == "wait":
                    await asyncio.Event().wait()
                if isinstance(word, InferResponse):
                    yield word
                    continue
                last = {"finish_reason": "length"} if number == len(self.script) - 1 else {}
                yield InferResponse("m", "1", (tensor("text_output", [word]),), parameters=last)
        finally:
            self.closed += 1


class World:
    """Lessor, lease and observer in one."""

    id = ModelId("m", "1")

    def __init__(self, servable):
        self.servable = servable
        self.leases = 0
        self.events = []

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        if name != "m":
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        self.leases += 1
        return self

    def release(self):
        self.leases -= 1

    def observe(self, events):
        self.events += events


class EventStreamRig:
    def __init__(self, servable):
        self.world = World(servable)
        self.bus = Bus((self.world,))
        clock = asyncio.get_running_loop().time
        context = RequestContext(clock, lambda: "00000000000000ab", b"")
        door = DataPlane(RequestPath(self.world, self.bus.emit, clock, context.new_id))
        self.front = Front(http_router(door, None, None, context), None, context, max_body=10_000)
        self.sent = []

    async def post(self, path, document, fail_after=None, headers=()):
        body = [{"type": "http.request", "body": json.dumps(document).encode()}]

        async def receive():
            if body:
                return body.pop()
            return await asyncio.Event().wait()

        async def send(message):
            if fail_after is not None and len(self.sent) >= fail_after:
                raise ConnectionResetError("gone")
            self.sent.append(message)
            await asyncio.sleep(0)

        scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
        await self.front(scope | {"http_version": "2"}, receive, send)
        self.bus.flush()
        assert self.world.leases == 0
        return self.sent

    def outcome(self):
        (served,) = self.world.events
        return served.outcome

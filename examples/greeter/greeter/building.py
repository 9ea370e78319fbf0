"""Parts of the greeter."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from greeter.config import GreeterConfig
from salver.encoding.bodies import GrpcStatus, HttpBody, HttpReply
from salver.parts import Kernel, Parts, Tick
from salver.transport.effects import reads
from salver.transport.faults import http_fault
from salver.transport.grpc_table import GrpcTable
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.transport.pages import Pages
from salver.transport.routes import Endpoint, HttpTable, Route
from salver.transport.routes import Operation as HttpOperation
from salver.words.errors import SalverError
from salver.words.events import Event, Served
from salver.words.messages import Call, InferRequest


class Greeting(msgspec.Struct, frozen=True):
    """What a caller of the management interface gets."""

    text: str


class Page(NamedTuple):
    """A file for browsers."""

    content_type: str
    body: bytes


class Greeter(Collector):
    """Greets, counts, and has a place on the path of requests."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.served = self.passed = self.ticks = 0

    # An observer: hears of every event, off the request's path.
    def observe(self, events: Sequence[Event]) -> None:
        self.served += sum(isinstance(event, Served) for event in events)

    # A collector: numbers for the metrics page.
    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("greeter_served", "Requests that were answered.", value=self.served)
        yield CounterMetricFamily("greeter_passed", "Requests that passed the stage.", value=self.passed)

    # A stage of the data plane: sees every request before a version is chosen.
    def begin(self, model: str, version: str, call: Call) -> None:
        self.passed += 1

    def carry(self, call: Call, request: InferRequest) -> None:
        pass

    def inherit(self, call: Call) -> bool:
        return False

    def forget(self, call: Call) -> None:
        pass

    # A route of its own, an operation below /api/v1, a gRPC method, a page.
    async def hello(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return HttpReply(200, f"{self.greeting}, caller!\n".encode(), ((b"content-type", b"text/plain"),))

    async def greet(self, request: ApiRequest) -> Answer:
        return Answer(Greeting(f"{self.greeting}, {request.names['name']}!"))

    @reads
    async def hello_grpc(self, message: bytes, call: Call) -> bytes:
        return message

    def read(self) -> Mapping[str, Page]:
        body = f"<!doctype html><title>{self.greeting}</title><h1>{self.greeting}</h1>"
        return {"index.html": Page("text/html; charset=utf-8", body.encode())}

    async def tick(self) -> None:
        self.ticks += 1


def status(error: SalverError) -> GrpcStatus:
    """How a call of the gRPC method ends with an error."""
    return GrpcStatus(2, error.message)


async def build(kernel: Kernel, config: GreeterConfig) -> Parts:
    """Return the parts of the greeter."""
    greeter = Greeter(config.greeting)
    route = HttpOperation("hello", "GET", "/hello", "Greets the caller")
    return Parts(
        observers=[greeter],
        collectors=[greeter],
        http=[HttpTable((route,), {"hello": Endpoint(greeter.hello)}, http_fault)],
        grpc=[GrpcTable("greeter", status, {"/greeter.Greeter/Hello": greeter.hello_grpc})],
        operations=[
            Operation("greet", "GET", "/greetings/{name}", "A greeting", greeter.greet, gives=Greeting)
        ],
        pages=[Pages("/greeter", greeter.read)],
        stage=greeter,
        ticks=[Tick("greeter", 60.0, greeter.tick)],
    )

"""Outcomes that a program tells: sent again under the same ids, until the server has said it keeps them."""

import msgspec
import pytest

from salver.client import Outcome, Receipt, Unreachable
from salver.client.outcomes import post_outcomes, taken
from salver.words.errors import Forbidden, InvalidInput, NotReady, Overloaded, SalverError


class Flaky:
    """A server that fails as told, and takes what it is sent otherwise."""

    def __init__(self, *faults: SalverError | None) -> None:
        self.faults = list(faults)
        self.known: set[str] = set()
        self.calls: list[int] = []
        self.pauses: list[float] = []

    async def send(self, body: bytes) -> bytes:
        outcomes = msgspec.json.decode(body)["outcomes"]
        self.calls.append(len(outcomes))
        fault = self.faults.pop(0) if self.faults else None
        if not isinstance(fault, NotReady | Overloaded | Forbidden):
            before, self.known = len(self.known), self.known | {one["id"] for one in outcomes}
        if fault is not None:
            raise fault
        new = len(self.known) - before
        return msgspec.json.encode(Receipt(new, len(outcomes) - new, ("u",)))

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def post(self, count: int) -> Receipt:
        outcomes = [Outcome(f"o{n}", "sale", unit=f"u{n}", value=1.0) for n in range(count)]
        return await post_outcomes(self.send, outcomes, self.sleep)


async def test_many_go_a_thousand_at_a_time() -> None:
    server = Flaky()
    assert await server.post(2500) == Receipt(2500, 0, ("u", "u", "u"))
    assert server.calls == [1000, 1000, 500] and server.pauses == []
    assert await server.post(0) == Receipt()


async def test_what_may_have_arrived_is_sent_again_and_counts_once() -> None:
    server = Flaky(Unreachable("gone"), NotReady("starting"))
    receipt = await server.post(3)
    assert (receipt.accepted, receipt.duplicates, len(server.known)) == (0, 3, 3)
    first, second = server.pauses
    assert 0.05 <= first <= 0.15 and 0.1 <= second <= 0.3


async def test_a_busy_server_is_left_alone_as_long_as_it_says() -> None:
    server = Flaky(Overloaded("busy", retry_after=7.0))
    assert (await server.post(1)).accepted == 1
    assert server.pauses == [7.0]


async def test_who_stays_away_is_given_up() -> None:
    server = Flaky(*[Unreachable("gone")] * 9)
    with pytest.raises(Unreachable):
        await server.post(1)
    assert len(server.calls) == 6


async def test_what_is_forbidden_is_not_tried_again() -> None:
    server = Flaky(Forbidden("no token"))
    with pytest.raises(Forbidden):
        await server.post(1)
    assert server.calls == [1]


def test_a_refused_outcome_is_an_error() -> None:
    taken(Receipt(1))
    refused = msgspec.convert({"refused": [{"id": "o1", "why": "it has no value"}]}, Receipt)
    with pytest.raises(InvalidInput, match="'o1' is refused: it has no value"):
        taken(refused)
